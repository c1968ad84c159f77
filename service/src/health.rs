//! Whether a program can do its work, in the shapes of Quay's health endpoints.
//!
//! `/health/instance` (alias `/health`) says whether this process serves; a load balancer should watch it.
//! `/health/endtoend` says as well whether what it depends on works. [`Health`] answers from what is known anyway: asking it
//! contacts nobody and so costs nothing, however often it is done.
//!
//! A service that works with less than it should have is well and degraded: no load balancer takes a program out for it, and the
//! expanded report, which is for operators, says what is missing.

use parking_lot::RwLock;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

/// The value of `Cache-Control` on every report.
pub const CACHE_CONTROL: &str = "no-cache, no-store, must-revalidate";

/// Which report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// This process.
    Instance,
    /// This process and what it depends on.
    EndToEnd,
}

impl Check {
    /// The check that lives at a path, if any.
    pub fn at(path: &str) -> Option<Check> {
        if path == "/health" { Some(Check::Instance) } else { Check::named(path) }
    }

    /// The same where other paths are not ours to take: the short name may well be a server's own.
    pub fn named(path: &str) -> Option<Check> {
        match path {
            "/health/instance" => Some(Check::Instance),
            "/health/endtoend" => Some(Check::EndToEnd),
            _ => None,
        }
    }
}

/// An answer, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// 200 when all services are well, else 503.
    pub status: u16,
    /// JSON.
    pub body: Vec<u8>,
}

/// Answers whether one service is well, at once and without waiting.
type Probe = Box<dyn Fn() -> bool + Send + Sync>;

/// What a service that works lacks, if anything.
type Note = Box<dyn Fn() -> Option<String> + Send + Sync>;

struct Service {
    name: String,
    check: Check,
    probe: Probe,
    note: Option<Note>,
}

/// All that is checked. What that is changes with the configuration; who asks does not.
#[derive(Default)]
pub struct Health {
    services: RwLock<Vec<Service>>,
}

impl Health {
    /// Adds a service. What belongs to the instance belongs to the end-to-end report as well.
    #[must_use]
    pub fn with(
        mut self,
        check: Check,
        name: impl Into<String>,
        probe: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Health {
        self.services.get_mut().push(Service { name: name.into(), check, probe: Box::new(probe), note: None });
        self
    }

    /// Has the service that was added last say what it lacks.
    #[must_use]
    pub fn noting(mut self, note: impl Fn() -> Option<String> + Send + Sync + 'static) -> Health {
        if let Some(service) = self.services.get_mut().last_mut() {
            service.note = Some(Box::new(note));
        }
        self
    }

    /// From here on, this is what is checked.
    pub fn replace(&self, next: Health) {
        *self.services.write() = next.services.into_inner();
    }

    /// Asks every service of a check.
    pub fn report(&self, which: Check) -> Report {
        self.ask(which, false)
    }

    /// The same with what services lack, for those who operate them: Quay's `services_expanded`.
    pub fn expanded(&self, which: Check) -> Report {
        self.ask(which, true)
    }

    fn ask(&self, which: Check, expanded: bool) -> Report {
        let services = self.services.read();
        let asked = services.iter().filter(|service| which == Check::EndToEnd || service.check == Check::Instance);
        let mut services: Vec<(&str, bool)> = Vec::new();
        let mut notes: Vec<(&str, Expanded)> = Vec::new();
        for service in asked {
            let well = (service.probe)();
            // A pool and a registry may have the same name. Each name is there once, and well when all of it is.
            match services.iter_mut().find(|(name, _)| *name == service.name) {
                Some((_, all)) => *all &= well,
                None => services.push((&service.name, well)),
            }
            if expanded {
                let note = service.note.as_ref().and_then(|note| note());
                match notes.iter_mut().find(|(name, _)| *name == service.name) {
                    Some((_, known)) => {
                        *known = Expanded { status: known.status && well, note: known.note.take().or(note) }
                    }
                    None => notes.push((&service.name, Expanded { status: well, note })),
                }
            }
        }
        Report::with(services, expanded.then_some(Map(notes)))
    }
}

impl Report {
    /// Of services by their names, and whether each is well.
    pub fn of(services: Vec<(&str, bool)>) -> Report {
        Report::with(services, None)
    }

    fn with(services: Vec<(&str, bool)>, services_expanded: Option<Map<'_, Expanded>>) -> Report {
        let status = if services.iter().all(|(_, well)| *well) { 200 } else { 503 };
        let body = Body { data: Data { services: Map(services), services_expanded }, status_code: status };
        // Texts and booleans always serialise.
        Report { status, body: serde_json::to_vec(&body).unwrap_or_default() }
    }
}

#[derive(Serialize)]
struct Body<'a> {
    data: Data<'a>,
    status_code: u16,
}

#[derive(Serialize)]
struct Data<'a> {
    services: Map<'a, bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    services_expanded: Option<Map<'a, Expanded>>,
}

/// A service in Quay's expanded shape: `message` beside one that works, `failure` beside one that does not.
struct Expanded {
    status: bool,
    note: Option<String>,
}

impl Serialize for Expanded {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("status", &self.status)?;
        if let Some(note) = &self.note {
            match self.status {
                true => map.serialize_entry("message", &format!("degraded: {note}"))?,
                false => map.serialize_entry("failure", note)?,
            }
        }
        map.end()
    }
}

struct Map<'a, T>(Vec<(&'a str, T)>);

impl<T: Serialize> Serialize for Map<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn paths_name_checks() {
        for (path, expected) in [
            ("/health", Some(Check::Instance)),
            ("/health/instance", Some(Check::Instance)),
            ("/health/endtoend", Some(Check::EndToEnd)),
            ("/health/", None),
            ("/health/other", None),
            ("/", None),
        ] {
            assert_eq!(Check::at(path), expected, "{path}");
            assert_eq!(Check::named(path), expected.filter(|_| path != "/health"), "{path}");
        }
    }

    #[test]
    fn one_sick_service_fails_the_reports_it_belongs_to() {
        let (own, far) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(true)));
        let probe = |flag: &Arc<AtomicBool>| {
            let flag = Arc::clone(flag);
            move || flag.load(Ordering::Relaxed)
        };
        let health = Health::default().with(Check::Instance, "listeners", probe(&own)).with(
            Check::EndToEnd,
            "docker.io",
            probe(&far),
        );
        for (own_well, far_well, instance, end_to_end) in
            [(true, true, 200, 200), (true, false, 200, 503), (false, true, 503, 503)]
        {
            own.store(own_well, Ordering::Relaxed);
            far.store(far_well, Ordering::Relaxed);
            assert_eq!(health.report(Check::Instance).status, instance);
            assert_eq!(health.report(Check::EndToEnd).status, end_to_end);
        }
        far.store(false, Ordering::Relaxed);
        own.store(true, Ordering::Relaxed);
        let health = health.with(Check::EndToEnd, "docker.io", || true);
        assert_eq!(
            String::from_utf8(health.report(Check::EndToEnd).body).unwrap(),
            r#"{"data":{"services":{"listeners":true,"docker.io":false}},"status_code":503}"#
        );
    }

    #[test]
    fn operators_see_what_a_service_lacks() {
        let sick = Arc::new(AtomicBool::new(false));
        let (probe, note) = (Arc::clone(&sick), Arc::clone(&sick));
        let health = Health::default()
            .with(Check::Instance, "listeners", || true)
            .with(Check::EndToEnd, "docker.io", move || !probe.load(Ordering::Relaxed))
            .noting(move || Some(if note.load(Ordering::Relaxed) { "gone" } else { "account refused" }.to_owned()));
        let body = |report: Report| String::from_utf8(report.body).unwrap();
        let services = r#""services":{"listeners":true,"docker.io":true}"#;
        assert_eq!(body(health.report(Check::EndToEnd)), format!(r#"{{"data":{{{services}}},"status_code":200}}"#));
        assert_eq!(
            body(health.expanded(Check::EndToEnd)),
            format!(
                r#"{{"data":{{{services},"services_expanded":{{"listeners":{{"status":true}},"docker.io":{{"status":true,"message":"degraded: account refused"}}}}}},"status_code":200}}"#
            )
        );
        sick.store(true, Ordering::Relaxed);
        let report = health.expanded(Check::EndToEnd);
        assert_eq!(report.status, 503);
        assert!(body(report).contains(r#""docker.io":{"status":false,"failure":"gone"}"#));
    }
}
