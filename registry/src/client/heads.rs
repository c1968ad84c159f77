//! HEADs of manifests, decided by GETs where they tell too little.
//!
//! Only what a HEAD affirms counts. An endpoint that answers HEADs with less than its GETs tell, or not at all, is asked by GET first
//! from then on, and by HEAD where that fails: each costs one request then.

use reqwest::Method;
use tokio::time::Instant;

use super::failure::Failure;
use super::repository::{Repository, manifest_call};
use super::retry::Attempts;
use super::send::Call;
use super::{ClientError, HeadAnswer, ManifestInfo, manifest};
use crate::oci::{Digest, Reference};

/// The HEADs of one question.
struct Heads<'a> {
    repository: &'a Repository,
    call: Call,
    reference: &'a Reference,
    known: Option<&'a Digest>,
    /// Endpoints that answered with less than a GET tells, or with a no.
    answered: Vec<usize>,
    /// What such an answer said all the same.
    said: Option<ManifestInfo>,
}

impl Repository {
    /// HEAD of a manifest. `accept` are media types as the client sent them, empty for all.
    ///
    /// Where a HEAD fails, or does not say all that a GET would, the manifest is fetched and returned. A HEAD that names the digest
    /// `known` says enough. Where nothing is known and the GET fails without proving absence, what a HEAD said is what a client
    /// would have learnt: that it is there, or a 404 that proves nothing ([`ClientError::Unconfirmed`]).
    pub async fn head_manifest(
        &self,
        reference: &Reference,
        accept: &[String],
        known: Option<&Digest>,
    ) -> Result<HeadAnswer, ClientError> {
        let call = manifest_call(Method::HEAD, reference, accept);
        // One question: a token that came for the HEAD is as good as can be for the GET.
        let get = Call { since: call.since, ..manifest_call(Method::GET, reference, accept) };
        let mut heads = Heads { repository: self, call, reference, known, answered: Vec::new(), said: None };
        let mut attempts = Attempts::once(&self.upstream);
        let skips = |index: usize| !self.upstream.endpoints[index].heads_of(reference).is_worth_trying(Instant::now());
        let skipped = (0..self.endpoints()).any(skips);
        if let Some(info) = heads.ask(&mut attempts, |index| !skips(index)).await {
            return Ok(HeadAnswer::Head(info));
        }
        let word = attempts.concluded();
        attempts.in_another_way();
        let error = match self.get(attempts, get, reference).await {
            Ok((manifest, index)) => {
                if heads.answered.contains(&index) {
                    self.upstream.endpoints[index].heads_of(reference).refused(Instant::now());
                }
                return Ok(HeadAnswer::Manifest(manifest));
            }
            Err(error) if known.is_some() || matches!(error, ClientError::NotFound { .. }) => return Err(error),
            Err(error) => error,
        };
        // A registry that answers GETs may answer a HEAD that has not been answered yet.
        if skipped || error.is_answer() {
            let answered = heads.answered.clone();
            let mut attempts = Attempts::once(&self.upstream);
            if let Some(info) = heads.ask(&mut attempts, |index| !answered.contains(&index)).await {
                return Ok(HeadAnswer::Head(info));
            }
        }
        match (heads.said, word) {
            (Some(info), _) => Ok(HeadAnswer::Head(info)),
            (None, Some(word @ Failure::Unconfirmed(404 | 410))) if !error.outweighs_a_head() => {
                Err(word.into_error(self.upstream.name()))
            }
            _ => Err(error),
        }
    }
}

impl Heads<'_> {
    /// Asks those endpoints that `may` be asked, in order, until one says all that a GET would.
    async fn ask(&mut self, attempts: &mut Attempts, may: impl Fn(usize) -> bool) -> Option<ManifestInfo> {
        while let Ok(turn) = attempts.next().await {
            let index = turn.index;
            if !may(index) {
                continue;
            }
            let failure = match self.repository.ask(index, &self.call).await {
                Ok(response) => match manifest::info(response.headers(), self.reference, self.known) {
                    Some(info) => {
                        turn.settle(None);
                        return Some(info);
                    }
                    None => {
                        self.said = self.said.take().or_else(|| manifest::said(response.headers(), self.reference));
                        Failure::Unconfirmed(response.status().as_u16())
                    }
                },
                Err(failure) => failure,
            };
            if matches!(failure, Failure::Unconfirmed(_)) {
                self.answered.push(index);
            }
            attempts.failed(turn, failure);
        }
        None
    }
}
