//! Manifests: what the bytes of one refer to.
//!
//! Manifests are served byte for byte and read for two purposes: to know which blobs and child manifests an image needs, and how it
//! is listed among the referrers of another. So every other field is passed over, and a manifest of an unknown media type is kept as
//! it is, with no children.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::str::Utf8Error;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::digest::Digest;

/// Why bytes are no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not a JSON object of the expected shape.
    #[error("not a manifest: {0}")]
    Json(#[from] serde_json::Error),
    /// Not even text.
    #[error("not a manifest: {0}")]
    Text(#[from] Utf8Error),
}

/// A reference from a manifest to content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Of what.
    pub digest: Digest,
    /// How many bytes.
    pub size: u64,
    /// The media type, where given.
    pub media_type: Option<String>,
    /// Whether it says where else its content is (`urls`): a registry need not hold it.
    pub foreign: bool,
}

/// What a manifest refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The `mediaType` field, where given.
    pub media_type: Option<String>,
    /// Child manifests: the entries of an index or list.
    pub manifests: Vec<Descriptor>,
    /// Configuration and layers, or an artifact's blobs. The layers of Docker's schema 1 have the size 0, which stands for an
    /// unknown one.
    pub blobs: Vec<Descriptor>,
    /// The manifest that this one is about (a signature's image).
    pub subject: Option<Descriptor>,
    /// What kind of artifact it is: `artifactType`, else the media type of its configuration.
    pub artifact_type: Option<String>,
    /// What its author says of it.
    pub annotations: BTreeMap<String, String>,
    /// Descriptors that were left out.
    pub unreadable: usize,
}

impl Manifest {
    /// Reads a manifest of any media type. Descriptors with a digest of an unknown algorithm are left out:
    /// nobody can ask for them by digest here.
    pub fn parse(bytes: &[u8]) -> Result<Manifest, ManifestError> {
        let Object(written) = serde_json::from_str::<Object<Written>>(std::str::from_utf8(bytes)?)?;
        let mut unreadable = 0;
        let mut check = |Object(descriptor): Object<WrittenDescriptor>| {
            let checked = descriptor.check();
            unreadable += usize::from(checked.is_none());
            checked
        };
        let schema1 = written.schema_version.as_ref().and_then(Value::as_u64) == Some(1);
        let schema1_layers = written.fs_layers.filter(|_| schema1).map(schema1_layers).unwrap_or_default();
        let kind = written.config.as_ref().and_then(|Object(config)| config.media_type.clone());
        let config = written.config.into_iter();
        // Foreign layers carry `urls` and are fetched from there, yet a registry may also hold them.
        let blobs = config
            .chain(written.layers.unwrap_or_default())
            .chain(written.blobs.unwrap_or_default())
            .filter_map(&mut check)
            .chain(schema1_layers)
            .collect();
        Ok(Manifest {
            media_type: written.media_type,
            manifests: written.manifests.unwrap_or_default().into_iter().filter_map(&mut check).collect(),
            blobs,
            subject: written.subject.and_then(&mut check),
            artifact_type: written.artifact_type.filter(|kind| !kind.is_empty()).or(kind),
            annotations: written.annotations.unwrap_or_default(),
            unreadable,
        })
    }
}

/// A manifest as written: every field optional, or `null` as Go programs write empty lists; everything else ignored.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    /// Any JSON: only a 1 means something here.
    schema_version: Option<Value>,
    /// Layers of Docker's schema 1.
    fs_layers: Option<Value>,
    media_type: Option<String>,
    config: Option<Object<WrittenDescriptor>>,
    layers: Option<Vec<Object<WrittenDescriptor>>>,
    blobs: Option<Vec<Object<WrittenDescriptor>>>,
    manifests: Option<Vec<Object<WrittenDescriptor>>>,
    subject: Option<Object<WrittenDescriptor>>,
    artifact_type: Option<String>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenDescriptor {
    digest: String,
    #[serde(default)]
    size: u64,
    media_type: Option<String>,
    urls: Option<Vec<String>>,
}

impl WrittenDescriptor {
    fn check(self) -> Option<Descriptor> {
        let foreign = self.urls.is_some_and(|urls| !urls.is_empty());
        Some(Descriptor { digest: self.digest.parse().ok()?, size: self.size, media_type: self.media_type, foreign })
    }
}

/// A layer of Docker's schema 1, which has no size.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Schema1Layer {
    blob_sum: String,
}

/// What cannot be read as layers names none.
fn schema1_layers(written: Value) -> Vec<Descriptor> {
    let layers: Vec<Schema1Layer> = serde_json::from_value(written).unwrap_or_default();
    let digests = layers.into_iter().filter_map(|layer| layer.blob_sum.parse().ok());
    digests.map(|digest| Descriptor { digest, size: 0, media_type: None, foreign: false }).collect()
}

/// Written as an object. A derived `Deserialize` reads the fields from an array as well, one after the other.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object<T>, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::{Manifest, ManifestError};

    #[test]
    fn finds_what_an_image_needs() -> Result<(), ManifestError> {
        let (a, b) = (format!("sha256:{}", "a".repeat(64)), format!("sha256:{}", "b".repeat(64)));
        let image = format!(
            r#"{{"schemaVersion":2,"config":{{"digest":"{a}","size":2}},"layers":[{{"digest":"{b}","size":3,"mediaType":"x"}},{{"digest":"md5:1"}}]}}"#
        );
        let image = Manifest::parse(image.as_bytes())?;
        assert_eq!(image.blobs.iter().map(|d| d.size).collect::<Vec<_>>(), [2, 3]);
        assert!(image.manifests.is_empty() && image.unreadable == 1);

        let index =
            format!(r#"{{"mediaType":"i","manifests":[{{"digest":"{a}","size":9}}],"subject":{{"digest":"{b}"}}}}"#);
        let index = Manifest::parse(index.as_bytes())?;
        assert_eq!(index.manifests.len(), 1);
        assert!(index.subject.is_some() && index.media_type.as_deref() == Some("i"));

        let layers = format!(r#""fsLayers":[{{"blobSum":"{a}"}},{{"blobSum":"{b}"}}]"#);
        for (version, fields, expected) in [
            ("1", layers.as_str(), 2),
            ("2", &layers, 0),
            ("\"1\"", &layers, 0),
            ("1", r#""fsLayers":3"#, 0),
            ("1", r#""fsLayers":[{"blobSum":"md5:1"}]"#, 0),
        ] {
            let old = Manifest::parse(format!(r#"{{"schemaVersion":{version},{fields}}}"#).as_bytes())?;
            assert_eq!(old.blobs.iter().filter(|blob| blob.size == 0).count(), expected, "{version} {fields}");
        }

        let positional = br#"["application/vnd.oci.image.manifest.v1+json",null,null,null,null,null,null,null]"#;
        for bad in [b"[]".as_slice(), positional, br#"{"config":["sha256:0",2,null,null]}"#, b"{\"a\":\"\xff\xfe\"}"] {
            assert!(Manifest::parse(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
        assert!(Manifest::parse(b"{\"layers\":3}").is_err());
        assert_eq!(Manifest::parse(b"{}")?, Manifest::default());
        assert_eq!(Manifest::parse(br#"{"layers":null,"manifests":null,"blobs":null}"#)?, Manifest::default());
        Ok(())
    }
}
