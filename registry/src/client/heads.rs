//! HEADs of manifests, decided by GETs where they tell too little.
//!
//! Only what a HEAD affirms counts. An endpoint that refuses HEADs, or answers with less than its GETs tell, is asked by GET first
//! from then on, and by HEAD where that fails and nothing is known: each costs one request then.

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
    /// Endpoints that failed for the moment, or whose token services did.
    broken: Vec<usize>,
}

impl Repository {
    /// HEAD of a manifest. `accept` are media types as the client sent them, empty for all.
    ///
    /// Where a HEAD fails, or does not say all that a GET would, the manifest is fetched and returned. A HEAD that names the digest
    /// `known` says enough. Where nothing is known and the GET fails without an answer about the manifest, what a HEAD said is what
    /// a client would have learnt: that it is there, or a 404 that proves nothing ([`ClientError::Unconfirmed`]).
    pub async fn head_manifest(
        &self,
        reference: &Reference,
        accept: &[String],
        known: Option<&Digest>,
    ) -> Result<HeadAnswer, ClientError> {
        let call = manifest_call(Method::HEAD, reference, accept);
        // One question: a token that came for the HEAD is as good as can be for the GET.
        let get = Call { since: call.since, ..manifest_call(Method::GET, reference, accept) };
        let mut heads =
            Heads { repository: self, call, reference, known, answered: Vec::new(), said: None, broken: Vec::new() };
        let mut attempts = Attempts::once(&self.upstream, &[]);
        let decides = self.gives_rights && known.is_some();
        if decides {
            attempts = attempts.of_the_registry();
        }
        let skips = |index: usize| {
            let (endpoint, now) = (&self.upstream.endpoints[index], Instant::now());
            let untyped = known.is_none() && !endpoint.head_types.is_worth_trying(now);
            untyped || !endpoint.heads_of(reference).is_worth_trying(now)
        };
        let mut unasked: Vec<usize> = (0..self.endpoints()).filter(|index| skips(*index)).collect();
        if let Some(info) = heads.ask(&mut attempts, |index| !skips(index)).await {
            return Ok(HeadAnswer::Head(info));
        }
        let mut word = attempts.concluded();
        attempts.in_another_way();
        let mut got = self.get(attempts, get.clone(), reference).await;
        let refused = matches!(got, Err(ClientError::Unauthorized { .. } | ClientError::Forbidden { .. }));
        if refused && unasked.contains(&(self.endpoints() - 1)) {
            // The registry itself was not asked by HEAD. What is in the HEAD's place proves as little as a HEAD: a client whose HEAD is refused sends a GET.
            got = self.get(Attempts::once(&self.upstream, &[]), get, reference).await;
        }
        let error = match got {
            Ok((manifest, index)) => {
                if heads.answered.contains(&index) {
                    let endpoint = &self.upstream.endpoints[index];
                    // One that names the digest is good enough for what is known.
                    let way = if heads.said.is_some() { &endpoint.head_types } else { endpoint.heads_of(reference) };
                    way.refused(Instant::now());
                }
                return Ok(HeadAnswer::Manifest(manifest));
            }
            // What a GET says of the manifest, or of the right to it, is the answer to a HEAD too.
            Err(error) if known.is_some() || error.outweighs_a_head() => return Err(error),
            Err(error) => error,
        };
        // A GET that was rejected says that the registry answers.
        if error.is_answer() {
            unasked.append(&mut heads.broken);
        }
        if !unasked.is_empty() {
            let mut attempts = Attempts::once(&self.upstream, &[]);
            if let Some(info) = heads.ask(&mut attempts, |index| unasked.contains(&index)).await {
                return Ok(HeadAnswer::Head(info));
            }
            word = attempts.concluded().or(word);
        }
        match (heads.said, word) {
            (Some(info), _) => Ok(HeadAnswer::Head(info)),
            (None, Some(word @ Failure::Unconfirmed(404 | 410))) => Err(word.into_error(self.upstream.name())),
            _ => Err(error),
        }
    }
}

impl Repository {
    /// A HEAD named a digest that the GET after it did not bring: GETs come first from now on. `mirrored`: a mirror answered the HEAD.
    pub fn doubt_heads(&self, reference: &Reference, mirrored: bool) {
        for (index, endpoint) in self.upstream.endpoints.iter().enumerate() {
            if self.is_mirror(index) == mirrored {
                endpoint.heads_of(reference).refused(Instant::now());
            }
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
                    // Without the digest it may be about anything.
                    Some(info)
                        if !self.repository.gives_rights
                            || self.known.is_none()
                            || manifest::content_digest(response.headers()).is_some() =>
                    {
                        turn.settle(None);
                        return Some(ManifestInfo { mirrored: self.repository.is_mirror(index), ..info });
                    }
                    _ => {
                        let mirrored = self.repository.is_mirror(index);
                        let said = || manifest::said(response.headers(), self.reference);
                        self.said = self.said.take().or_else(|| Some(ManifestInfo { mirrored, ..said()? }));
                        Failure::Unconfirmed(response.status().as_u16())
                    }
                },
                Err(failure) => failure,
            };
            match failure {
                Failure::Unconfirmed(_) => self.answered.push(index),
                Failure::Broken(_) => self.broken.push(index),
                _ => {}
            }
            attempts.failed(turn, failure);
        }
        None
    }
}
