//! `storage` and `pulls`: where blobs are, and how they leave.

use std::time::Duration;

use bytesize::ByteSize;
use url::Url;

use crate::credentials::{Given, secret};
use crate::field::{Field, LONGEST, SHORTEST};
use crate::model::{OriginLimits, Pulls, S3, S3Credentials, Storage};
use crate::section::Section;

const MIB: u64 = 1024 * 1024;
/// Parts of an upload, in S3's rules.
const PARTS: u64 = 10_000;
/// The keys of the secret of an account.
const SECRET: [&str; 3] = ["secret_access_key", "secret_access_key_file", "secret_access_key_env"];
/// How long a presigned URL may live, in S3's rules.
const LONGEST_URL: Duration = Duration::from_secs(7 * 24 * 3600);

/// The section: exactly one of the stores.
pub(super) fn storage(field: Field<'_>) -> Option<Storage> {
    let mut section = field.section()?;
    let file_system = section.optional("file_system", file_system);
    let s3 = section.optional("s3", s3);
    let storage = match (file_system, s3) {
        (Some(Some(storage)), Some(None)) | (Some(None), Some(Some(storage))) => Some(storage),
        (Some(None), Some(None)) | (Some(Some(_)), Some(Some(_))) => {
            section.problem("needs exactly one of `file_system` and `s3`");
            None
        }
        _ => None,
    };
    section.finish();
    storage
}

fn file_system(field: Field<'_>) -> Option<Storage> {
    let mut section = field.section()?;
    let path = section.required("path").and_then(|field| field.directory());
    section.finish();
    Some(Storage::FileSystem { path: path? })
}

fn s3(field: Field<'_>) -> Option<Storage> {
    let mut section = field.section()?;
    let endpoint = section.optional("endpoint", |field| endpoint(&field));
    let own = endpoint.as_ref().is_some_and(Option::is_some);
    let region =
        section.optional("region", |field| named(&field, "the name of a region", |byte| byte.is_ascii_graphic()));
    let bucket = section.required("bucket").and_then(|field| {
        named(&field, "the name of a bucket", |byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    });
    let prefix = section.optional("prefix", |field| prefix(&field));
    let credentials = credentials(&mut section);
    // Stores of one's own seldom have a name for each bucket.
    let path_style = section.flag("path_style", own);
    let ca = section.optional("ca", |field| field.readable_file());
    if endpoint.as_ref().is_some_and(|endpoint| endpoint.as_ref().is_some_and(|url| url.scheme() == "http")) {
        section.meaningless(&["ca"], "has a meaning only with an https:// endpoint");
    }
    let part_size = section.size("part_size", 8 * MIB, 5 * MIB..=512 * MIB);
    let connect_timeout = section.duration("connect_timeout", Duration::from_secs(3), SHORTEST..=LONGEST);
    let timeout = section.duration("timeout", Duration::from_secs(10), SHORTEST..=LONGEST);
    section.finish();
    Some(Storage::S3(Box::new(S3 {
        endpoint: endpoint?,
        region: region?.unwrap_or_else(|| "us-east-1".to_owned()),
        bucket: bucket?,
        prefix: prefix?.unwrap_or_default(),
        credentials: credentials?,
        path_style,
        ca: ca?,
        part_size,
        connect_timeout,
        timeout,
    })))
}

fn endpoint(field: &Field<'_>) -> Option<Url> {
    let expected = "a URL such as `https://s3.example.com`, without a path";
    let text = field.text(expected)?;
    let Ok(url) = Url::parse(&text) else {
        field.problem(format!("expected {expected}"));
        return None;
    };
    if !url.username().is_empty() || url.password().is_some() {
        field.problem("a URL must not hold credentials: use `access_key_id` and `secret_access_key`");
        return None;
    }
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    if !bare || !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        field.problem(format!("expected {expected}"));
        return None;
    }
    Some(url)
}

fn named(field: &Field<'_>, expected: &str, allowed: impl Fn(u8) -> bool) -> Option<String> {
    let text = field.text(expected)?;
    if text.len() > 255 || !text.bytes().all(allowed) {
        field.problem(format!("expected {expected}"));
        return None;
    }
    Some(text)
}

/// Slashes at its ends are left out, as Quay does.
fn prefix(field: &Field<'_>) -> Option<String> {
    let text = field.text("a prefix of keys such as `datastorage/registry`")?;
    let prefix = text.trim_matches('/');
    let well = |part: &str| {
        !matches!(part, "" | "." | "..")
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    if prefix.len() > 255 || !(prefix.is_empty() || prefix.split('/').all(well)) {
        field.problem(
            "expected a prefix of keys such as `datastorage/registry`: letters, digits, `_`, `-`, `.` and `/`",
        );
        return None;
    }
    Some(prefix.to_owned())
}

fn credentials(section: &mut Section<'_>) -> Option<Option<S3Credentials>> {
    let id = section.optional("access_key_id", |field| field.text("the id of an access key"));
    let secret = secret(section, SECRET);
    match (id?, secret) {
        (_, Given::Wrong) => None,
        (Some(access_key_id), Given::Secret(secret_access_key)) => {
            Some(Some(S3Credentials { access_key_id, secret_access_key }))
        }
        (None, Given::Nothing) => Some(None),
        (Some(_), Given::Nothing) => {
            let [plain, file, variable] = SECRET;
            section.problem(format!("`access_key_id` needs one of `{plain}`, `{file}` and `{variable}` beside it"));
            None
        }
        (None, Given::Secret(_)) => {
            section.problem("the secret of an access key needs `access_key_id` beside it");
            None
        }
    }
}

/// An upload has so many parts and no more.
pub(super) fn check_part_size(file: &Section<'_>, storage: &Storage, limits: &OriginLimits) {
    let Storage::S3(s3) = storage else { return };
    let largest = s3.part_size.saturating_mul(PARTS);
    if largest >= limits.max_layer_size {
        return;
    }
    if let Some(field) = file.peek("storage") {
        field.problem(format!(
            "`s3.part_size` is too small for `limits.max_layer_size`: {PARTS} parts hold {}",
            ByteSize(largest)
        ));
    }
}

/// `pulls` and `redirect_lifetime`, which stand beside the section.
pub(super) fn pulls(file: &mut Section<'_>) -> Option<Pulls> {
    let redirect = file.take("pulls").map(|field| {
        let redirect = field.choice(&[("stream", false), ("redirect", true)]);
        let below = |storage: Field<'_>| storage.section().is_some_and(|section| section.peek("file_system").is_some());
        if redirect == Some(true) && file.peek("storage").filter(Field::is_section).is_some_and(below) {
            field.problem("`redirect` has a meaning only with `storage.s3`");
        }
        redirect
    });
    let second = Duration::from_secs(1);
    let lifetime = file.duration("redirect_lifetime", Duration::from_secs(600), second..=LONGEST_URL);
    match redirect {
        Some(None) => None,
        Some(Some(true)) => Some(Pulls::Redirect(lifetime)),
        None | Some(Some(false)) => {
            file.meaningless(&["redirect_lifetime"], "has a meaning only with `pulls: redirect`");
            Some(Pulls::Stream)
        }
    }
}
