//! What to evict. Pure: the entries and the need go in, the victims come out.
//!
//! Eviction goes by recency, closed over images: an entry counts as recently used as the most recent manifest that
//! needs it, and of equals the one that needs goes before the one that is needed. So a kept manifest always has what
//! it had, and what is pinned (infinitely recent) keeps all that it refers to.
//!
//! The records of a repository go after content of the same recency: they are small, and they name what is kept.

use std::collections::HashMap;

use pierhead_registry::oci::Digest;

use super::records::RecordGroup;

/// What can be evicted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Victim {
    /// A blob, a manifest, or a partial.
    Content(Digest),
    /// Records of a repository.
    Records(RecordGroup),
}

/// Deeper than any content is below a manifest.
const LAST: u32 = 100;

/// What the plan needs to know of an entry.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    /// What it is.
    pub(super) victim: Victim,
    /// What evicting it gives back.
    pub(super) size: u64,
    /// When it was last used, in milliseconds.
    pub(super) used: u64,
    /// Never to be evicted.
    pub(super) pinned: bool,
    /// In use in a way that evicting would break: a fill that is running.
    pub(super) busy: bool,
    /// Not to be evicted this time, nor what it refers to: another registry's, whose room is not at stake.
    pub(super) spared: bool,
    /// What it refers to, when it is a manifest.
    pub(super) children: Box<[Digest]>,
}

/// The victims, in the order in which they must go, that together give back at least `need` bytes; `None` when
/// there is not that much to evict.
pub(super) fn plan(candidates: &[Candidate], need: u64) -> Option<Vec<Victim>> {
    let position = |(position, candidate): (usize, &Candidate)| match candidate.victim {
        Victim::Content(digest) => Some((digest, position)),
        Victim::Records(_) => None,
    };
    let positions: HashMap<Digest, usize> = candidates.iter().enumerate().filter_map(position).collect();
    let first_rank = |candidate: &Candidate| {
        let depth = if matches!(candidate.victim, Victim::Records(_)) { LAST } else { 0 };
        (if candidate.pinned { u64::MAX } else { candidate.used }, depth)
    };
    let mut rank: Vec<(u64, u32)> = candidates.iter().map(first_rank).collect();
    let mut spared: Vec<bool> = candidates.iter().map(|candidate| candidate.spared).collect();
    // Recency and depth flow down from every manifest. Content addressing rules out cycles; the bound on the depth
    // is for an index that nests deeper than any client would follow.
    let mut work: Vec<usize> = (0..candidates.len()).filter(|i| !candidates[*i].children.is_empty()).collect();
    while let Some(parent) = work.pop() {
        let (recency, depth) = rank[parent];
        for child in candidates[parent].children.iter().filter_map(|child| positions.get(child).copied()) {
            let raised = (rank[child].0.max(recency), rank[child].1.max(depth + 1));
            let spares = spared[parent] && !spared[child];
            if (raised != rank[child] || spares) && depth < 8 {
                rank[child] = raised;
                spared[child] |= spares;
                if !candidates[child].children.is_empty() {
                    work.push(child);
                }
            }
        }
    }
    let mut order: Vec<usize> =
        (0..candidates.len()).filter(|i| rank[*i].0 != u64::MAX && !candidates[*i].busy && !spared[*i]).collect();
    order.sort_unstable_by_key(|i| rank[*i]);
    let mut freed = 0;
    let mut victims = Vec::new();
    for candidate in order.into_iter().map(|i| &candidates[i]) {
        if freed >= need {
            break;
        }
        freed += candidate.size;
        victims.push(candidate.victim.clone());
    }
    (freed >= need).then_some(victims)
}

#[cfg(test)]
mod tests {
    use super::{Candidate, Victim, plan};
    use crate::cache::RepositoryId;
    use crate::cache::records::{RecordGroup, RecordKind};
    use pierhead_registry::oci::{Algorithm, Digest};

    fn digest(name: &str) -> Digest {
        Digest::of(Algorithm::Sha256, name.as_bytes())
    }

    fn entry(name: &str, used: u64, children: &[&str]) -> Candidate {
        Candidate {
            victim: Victim::Content(digest(name)),
            size: 10,
            used,
            pinned: false,
            busy: false,
            spared: false,
            children: children.iter().map(|child| digest(child)).collect(),
        }
    }

    fn expect(order: &[&str]) -> Option<Vec<Victim>> {
        Some(order.iter().map(|name| Victim::Content(digest(name))).collect())
    }

    #[test]
    fn the_oldest_image_goes_first_and_from_the_top() {
        let candidates = [
            entry("old-layer", 1, &[]),
            entry("shared-layer", 1, &[]),
            entry("old", 2, &["old-layer", "shared-layer"]),
            entry("new", 9, &["shared-layer", "new-layer"]),
            entry("new-layer", 3, &[]),
        ];
        assert_eq!(plan(&candidates, 20), expect(&["old", "old-layer"]));
        assert_eq!(plan(&candidates, 30).map(|v| v[2].clone()), Some(Victim::Content(digest("new"))));
        assert_eq!(plan(&candidates, 51), None);
        assert_eq!(plan(&candidates, 0), Some(vec![]));
    }

    #[test]
    fn an_index_keeps_its_manifests_and_their_layers() {
        let candidates = [
            entry("layer", 1, &[]),
            entry("manifest", 1, &["layer"]),
            entry("index", 5, &["manifest", "not-here"]),
            entry("lonely", 4, &[]),
        ];
        assert_eq!(plan(&candidates, 40), expect(&["lonely", "index", "manifest", "layer"]));
    }

    #[test]
    fn what_is_pinned_or_busy_stays() {
        let mut candidates = [entry("layer", 1, &[]), entry("pinned", 1, &["layer"]), entry("fill", 0, &[])];
        candidates[1].pinned = true;
        candidates[2].busy = true;
        assert_eq!(plan(&candidates, 1), None);
        candidates[2].busy = false;
        assert_eq!(plan(&candidates, 1), expect(&["fill"]));
    }

    #[test]
    fn what_is_spared_keeps_what_it_needs() {
        let mut candidates = [
            entry("own", 1, &["shared", "own-layer"]),
            entry("own-layer", 1, &[]),
            entry("shared", 1, &[]),
            entry("other", 1, &["shared", "other-layer"]),
            entry("other-layer", 1, &[]),
        ];
        for other in [3, 4] {
            candidates[other].spared = true;
        }
        assert_eq!(plan(&candidates, 20), expect(&["own", "own-layer"]));
        assert_eq!(plan(&candidates, 21), None);
    }

    #[test]
    fn a_cycle_that_cannot_be_ends_all_the_same() {
        let candidates = [entry("a", 1, &["b"]), entry("b", 2, &["a"])];
        assert_eq!(plan(&candidates, 20).map(|v| v.len()), Some(2));
    }

    #[test]
    fn records_go_by_their_use_and_after_content_of_the_same_recency() {
        let records = |name: &str, kind, used| {
            let repository = RepositoryId { registry: "r".into(), name: name.parse().unwrap() };
            Candidate { victim: Victim::Records(RecordGroup { repository, kind }), ..entry(name, used, &[]) }
        };
        let old = records("old", RecordKind::Names, 1);
        let lists = records("app", RecordKind::Lists, 4);
        let names = records("app", RecordKind::Names, 5);
        // (spared, pinned): what an eviction of all that may go chooses, in order.
        for (spared, pinned, expected) in [
            (false, false, &["records old", "records lists", "manifest", "records names", "layer"][..]),
            (false, true, &["records old", "records lists", "manifest", "layer"]),
            (true, false, &["records lists", "manifest", "records names", "layer"]),
        ] {
            let candidates = [
                Candidate { spared, ..old.clone() },
                lists.clone(),
                Candidate { pinned, ..names.clone() },
                entry("manifest", 5, &["layer"]),
                entry("layer", 6, &[]),
            ];
            let of = |name: &&str| match *name {
                "records old" => old.victim.clone(),
                "records lists" => lists.victim.clone(),
                "records names" => names.victim.clone(),
                content => Victim::Content(digest(content)),
            };
            let expected: Vec<Victim> = expected.iter().map(of).collect();
            assert_eq!(plan(&candidates, 10 * expected.len() as u64), Some(expected.clone()), "{spared} {pinned}");
            assert_eq!(plan(&candidates, 10 * expected.len() as u64 + 1), None, "{spared} {pinned}");
        }
    }
}
