//! Which repository is meant by a name: one that is deleted and made anew, perhaps by somebody else, is another.
//!
//! All that is known of a repository is known under its name. Tokens of our origin say when the repository was made that they
//! mean, and so tell of a change of hands that this edge did not see.
//!
//! Invariant: a token counts by itself only for the repository that it means. When one means a newer repository than any before,
//! all that is known under that name is forgotten first; one that means an older one, or none yet, proves nothing, and changes
//! nothing. Tokens that do not say it count for the name, as long as no other token of that registry did.

use super::writes::Writes;
use crate::cache::{Cache, Extent, RepositoryId};

/// What a token means by a name, seen from what is known under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meant {
    /// The repository that is known.
    TheKnown,
    /// One that was made later, at this time.
    Newer(i64),
    /// Another, or one that cannot be told.
    Another,
}

/// What a token means. `known` is when the known repository was made, `told` what the token says of it: 0 where there was none.
fn meant(known: Option<i64>, told: Option<i64>) -> Meant {
    match (known, told) {
        (None, None) => Meant::TheKnown,
        (Some(known), Some(told)) if known == told => Meant::TheKnown,
        (known, Some(told)) if told > known.unwrap_or(0) => Meant::Newer(told),
        _ => Meant::Another,
    }
}

/// Whether what is known under a name is of the repository that a token means, once what was known of older ones is forgotten.
pub(super) async fn is_known_one(cache: &Cache, writes: &Writes, repository: &RepositoryId, told: Option<i64>) -> bool {
    match meant(cache.created(repository).await, told) {
        Meant::TheKnown => true,
        Meant::Newer(created) => {
            let extent = Extent::Repository(repository.name.clone());
            writes.renew(&extent, cache.made(repository, created)).await
        }
        Meant::Another => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{Meant, meant};

    #[test]
    fn a_token_means_one_of_the_repositories_of_a_name() {
        for (known, told, expected) in [
            (None, None, Meant::TheKnown),
            (None, Some(5), Meant::Newer(5)),
            (None, Some(0), Meant::Another),
            (None, Some(-1), Meant::Another),
            (Some(5), Some(5), Meant::TheKnown),
            (Some(5), Some(6), Meant::Newer(6)),
            (Some(5), Some(4), Meant::Another),
            (Some(5), Some(0), Meant::Another),
            (Some(5), None, Meant::Another),
        ] {
            assert_eq!(meant(known, told), expected, "{known:?} {told:?}");
        }
    }
}
