//! `pools[].health` and `pools[].passive`: how it is known whether a server works.

use std::time::Duration;

use serde_yaml::Value;

use crate::credentials::{Given, PASSWORD, secret, username};
use crate::field::{Field, LONGEST, SHORTEST};
use crate::host;
use crate::load::some_of;
use crate::model::{BodyField, Credentials, Health, HealthCheck, HttpCheck, Passive, RedisCheck, ServerTls};
use crate::section::Section;
use crate::server_tls::server_tls;

/// Checks that come faster are load.
const FASTEST: Duration = Duration::from_millis(10);
/// The most that anything is counted to.
const COUNT_LIMIT: u64 = 1000;

/// What is asked.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Tcp,
    Tls,
    Http,
    Redis,
}

/// The section of a pool that has, or has not, TLS to its servers.
pub(crate) fn health(field: Field<'_>, pool_tls: Option<&ServerTls>) -> Option<Health> {
    let mut section = field.section()?;
    let kinds = [("tcp", Kind::Tcp), ("tls", Kind::Tls), ("http", Kind::Http), ("redis", Kind::Redis)];
    let kind = section.required("kind").and_then(|field| field.choice(&kinds));
    let http = http(&mut section);
    let redis = redis(&mut section);
    let own_tls = section.optional("tls", server_tls);
    let port = section.optional("port", |field| field.port());
    let intervals = FASTEST..=LONGEST;
    let interval = section.duration("interval", Duration::from_secs(2), intervals.clone());
    let fast_interval = section.duration("fast_interval", interval.min(Duration::from_millis(500)), intervals);
    if fast_interval > interval
        && let Some(field) = section.peek("fast_interval")
    {
        field.problem("is longer than `interval`");
    }
    let timeout = section.duration("timeout", Duration::from_secs(1), SHORTEST..=LONGEST);
    let rise = section.number("rise", 2, 1..=COUNT_LIMIT);
    let fall = section.number("fall", 3, 1..=COUNT_LIMIT);
    let jitter = section.number("jitter", 10, 0..=50);
    if let Some(kind) = kind {
        if kind != Kind::Http {
            section.meaningless(&["path", "host", "statuses", "body", "json"], "has a meaning only with `kind: http`");
        }
        if kind != Kind::Redis {
            let keys = ["username", "password", "password_file", "password_env", "role"];
            section.meaningless(&keys, "has a meaning only with `kind: redis`");
        }
        if kind == Kind::Tcp {
            section.meaningless(&["tls"], "has no meaning with `kind: tcp`");
        }
    }
    section.finish();
    let tls = own_tls?.or_else(|| pool_tls.cloned());
    Some(Health {
        tls: match kind? {
            Kind::Tcp => None,
            Kind::Tls => Some(tls.unwrap_or_default()),
            Kind::Http | Kind::Redis => tls,
        },
        check: match kind? {
            Kind::Tcp => HealthCheck::Tcp,
            Kind::Tls => HealthCheck::Tls,
            Kind::Http => HealthCheck::Http(http?),
            Kind::Redis => HealthCheck::Redis(redis?),
        },
        port: port?,
        interval,
        fast_interval,
        timeout,
        rise: u32::try_from(rise).ok()?,
        fall: u32::try_from(fall).ok()?,
        jitter: u32::try_from(jitter).ok()?,
    })
}

fn http(section: &mut Section<'_>) -> Option<HttpCheck> {
    let path = match section.take("path") {
        Some(field) => path(&field),
        None => Some("/".to_owned()),
    };
    let host = section.optional("host", |field| host::host(&field));
    let statuses = match section.take("statuses") {
        Some(field) => some_of(&field, "status", |entry| statuses(&entry)),
        None => Some(vec![(200, 399)]),
    };
    let body = section.optional("body", |field| field.text("a text"));
    let json = section.optional("json", body_field);
    Some(HttpCheck { path: path?, host: host?, statuses: statuses?, body: body?, json: json? })
}

/// What can stand in a request line as it is.
fn path(field: &Field<'_>) -> Option<String> {
    let expected = "a path such as `/health/endtoend`";
    let path = field.text(expected)?;
    if path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Some(path);
    }
    field.problem(format!("expected {expected}"));
    None
}

/// `200`, or `200-399`.
fn statuses(field: &Field<'_>) -> Option<(u16, u16)> {
    let expected = "a status such as `200`, or a range such as `200-399`";
    let text = field.scalar(expected)?;
    let status = |text: &str| text.trim().parse::<u16>().ok().filter(|status| (100..=599).contains(status));
    let (first, last) = text.split_once('-').unwrap_or((&text, &text));
    match (status(first), status(last)) {
        (Some(first), Some(last)) if first <= last => Some((first, last)),
        _ => {
            field.problem(format!("expected {expected}"));
            None
        }
    }
}

fn body_field(field: Field<'_>) -> Option<BodyField> {
    let mut section = field.section()?;
    let pointer = section.required("pointer").and_then(|field| pointer(&field));
    let equals = section.required("equals").and_then(|field| equals(&field));
    section.finish();
    Some(BodyField { pointer: pointer?, equals: equals? })
}

/// RFC 6901.
fn pointer(field: &Field<'_>) -> Option<String> {
    let expected = "a JSON pointer such as `/data/services/database`";
    let pointer = field.text(expected)?;
    let escaped = pointer.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
    if pointer.starts_with('/') && escaped {
        return Some(pointer);
    }
    field.problem(format!("expected {expected}"));
    None
}

fn equals(field: &Field<'_>) -> Option<serde_json::Value> {
    match field.value {
        Value::Null => Some(serde_json::Value::Null),
        Value::Bool(flag) => Some((*flag).into()),
        Value::Number(number) => serde_json::to_value(number).ok(),
        _ => field.text("a text, a number, `true`, `false` or `null`").map(Into::into),
    }
}

fn redis(section: &mut Section<'_>) -> Option<RedisCheck> {
    let username = section.optional("username", |field| username(&field));
    let password = secret(section, PASSWORD);
    let primary = section.choice("role", false, &[("any", false), ("primary", true)]);
    let credentials = match password {
        Given::Secret(password) => {
            Some(Credentials { username: username?.unwrap_or_default(), password, password_file: None })
        }
        Given::Wrong => return None,
        Given::Nothing => {
            section.meaningless(&["username"], "has a meaning only with a `password`");
            None
        }
    };
    Some(RedisCheck { credentials, primary })
}

/// Failures of requests, unless they are to mean nothing.
pub(crate) fn passive(field: Option<Field<'_>>) -> Option<Option<Passive>> {
    let (failures, hold) = (5, Duration::from_secs(5));
    let Some(field) = field else { return Some(Some(Passive { failures, server_errors: false, hold })) };
    if field.is_false() {
        return Some(None);
    }
    let mut section = field.section()?;
    let failures = section.number("failures", failures.into(), 1..=COUNT_LIMIT);
    let server_errors = section.flag("server_errors", false);
    let hold = section.duration("hold", hold, SHORTEST..=LONGEST);
    section.finish();
    Some(Some(Passive { failures: u32::try_from(failures).ok()?, server_errors, hold }))
}
