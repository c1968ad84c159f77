//! Whether a manifest has the shape of the media type that it is pushed as: pure.
//!
//! A text that one client reads as an image and another as an index is two things under one digest (CVE-2021-41190). So an image
//! manifest has a configuration and no entries of an index, an index has entries and neither configuration nor layers, and an artifact
//! manifest has neither. Media types that this registry does not know have any shape. `null` is how Go programs write an empty list.

use std::fmt;

use pierhead_registry::oci::media_type::{
    DOCKER_LIST, DOCKER_MANIFEST, OCI_ARTIFACT, OCI_INDEX, OCI_MANIFEST, is_among,
};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A kind of manifest whose shape is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An OCI or Docker image for one platform, or an artifact in that form.
    Image,
    /// An OCI index or a Docker list.
    Index,
    /// An artifact manifest of the specification's release candidates.
    Artifact,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Image => "an image manifest",
            Kind::Index => "an index",
            Kind::Artifact => "an artifact manifest",
        })
    }
}

/// How a manifest differs from what it is pushed as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Misshapen {
    /// It lacks a field of its media type.
    #[error("{0} needs the field {1:?}")]
    Lacks(Kind, &'static str),
    /// It has a field of another media type.
    #[error("{0} cannot have the field {1:?}: clients would read it as something else")]
    Mixed(Kind, &'static str),
    /// The version of another format.
    #[error("{0} has \"schemaVersion\": 2")]
    Version(Kind),
    /// A field that two programs may read as two different values.
    #[error("a field of it is written twice")]
    Twice,
}

/// The fields that tell one kind of manifest from another.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Fields {
    schema_version: Value,
    config: Value,
    layers: Value,
    manifests: Value,
    blobs: Value,
    fs_layers: Value,
    history: Value,
}

/// What stands in a field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Value {
    /// Nothing: the field is not there.
    #[default]
    Absent,
    Null,
    Number(u64),
    List,
    Object,
    Other,
}

/// Checks a JSON object that is pushed as a media type.
pub(super) fn check(content_type: &str, content: &[u8]) -> Result<(), Misshapen> {
    let Some(kind) = kind(content_type) else { return Ok(()) };
    // It was read as an object before. What that reading passes over may still be written twice.
    let fields: Fields = serde_json::from_slice(content).map_err(|_| Misshapen::Twice)?;
    let (config, entries) = ((fields.config, "config"), (fields.manifests, "manifests"));
    let (layers, blobs) = ((fields.layers, "layers"), (fields.blobs, "blobs"));
    let (lacks, foreign) = match kind {
        Kind::Image if fields.config != Value::Object => (Some(config.1), Vec::new()),
        // Clients in Go write `null` for none.
        Kind::Image => ((fields.layers == Value::Absent).then_some(layers.1), vec![entries, blobs]),
        Kind::Index => ((fields.manifests == Value::Absent).then_some(entries.1), vec![config, layers, blobs]),
        Kind::Artifact => (None, vec![entries, config, layers]),
    };
    if let Some(field) = lacks {
        return Err(Misshapen::Lacks(kind, field));
    }
    let of_schema_1 = [(fields.fs_layers, "fsLayers"), (fields.history, "history")];
    let written = |value: Value| !matches!(value, Value::Absent | Value::Null);
    if let Some((_, field)) = foreign.iter().chain(&of_schema_1).find(|(value, _)| written(*value)) {
        return Err(Misshapen::Mixed(kind, field));
    }
    // Old clients leave it out.
    match fields.schema_version {
        Value::Absent | Value::Number(2) => Ok(()),
        _ => Err(Misshapen::Version(kind)),
    }
}

fn kind(content_type: &str) -> Option<Kind> {
    let is = |types: &[&str]| is_among(content_type, types);
    if is(&[OCI_MANIFEST, DOCKER_MANIFEST]) {
        Some(Kind::Image)
    } else if is(&[OCI_INDEX, DOCKER_LIST]) {
        Some(Kind::Index)
    } else {
        is(&[OCI_ARTIFACT]).then_some(Kind::Artifact)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_str<E>(self, _: &str) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::List)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Value::Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_of_what_is_pushed() {
        use Kind::{Artifact, Image, Index};
        let lacks = |kind, field| Err(Misshapen::Lacks(kind, field));
        let mixed = |kind, field| Err(Misshapen::Mixed(kind, field));
        for (content_type, content, expected) in [
            (OCI_MANIFEST, r#"{"schemaVersion":2,"config":{},"layers":[]}"#, Ok(())),
            (OCI_MANIFEST, r#"{"config":{},"layers":null,"manifests":null}"#, Ok(())),
            (OCI_MANIFEST, r#"{"config":{}}"#, lacks(Image, "layers")),
            (DOCKER_MANIFEST, r#"{"schemaVersion":2,"config":{}}"#, lacks(Image, "layers")),
            (OCI_MANIFEST, "{}", lacks(Image, "config")),
            (OCI_MANIFEST, r#"{"config":null,"layers":[]}"#, lacks(Image, "config")),
            (DOCKER_MANIFEST, r#"{"schemaVersion":2,"layers":[]}"#, lacks(Image, "config")),
            (OCI_MANIFEST, r#"{"config":{},"layers":[],"manifests":[]}"#, mixed(Image, "manifests")),
            (OCI_MANIFEST, r#"{"config":{},"layers":[],"blobs":[]}"#, mixed(Image, "blobs")),
            (DOCKER_MANIFEST, r#"{"config":{},"layers":[],"fsLayers":[]}"#, mixed(Image, "fsLayers")),
            (OCI_MANIFEST, r#"{"config":{},"layers":[],"history":[]}"#, mixed(Image, "history")),
            (OCI_MANIFEST, r#"{"config":{},"layers":[],"schemaVersion":1}"#, Err(Misshapen::Version(Image))),
            (OCI_MANIFEST, r#"{"config":{},"layers":[],"schemaVersion":"2"}"#, Err(Misshapen::Version(Image))),
            (OCI_MANIFEST, r#"{"config":{},"schemaVersion":2,"schemaVersion":1}"#, Err(Misshapen::Twice)),
            (OCI_INDEX, r#"{"schemaVersion":2,"manifests":[]}"#, Ok(())),
            (OCI_INDEX, r#"{"manifests":null}"#, Ok(())),
            (DOCKER_LIST, r#"{"schemaVersion":2}"#, lacks(Index, "manifests")),
            (OCI_INDEX, r#"{"manifests":[],"config":{}}"#, mixed(Index, "config")),
            (OCI_INDEX, r#"{"manifests":[],"layers":[]}"#, mixed(Index, "layers")),
            ("Application/vnd.OCI.image.index.v1+JSON", "{}", lacks(Index, "manifests")),
            (OCI_ARTIFACT, r#"{"artifactType":"a/b","blobs":[],"subject":{}}"#, Ok(())),
            (OCI_ARTIFACT, "{}", Ok(())),
            (OCI_ARTIFACT, r#"{"manifests":[]}"#, mixed(Artifact, "manifests")),
            (OCI_ARTIFACT, r#"{"config":{}}"#, mixed(Artifact, "config")),
            ("application/x.y", "{}", Ok(())),
            ("application/x.y", r#"{"manifests":[],"layers":[],"schemaVersion":7.5}"#, Ok(())),
        ] {
            assert_eq!(check(content_type, content.as_bytes()), expected, "{content_type} {content}");
        }
    }
}
