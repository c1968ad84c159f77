//! Uploads: where each stands, so that any node goes on with what another began.
//!
//! One request at a time writes an upload. It says who it is and until when that is to be believed, and says so again while it
//! works; one that was killed is believed for that long and no longer. What it writes down, it writes only while it is the one.

use pierhead_registry::store::UploadId;
use sea_orm::FromQueryResult;

use super::entity::content::upload;
use super::{Change, Meta, MetaError, Millis, now, sql};

/// An upload as it was at its last checkpoint.
pub(crate) type UploadRow = upload::Model;

/// How many uploads an account has open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromQueryResult)]
pub(crate) struct OpenUploads {
    /// In one repository.
    pub(crate) here: i64,
    /// In all.
    pub(crate) everywhere: i64,
}

/// What became of the wish to write an upload.
#[derive(Debug)]
pub(crate) enum Claim {
    /// It is ours.
    Ours(Box<UploadRow>),
    /// Somebody else writes it.
    Busy,
    /// There is none, or not here.
    Unknown,
}

/// What a writer has made safe.
#[derive(Clone, Debug)]
pub(crate) struct Progress<'a> {
    /// How many bytes.
    pub(crate) length: u64,
    /// What the store must know to go on.
    pub(crate) checkpoint: &'a str,
    /// The state of the digest.
    pub(crate) hash: &'a [u8],
}

impl Meta {
    /// An upload of a repository.
    pub(crate) async fn upload(&self, repository: &str, id: &UploadId) -> Result<Option<UploadRow>, MetaError> {
        let select =
            "SELECT u.* FROM upload u JOIN repository r ON r.id = u.repository_id WHERE u.id = $1 AND r.name = $2";
        sql::one(&self.connections, select, [id.as_str().into(), repository.into()]).await
    }
}

impl Change {
    /// A new one.
    pub(crate) async fn insert_upload(
        &self,
        id: &UploadId,
        repository_id: i64,
        algorithm: &str,
        hash: Vec<u8>,
        account: Option<&str>,
    ) -> Result<(), MetaError> {
        let insert = "INSERT INTO upload \
                      (id, repository_id, length, checkpoint, algorithm, hash, created, touched, writer, writer_until, account) \
                      VALUES ($1, $2, 0, NULL, $3, $4, $5, $5, NULL, 0, $6)";
        let account = account.map(str::to_owned);
        let values =
            [id.as_str().into(), repository_id.into(), algorithm.into(), hash.into(), now().into(), account.into()];
        sql::execute(&self.transaction, insert, values).await?;
        Ok(())
    }

    /// How many uploads an account has open that moved since a time: in this repository, and in all.
    pub(crate) async fn open_uploads(
        &self,
        account: &str,
        repository_id: i64,
        since: Millis,
    ) -> Result<OpenUploads, MetaError> {
        let select = "SELECT COUNT(CASE WHEN repository_id = $2 THEN 1 END) AS here, COUNT(*) AS everywhere \
                      FROM upload WHERE account = $1 AND touched > $3";
        let found = sql::one(&self.transaction, select, [account.into(), repository_id.into(), since.into()]).await?;
        Ok(found.unwrap_or(OpenUploads { here: 0, everywhere: 0 }))
    }

    /// Makes `writer` the one who writes an upload.
    pub(crate) async fn claim_upload(
        &self,
        repository: &str,
        id: &UploadId,
        writer: &str,
        until: Millis,
    ) -> Result<Claim, MetaError> {
        let select = format!(
            "SELECT u.* FROM upload u JOIN repository r ON r.id = u.repository_id WHERE u.id = $1 AND r.name = $2{}",
            self.locking_of("u")
        );
        let row: Option<UploadRow> =
            sql::one(&self.transaction, &select, [id.as_str().into(), repository.into()]).await?;
        let Some(row) = row else { return Ok(Claim::Unknown) };
        if row.writer.is_some() && row.writer_until > now() {
            return Ok(Claim::Busy);
        }
        let update = "UPDATE upload SET writer = $2, writer_until = $3 WHERE id = $1";
        sql::execute(&self.transaction, update, [id.as_str().into(), writer.into(), until.into()]).await?;
        Ok(Claim::Ours(Box::new(row)))
    }

    /// The writer is still there. Whether it is still the one.
    pub(crate) async fn keep_upload(&self, id: &UploadId, writer: &str, until: Millis) -> Result<bool, MetaError> {
        let update = "UPDATE upload SET writer_until = $3 WHERE id = $1 AND writer = $2";
        Ok(sql::execute(&self.transaction, update, [id.as_str().into(), writer.into(), until.into()]).await? == 1)
    }

    /// Writes down a checkpoint. Whether the writer was still the one.
    pub(crate) async fn save_upload(
        &self,
        id: &UploadId,
        writer: &str,
        progress: &Progress<'_>,
        until: Millis,
    ) -> Result<bool, MetaError> {
        let update = "UPDATE upload SET length = $3, checkpoint = $4, hash = $5, touched = $6, writer_until = $7 \
                      WHERE id = $1 AND writer = $2";
        let values = [
            id.as_str().into(),
            writer.into(),
            i64::try_from(progress.length).unwrap_or(i64::MAX).into(),
            progress.checkpoint.into(),
            progress.hash.to_vec().into(),
            now().into(),
            until.into(),
        ];
        Ok(sql::execute(&self.transaction, update, values).await? == 1)
    }

    /// Lets others write it.
    pub(crate) async fn let_go_of_upload(&self, id: &UploadId, writer: &str) -> Result<(), MetaError> {
        let update = "UPDATE upload SET writer = NULL, writer_until = 0 WHERE id = $1 AND writer = $2";
        sql::execute(&self.transaction, update, [id.as_str().into(), writer.into()]).await?;
        Ok(())
    }

    /// Forgets it, unless somebody else writes it by now.
    pub(crate) async fn delete_upload(&self, id: &UploadId, writer: &str) -> Result<bool, MetaError> {
        let delete = "DELETE FROM upload WHERE id = $1 AND (writer IS NULL OR writer = $2)";
        Ok(sql::execute(&self.transaction, delete, [id.as_str().into(), writer.into()]).await? == 1)
    }
}
