//! Asking DNS again and again for the servers of a pool.
//!
//! Invariants: an answer is believed for its TTL, within the configured bounds; while DNS fails, or says that there is
//! nothing, the last good answer stands: a server that should go is seen by its checks, and a name that vanishes by
//! mistake must not take a registry away; no question waits for another.

use std::sync::{Arc, Weak};
use std::time::SystemTime;

use hickory_resolver::TokioResolver;
use pierhead_config::DnsTiming;
use tokio::sync::oneshot;
use tokio::time::{Duration, sleep};
use tokio_util::task::AbortOnDropHandle;

use super::Pool;
use super::dns::{self, Answer};
use super::members::{Found, Question};
use super::view::NameView;

/// The shortest time between two questions, whatever is configured.
const SHORTEST: Duration = Duration::from_millis(100);

/// How many servers are taken from one answer.
const MOST: usize = 256;

/// What is known of the answers to a question.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept {
    /// The last good one.
    pub(super) found: Vec<Found>,
    /// When it came.
    answered: Option<SystemTime>,
    /// Why the newest brought nothing.
    failure: Option<String>,
}

impl Kept {
    /// As operators see it.
    pub(super) fn view(&self, question: &Question) -> NameView {
        NameView { name: question.name().to_owned(), answered: self.answered, failure: self.failure.clone() }
    }

    /// Takes in an answer; whether servers may have changed. Pure but for the date, which is given.
    fn hear(&mut self, question: &Question, answer: Result<Vec<Found>, String>, now: SystemTime) -> bool {
        match answer {
            Ok(mut found) => {
                // Name servers turn their answers round, which changes nothing. Of a host the first address is used, and
                // the one that is used stays first for as long as it is named.
                let first = found.first().map(|found| found.address);
                let current = self.found.first().map(|found| found.address);
                let used = current.filter(|current| found.iter().any(|found| found.address == *current)).or(first);
                found.sort();
                found.dedup_by_key(|found| found.address);
                if matches!(question, Question::Host(..)) {
                    found.sort_by_key(|found| Some(found.address) != used);
                }
                found.truncate(MOST);
                self.answered = Some(now);
                self.failure = None;
                let changed = self.found != found;
                self.found = found;
                changed
            }
            Err(failure) => {
                self.failure = Some(failure);
                false
            }
        }
    }
}

/// Asks until the handle is dropped. The other answer comes when the first question has been answered, or not.
pub(super) fn watch(pool: &Arc<Pool>, question: Question) -> (AbortOnDropHandle<()>, oneshot::Receiver<()>) {
    let (heard, first) = oneshot::channel();
    let run = run(Arc::downgrade(pool), question, pool.settings().dns.clone(), heard);
    (AbortOnDropHandle::new(tokio::spawn(run)), first)
}

async fn run(pool: Weak<Pool>, question: Question, timing: DnsTiming, heard: oneshot::Sender<()>) {
    let mut heard = Some(heard);
    let mut resolver = None;
    loop {
        let Some(before) = pool.upgrade().map(|pool| pool.found(&question)) else { return };
        let answer = ask(&mut resolver, &timing, &question, &before).await;
        let pause = pause(&answer, &timing);
        let answer = match answer {
            Answer::Given(found, _) => Ok(found),
            Answer::None(reason) => Err(reason),
        };
        if answer.is_err() {
            // The system's name servers may be others by now.
            resolver = None;
        }
        let Some(pool) = pool.upgrade() else { return };
        pool.hear(&question, answer);
        drop(pool);
        drop(heard.take());
        sleep(pause).await;
    }
}

async fn ask(
    resolver: &mut Option<TokioResolver>,
    timing: &DnsTiming,
    question: &Question,
    before: &[Found],
) -> Answer<Found> {
    let resolver = match resolver {
        Some(resolver) => resolver,
        None => match dns::resolver(timing) {
            Ok(new) => resolver.insert(new),
            Err(error) => return Answer::None(error.to_string()),
        },
    };
    dns::ask(resolver, question, before).await
}

fn pause(answer: &Answer<Found>, timing: &DnsTiming) -> Duration {
    let pause = match answer {
        Answer::Given(_, ttl) => (*ttl).min(timing.max_ttl).max(timing.min_ttl),
        Answer::None(_) => timing.min_ttl,
    };
    pause.max(SHORTEST)
}

impl Pool {
    /// The last good answer to a question.
    fn found(&self, question: &Question) -> Vec<Found> {
        self.work.lock().answers.get(question).map(|kept| kept.found.clone()).unwrap_or_default()
    }

    /// An answer came.
    fn hear(&self, question: &Question, answer: Result<Vec<Found>, String>) {
        let mut work = self.work.lock();
        if !work.running {
            return;
        }
        let (pool, name) = (self.settings.name.as_str(), question.name());
        let kept = work.answers.entry(question.clone()).or_default();
        let before = kept.failure.clone();
        let changed = kept.hear(question, answer, SystemTime::now());
        match (&before, &kept.failure) {
            (None, Some(failure)) => {
                let servers = kept.found.len();
                tracing::warn!(pool, name, failure, servers, "DNS names no servers: what it said before stands");
            }
            (Some(_), None) => tracing::info!(pool, name, "DNS names servers again"),
            (None, None) | (Some(_), Some(_)) => {}
        }
        if changed {
            let servers: Vec<String> = kept.found.iter().map(|found| found.address.to_string()).collect();
            tracing::info!(pool, name, servers = servers.join(" "), "DNS names other servers");
            self.renew(&mut work);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(addresses: &[&str]) -> Vec<Found> {
        let one = |address: &&str| Found {
            address: format!("{address}:443").parse().unwrap(),
            host: "quay.example.com".to_owned(),
            weight: 1,
            backup: false,
        };
        addresses.iter().map(one).collect()
    }

    #[test]
    fn the_last_good_answer_stands() {
        let now = SystemTime::now();
        let all = Question::Addresses("quay.example.com".to_owned(), 443);
        let mut kept = Kept::default();
        assert!(!kept.hear(&all, Err("refused".to_owned()), now));
        assert_eq!(kept.view(&all).failure.as_deref(), Some("refused"));
        assert!(kept.hear(&all, Ok(found(&["192.0.2.2", "192.0.2.1", "192.0.2.2"])), now));
        assert_eq!(kept.found, found(&["192.0.2.1", "192.0.2.2"]));
        assert!(!kept.hear(&all, Ok(found(&["192.0.2.1", "192.0.2.2"])), now), "only turned round");
        assert!(!kept.hear(&all, Err("no such name".to_owned()), now));
        assert_eq!(kept.found.len(), 2);
        assert!(kept.hear(&all, Ok(found(&["192.0.2.2"])), now));
        assert_eq!(kept.view(&all).failure, None);
    }

    #[test]
    fn a_host_keeps_its_address_for_as_long_as_it_has_it() {
        let now = SystemTime::now();
        let host = Question::Host("quay.example.com".to_owned(), 443);
        let mut kept = Kept::default();
        kept.hear(&host, Ok(found(&["192.0.2.2"])), now);
        kept.hear(&host, Ok(found(&["192.0.2.1", "192.0.2.2"])), now);
        assert_eq!(kept.found, found(&["192.0.2.2", "192.0.2.1"]));
        kept.hear(&host, Ok(found(&["192.0.2.3", "192.0.2.1"])), now);
        assert_eq!(kept.found, found(&["192.0.2.3", "192.0.2.1"]), "the first that DNS gives");
        assert!(!kept.hear(&host, Ok(found(&["192.0.2.1", "192.0.2.3"])), now));
    }

    #[test]
    fn answers_last_as_long_as_they_say_within_bounds() {
        let seconds = Duration::from_secs;
        let timing = DnsTiming { servers: Vec::new(), min_ttl: seconds(5), max_ttl: seconds(60) };
        for (ttl, expected) in [(0, 5), (5, 5), (30, 30), (86400, 60)] {
            assert_eq!(pause(&Answer::Given(Vec::new(), seconds(ttl)), &timing), seconds(expected));
        }
        assert_eq!(pause(&Answer::None(String::new()), &timing), seconds(5));
        let none = DnsTiming { min_ttl: seconds(0), ..timing };
        assert_eq!(pause(&Answer::Given(Vec::new(), seconds(0)), &none), SHORTEST);
    }
}
