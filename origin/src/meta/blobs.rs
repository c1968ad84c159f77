//! Blobs, and which repository holds which.
//!
//! A blob is one object in the store and one row here, whoever pushed it. A repository holds it by a row of `repository_blob`: only
//! then can it be pulled or mounted from there, so that nobody learns what others have. The row holds while a manifest of the
//! repository needs the blob (`manifest_blob`), and without one until it expires, which is long enough for a push to finish.
//!
//! # How blobs come and go beside each other
//!
//! The store and the database cannot change together. So a blob's row says what may be in the store:
//!
//! ```text
//!   a push                                      garbage collection
//!   1 lock the row: make it, `Arriving`, or     1 lock rows that nobody holds; see again that nobody does; make
//!     find it `Present`; hold the blob            them `Leaving`, for so long (`leaving_until`)
//!   2 write the object to the store             2 delete the objects, in much less time than that
//!   3 make that very row `Present`              3 delete those very rows whose objects are gone
//! ```
//!
//! Nothing is locked during a step 2, however slow the store is.
//!
//! Invariants: a row that is held does not begin to leave, and one that has begun never comes back: when it is over, it is deleted.
//! While a row is `Leaving` and its time is not over, its object may vanish, and nobody writes it, deletes it or drops the row but
//! who made it leave. So:
//!
//! - A push that finds `Present` has nothing to write: the row cannot leave while it is held, and it is held from step 1 on. It may
//!   write the same bytes once more.
//! - A push that finds `Leaving` counts on nothing and waits: until the row is gone, or its time is over; then whoever began to take
//!   it away was killed or has given up, and the push drops the row and makes a new one.
//! - A push whose row is not there any more in step 3, because step 2 took longer than the repository holds the blob, does not know
//!   what became of its object. It holds a new row and looks.
//! - Killed between its steps, a push leaves a held `Arriving` row: once that has expired, garbage collection takes row and object.
//!   Killed between its own, garbage collection leaves `Leaving` rows, which count as not there; when their time is over, the next
//!   collection makes them leave anew. Who comes too late finds another time in the row, or no row, and drops nothing.
//! - A manifest locks the rows of its blobs, and of who holds them, against change (`FOR SHARE`) while it is put: what it needs
//!   cannot leave in between.
//!
//! What the store loses by itself comes back by a push. Who finds that it lacks what is `Present` makes that very row `Arriving` and
//! looks once more, for it may have been written anew in between. The row counts as not there, the manifests that need it stay, and
//! the next push of the blob makes it whole for all. If the store has it again by itself, who looks makes the row `Present`, as step
//! 3 does: what has a blob's name in the store is whole.
//!
//! The time is the database's, one clock for all nodes. It is needed because a lock is gone with its connection while a request to
//! the store is still under way. What a store does long after a request for it was given up, nothing here can undo: a later push
//! finds the object missing and writes it anew.
//!
//! SQLite has one writer at a time, which is more than any of these locks.

use pierhead_registry::oci::Digest;
use sea_orm::FromQueryResult;

use super::entity::content::BlobState;
use super::{Change, Meta, MetaError, Millis, now, sql};

/// What must hold for a repository's row `rb` to count: not deleted, and needed by a manifest or not expired. `$place` is the time.
fn counts(place: usize) -> String {
    format!(
        "NOT rb.deleted AND (rb.expires > ${place} OR EXISTS (SELECT 1 FROM manifest_blob mb \
         WHERE mb.repository_id = rb.repository_id AND mb.blob_id = rb.blob_id))"
    )
}

/// A blob that a repository holds.
#[derive(Clone, Copy, Debug, FromQueryResult)]
pub(crate) struct HeldBlob {
    /// The row.
    pub(crate) id: i64,
    /// In bytes.
    size: i64,
}

impl HeldBlob {
    /// In bytes.
    pub(crate) fn size(&self) -> u64 {
        u64::try_from(self.size).unwrap_or_default()
    }
}

/// A blob that a manifest wants, with its digest.
#[derive(Clone, Debug, FromQueryResult)]
pub(super) struct WantedBlob {
    pub(super) id: i64,
    pub(super) digest: String,
    pub(super) size: i64,
}

/// What a push finds: which row, and what that says of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// The store has them.
    Known(i64),
    /// They must be written.
    New(i64),
    /// They are being taken away: nothing is held, and the push waits.
    Leaving,
}

#[derive(FromQueryResult)]
struct BlobRow {
    id: i64,
    state: BlobState,
    leaving_until: Millis,
}

impl Meta {
    /// A blob of a repository, by names.
    pub(crate) async fn blob(&self, repository: &str, digest: &Digest) -> Result<Option<HeldBlob>, MetaError> {
        self.blob_that_is(BlobState::Present, repository, digest).await
    }

    /// A blob of a repository that nobody can count on: it is being pushed, or the store has lost it.
    pub(crate) async fn missing_blob(&self, repository: &str, digest: &Digest) -> Result<Option<HeldBlob>, MetaError> {
        self.blob_that_is(BlobState::Arriving, repository, digest).await
    }

    async fn blob_that_is(
        &self,
        state: BlobState,
        repository: &str,
        digest: &Digest,
    ) -> Result<Option<HeldBlob>, MetaError> {
        let select = format!(
            "SELECT b.id AS id, b.size AS size FROM repository r JOIN repository_blob rb ON rb.repository_id = r.id \
             JOIN blob b ON b.id = rb.blob_id WHERE r.name = $1 AND b.digest = $2 AND b.state = $3 AND {}",
            counts(4)
        );
        let values = [repository.into(), digest.to_string().into(), state.into(), now().into()];
        sql::one(&self.connections, &select, values).await
    }

    /// Those of these repositories that hold a blob.
    pub(crate) async fn holders(&self, names: &[&str], digest: &Digest) -> Result<Vec<String>, MetaError> {
        #[derive(FromQueryResult)]
        struct Name {
            name: String,
        }
        let select = format!(
            "SELECT r.name AS name FROM blob b JOIN repository_blob rb ON rb.blob_id = b.id \
             JOIN repository r ON r.id = rb.repository_id \
             WHERE b.digest = $1 AND b.state = 1 AND r.state <> 2 AND {} AND r.name IN ({})",
            counts(2),
            sql::places(3, names.len())
        );
        let values = [digest.to_string().into(), now().into()].into_iter();
        let names = names.iter().map(|name| (*name).into());
        Ok(sql::all::<Name>(&self.connections, &select, values.chain(names))
            .await?
            .into_iter()
            .map(|row| row.name)
            .collect())
    }
}

impl Change {
    /// Step 1 of a push: the repository holds the blob from here on, until `expires` at least, unless it is [`Arrival::Leaving`].
    pub(crate) async fn blob_arrives(
        &self,
        repository_id: i64,
        digest: &Digest,
        size: u64,
        expires: Millis,
    ) -> Result<Arrival, MetaError> {
        let (digest, size) = (digest.to_string(), i64::try_from(size).unwrap_or(i64::MAX));
        // The row that was in the way may be one that left while it was waited for.
        let mut found = self.blob_row(&digest, size).await?;
        if found.is_none() {
            found = self.blob_row(&digest, size).await?;
        }
        let mut row = found.ok_or(MetaError::Gone)?;
        if row.state == BlobState::Leaving {
            if row.leaving_until > self.clock().await? {
                return Ok(Arrival::Leaving);
            }
            sql::execute(&self.transaction, "DELETE FROM blob WHERE id = $1", [row.id.into()]).await?;
            row = self.blob_row(&digest, size).await?.ok_or(MetaError::Gone)?;
        }
        if row.state == BlobState::Arriving {
            let update = "UPDATE blob SET size = $2 WHERE id = $1";
            sql::execute(&self.transaction, update, [row.id.into(), size.into()]).await?;
        }
        self.hold(repository_id, row.id, expires).await?;
        Ok(if row.state == BlobState::Present { Arrival::Known(row.id) } else { Arrival::New(row.id) })
    }

    /// The row of a blob, made where there is none, and locked. `None` when it left at this moment.
    async fn blob_row(&self, digest: &str, size: i64) -> Result<Option<BlobRow>, MetaError> {
        let insert = "INSERT INTO blob (digest, size, state, leaving_until) VALUES ($1, $2, 0, 0) ON CONFLICT (digest) DO NOTHING";
        sql::execute(&self.transaction, insert, [digest.into(), size.into()]).await?;
        let select = format!("SELECT id, state, leaving_until FROM blob WHERE digest = $1{}", self.locking());
        sql::one(&self.transaction, &select, [digest.into()]).await
    }

    /// Step 3 of a push: the store has the bytes. `false` when the row has left, or is about to: step 2 took longer than the
    /// repository holds the blob.
    pub(crate) async fn blob_arrived(&self, id: i64, size: u64) -> Result<bool, MetaError> {
        let update = "UPDATE blob SET state = 1, size = $2 WHERE id = $1 AND state <> 2";
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        Ok(sql::execute(&self.transaction, update, [id.into(), size.into()]).await? == 1)
    }

    /// The store lacks what it was said to have: whoever pushes the blob next writes it. `false` when nobody counts on it any more.
    pub(crate) async fn blob_lost(&self, id: i64) -> Result<bool, MetaError> {
        let update = "UPDATE blob SET state = 0 WHERE id = $1 AND state = 1";
        Ok(sql::execute(&self.transaction, update, [id.into()]).await? == 1)
    }

    /// Lets one repository hold what another holds. `None` when that does not.
    pub(crate) async fn mount(
        &self,
        from: &str,
        repository_id: i64,
        digest: &Digest,
        expires: Millis,
    ) -> Result<Option<HeldBlob>, MetaError> {
        let select = format!(
            "SELECT b.id AS id, b.size AS size FROM repository r JOIN repository_blob rb ON rb.repository_id = r.id \
             JOIN blob b ON b.id = rb.blob_id WHERE r.name = $1 AND b.digest = $2 AND b.state = 1 AND {}{}",
            counts(3),
            self.sharing_of("b, rb")
        );
        let values = [from.into(), digest.to_string().into(), now().into()];
        let held: Option<HeldBlob> = sql::one(&self.transaction, &select, values).await?;
        if let Some(blob) = held {
            self.hold(repository_id, blob.id, expires).await?;
        }
        Ok(held)
    }

    /// That a repository holds a blob stays as it is until this change ends: whoever puts a manifest that needs it was before, and is
    /// seen by what comes next, or waits.
    pub(crate) async fn lock_hold(&self, repository_id: i64, blob_id: i64) -> Result<(), MetaError> {
        let select =
            format!("SELECT blob_id FROM repository_blob WHERE repository_id = $1 AND blob_id = $2{}", self.locking());
        sql::execute(&self.transaction, &select, [repository_id.into(), blob_id.into()]).await?;
        Ok(())
    }

    /// Takes a blob from a repository: it cannot be pulled from there any more.
    pub(crate) async fn release_blob(&self, repository_id: i64, blob_id: i64) -> Result<(), MetaError> {
        let update = "UPDATE repository_blob SET deleted = $3, expires = 0 WHERE repository_id = $1 AND blob_id = $2";
        sql::execute(&self.transaction, update, [repository_id.into(), blob_id.into(), true.into()]).await?;
        Ok(())
    }

    /// A manifest that can be pulled and needs the blob: its digest.
    pub(crate) async fn manifest_that_needs(
        &self,
        repository_id: i64,
        blob_id: i64,
    ) -> Result<Option<String>, MetaError> {
        #[derive(FromQueryResult)]
        struct Row {
            digest: String,
        }
        let select = "SELECT m.digest AS digest FROM manifest_blob mb JOIN manifest m ON m.id = mb.manifest_id \
                      WHERE mb.repository_id = $1 AND mb.blob_id = $2 AND m.deleted IS NULL LIMIT 1";
        let row: Option<Row> = sql::one(&self.transaction, select, [repository_id.into(), blob_id.into()]).await?;
        Ok(row.map(|row| row.digest))
    }

    /// Those of these blobs that a repository holds and the store has. None of them leaves before this change ends.
    pub(super) async fn held_blobs(
        &self,
        repository_id: i64,
        digests: &[String],
    ) -> Result<Vec<WantedBlob>, MetaError> {
        let mut held = Vec::with_capacity(digests.len());
        for some in digests.chunks(MOST_VALUES) {
            let select = format!(
                "SELECT b.id AS id, b.digest AS digest, b.size AS size FROM repository_blob rb JOIN blob b ON b.id = rb.blob_id \
                 WHERE rb.repository_id = $1 AND b.digest IN ({}) AND b.state = 1 AND {} ORDER BY b.id{}",
                sql::places(3, some.len()),
                counts(2),
                self.sharing_of("b, rb")
            );
            let values = [repository_id.into(), now().into()].into_iter();
            let digests = some.iter().map(|digest| digest.as_str().into());
            held.extend(sql::all::<WantedBlob>(&self.transaction, &select, values.chain(digests)).await?);
        }
        Ok(held)
    }

    async fn hold(&self, repository_id: i64, blob_id: i64, expires: Millis) -> Result<(), MetaError> {
        let upsert = "INSERT INTO repository_blob (repository_id, blob_id, expires, deleted) VALUES ($1, $2, $3, $4) \
                      ON CONFLICT (repository_id, blob_id) DO UPDATE SET deleted = excluded.deleted, \
                      expires = CASE WHEN repository_blob.expires > excluded.expires THEN repository_blob.expires \
                      ELSE excluded.expires END";
        let values = [repository_id.into(), blob_id.into(), expires.into(), false.into()];
        sql::execute(&self.transaction, upsert, values).await?;
        Ok(())
    }
}

/// Values of one statement; both databases take some ten thousand.
pub(super) const MOST_VALUES: usize = 1000;
