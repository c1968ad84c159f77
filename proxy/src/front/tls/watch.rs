//! Looks at a listener's files from time to time, and takes what is new.
//!
//! Invariant: what is broken is looked at again. Who replaces a certificate and its key one after the other leaves them
//! not matching for a moment; so only what is still broken at the next look is worth a warning, and that once.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use tokio::task::JoinHandle;

use super::expiry::{self, Stage};
use super::{Certificate, Termination};
use crate::admin::metrics::Metrics;

/// Looks for as long as it lives.
#[derive(Debug)]
pub(crate) struct Watch {
    task: JoinHandle<()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is told of a failed look. Pure.
#[derive(Debug, Default)]
struct Complaint {
    /// What was wrong the last time, and whether that was told.
    last: Option<(String, bool)>,
}

impl Complaint {
    /// Whether to tell of this.
    fn failed(&mut self, problem: &str) -> bool {
        let told = match &self.last {
            Some((last, told)) if last == problem => *told,
            _ => {
                self.last = Some((problem.to_owned(), false));
                return false;
            }
        };
        self.last = Some((problem.to_owned(), true));
        !told
    }

    /// Whether something that was told is over.
    fn passed(&mut self) -> bool {
        self.last.take().is_some_and(|(_, told)| told)
    }
}

/// What was said of the end of certificates, by their fingerprints: each stage is worth one warning.
#[derive(Debug, Default)]
struct Warnings(HashMap<String, Stage>);

impl Warnings {
    /// Whether to warn of a certificate that has reached a stage.
    fn is_news(&mut self, fingerprint: &str, stage: Stage) -> bool {
        let before = self.0.insert(fingerprint.to_owned(), stage);
        before.is_none_or(|before| stage < before)
    }

    /// Warns of what is new to say.
    fn warn_of(&mut self, listener: &str, certificates: &[Certificate], now: i64) {
        self.0.retain(|known, _| certificates.iter().any(|one| one.fingerprint == *known));
        for certificate in certificates {
            let stage = match certificate.not_before > now {
                true => Some(Stage::Expired),
                false => expiry::stage(certificate.not_after, now),
            };
            if let (Some(stage), Some(doubt)) = (stage, expiry::doubt(certificate, now))
                && self.is_news(&certificate.fingerprint, stage)
            {
                tracing::warn!(listener, file = %certificate.file.display(), "{doubt}");
            }
        }
    }
}

impl Watch {
    /// Begins, and tells the metrics what is served. Needs the runtime.
    pub(crate) fn start(listener: &Arc<str>, termination: &Arc<Termination>, metrics: &Arc<Metrics>) -> Watch {
        publish(listener, termination, metrics);
        let every = termination.settings.watch.max(Duration::from_millis(10));
        let look = look_again(Arc::clone(listener), Arc::downgrade(termination), every, Arc::clone(metrics));
        Watch { task: tokio::spawn(look) }
    }
}

async fn look_again(listener: Arc<str>, termination: Weak<Termination>, every: Duration, metrics: Arc<Metrics>) {
    let (mut complaint, mut warnings) = (Complaint::default(), Warnings::default());
    loop {
        let Some(current) = termination.upgrade() else { return };
        warnings.warn_of(&listener, &current.certificates(), expiry::seconds(SystemTime::now()));
        drop(current);
        tokio::time::sleep(every).await;
        let Some(termination) = termination.upgrade() else { return };
        let looked = {
            let termination = Arc::clone(&termination);
            // Files may lie on a network; signatures take time.
            tokio::task::spawn_blocking(move || termination.renew()).await
        };
        match looked {
            Ok(Ok(true)) => {
                complaint.passed();
                termination.refused.store(None);
                metrics.certificates_renewed(&listener, true);
                publish(&listener, &termination, &metrics);
                tracing::info!(%listener, certificates = termination.certificates().len(), "new certificates");
            }
            Ok(Ok(false)) => {
                termination.refused.store(None);
                if complaint.passed() {
                    tracing::info!(%listener, "the files of the certificates are again what they were");
                }
            }
            Ok(Err(error)) => {
                let problem = error.to_string();
                if complaint.failed(&problem) {
                    termination.refused.store(Some(Arc::new(problem)));
                    metrics.certificates_renewed(&listener, false);
                    tracing::error!(%listener, %error, "new certificates cannot be used, the old ones serve on");
                }
            }
            // The runtime ends.
            Err(_) => return,
        }
    }
}

fn publish(listener: &str, termination: &Termination, metrics: &Metrics) {
    let certificates = termination.certificates();
    metrics
        .certificates(listener, certificates.iter().map(|one| (one.file.to_str().unwrap_or_default(), one.not_after)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stage_of_an_end_is_worth_one_warning() {
        let mut warnings = Warnings::default();
        for (fingerprint, stage, news) in [
            ("a", Stage::Month, true),
            ("a", Stage::Month, false),
            ("b", Stage::Week, true),
            ("a", Stage::Week, true),
            ("a", Stage::Day, true),
            ("a", Stage::Day, false),
            ("a", Stage::Expired, true),
            ("a", Stage::Expired, false),
        ] {
            assert_eq!(warnings.is_news(fingerprint, stage), news, "{fingerprint} {stage:?}");
        }
    }

    #[test]
    fn only_what_stays_broken_is_told_and_once() {
        let mut complaint = Complaint::default();
        assert!(!complaint.passed());
        assert!(!complaint.failed("a"), "may be the moment in between");
        assert!(!complaint.passed());
        for (problem, told) in [("a", false), ("a", true), ("a", false), ("b", false), ("b", true), ("b", false)] {
            assert_eq!(complaint.failed(problem), told, "{problem}");
        }
        assert!(complaint.passed());
        assert!(!complaint.failed("b"));
    }
}
