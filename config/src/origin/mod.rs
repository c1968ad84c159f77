//! The file of an origin.
//!
//! Read by the same machinery as an edge's: every problem at once, and unknown keys told apart.

mod auth;
mod database;
mod limits;
mod storage;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use crate::claims::Claims;
use crate::field::{Field, LONGEST, SHORTEST};
use crate::host::host;
use crate::limits::networks;
use crate::listener::bind;
use crate::load::{Kind, load};
use crate::model::{CertificateFiles, GarbageCollection, OriginConfig, OriginListener, RegistryState};
use crate::problem::Problems;
use crate::section::Section;
use crate::tls::{certificate_files, certificate_paths};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Where operators look when nothing else is said: not where an edge's are, which may run on the same machine.
const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9091);

/// How it is read.
pub(crate) const ORIGIN: Kind<OriginConfig> =
    Kind { section: "listener", read: |file| config(file, certificate_files) };

/// The same, for those who listen nowhere.
const UNSERVED: Kind<OriginConfig> = Kind { section: "listener", read: |file| config(file, certificate_paths) };

impl OriginConfig {
    /// Reads and checks a file. Relative paths in it are relative to its directory.
    pub fn load(path: &Path) -> Result<OriginConfig, Problems> {
        load(path, &ORIGIN)
    }

    /// The same, but for the certificate's files, which need not be there: who mends an account needs none.
    pub fn load_unserved(path: &Path) -> Result<OriginConfig, Problems> {
        load(path, &UNSERVED)
    }
}

/// How the section that names a certificate is read.
type Files = fn(Field<'_>) -> Option<CertificateFiles>;

fn config(mut file: Section<'_>, files: Files) -> Option<OriginConfig> {
    let mut claims = Claims::default();
    let hostname = file.required("hostname").and_then(|field| host(&field));
    let aliases = match file.take("aliases") {
        Some(field) => field.list(|entry| host(&entry)),
        None => Some(Vec::new()),
    };
    let listener = file.required("listener").and_then(|field| listener(field, files, &mut claims));
    let admin = match file.take("admin") {
        Some(field) => admin(field, &mut claims),
        None => Some(ADMIN),
    };
    let storage = file.required("storage").and_then(storage::storage);
    let pulls = storage::pulls(&mut file);
    let database = file.required("database").and_then(database::database);
    let auth = file.optional("auth", auth::auth);
    let limits = file.optional("limits", limits::limits);
    if let (Some(storage), Some(limits)) = (&storage, &limits) {
        storage::check_part_size(&file, storage, limits.as_ref().unwrap_or(&limits::DEFAULT));
    }
    let states = [("normal", RegistryState::Normal), ("readonly", RegistryState::ReadOnly)];
    let registry_state = file.choice("registry_state", RegistryState::Normal, &states);
    let tag_expiration = file.duration("tag_expiration", 14 * DAY, Duration::ZERO..=LONGEST);
    let garbage_collection = file.optional("garbage_collection", garbage_collection);
    let action_log_retention = file.duration("action_log_retention", 90 * DAY, SHORTEST..=LONGEST);
    let access_log = file.flag("access_log", true);
    let drain_timeout = file.duration("drain_timeout", Duration::from_secs(300), Duration::ZERO..=LONGEST);
    let drain_wait = file.duration("drain_wait", Duration::ZERO, Duration::ZERO..=LONGEST);
    file.finish();
    Some(OriginConfig {
        hostname: hostname?,
        aliases: aliases?,
        listener: listener?,
        admin: admin?,
        storage: storage?,
        pulls: pulls?,
        database: database?,
        auth: auth?.unwrap_or(auth::DEFAULT),
        limits: limits?.unwrap_or(limits::DEFAULT),
        registry_state,
        tag_expiration,
        garbage_collection: garbage_collection?.unwrap_or(GARBAGE),
        action_log_retention,
        access_log,
        drain_timeout,
        drain_wait,
    })
}

fn listener(field: Field<'_>, files: Files, claims: &mut Claims) -> Option<OriginListener> {
    let mut section = field.section()?;
    let bind = section.required("bind").and_then(|field| bind(&field, claims));
    let tls = section.optional("tls", files);
    let trusted_proxies = networks(&mut section, "trusted_proxies");
    section.finish();
    Some(OriginListener { bind: bind?, tls: tls?, trusted_proxies: trusted_proxies? })
}

fn admin(field: Field<'_>, claims: &mut Claims) -> Option<SocketAddr> {
    let mut section = field.section()?;
    let bind = section.required("bind").and_then(|field| bind(&field, claims));
    section.finish();
    bind
}

/// What holds without the section.
const GARBAGE: GarbageCollection =
    GarbageCollection { interval: Some(HOUR), blob_grace: DAY, upload_expiration: Duration::from_secs(7 * 24 * 3600) };

fn garbage_collection(field: Field<'_>) -> Option<GarbageCollection> {
    let mut section = field.section()?;
    let interval = match section.take("interval") {
        Some(field) if field.is_text("never") => None,
        Some(field) => field.duration(SHORTEST..=LONGEST),
        None => GARBAGE.interval,
    };
    let blob_grace = section.duration("blob_grace", GARBAGE.blob_grace, SHORTEST..=LONGEST);
    let upload_expiration = section.duration("upload_expiration", GARBAGE.upload_expiration, SHORTEST..=LONGEST);
    section.finish();
    Some(GarbageCollection { interval, blob_grace, upload_expiration })
}
