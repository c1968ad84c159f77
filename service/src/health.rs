//! Whether a program can do its work, in the shapes of Quay's health endpoints.
//!
//! `/health/instance` (alias `/health`) says whether this process serves; a load balancer should watch it.
//! `/health/endtoend` says as well whether what it depends on works. [`Health`] answers from what is known anyway: asking it
//! contacts nobody and so costs nothing, however often it is done.

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

struct Service {
    name: String,
    check: Check,
    probe: Probe,
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
        self.services.get_mut().push(Service { name: name.into(), check, probe: Box::new(probe) });
        self
    }

    /// From here on, this is what is checked.
    pub fn replace(&self, next: Health) {
        *self.services.write() = next.services.into_inner();
    }

    /// Asks every service of a check.
    pub fn report(&self, which: Check) -> Report {
        let services = self.services.read();
        let asked = services.iter().filter(|service| which == Check::EndToEnd || service.check == Check::Instance);
        let mut services: Vec<(&str, bool)> = Vec::new();
        for service in asked {
            let well = (service.probe)();
            // A pool and a registry may have the same name. Each name is there once, and well when all of it is.
            match services.iter_mut().find(|(name, _)| *name == service.name) {
                Some((_, all)) => *all &= well,
                None => services.push((&service.name, well)),
            }
        }
        Report::of(services)
    }
}

impl Report {
    /// Of services by their names, and whether each is well.
    pub fn of(services: Vec<(&str, bool)>) -> Report {
        let status = if services.iter().all(|(_, well)| *well) { 200 } else { 503 };
        let body = Body { data: Data { services: Services(services) }, status_code: status };
        // Strings and booleans always serialise.
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
    services: Services<'a>,
}

struct Services<'a>(Vec<(&'a str, bool)>);

impl Serialize for Services<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, well) in &self.0 {
            map.serialize_entry(name, well)?;
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
}
