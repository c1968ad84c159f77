//! One bucket and its multipart uploads, in memory but for the bytes. It is strict: parts must be there with the tags that are
//! named, large enough but for the last, and in order; an upload that was completed or aborted is gone.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use pierhead_registry::oci::{Algorithm, Digest, Hasher};
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput, CompleteMultipartUploadOutput,
    CopyObjectInput, CopyObjectOutput, CopyObjectResult, CopyPartResult, CopySource, CreateMultipartUploadInput,
    CreateMultipartUploadOutput, DeleteObjectInput, DeleteObjectOutput, ETag, GetObjectInput, GetObjectOutput,
    HeadBucketInput, HeadBucketOutput, HeadObjectInput, HeadObjectOutput, ListMultipartUploadsInput,
    ListMultipartUploadsOutput, ListObjectsV2Input, ListObjectsV2Output, ListPartsInput, ListPartsOutput,
    MultipartUpload, Object, Part, PutObjectInput, PutObjectOutput, StreamingBlob, UploadPartCopyInput,
    UploadPartCopyOutput, UploadPartInput, UploadPartOutput,
};
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use tempfile::TempDir;

use super::BUCKET;

/// How many entries a list has: few, so that lists have pages.
const PAGE: usize = 3;
const SMALLEST_PART: u64 = 5 << 20;

/// The bucket.
pub(super) struct Bucket {
    dir: TempDir,
    counter: AtomicU64,
    state: Mutex<State>,
    /// How long a deletion takes, in milliseconds.
    pub(super) deletion: AtomicU64,
}

/// What answers for it.
pub(super) struct Service(pub(super) Arc<Bucket>);

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Entry>,
    uploads: BTreeMap<(String, String), Upload>,
}

/// An object, or a part.
#[derive(Clone)]
struct Entry {
    content: Arc<Content>,
    modified: SystemTime,
}

struct Upload {
    begun: SystemTime,
    parts: BTreeMap<i32, Entry>,
}

/// Bytes in a file that goes with the last who has it.
struct Content {
    path: PathBuf,
    size: u64,
    tag: String,
}

impl Drop for Content {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Bucket {
    pub(super) fn new() -> Bucket {
        let dir = tempfile::Builder::new().prefix("pierhead-s3-").tempdir().unwrap();
        Bucket { dir, counter: AtomicU64::new(0), state: Mutex::default(), deletion: AtomicU64::new(0) }
    }

    pub(super) fn keys(&self) -> Vec<String> {
        self.state.lock().unwrap().objects.keys().cloned().collect()
    }

    pub(super) fn uploads(&self) -> usize {
        self.state.lock().unwrap().uploads.len()
    }

    pub(super) fn upload_of_another(&self, key: &str) {
        let id = format!("upload-{}", self.counter.fetch_add(1, Ordering::Relaxed));
        let upload = Upload { begun: SystemTime::UNIX_EPOCH, parts: BTreeMap::new() };
        self.state.lock().unwrap().uploads.insert((key.to_owned(), id), upload);
    }

    pub(super) fn object_of_another(&self, key: &str) {
        let entry = Entry { modified: SystemTime::UNIX_EPOCH, ..self.assemble(&[]) };
        self.put(key.to_owned(), entry);
    }

    pub(super) fn lose(&self, key: &str) {
        self.state.lock().unwrap().objects.remove(key).unwrap();
    }

    fn file(&self) -> (PathBuf, File) {
        let path = self.dir.path().join(self.counter.fetch_add(1, Ordering::Relaxed).to_string());
        let file = File::create(&path).unwrap();
        (path, file)
    }

    /// Stores a body, which may break off.
    async fn receive(&self, body: Option<StreamingBlob>) -> S3Result<Entry> {
        let (path, mut file) = self.file();
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let mut content = Content { path, size: 0, tag: String::new() };
        if let Some(mut body) = body {
            while let Some(piece) = body.next().await {
                let piece = piece.map_err(|_| s3_error!(IncompleteBody))?;
                hasher.update(&piece);
                file.write_all(&piece).unwrap();
                content.size += piece.len() as u64;
            }
        }
        content.tag = hasher.finish().hex();
        Ok(Entry { content: Arc::new(content), modified: SystemTime::now() })
    }

    /// Makes an entry of pieces of others.
    fn assemble(&self, pieces: &[(Arc<Content>, Range<u64>)]) -> Entry {
        let (path, mut file) = self.file();
        for (content, range) in pieces {
            let mut from = File::open(&content.path).unwrap();
            from.seek(SeekFrom::Start(range.start)).unwrap();
            std::io::copy(&mut from.take(range.end - range.start), &mut file).unwrap();
        }
        let size = pieces.iter().map(|(_, range)| range.end - range.start).sum();
        let all: String = pieces.iter().map(|(content, range)| format!("{} {range:?}", content.tag)).collect();
        let tag = Digest::of(Algorithm::Sha256, all.as_bytes()).hex();
        Entry { content: Arc::new(Content { path, size, tag }), modified: SystemTime::now() }
    }

    fn find(&self, bucket: &str, key: &str) -> S3Result<Entry> {
        check(bucket)?;
        self.state.lock().unwrap().objects.get(key).cloned().ok_or_else(|| s3_error!(NoSuchKey))
    }

    fn source(&self, source: &CopySource) -> S3Result<Entry> {
        match source {
            CopySource::Bucket { bucket, key, .. } => self.find(bucket, key),
            _ => Err(s3_error!(NotImplemented)),
        }
    }

    fn put(&self, key: String, entry: Entry) -> ETag {
        let tag = tag(&entry);
        self.state.lock().unwrap().objects.insert(key, entry);
        tag
    }

    fn put_part(&self, key: String, upload: String, number: i32, entry: Entry) -> S3Result<ETag> {
        if !(1..=10_000).contains(&number) {
            return Err(s3_error!(InvalidArgument));
        }
        let mut state = self.state.lock().unwrap();
        let upload = state.uploads.get_mut(&(key, upload)).ok_or_else(|| s3_error!(NoSuchUpload))?;
        let tag = tag(&entry);
        upload.parts.insert(number, entry);
        Ok(tag)
    }
}

fn check(bucket: &str) -> S3Result<()> {
    if bucket == BUCKET { Ok(()) } else { Err(s3_error!(NoSuchBucket)) }
}

fn tag(entry: &Entry) -> ETag {
    ETag::Strong(entry.content.tag.clone())
}

/// A range of a file, in pieces.
fn body(content: Arc<Content>, range: Range<u64>) -> StreamingBlob {
    let mut file = File::open(&content.path).unwrap();
    file.seek(SeekFrom::Start(range.start)).unwrap();
    let mut left = range.end - range.start;
    StreamingBlob::wrap(stream::iter(std::iter::from_fn(move || {
        let _held = &content;
        let mut piece = vec![0; left.min(128 << 10) as usize];
        left -= piece.len() as u64;
        (!piece.is_empty()).then(|| file.read_exact(&mut piece).map(|()| Bytes::from(piece)))
    })))
}

#[async_trait::async_trait]
impl S3 for Service {
    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        check(&req.input.bucket)?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let entry = self.0.find(&req.input.bucket, &req.input.key)?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(entry.content.size as i64),
            e_tag: Some(tag(&entry)),
            last_modified: Some(entry.modified.into()),
            ..HeadObjectOutput::default()
        }))
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let entry = self.0.find(&req.input.bucket, &req.input.key)?;
        let size = entry.content.size;
        let range = match &req.input.range {
            Some(range) => range.check(size)?,
            None => 0..size,
        };
        let part = req.input.range.map(|_| format!("bytes {}-{}/{size}", range.start, range.end - 1));
        Ok(S3Response::new(GetObjectOutput {
            content_length: Some((range.end - range.start) as i64),
            content_range: part,
            e_tag: Some(tag(&entry)),
            last_modified: Some(entry.modified.into()),
            body: Some(body(entry.content, range)),
            ..GetObjectOutput::default()
        }))
    }

    async fn put_object(&self, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        check(&req.input.bucket)?;
        let entry = self.0.receive(req.input.body).await?;
        let e_tag = Some(self.0.put(req.input.key, entry));
        Ok(S3Response::new(PutObjectOutput { e_tag, ..PutObjectOutput::default() }))
    }

    async fn copy_object(&self, req: S3Request<CopyObjectInput>) -> S3Result<S3Response<CopyObjectOutput>> {
        check(&req.input.bucket)?;
        let mut entry = self.0.source(&req.input.copy_source)?;
        entry.modified = SystemTime::now();
        let last_modified = Some(entry.modified.into());
        let e_tag = Some(self.0.put(req.input.key, entry));
        let result = CopyObjectResult { e_tag, last_modified, ..CopyObjectResult::default() };
        let copy_object_result = Some(result);
        Ok(S3Response::new(CopyObjectOutput { copy_object_result, ..CopyObjectOutput::default() }))
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        check(&req.input.bucket)?;
        tokio::time::sleep(Duration::from_millis(self.0.deletion.load(Ordering::Relaxed))).await;
        self.0.state.lock().unwrap().objects.remove(&req.input.key);
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn list_objects_v2(&self, req: S3Request<ListObjectsV2Input>) -> S3Result<S3Response<ListObjectsV2Output>> {
        check(&req.input.bucket)?;
        let prefix = req.input.prefix.unwrap_or_default();
        let after = req.input.continuation_token.unwrap_or_default();
        let state = self.0.state.lock().unwrap();
        let mut found: Vec<Object> = state
            .objects
            .iter()
            .filter(|(key, _)| key.starts_with(&prefix) && **key > after)
            .map(|(key, entry)| Object {
                key: Some(key.clone()),
                size: Some(entry.content.size as i64),
                last_modified: Some(entry.modified.into()),
                ..Object::default()
            })
            .collect();
        let more = found.len() > PAGE;
        found.truncate(PAGE);
        let next_continuation_token = found.last().and_then(|last| last.key.clone()).filter(|_| more);
        Ok(S3Response::new(ListObjectsV2Output {
            is_truncated: Some(more),
            next_continuation_token,
            contents: Some(found),
            ..ListObjectsV2Output::default()
        }))
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        check(&req.input.bucket)?;
        let id = format!("upload-{}", self.0.counter.fetch_add(1, Ordering::Relaxed));
        let upload = Upload { begun: SystemTime::now(), parts: BTreeMap::new() };
        self.0.state.lock().unwrap().uploads.insert((req.input.key, id.clone()), upload);
        let upload_id = Some(id);
        Ok(S3Response::new(CreateMultipartUploadOutput { upload_id, ..CreateMultipartUploadOutput::default() }))
    }

    async fn upload_part(&self, req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        check(&req.input.bucket)?;
        let entry = self.0.receive(req.input.body).await?;
        let e_tag = Some(self.0.put_part(req.input.key, req.input.upload_id, req.input.part_number, entry)?);
        Ok(S3Response::new(UploadPartOutput { e_tag, ..UploadPartOutput::default() }))
    }

    async fn upload_part_copy(
        &self,
        req: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        check(&req.input.bucket)?;
        let content = self.0.source(&req.input.copy_source)?.content;
        let range = match &req.input.copy_source_range {
            Some(range) => s3s::dto::Range::parse(range).unwrap().check(content.size)?,
            None => 0..content.size,
        };
        let entry = self.0.assemble(&[(content, range)]);
        let e_tag = Some(self.0.put_part(req.input.key, req.input.upload_id, req.input.part_number, entry)?);
        let copy_part_result = Some(CopyPartResult { e_tag, ..CopyPartResult::default() });
        Ok(S3Response::new(UploadPartCopyOutput { copy_part_result, ..UploadPartCopyOutput::default() }))
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        check(&req.input.bucket)?;
        let id = (req.input.key, req.input.upload_id);
        let named = req.input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        let mut pieces = Vec::new();
        {
            let state = self.0.state.lock().unwrap();
            let upload = state.uploads.get(&id).ok_or_else(|| s3_error!(NoSuchUpload))?;
            let mut before = 0;
            for (index, part) in named.iter().enumerate() {
                let number = part.part_number.unwrap_or_default();
                let entry = upload.parts.get(&number).filter(|entry| part.e_tag.as_ref() == Some(&tag(entry)));
                let content = &entry.ok_or_else(|| s3_error!(InvalidPart))?.content;
                if number <= before {
                    return Err(s3_error!(InvalidPartOrder));
                }
                if content.size < SMALLEST_PART && index + 1 < named.len() {
                    return Err(s3_error!(EntityTooSmall));
                }
                before = number;
                pieces.push((Arc::clone(content), 0..content.size));
            }
        }
        if pieces.is_empty() {
            return Err(s3_error!(MalformedXML));
        }
        let entry = self.0.assemble(&pieces);
        let e_tag = Some(tag(&entry));
        let mut state = self.0.state.lock().unwrap();
        state.uploads.remove(&id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        state.objects.insert(id.0, entry);
        Ok(S3Response::new(CompleteMultipartUploadOutput { e_tag, ..CompleteMultipartUploadOutput::default() }))
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        check(&req.input.bucket)?;
        let id = (req.input.key, req.input.upload_id);
        self.0.state.lock().unwrap().uploads.remove(&id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }

    async fn list_multipart_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        check(&req.input.bucket)?;
        let prefix = req.input.prefix.unwrap_or_default();
        let after = (req.input.key_marker.unwrap_or_default(), req.input.upload_id_marker.unwrap_or_default());
        let state = self.0.state.lock().unwrap();
        let mut found: Vec<MultipartUpload> = state
            .uploads
            .iter()
            .filter(|(id, _)| id.0.starts_with(&prefix) && **id > after)
            .map(|((key, id), upload)| MultipartUpload {
                key: Some(key.clone()),
                upload_id: Some(id.clone()),
                initiated: Some(upload.begun.into()),
                ..MultipartUpload::default()
            })
            .collect();
        let more = found.len() > PAGE;
        found.truncate(PAGE);
        let last = found.last().filter(|_| more);
        Ok(S3Response::new(ListMultipartUploadsOutput {
            is_truncated: Some(more),
            next_key_marker: last.and_then(|last| last.key.clone()),
            next_upload_id_marker: last.and_then(|last| last.upload_id.clone()),
            uploads: Some(found),
            ..ListMultipartUploadsOutput::default()
        }))
    }

    async fn list_parts(&self, req: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
        check(&req.input.bucket)?;
        let after = req.input.part_number_marker.map_or(0, |marker| marker.to_string().parse().unwrap());
        let state = self.0.state.lock().unwrap();
        let id = (req.input.key, req.input.upload_id);
        let upload = state.uploads.get(&id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        let mut found: Vec<Part> = upload
            .parts
            .range(after + 1..)
            .map(|(number, entry)| Part {
                part_number: Some(*number),
                size: Some(entry.content.size as i64),
                last_modified: Some(entry.modified.into()),
                e_tag: Some(tag(entry)),
                ..Part::default()
            })
            .collect();
        let more = found.len() > PAGE;
        found.truncate(PAGE);
        Ok(S3Response::new(ListPartsOutput {
            is_truncated: Some(more),
            next_part_number_marker: found.last().filter(|_| more).and_then(|last| last.part_number),
            parts: Some(found),
            ..ListPartsOutput::default()
        }))
    }
}
