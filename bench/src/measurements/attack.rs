//! Work beside many hostile connections of one kind after the other, measured by the same work without them.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use pierhead_tests::hostile::{Attack, Then};

use crate::options::Scale;
use crate::report::{Figure, Findings, Series, Target};

/// What the others may be slowed down by.
const SLOWED: f64 = 2.0;
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// One kind of attack.
pub(super) struct Kind {
    /// In the results.
    pub(super) name: &'static str,
    /// What each connection begins with.
    pub(super) first: String,
    /// What it does then.
    pub(super) then: Then,
}

/// Does the work with and without each attack. `work` gets a number that no other turn has, and gives the time in milliseconds of each of
/// the things named; it panics where one fails, which ends the measurement.
pub(super) async fn beside<const THINGS: usize>(
    scale: Scale,
    to: SocketAddr,
    kinds: &[Kind],
    things: [&'static str; THINGS],
    work: impl AsyncFn(u64) -> [f64; THINGS],
) -> Findings {
    let count = scale.pick(1000, 100);
    let mut figures = Vec::new();
    let mut turn = 0..;
    for kind in kinds {
        let (mut free, mut attacked) = (Vec::new(), Vec::new());
        for _ in 0..scale.runs {
            free.push(work(turn.next().unwrap_or_default()).await);
            let attack = Attack::begin(count, ELSEWHERE, to, |_| kind.first.clone().into_bytes(), kind.then).await;
            attacked.push(work(turn.next().unwrap_or_default()).await);
            drop(attack);
        }
        for (at, thing) in things.into_iter().enumerate() {
            let of = |runs: &[[f64; THINGS]]| runs.iter().map(|run| run[at]).collect();
            figures.push(Figure::ratio(
                format!("{thing}, {}", kind.name),
                Series::new("attacked", "ms", of(&attacked)),
                Series::new("not attacked", "ms", of(&free)),
                Some(Target::AtMost(SLOWED)),
            ));
        }
    }
    let notes = vec![format!(
        "{count} connections from another address, made again when they are closed; none of the others' requests failed"
    )];
    Findings { figures, notes, settings: Vec::new() }
}

/// How long it takes, in milliseconds.
pub(super) async fn timed(work: impl Future<Output = ()>) -> f64 {
    let begun = Instant::now();
    work.await;
    begun.elapsed().as_secs_f64() * 1000.0
}
