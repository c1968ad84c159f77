//! Tokens that accounts are given: made here, shown once, and kept as a hash.
//!
//! They are random and long, so one round of SHA-256 is enough: there is nothing to guess. Keyed hashes are for what stays in
//! memory, and are of no use to whoever has not the key, which no other process has.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use pierhead_config::Secret;
use rand::Rng;

/// How long tokens are, as Quay's.
const LENGTH: usize = 64;
/// What they are made of: nothing that a shell or an address would read otherwise.
const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

/// A new token.
pub(crate) fn token() -> Secret {
    let mut random = rand::rng();
    let letter = |_| char::from(LETTERS[random.random_range(0..LETTERS.len())]);
    Secret::new((0..LENGTH).map(letter).collect::<String>())
}

/// A new password for somebody who is asked to change it.
pub(crate) fn password() -> Secret {
    Secret::new(&token().reveal()[..24])
}

/// A new public name: a UUID of version 4.
pub(crate) fn uuid() -> String {
    let random = rand::random::<u128>();
    let bits = random & !(0xf << 76) & !(0b11 << 62) | 4 << 76 | 0b10 << 62;
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// What is kept of a token: SHA-256, hexadecimal.
pub(crate) fn hash(token: &Secret) -> String {
    digest(&SHA256, token.reveal().as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether two hashes are the same, in a time that does not tell how much of them is.
pub(crate) fn same(one: &str, other: &str) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(one.as_bytes(), other.as_bytes()).is_ok()
}

/// What stays in memory of something secret.
pub(crate) struct Prints {
    key: hmac::Key,
}

/// A keyed hash.
pub(crate) type Print = [u8; 32];

impl Prints {
    /// With a key that nobody knows.
    pub(crate) fn new() -> Prints {
        Prints::keyed(&rand::random::<[u8; 32]>())
    }

    /// With a key that others have too.
    pub(crate) fn keyed(key: &[u8]) -> Prints {
        Prints { key: hmac::Key::new(hmac::HMAC_SHA256, key) }
    }

    /// Of several parts; what is before and after a border makes a difference.
    pub(crate) fn of(&self, parts: &[&str]) -> Print {
        let mut context = hmac::Context::with_key(&self.key);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        let mut print = [0; 32];
        print.copy_from_slice(&context.sign().as_ref()[..32]);
        print
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_new_each_time_and_their_hashes_tell_them_apart() {
        let [one, other] = [token(), token()];
        assert_eq!(one.reveal().len(), 64);
        assert!(one.reveal().bytes().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit()));
        assert_ne!(one, other);
        assert!(same(&hash(&one), &hash(&one)) && !same(&hash(&one), &hash(&other)) && !same(&hash(&one), ""));
        assert_eq!(hash(&Secret::new("")), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    #[test]
    fn a_uuid_says_its_version() {
        let uuid = uuid();
        assert_eq!(uuid.len(), 36);
        assert_eq!(uuid.as_bytes()[14], b'4');
        assert!(b"89ab".contains(&uuid.as_bytes()[19]), "{uuid}");
    }

    #[test]
    fn prints_keep_borders() {
        let prints = Prints::new();
        assert_eq!(prints.of(&["a", "b"]), prints.of(&["a", "b"]));
        assert_ne!(prints.of(&["ab", "c"]), prints.of(&["a", "bc"]));
        assert_ne!(prints.of(&["a"]), Prints::new().of(&["a"]));
    }
}
