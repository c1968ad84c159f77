//! What an upstream holds: two repositories, an image each, one layer shared. Other bytes for each seed, so that no
//! registry of an edge profits from what another one has pulled.

use bytes::Bytes;
use pierhead_registry::oci::media_type::{OCI_INDEX, OCI_MANIFEST};
use serde_json::json;

use super::behaviour::{Name, Operation, Piece};
use crate::image::{Blob, Format, Image, noise};

/// The names of the repositories.
pub const REPOSITORIES: [&str; 2] = ["team/app", "team/sub/base"];
/// The tag of the image in each.
pub const TAG: &str = "v1";
/// Tags on a page of the list.
pub const PAGE: usize = 4;

/// The content of one upstream.
#[derive(Debug)]
pub struct Content {
    repositories: [Repository; 2],
    absent: Blob,
}

/// The content of one repository.
#[derive(Debug)]
pub struct Repository {
    /// What the tag means.
    pub image: Image,
    /// All tags, sorted.
    pub tags: Vec<String>,
    /// The answer of the referrers API for the image.
    pub referrers: Bytes,
}

/// What a client must get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Right {
    /// SHA-256 of the body, or of the names in a list.
    pub digest: String,
    /// Length of the body; of a part, its own.
    pub size: u64,
    /// The media type, where it matters.
    pub media_type: Option<String>,
}

impl Content {
    /// The content of a seed.
    pub fn new(seed: u64) -> Content {
        Content::with_layers(seed, 0)
    }

    /// The same with further layers in both images.
    pub fn with_layers(seed: u64, further: usize) -> Content {
        let blob = |number: u64, size| Blob::new(noise(seed * 1000 + number, size));
        let (large, empty) = (blob(0, 150_000), Blob::new(Bytes::new()));
        let repository = |number: u64| {
            let mut layers = vec![blob(number, 3000), large.clone(), empty.clone()];
            layers.extend((100..).take(further).map(|number| blob(number, 2000)));
            let image = Image::from_layers(Format::Oci, "amd64", layers);
            let signature = json!({
                "mediaType": OCI_MANIFEST, "digest": blob(10 + number, 10).digest.to_string(), "size": 10,
                "artifactType": "application/vnd.test.signature",
            });
            let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [signature] });
            let mut tags: Vec<String> = (0..8).map(|number| format!("t{number}")).collect();
            tags.push(TAG.to_owned());
            Repository { image, tags, referrers: index.to_string().into() }
        };
        Content { repositories: [repository(1), repository(2)], absent: blob(9, 10) }
    }

    /// One of the repositories.
    pub fn repository(&self, number: usize) -> &Repository {
        &self.repositories[number]
    }

    /// How a name is written in a path.
    pub fn reference(&self, repository: usize, name: Name) -> String {
        match name {
            Name::Tag => TAG.to_owned(),
            Name::Digest => self.repositories[repository].image.digest().to_string(),
            Name::NoTag => "absent".to_owned(),
            Name::NoDigest => self.absent.digest.to_string(),
        }
    }

    /// A blob of a repository, and whether it exists.
    pub fn blob(&self, repository: usize, piece: Piece) -> (&Blob, bool) {
        let image = &self.repositories[repository].image;
        match piece {
            Piece::Config => (&image.config, true),
            Piece::Small => (&image.layers[0], true),
            Piece::Large => (&image.layers[1], true),
            Piece::Empty => (&image.layers[2], true),
            Piece::Layer(number) => (&image.layers[3 + number], true),
            Piece::None => (&self.absent, false),
        }
    }

    /// The blob of a repository that has this digest.
    pub fn find_blob(&self, repository: usize, digest: &str) -> Option<&Blob> {
        self.repositories[repository].image.blobs().find(|blob| blob.digest.to_string() == digest)
    }

    /// What an operation gives where nothing is wrong; `None`: there is nothing to get.
    pub fn right(&self, repository: usize, operation: Operation) -> Option<Right> {
        let of = |bytes: &[u8]| Right {
            digest: Blob::new(bytes.to_vec()).digest.to_string(),
            size: bytes.len() as u64,
            media_type: None,
        };
        match operation {
            Operation::Ping => Some(of(b"")),
            Operation::Resolve(Name::NoTag | Name::NoDigest) | Operation::Manifest(Name::NoTag | Name::NoDigest) => {
                None
            }
            Operation::Resolve(_) | Operation::Manifest(_) => {
                let manifest = &self.repositories[repository].image.manifest;
                Some(Right { media_type: Some(manifest.media_type.clone()), ..of(&manifest.blob.bytes) })
            }
            Operation::Exists(piece) | Operation::Blob(piece) => {
                let (blob, exists) = self.blob(repository, piece);
                exists.then(|| of(&blob.bytes))
            }
            Operation::Part(piece, first, last) => {
                let (blob, exists) = self.blob(repository, piece);
                let total = blob.bytes.len();
                let first = usize::try_from(first).unwrap_or(total).min(total);
                let end = last.map_or(total, |last| usize::try_from(last + 1).unwrap_or(total).min(total));
                exists.then(|| of(&blob.bytes[first..end]))
            }
            Operation::Tags => Some(of(self.repositories[repository].tags.join(" ").as_bytes())),
            Operation::Referrers => Some(of(&self.repositories[repository].referrers)),
        }
    }
}
