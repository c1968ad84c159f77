//! Robot tokens, sealed: so that those who administer a robot can read its token again, as in Quay, and a look at the table tells nothing.
//!
//! AES-256-GCM with a random nonce, bound to the robot's name: a sealed token that is copied to another row does not open. The key is
//! in the database, beside the keys that sign tokens: all nodes share it, and a dump of the whole database opens what is sealed.
//! With `auth.show_robot_tokens: false` no token is kept at all.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use pierhead_config::Secret;

/// Seals and opens; without a key it does neither.
pub(crate) struct RobotSeal(Option<RandomizedNonceKey>);

impl RobotSeal {
    /// With a key of 32 bytes. `None`: tokens are not kept. A key of another length counts as none.
    pub(super) fn new(key: Option<&[u8]>) -> RobotSeal {
        RobotSeal(key.and_then(|key| RandomizedNonceKey::new(&AES_256_GCM, key).ok()))
    }

    /// What is kept of a robot's token, if it is kept.
    pub(crate) fn seal(&self, robot: &str, token: &Secret) -> Option<Vec<u8>> {
        let mut text = token.reveal().as_bytes().to_vec();
        let nonce = self.0.as_ref()?.seal_in_place_append_tag(Aad::from(robot), &mut text).ok()?;
        Some([nonce.as_ref().as_slice(), &text].concat())
    }

    /// The token of a robot. `None`: it was not kept, or not for this robot.
    pub(crate) fn open(&self, robot: &str, sealed: &[u8]) -> Option<String> {
        let (nonce, text) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut text = text.to_vec();
        let opened = self.0.as_ref()?.open_in_place(nonce, Aad::from(robot), &mut text).ok()?;
        String::from_utf8(opened.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_for_its_robot_alone() {
        let (token, seal) = (Secret::new("TOKEN"), RobotSeal::new(Some(&[7; 32])));
        let sealed = seal.seal("acme+ci", &token).unwrap();
        assert!(!sealed.windows(5).any(|window| window == b"TOKEN"));
        assert_ne!(seal.seal("acme+ci", &token).unwrap(), sealed);
        assert_eq!(seal.open("acme+ci", &sealed).as_deref(), Some("TOKEN"));
        let mut changed = sealed.clone();
        changed[NONCE_LEN] ^= 1;
        for (seal, robot, sealed) in [
            (&seal, "acme+other", sealed.as_slice()),
            (&seal, "acme+ci", &changed),
            (&seal, "acme+ci", &sealed[..NONCE_LEN - 1]),
            (&seal, "acme+ci", &[]),
            (&RobotSeal::new(Some(&[8; 32])), "acme+ci", &sealed),
            (&RobotSeal::new(None), "acme+ci", &sealed),
        ] {
            assert_eq!(seal.open(robot, sealed), None);
        }
        assert_eq!(RobotSeal::new(None).seal("acme+ci", &token), None);
        assert_eq!(RobotSeal::new(Some(b"short")).seal("acme+ci", &token), None);
    }
}
