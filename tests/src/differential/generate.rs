//! From a seed to a behaviour: the same one every time.
//!
//! Most upstreams deviate in one or two ways, so that a failure is readable; a few in many.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::behaviour::{
    Ask, Auth, Bearer, Behaviour, ChallengeForm, DigestLabel, Etag, Fault, Keys, Length, Mirror, Name, Naming,
    Operation, Pages, Phase, Piece, Ranges, Redirect, ScopeSpelling, Site, Thing, Way, What, When,
};

const CONTENT: [Thing; 5] = [Thing::Tag, Thing::Digest, Thing::Blob, Thing::Tags, Thing::Referrers];
const WAYS: [Way; 3] = [Way::Head, Way::Get, Way::Range];
/// Statuses that are no content, as registries and what stands before them are known to send.
const STATUSES: [u16; 16] = [400, 401, 403, 404, 405, 406, 408, 410, 416, 429, 451, 500, 501, 502, 503, 504];

impl Behaviour {
    /// The behaviour of a seed.
    pub fn from_seed(seed: u64) -> Behaviour {
        let mut dice = Dice(StdRng::seed_from_u64(seed));
        let auth = dice.auth();
        let mirror = dice.chance(15).then(|| dice.mirror());
        let redirect = dice.chance(40).then(|| dice.redirect());
        let count = dice.pick(&[0, 1, 1, 1, 1, 1, 2, 2, 2, 3, 3, 5]);
        let mut faults: Vec<Fault> = Vec::new();
        for _ in 0..count {
            let fault = dice.fault(redirect.as_ref());
            if !faults.iter().any(|other| fault.disturbs(other)) {
                faults.push(fault);
            }
        }
        // What a GET has proven is remembered for `negative_ttl`, by design; a direct client would ask again.
        let forgetful = dice.chance(40) || faults.iter().any(Fault::passes);
        Behaviour {
            seed,
            auth,
            mirror,
            redirect,
            pages: dice.pick(&[
                Pages::One,
                Pages::One,
                Pages::Path,
                Pages::Absolute,
                Pages::Comma,
                Pages::Bare,
                Pages::Second,
            ]),
            faults,
            naming: dice.pick(&[Naming::Path, Naming::Namespace]),
            keys: Keys { expired: dice.chance(70), forgetful, hasty: dice.chance(75), parallel: dice.chance(30) },
            script: dice.script(),
        }
    }
}

impl Fault {
    /// Whether two faults give one request different failures, one of them only for some time: then the two sides, which
    /// do not ask equally often, may each meet the other one.
    fn disturbs(&self, other: &Fault) -> bool {
        let transient = self.when != When::Always || other.when != When::Always;
        let things = self.things.iter().any(|thing| other.things.contains(thing));
        transient && things && self.is_failure() && other.is_failure()
    }

    fn is_failure(&self) -> bool {
        matches!(self.what, What::Status { .. } | What::Page)
    }

    /// Whether something that is refused at one time is there at another, or for a HEAD. Any failure of the referrers API is
    /// remembered as a refusal: clients have another way.
    fn passes(&self) -> bool {
        let refusal = matches!(self.what, What::Status { status: 400..500, .. } | What::Ranges(Ranges::Refused(_)))
            || self.things.contains(&Thing::Referrers) && self.is_failure();
        let passing = self.when != When::Always || self.phase != Phase::Cold || !self.ways.contains(&Way::Head);
        refusal && self.ways != [Way::Head] && passing
    }
}

/// Where all decisions come from.
struct Dice(StdRng);

impl Dice {
    fn chance(&mut self, percent: u32) -> bool {
        self.0.random_ratio(percent, 100)
    }

    fn pick<T: Clone>(&mut self, among: &[T]) -> T {
        among.choose(&mut self.0).expect("something to choose from").clone()
    }

    fn auth(&mut self) -> Auth {
        match self.0.random_range(0..10) {
            0..5 => Auth::None,
            5 => Auth::Basic,
            _ => Auth::Bearer(Bearer {
                account: self.chance(50),
                elsewhere: self.chance(30),
                per_repository: self.chance(40),
                scope: self.pick(&[
                    ScopeSpelling::Plain,
                    ScopeSpelling::Plain,
                    ScopeSpelling::Prefixed,
                    ScopeSpelling::Missing,
                    ScopeSpelling::Widened,
                ]),
                service: self.chance(80),
                form: self.pick(&[
                    ChallengeForm::Plain,
                    ChallengeForm::Plain,
                    ChallengeForm::Unquoted,
                    ChallengeForm::Spaced,
                    ChallengeForm::BasicBefore,
                    ChallengeForm::NegotiateAfter,
                    ChallengeForm::OneLine,
                ]),
                uses: self.chance(25).then(|| self.0.random_range(1..4)),
                moved: self.chance(20).then(|| self.pick(&[301, 302, 307, 308])),
                field: self.pick(&["token", "access_token"]),
                failing: self.chance(20).then(|| {
                    let times = self.pick(&[1, 2, u32::MAX]);
                    (self.pick(&[500, 503, if times == u32::MAX { 401 } else { 502 }]), times)
                }),
            }),
        }
    }

    fn mirror(&mut self) -> Mirror {
        let status = self.pick(&[404, 404, 403, 401, 429, 400, 500, 503]);
        Mirror {
            lacks: self.pick(&[
                CONTENT.to_vec(),
                vec![Thing::Blob],
                vec![Thing::Tag],
                vec![Thing::Tag, Thing::Digest],
                vec![Thing::Tags, Thing::Referrers],
            ]),
            status,
            challenge: (status == 401).then_some("Basic realm=\"mirror\""),
            dead: self.chance(10),
        }
    }

    fn redirect(&mut self) -> Redirect {
        Redirect {
            things: self.pick(&[
                vec![Thing::Blob],
                vec![Thing::Blob],
                vec![Thing::Blob],
                vec![Thing::Tag, Thing::Digest, Thing::Blob],
                vec![Thing::Referrers],
                vec![Thing::Tags],
                CONTENT.to_vec(),
            ]),
            status: self.pick(&[301, 302, 303, 307, 307, 308]),
            elsewhere: self.chance(75),
            hops: self.pick(&[1, 1, 1, 2, 3]),
            query: self.pick(&["", "?signature=a%2Fb%3D&e=1", "?q='a'&r=(b)", "?x=%27y%27+z"]),
            refuses_credentials: self.chance(40),
        }
    }

    fn things(&mut self) -> Vec<Thing> {
        self.pick(&[
            vec![Thing::Tag],
            vec![Thing::Digest],
            vec![Thing::Blob],
            vec![Thing::Blob],
            vec![Thing::Tags],
            vec![Thing::Referrers],
            vec![Thing::Tag, Thing::Digest],
            vec![Thing::Tag, Thing::Digest, Thing::Blob],
            CONTENT.to_vec(),
            vec![Thing::Ping],
        ])
    }

    fn ways(&mut self) -> Vec<Way> {
        self.pick(&[
            vec![Way::Head],
            vec![Way::Head],
            vec![Way::Get, Way::Range],
            vec![Way::Range],
            WAYS.to_vec(),
            WAYS.to_vec(),
        ])
    }

    fn fault(&mut self, redirect: Option<&Redirect>) -> Fault {
        let what = self.what();
        let failure = matches!(what, What::Status { .. } | What::Page | What::Truncated);
        let things = match what {
            What::Ranges(_) => vec![Thing::Blob],
            // A pause holds for all requests of a kind.
            What::Status { retry_after: Some(3600), .. } => self.pick(&[
                vec![Thing::Tag, Thing::Digest],
                vec![Thing::Blob],
                vec![Thing::Tags, Thing::Referrers],
                CONTENT.to_vec(),
            ]),
            _ => self.things(),
        };
        let ways = match what {
            What::Ranges(_) => vec![Way::Range],
            What::Truncated | What::Slow => vec![Way::Get, Way::Range],
            What::Length(Length::HeadZero | Length::HeadNone) => vec![Way::Head],
            What::Status { retry_after: Some(3600), .. } => {
                self.pick(&[vec![Way::Head], vec![Way::Get, Way::Range], WAYS.to_vec()])
            }
            _ => self.ways(),
        };
        let patient = matches!(what, What::Status { retry_after: Some(3600), .. });
        let when = match what {
            What::Truncated => When::First(1),
            _ if !failure || patient => When::Always,
            _ if ways == [Way::Head] && self.chance(40) => When::UntilGet,
            _ => self.pick(&[When::Always, When::Always, When::First(1), When::First(2)]),
        };
        // Where content comes from a target, that is where its labels are.
        let target = redirect.is_some_and(|redirect| things.iter().any(|thing| redirect.things.contains(thing)));
        Fault {
            things,
            ways,
            first_repository: !patient && self.chance(20),
            site: if target && self.chance(60) { Site::Target } else { Site::Registry },
            when,
            phase: if failure && !patient && self.chance(40) { Phase::Known } else { Phase::Cold },
            what,
        }
    }

    fn what(&mut self) -> What {
        match self.0.random_range(0..20) {
            0..9 => {
                let status = self.pick(&STATUSES);
                let retry_after = match status {
                    429 => self.pick(&[None, None, Some(1), Some(3600)]),
                    503 => self.pick(&[None, None, Some(1)]),
                    _ => None,
                };
                What::Status { status, retry_after, html: self.chance(30) }
            }
            9 => What::Page,
            10 | 11 => {
                What::Length(self.pick(&[Length::Chunked, Length::UntilClose, Length::HeadZero, Length::HeadNone]))
            }
            12 => What::Type(self.pick(&[
                "",
                "application/octet-stream",
                "text/plain; charset=utf-8",
                "application/json",
                "binary/octet-stream",
            ])),
            13 | 14 => What::ContentDigest(self.pick(&[DigestLabel::None, DigestLabel::Wrong, DigestLabel::Garbage])),
            15 => What::Encoding(self.pick(&["aws-chunked", "x-gzip", "gzip", "identity", ""])),
            16 => What::Ranges(self.pick(&[
                Ranges::Ignored,
                Ranges::Refused(400),
                Ranges::Refused(416),
                Ranges::Refused(501),
                Ranges::UnknownTotal,
                Ranges::Unannounced,
            ])),
            17 => What::Etag(self.pick(&[Etag::Weak, Etag::Unquoted, Etag::Changing])),
            18 => What::Truncated,
            _ => What::Slow,
        }
    }

    fn script(&mut self) -> Vec<(Phase, Vec<Ask>)> {
        let cold = match self.0.random_range(0..4) {
            0 => containerd(0),
            1 => podman(0),
            _ => self.asks(8),
        };
        let mut cold: Vec<Ask> = cold;
        cold.extend(self.asks(3));
        let mut known = containerd(0);
        known.extend(self.asks(5));
        let healed = [containerd(0), containerd(1), self.asks(3)].concat();
        vec![(Phase::Cold, cold), (Phase::Known, known), (Phase::Healed, healed)]
    }

    fn asks(&mut self, count: usize) -> Vec<Ask> {
        (0..count).map(|_| self.ask()).collect()
    }

    fn ask(&mut self) -> Ask {
        let names = [Name::Tag, Name::Tag, Name::Digest, Name::Digest, Name::NoTag, Name::NoDigest];
        let pieces = [Piece::Config, Piece::Small, Piece::Small, Piece::Large, Piece::Large, Piece::Empty, Piece::None];
        let operation = match self.0.random_range(0..14) {
            0..3 => Operation::Resolve(self.pick(&names)),
            3..6 => Operation::Manifest(self.pick(&names)),
            6 | 7 => Operation::Exists(self.pick(&pieces)),
            8 | 9 => Operation::Blob(self.pick(&pieces)),
            10 => {
                let first = self.0.random_range(0..1500);
                Operation::Part(self.pick(&[Piece::Small, Piece::Large]), first, self.pick(&[None, Some(first + 99)]))
            }
            11 => Operation::Tags,
            12 => Operation::Referrers,
            _ => Operation::Ping,
        };
        Ask { repository: self.pick(&[0, 0, 1]), operation }
    }
}

/// A pull as containerd does it.
fn containerd(repository: usize) -> Vec<Ask> {
    let operations = [
        Operation::Resolve(Name::Tag),
        Operation::Manifest(Name::Digest),
        Operation::Blob(Piece::Config),
        Operation::Blob(Piece::Small),
        Operation::Blob(Piece::Large),
        Operation::Referrers,
    ];
    operations.map(|operation| Ask { repository, operation }).to_vec()
}

/// A pull as podman does it.
fn podman(repository: usize) -> Vec<Ask> {
    let operations = [
        Operation::Ping,
        Operation::Manifest(Name::Tag),
        Operation::Blob(Piece::Large),
        Operation::Blob(Piece::Small),
        Operation::Blob(Piece::Config),
    ];
    operations.map(|operation| Ask { repository, operation }).to_vec()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{Behaviour, STATUSES};
    use crate::differential::behaviour::{Auth, Fault, Phase, Site, What, When};

    #[test]
    fn a_seed_means_one_behaviour() {
        for seed in 0..50 {
            assert_eq!(Behaviour::from_seed(seed), Behaviour::from_seed(seed));
        }
        assert_ne!(Behaviour::from_seed(1).script, Behaviour::from_seed(2).script);
    }

    /// A generator that no longer makes something would keep the test green.
    #[test]
    fn some_seed_has_each_deviation() {
        let all: Vec<Behaviour> = (0..3000).map(Behaviour::from_seed).collect();
        let faults: Vec<&Fault> = all.iter().flat_map(|behaviour| &behaviour.faults).collect();
        for status in STATUSES {
            assert!(
                faults.iter().any(|fault| matches!(fault.what, What::Status { status: its, .. } if its == status)),
                "{status}"
            );
        }
        let kinds: HashSet<_> = faults.iter().map(|fault| std::mem::discriminant(&fault.what)).collect();
        assert_eq!(kinds.len(), 10);
        assert!(faults.iter().any(|fault| fault.when == When::UntilGet));
        assert!(faults.iter().any(|fault| fault.site == Site::Target));
        assert!(faults.iter().any(|fault| fault.phase == Phase::Known));
        assert!(all.iter().any(|behaviour| behaviour.faults.is_empty()));
        assert!(all.iter().any(|behaviour| behaviour.auth == Auth::Basic));
        assert!(all.iter().any(|behaviour| behaviour.mirror.as_ref().is_some_and(|mirror| mirror.dead)));
    }
}
