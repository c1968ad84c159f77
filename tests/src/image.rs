//! Images made from a seed: the same every time, incompressible, of any size, and real enough for podman and containerd
//! to unpack. Their layers are plain tar archives of one file, so a layer's digest is its diff id as well.

use bytes::Bytes;
use pierhead_registry::oci::media_type::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use pierhead_registry::oci::{Algorithm, Digest};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use serde_json::{Value, json};

/// Bytes and their digest.
#[derive(Clone, Debug)]
pub struct Blob {
    /// Of the bytes.
    pub digest: Digest,
    /// The content.
    pub bytes: Bytes,
}

impl Blob {
    /// Takes bytes as they are.
    pub fn new(bytes: impl Into<Bytes>) -> Blob {
        let bytes = bytes.into();
        Blob { digest: Digest::of(Algorithm::Sha256, &bytes), bytes }
    }

    /// `size` random bytes.
    pub fn random(seed: u64, size: usize) -> Blob {
        Blob::new(noise(seed, size))
    }

    /// A tar archive of one file, `layer-<seed>`, of `size` random bytes.
    pub fn layer(seed: u64, size: usize) -> Blob {
        Blob::new(tar(&format!("layer-{seed}"), &noise(seed, size)))
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": self.digest.to_string(), "size": self.bytes.len() })
    }
}

/// Incompressible bytes.
pub fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0; 512];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{:011o}\0", content.len()));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let padded = content.len().next_multiple_of(512);
    let mut archive = Vec::with_capacity(padded + 1536);
    archive.extend_from_slice(&header);
    archive.extend_from_slice(content);
    // The archive ends with two empty blocks.
    archive.resize(512 + padded + 1024, 0);
    archive
}

/// Whose media types an image carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Docker schema 2.
    Docker,
    /// OCI.
    Oci,
}

/// A manifest and its media type.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Digest and bytes.
    pub blob: Blob,
    /// Its media type.
    pub media_type: String,
}

/// An image for one platform.
#[derive(Clone, Debug)]
pub struct Image {
    /// What refers to the rest.
    pub manifest: Manifest,
    /// The configuration.
    pub config: Blob,
    /// The layers, lowest first.
    pub layers: Vec<Blob>,
}

impl Image {
    /// An OCI image for linux/amd64 with layers of about these sizes.
    pub fn new(seed: u64, sizes: &[usize]) -> Image {
        Image::of(Format::Oci, "amd64", seed, sizes)
    }

    /// An image of either format and any architecture.
    pub fn of(format: Format, architecture: &str, seed: u64, sizes: &[usize]) -> Image {
        let layers: Vec<Blob> =
            (seed * 1000..).zip(sizes).map(|(seed, size)| Blob::layer(seed, *size)).collect::<Vec<_>>();
        Image::from_layers(format, architecture, layers)
    }

    /// An image of given layers.
    pub fn from_layers(format: Format, architecture: &str, layers: Vec<Blob>) -> Image {
        let diff_ids: Vec<String> = layers.iter().map(|layer| layer.digest.to_string()).collect();
        let config = json!({
            "architecture": architecture, "os": "linux", "config": { "Cmd": ["/nothing"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": layers.iter().map(|_| json!({ "created_by": "test" })).collect::<Vec<_>>(),
        });
        let config = Blob::new(serde_json::to_vec(&config).unwrap());
        let (manifest_type, config_type, layer_type) = match format {
            Format::Docker => (
                DOCKER_MANIFEST,
                "application/vnd.docker.container.image.v1+json",
                "application/vnd.docker.image.rootfs.diff.tar",
            ),
            Format::Oci => {
                (OCI_MANIFEST, "application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar")
            }
        };
        let manifest = json!({
            "schemaVersion": 2, "mediaType": manifest_type, "config": config.descriptor(config_type),
            "layers": layers.iter().map(|layer| layer.descriptor(layer_type)).collect::<Vec<_>>(),
        });
        Image { manifest: Manifest::new(manifest_type, &manifest), config, layers }
    }

    /// Configuration and layers.
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        std::iter::once(&self.config).chain(&self.layers)
    }

    /// Bytes of configuration, layers and manifest.
    pub fn size(&self) -> u64 {
        self.blobs().chain([&self.manifest.blob]).map(|blob| blob.bytes.len() as u64).sum()
    }

    /// Its digest.
    pub fn digest(&self) -> Digest {
        self.manifest.blob.digest
    }
}

impl Manifest {
    /// A manifest of any kind.
    pub fn new(media_type: &str, body: &Value) -> Manifest {
        let blob = Blob::new(serde_json::to_vec_pretty(body).unwrap());
        Manifest { blob, media_type: media_type.to_owned() }
    }
}

/// An image for several platforms.
#[derive(Clone, Debug)]
pub struct Index {
    /// What lists the images.
    pub manifest: Manifest,
    /// The images.
    pub images: Vec<Image>,
}

impl Index {
    /// For linux/amd64 and linux/arm64, one layer of about `size` each.
    pub fn new(format: Format, seed: u64, size: usize) -> Index {
        let images: Vec<(&str, Image)> = ["amd64", "arm64"]
            .into_iter()
            .zip(seed * 10..)
            .map(|(architecture, seed)| (architecture, Image::of(format, architecture, seed, &[size])))
            .collect();
        let media_type = if format == Format::Docker { DOCKER_LIST } else { OCI_INDEX };
        let entries: Vec<Value> = images
            .iter()
            .map(|(architecture, image)| {
                let mut entry = image.manifest.blob.descriptor(&image.manifest.media_type);
                entry["platform"] = json!({ "os": "linux", "architecture": architecture });
                entry
            })
            .collect();
        let body = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": entries });
        Index {
            manifest: Manifest::new(media_type, &body),
            images: images.into_iter().map(|(_, image)| image).collect(),
        }
    }

    /// Its digest.
    pub fn digest(&self) -> Digest {
        self.manifest.blob.digest
    }
}
