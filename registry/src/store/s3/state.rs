//! What a checkpoint holds of an upload to S3, and how large its parts are.
//!
//! Invariant: all parts but the last are as large as [`part_size`] says, so that the tags of the parts say all of them.

use serde::{Deserialize, Serialize};

use crate::store::{Checkpoint, StoreError};

/// After how many parts they become twice as large: 10 000 parts of at least 5 MiB reach 180 GiB.
const GROWTH: usize = 2500;

/// What is in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// The size of the first part.
    pub(super) part: u64,
    /// The multipart upload; absent while the first part is not full.
    pub(super) upload: Option<String>,
    /// The tags of its parts.
    pub(super) tags: Vec<String>,
    /// The object that holds what comes after them.
    pub(super) tail: Option<String>,
    /// That of the checkpoint before, which may still be the one that was kept.
    pub(super) before: Option<String>,
}

impl State {
    /// Reads a checkpoint. One that is not of this driver is of an upload that is not here.
    pub(super) fn of(checkpoint: &Checkpoint) -> Result<State, StoreError> {
        let state: State = serde_json::from_str(&checkpoint.state).map_err(|_| StoreError::Lost)?;
        let sane = state.part > 0
            && checkpoint.length >= state.parts()
            && checkpoint.length - state.parts() <= state.next_part()
            && (checkpoint.length > state.parts()) == state.tail.is_some();
        if sane { Ok(state) } else { Err(StoreError::Lost) }
    }

    /// As a checkpoint at this length.
    pub(super) fn checkpoint(&self, length: u64) -> Result<Checkpoint, StoreError> {
        let state = serde_json::to_string(self).map_err(|error| StoreError::Broken(error.to_string()))?;
        Ok(Checkpoint { length, state })
    }

    /// How many bytes are in parts.
    pub(super) fn parts(&self) -> u64 {
        (1..=self.tags.len()).map(|number| part_size(self.part, number)).sum()
    }

    /// How large the next part must be.
    pub(super) fn next_part(&self) -> u64 {
        part_size(self.part, self.tags.len() + 1)
    }
}

/// The size of a part, which are numbered from 1.
pub(super) fn part_size(first: u64, number: usize) -> u64 {
    first << (number.saturating_sub(1) / GROWTH).min(16)
}

#[cfg(test)]
mod tests {
    use super::super::multipart::MOST_PARTS;
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn parts_suffice_for_what_anybody_pushes() {
        assert_eq!(part_size(5 * MIB, 1), 5 * MIB);
        assert_eq!(part_size(5 * MIB, GROWTH), 5 * MIB);
        assert_eq!(part_size(5 * MIB, GROWTH + 1), 10 * MIB);
        let all: u64 = (1..=MOST_PARTS as usize).map(|number| part_size(5 * MIB, number)).sum();
        assert!(all > 180 << 30, "{all}");
    }

    #[test]
    fn a_checkpoint_reads_as_it_was_written_and_nothing_else_does() {
        let tags = vec!["a".to_owned(), "b".to_owned()];
        let state = State { part: 10, upload: Some("u".to_owned()), tags, tail: Some("t".to_owned()), before: None };
        let checkpoint = state.checkpoint(25).unwrap();
        assert_eq!(State::of(&checkpoint).unwrap(), state);
        assert_eq!((state.parts(), state.next_part()), (20, 10));
        let of_length = |length| Checkpoint { length, ..checkpoint.clone() };
        for foreign in [of_length(20), of_length(19), of_length(31), Checkpoint { length: 25, state: "{}".to_owned() }]
        {
            assert!(matches!(State::of(&foreign), Err(StoreError::Lost)), "{foreign:?}");
        }
    }
}
