//! Client libraries and builders beside podman, skopeo and containerd: each pushes, pulls, lists referrers and mounts, at an origin
//! directly and through an edge before it. BuildKit's daemon is in no Debian package: what it pushes as a cache is made by hand, in
//! `origin_specification/shapes.rs`.

use std::net::SocketAddr;
use std::path::PathBuf;

use oci_client::client::{ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client as OciClient, Reference};
use pierhead_tests::clients::Buildah;
use pierhead_tests::image::{Format, Image};
use pierhead_tests::libraries::Library;
use pierhead_tests::origin::{Origin, Setup};
use pierhead_tests::pierhead::{Pierhead, Setup as EdgeSetup};
use pierhead_tests::pull::Client;
use pierhead_tests::server::certificate;
use serde_json::json;
use tempfile::TempDir;

const PASSWORD: &str = "correct horse";
const ACCOUNT: &str = "org:correct horse";

/// An origin, and an edge before it.
struct Stage {
    origin: Origin,
    edge: Pierhead,
    dir: TempDir,
    /// The certificate of both, where they speak TLS.
    certificate: PathBuf,
}

impl Stage {
    /// `tls`: some libraries log in over TLS only.
    async fn new(tls: bool) -> Stage {
        let dir = tempfile::Builder::new().prefix("pierhead-library-").tempdir().unwrap();
        let (cert, key, _) = certificate(dir.path(), &["localhost", "127.0.0.1"]);
        let mut setup = Setup::new().set("/listener/trusted_proxies", json!(["127.0.0.1"]));
        if tls {
            setup = setup.set("/listener/tls", json!({ "cert": cert, "key": key }));
        }
        setup.user("org", PASSWORD, &[]).await;
        let origin = setup.start().await;
        let mut pool =
            json!({ "name": "origin", "servers": [origin.registry.to_string()], "health": { "kind": "tcp" } });
        if tls {
            pool["tls"] = json!({ "sni": "localhost", "ca": cert });
        }
        let keys = json!({ "path": "/keys/services/pierhead/keys", "issuer": "pierhead", "audience": "registry.test" });
        let registry = json!({ "name": "origin.test", "pool": "origin", "default": true, "token_keys": keys });
        let mut edge = EdgeSetup::new().pool(pool).with("registries", registry);
        if tls {
            edge = edge.set("/listeners/0/tls", json!({ "certificates": [{ "cert": cert, "key": key }] }));
        }
        let edge = edge.start().await;
        Stage { origin, edge, dir, certificate: cert }
    }

    /// Where clients go: directly, and through the edge.
    fn ways(&self) -> [(&'static str, SocketAddr); 2] {
        [("direct", self.origin.registry), ("through", self.edge.registry)]
    }

    /// A client with a token that the origin issued, where it speaks no TLS.
    async fn client(&self, address: SocketAddr, scopes: &[&str]) -> Client {
        let token = self.origin.token("org", PASSWORD, scopes).await;
        Client::new(format!("http://{address}")).bearer(token)
    }
}

async fn push(client: &Client, repository: &str, tag: &str, image: &Image) {
    for blob in image.blobs() {
        client.push_blob(repository, &blob.digest, blob.bytes.clone()).await;
    }
    let manifest = &image.manifest;
    client.push_manifest(repository, tag, &manifest.media_type, manifest.blob.bytes.clone()).await;
}

const DXF: &str = r#"
import hashlib, sys
from dxf import DXF
from dxf.exceptions import DXFMountFailed

host, way, ca = sys.argv[1:]

def auth(dxf, response):
    dxf.authenticate('org', 'correct horse', response=response)

def open_repo(name):
    return DXF(host, name, auth, tlsverify=ca)

first, second = open_repo('org/dxf-' + way), open_repo('org/dxf-mounted-' + way)
content = {}
for number in range(3):
    data = bytes([number]) * (100000 + number)
    digest = 'sha256:' + hashlib.sha256(data).hexdigest()
    assert first.push_blob(data=data, digest=digest) == digest
    content[digest] = data
first.set_alias('v1', *content)
first.set_alias('v2', *list(content)[:1])
assert sorted(first.list_aliases()) == ['v1', 'v2'], first.list_aliases()
assert first.get_alias('v1') == list(content), first.get_alias('v1')
for digest, data in content.items():
    assert b''.join(first.pull_blob(digest)) == data
    assert first.blob_size(digest) == len(data)
# It asks for a token of the second repository only, and for both when the challenge names both.
for digest in content:
    assert second.mount_blob('org/dxf-' + way, digest) == digest
    assert b''.join(second.pull_blob(digest)) == content[digest]
second.set_alias('mounted', *content)
try:
    second.mount_blob('org/dxf-nowhere-' + way, list(content)[0])
    raise AssertionError('mounted from nowhere')
except DXFMountFailed:
    pass
print('done')
"#;

#[tokio::test(flavor = "multi_thread")]
async fn python_dxf_pushes_pulls_and_mounts() {
    let stage = Stage::new(true).await;
    let ca = stage.certificate.to_str().unwrap();
    for (way, address) in stage.ways() {
        let host = format!("localhost:{}", address.port());
        let output = Library::PythonDxf.run(DXF, stage.dir.path(), &[&host, way, ca]).await.expect_success();
        assert!(output.stdout.contains("done"), "{way}: {} {}", output.stdout, output.stderr);
    }
}

const ORAS: &str = r#"
import os, sys
import requests
import oras.auth.utils, oras.client, oras.oci, oras.provider

host, way = sys.argv[1:]
client = oras.client.OrasClient(hostname=host, insecure=True)
client.login(username='org', password='correct horse', hostname=host, config_path=os.path.abspath('docker-' + way + '.json'))
# oras-py keeps the token of its first request, a HEAD that needs no push: so it is given one that may push.
challenge = oras.auth.utils.parse_auth_header(requests.get('http://' + host + '/v2/').headers['Www-Authenticate'])
parameters = {'service': challenge.service, 'scope': 'repository:org/oras-' + way + ':pull,push'}
answer = requests.get(challenge.realm, params=parameters, auth=('org', 'correct horse'))
client.auth.set_token_auth(answer.json()['token'])
target = host + '/org/oras-' + way + ':v1'
with open('artifact.txt', 'wb') as file:
    file.write(b'artifact of ' + way.encode() + b'x' * 3000000)
pushed = client.push(target=target, files=['artifact.txt:text/plain'], manifest_annotations={'way': way})
assert pushed.status_code == 201, pushed.text
digest = pushed.headers['Docker-Content-Digest']
chunked = client.push(target=target + '-chunked', files=['artifact.txt'], do_chunked=True, chunk_size=1000000)
assert chunked.status_code == 201, chunked.text
os.makedirs('pulled-' + way)
files = client.pull(target=target, outdir='pulled-' + way)
assert len(files) == 1 and open(files[0], 'rb').read() == open('artifact.txt', 'rb').read(), files
assert sorted(client.get_tags(host + '/org/oras-' + way)) == ['v1', 'v1-chunked']
assert client.get_manifest(target)['annotations'] == {'way': way}
# What is about it.
subject = oras.oci.Subject('application/vnd.oci.image.manifest.v1+json', digest, len(pushed.request.body))
about = client.push(target=host + '/org/oras-' + way + ':about', files=['artifact.txt'], subject=subject)
assert about.status_code == 201 and about.headers['OCI-Subject'] == digest, about.headers
print(digest, about.headers['Docker-Content-Digest'])
"#;

#[tokio::test(flavor = "multi_thread")]
async fn oras_py_pushes_and_pulls_and_says_what_is_about_what() {
    let stage = Stage::new(false).await;
    for (way, address) in stage.ways() {
        let host = address.to_string();
        let output = Library::OrasPy.run(ORAS, stage.dir.path(), &[&host, way]).await.expect_success();
        let last = output.stdout.lines().last().unwrap();
        let (digest, about) = last.split_once(' ').unwrap();
        let repository = format!("org/oras-{way}");
        let client = stage.client(address, &[&format!("repository:{repository}:pull")]).await;
        let list = client.get(&format!("/v2/{repository}/referrers/{digest}")).await;
        let list: serde_json::Value = serde_json::from_slice(&list.body).unwrap();
        assert_eq!(list["manifests"].as_array().unwrap().len(), 1, "{way}: {list}");
        assert_eq!(list["manifests"][0]["digest"], about, "{way}");
        client.pull(&repository, "v1").await.unwrap();
    }
}

const SIGSTORE: &str = r#"
const { attachArtifactToImage, getImageDigest } = require('@sigstore/oci');
const [host, way] = process.argv.slice(1);
const imageName = `${host}/org/sigstore-${way}`;
const credentials = { username: 'org', password: 'correct horse' };
(async () => {
  const imageDigest = await getImageDigest({ credentials, imageName, imageTag: 'latest' });
  for (const number of [1, 2]) {
    const made = await attachArtifactToImage({
      credentials, imageName, imageDigest,
      artifact: Buffer.from(JSON.stringify({ bundle: number })),
      mediaType: 'application/vnd.dev.sigstore.bundle.v0.3+json',
      annotations: { number: String(number) },
    });
    // Not by the tag of a registry that knows no referrers.
    if (made.subjectDigest !== imageDigest) throw new Error(JSON.stringify(made));
    console.log(made.digest);
  }
})().catch((error) => { console.error(error, error.cause); process.exit(1); });
"#;

#[tokio::test(flavor = "multi_thread")]
async fn sigstore_attaches_artifacts_to_an_image() {
    let stage = Stage::new(false).await;
    for (way, address) in stage.ways() {
        let repository = format!("org/sigstore-{way}");
        let client = stage.client(address, &[&format!("repository:{repository}:pull,push")]).await;
        let image = Image::new(1, &[10_000]);
        push(&client, &repository, "latest", &image).await;
        // This library speaks HTTP to these hosts alone.
        let host = format!("127.0.0.1:{}", address.port());
        let output = Library::SigstoreOci.run(SIGSTORE, stage.dir.path(), &[&host, way]).await.expect_success();
        let mut made: Vec<&str> = output.stdout.lines().collect();
        made.sort_unstable();
        let list = client.get(&format!("/v2/{repository}/referrers/{}", image.digest())).await;
        let list: serde_json::Value = serde_json::from_slice(&list.body).unwrap();
        let listed: Vec<&str> =
            list["manifests"].as_array().unwrap().iter().map(|entry| entry["digest"].as_str().unwrap()).collect();
        assert_eq!(listed, made, "{way}");
        let tags = client.get(&format!("/v2/{repository}/tags/list")).await;
        assert!(String::from_utf8_lossy(&tags.body).contains("[\"latest\"]"), "{way}: {tags:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn oci_client_pushes_and_pulls_and_lists_referrers() {
    let stage = Stage::new(false).await;
    for (way, address) in stage.ways() {
        let client = OciClient::new(ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() });
        let auth = RegistryAuth::Basic("org".to_owned(), PASSWORD.to_owned());
        let reference = |rest: &str| format!("{address}/org/client-{way}{rest}").parse::<Reference>().unwrap();
        let layers = vec![
            ImageLayer::new(vec![7; 3_000_000], "application/wasm".to_owned(), None),
            ImageLayer::new(vec![8; 10], "application/vnd.example.note".to_owned(), None),
        ];
        let config = Config::new(b"{}".to_vec(), "application/vnd.wasm.config.v0+json".to_owned(), None);
        client.push(&reference(":v1"), &layers, config, &auth, None).await.unwrap();
        let accepted = vec!["application/wasm", "application/vnd.example.note"];
        let pulled = client.pull(&reference(":v1"), &auth, accepted).await.unwrap();
        // It fetches them at once, and has them in the order in which they come.
        let mut lengths: Vec<usize> = pulled.layers.iter().map(|layer| layer.data.len()).collect();
        lengths.sort_unstable();
        assert_eq!(lengths, [10, 3_000_000], "{way}");
        let digest = pulled.digest.unwrap();
        assert_eq!(client.fetch_manifest_digest(&reference(":v1"), &auth).await.unwrap(), digest, "{way}");
        let tags = client.list_tags(&reference(""), &auth, None, None).await.unwrap();
        assert_eq!(tags.tags, ["v1"], "{way}");
        let none = client.pull_referrers(&reference(&format!("@{digest}")), None).await.unwrap();
        assert!(none.manifests.is_empty(), "{way}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn buildah_builds_pushes_lists_and_pulls() {
    let stage = Stage::new(false).await;
    for (way, address) in stage.ways() {
        let client = stage.client(address, &[&format!("repository:org/base-{way}:pull,push")]).await;
        let base = Image::of(Format::Docker, "amd64", 7, &[300_000]);
        push(&client, &format!("org/base-{way}"), "v1", &base).await;
        let buildah = Buildah::new();
        buildah.login(address, ACCOUNT);
        let policy = buildah.dir().join("policy.json");
        let policy = policy.to_str().unwrap();
        std::fs::write(buildah.dir().join("file"), way).unwrap();
        let recipe = format!("FROM {address}/org/base-{way}:v1\nCOPY file /added\nLABEL way={way}\n");
        std::fs::write(buildah.dir().join("Containerfile"), recipe).unwrap();
        let built = format!("{address}/org/built-{way}:v1");
        for (format, tag) in [("oci", "oci"), ("docker", "docker")] {
            let name = format!("{address}/org/built-{way}:{tag}");
            buildah
                .run(&["bud", "--format", format, "--tls-verify=false", "--signature-policy", policy, "-t", &name, "."])
                .await
                .expect_success();
            // A layer of the base is mounted from there, or pushed.
            buildah.run(&["push", "--tls-verify=false", "--signature-policy", policy, &name]).await.expect_success();
        }
        buildah.run(&["manifest", "create", &built]).await.expect_success();
        for tag in ["oci", "docker"] {
            let image = format!("docker://{address}/org/built-{way}:{tag}");
            buildah.run(&["manifest", "add", "--tls-verify=false", &built, &image]).await.expect_success();
        }
        let to = format!("docker://{built}");
        buildah
            .run(&["manifest", "push", "--all", "--tls-verify=false", "--signature-policy", policy, &built, &to])
            .await
            .expect_success();
        buildah.run(&["rmi", "--all", "--force"]).await.expect_success();
        let pulled = format!("{address}/org/built-{way}:docker");
        buildah.run(&["pull", "--tls-verify=false", "--signature-policy", policy, &pulled]).await.expect_success();
        let client = stage.client(address, &[&format!("repository:org/built-{way}:pull")]).await;
        assert!(client.pull(&format!("org/built-{way}"), "v1").await.unwrap() >= 6, "{way}");
    }
}
