//! Manifests: found by tag or digest, put with everything they need, deleted.

use std::collections::{HashMap, HashSet};

use pierhead_registry::oci::{Digest, Reference};
use sea_orm::FromQueryResult;

use super::blobs::MOST_VALUES;
use super::expiration::live;
use super::{Change, Meta, MetaError, Millis, now, sql};

/// A manifest that a repository has, without its content.
#[derive(Clone, Debug, FromQueryResult)]
pub(crate) struct FoundManifest {
    /// The row.
    pub(crate) id: i64,
    digest: String,
    /// As it was pushed.
    pub(crate) media_type: String,
    size: i64,
    layers_size: i64,
}

impl FoundManifest {
    /// Bytes of the blobs that it names.
    pub(crate) fn layers_size(&self) -> u64 {
        u64::try_from(self.layers_size).unwrap_or_default()
    }

    /// Its digest.
    pub(crate) fn digest(&self) -> Result<Digest, MetaError> {
        self.digest.parse().map_err(|_| MetaError::Corrupt("digest"))
    }

    /// In bytes.
    pub(crate) fn size(&self) -> u64 {
        u64::try_from(self.size).unwrap_or_default()
    }
}

/// A manifest that is about another.
#[derive(Clone, Debug, FromQueryResult)]
pub(crate) struct Referrer {
    /// The row.
    pub(crate) id: i64,
    /// Its digest.
    pub(crate) digest: String,
    /// As it was pushed.
    pub(crate) media_type: String,
    /// What kind of artifact it is.
    pub(crate) artifact_type: Option<String>,
    /// In bytes.
    pub(crate) size: i64,
}

/// The bytes of a manifest.
#[derive(Clone, Debug, FromQueryResult)]
pub(crate) struct ManifestContent {
    /// The row.
    pub(crate) id: i64,
    /// The bytes.
    pub(crate) content: Vec<u8>,
}

/// A manifest that is to be put.
#[derive(Clone, Debug)]
pub(crate) struct NewManifest<'a> {
    /// Where.
    pub(crate) repository_id: i64,
    /// Of its content.
    pub(crate) digest: Digest,
    /// As it is pushed.
    pub(crate) media_type: &'a str,
    /// The bytes.
    pub(crate) content: &'a [u8],
    /// What kind of artifact it is.
    pub(crate) artifact_type: Option<&'a str>,
    /// What it is about.
    pub(crate) subject: Option<Digest>,
    /// Blobs that the repository must hold.
    pub(crate) blobs: Vec<Digest>,
    /// Blobs that it need not hold: their content is elsewhere.
    pub(crate) foreign: Vec<Digest>,
    /// Manifests that it must have.
    pub(crate) children: Vec<Digest>,
    /// Manifests that it must have, or blobs that it must hold.
    pub(crate) entries: Vec<Digest>,
    /// How many bytes some of these must have.
    pub(crate) sizes: Vec<(Digest, u64)>,
    /// When.
    pub(crate) at: Millis,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// It is there: the row, and the sum of its blobs.
    Done {
        /// The row.
        id: i64,
        /// Bytes that it names.
        layers_size: u64,
    },
    /// The repository lacks what it names.
    Missing(Vec<Digest>),
    /// The repository has it, of another size.
    OtherSize {
        /// What.
        digest: Digest,
        /// The size that it must have.
        said: u64,
        /// The size that it has.
        has: u64,
    },
}

#[derive(FromQueryResult)]
struct Row {
    id: i64,
}

#[derive(FromQueryResult)]
struct Child {
    id: i64,
    digest: String,
    size: i64,
}

#[derive(FromQueryResult)]
struct Content {
    content: Vec<u8>,
}

impl Meta {
    /// A manifest of a repository, by names.
    pub(crate) async fn manifest(
        &self,
        repository: &str,
        reference: &Reference,
    ) -> Result<Option<FoundManifest>, MetaError> {
        const COLUMNS: &str = "m.id AS id, m.digest AS digest, m.media_type AS media_type, m.size AS size, \
             m.layers_size AS layers_size";
        let (select, values) = match reference {
            Reference::Tag(tag) => (
                format!(
                    "SELECT {COLUMNS} FROM repository r JOIN tag t ON t.repository_id = r.id AND {} \
                     JOIN manifest m ON m.id = t.manifest_id WHERE r.name = $1 AND t.name = $2 AND m.deleted IS NULL",
                    live(3)
                ),
                vec![repository.into(), tag.to_string().into(), now().into()],
            ),
            Reference::Digest(digest) => (
                format!(
                    "SELECT {COLUMNS} FROM repository r JOIN manifest m ON m.repository_id = r.id \
                     WHERE r.name = $1 AND m.digest = $2 AND m.deleted IS NULL"
                ),
                vec![repository.into(), digest.to_string().into()],
            ),
        };
        sql::one(&self.connections, &select, values).await
    }

    /// The bytes of a manifest.
    pub(crate) async fn manifest_content(&self, id: i64) -> Result<Option<Vec<u8>>, MetaError> {
        let row: Option<Content> =
            sql::one(&self.connections, "SELECT content FROM manifest WHERE id = $1", [id.into()]).await?;
        Ok(row.map(|row| row.content))
    }

    /// The bytes of several manifests, in any order, of those that are still there.
    pub(crate) async fn manifest_contents(&self, ids: &[i64]) -> Result<Vec<ManifestContent>, MetaError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let select = format!("SELECT id, content FROM manifest WHERE id IN ({})", sql::places(1, ids.len()));
        sql::all(&self.connections, &select, ids.iter().map(|id| (*id).into())).await
    }

    /// Manifests that are about a digest, of one kind or of all, in the order of their digests, from after `last` on. The digest of a
    /// manifest that is gone is a place in this order as well.
    pub(crate) async fn referrers(
        &self,
        repository_id: i64,
        subject: &Digest,
        artifact_type: Option<&str>,
        last: &str,
        limit: u32,
    ) -> Result<Vec<Referrer>, MetaError> {
        let filter = if artifact_type.is_some() { "AND LOWER(artifact_type) = LOWER($5)" } else { "" };
        let select = format!(
            "SELECT id, digest, media_type, artifact_type, size FROM manifest \
             WHERE repository_id = $1 AND subject = $2 AND deleted IS NULL AND digest > $3 {filter} ORDER BY digest LIMIT $4"
        );
        let values =
            [repository_id.into(), subject.to_string().into(), last.into(), i64::from(limit).into()].into_iter();
        sql::all(&self.connections, &select, values.chain(artifact_type.map(Into::into))).await
    }
}

impl Change {
    /// Puts a manifest, if the repository has all that it needs. The repository is held already.
    pub(crate) async fn put_manifest(&self, new: &NewManifest<'_>) -> Result<Put, MetaError> {
        // Manifests before blobs, as garbage collection locks them.
        let children: Vec<Digest> = new.children.iter().chain(&new.entries).copied().collect();
        let children = self.children(new.repository_id, &children).await?;
        let known: HashSet<&str> = children.iter().map(|child| child.digest.as_str()).collect();
        let entries = new.entries.iter().map(ToString::to_string).filter(|digest| !known.contains(digest.as_str()));
        let wanted: Vec<String> =
            new.blobs.iter().chain(&new.foreign).map(ToString::to_string).chain(entries).collect();
        let held = self.held_blobs(new.repository_id, &wanted).await?;
        let blobs = held.iter().map(|blob| (blob.digest.as_str(), blob.size));
        let sizes: HashMap<&str, i64> =
            blobs.chain(children.iter().map(|child| (child.digest.as_str(), child.size))).collect();
        let size = |digest: &Digest| sizes.get(digest.to_string().as_str()).copied();
        let named = new.blobs.iter().chain(&new.children).chain(&new.entries);
        let missing: Vec<Digest> = named.filter(|digest| size(digest).is_none()).copied().collect();
        if !missing.is_empty() {
            return Ok(Put::Missing(missing));
        }
        for (digest, said) in &new.sizes {
            let has = size(digest).and_then(|size| u64::try_from(size).ok());
            if let Some(has) = has.filter(|has| has != said) {
                return Ok(Put::OtherSize { digest: *digest, said: *said, has });
            }
        }
        let layers_size: i64 = held.iter().map(|blob| blob.size).sum();
        let upsert = "INSERT INTO manifest \
                      (repository_id, digest, media_type, artifact_type, subject, content, size, layers_size, pushed, deleted) \
                      VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, NULL) ON CONFLICT (repository_id, digest) DO UPDATE SET \
                      media_type = excluded.media_type, pushed = excluded.pushed, deleted = NULL RETURNING id";
        let values = [
            new.repository_id.into(),
            new.digest.to_string().into(),
            new.media_type.into(),
            new.artifact_type.map(str::to_owned).into(),
            new.subject.map(|digest| digest.to_string()).into(),
            new.content.to_vec().into(),
            i64::try_from(new.content.len()).unwrap_or(i64::MAX).into(),
            layers_size.into(),
            new.at.into(),
        ];
        let Row { id } = sql::one(&self.transaction, upsert, values).await?.ok_or(MetaError::Corrupt("manifest"))?;
        let insert = "INSERT INTO manifest_blob (manifest_id, blob_id, repository_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
        for blob in &held {
            sql::execute(&self.transaction, insert, [id.into(), blob.id.into(), new.repository_id.into()]).await?;
        }
        let insert = "INSERT INTO manifest_child (manifest_id, child_id) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        for child in &children {
            sql::execute(&self.transaction, insert, [id.into(), child.id.into()]).await?;
        }
        Ok(Put::Done { id, layers_size: u64::try_from(layers_size).unwrap_or_default() })
    }

    /// A manifest is gone for all but the time machine, and its tags with it. The tags; `None` when it is not there.
    pub(crate) async fn delete_manifest(
        &self,
        repository_id: i64,
        digest: &Digest,
        at: Millis,
    ) -> Result<Option<Vec<String>>, MetaError> {
        let update = "UPDATE manifest SET deleted = $3 WHERE repository_id = $1 AND digest = $2 AND deleted IS NULL RETURNING id";
        let values = [repository_id.into(), digest.to_string().into(), at.into()];
        let Some(Row { id }) = sql::one(&self.transaction, update, values).await? else { return Ok(None) };
        Ok(Some(self.end_tags_of(id, at).await?))
    }

    /// Those of these manifests that a repository has. They stay until this change ends.
    async fn children(&self, repository_id: i64, digests: &[Digest]) -> Result<Vec<Child>, MetaError> {
        let mut found = Vec::with_capacity(digests.len());
        for some in digests.chunks(MOST_VALUES) {
            let select = format!(
                "SELECT id, digest, size FROM manifest WHERE repository_id = $1 AND deleted IS NULL AND digest IN ({}) ORDER BY id{}",
                sql::places(2, some.len()),
                self.sharing()
            );
            let digests = some.iter().map(|digest| digest.to_string().into());
            found.extend(
                sql::all::<Child>(&self.transaction, &select, [repository_id.into()].into_iter().chain(digests))
                    .await?,
            );
        }
        Ok(found)
    }
}
