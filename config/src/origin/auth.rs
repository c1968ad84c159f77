//! `auth`: who gets in, and how.

use std::time::Duration;

use crate::field::{Field, LONGEST};
use crate::model::{KeyAlgorithm, OriginAuth};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// What holds without the section.
pub(super) const DEFAULT: OriginAuth = OriginAuth {
    token_lifetime: Duration::from_secs(3600),
    key_algorithm: KeyAlgorithm::Es256,
    key_rotation: Duration::from_secs(30 * 24 * 3600),
    anonymous_pulls: true,
    failed_logins: 5,
    show_robot_tokens: true,
};

/// The section.
pub(super) fn auth(field: Field<'_>) -> Option<OriginAuth> {
    let mut section = field.section()?;
    // A token cannot be taken back: one that outlives a week is a password.
    let token_lifetime = section.duration("token_lifetime", DEFAULT.token_lifetime, SECOND..=7 * DAY);
    let algorithms = [("es256", KeyAlgorithm::Es256), ("rs256", KeyAlgorithm::Rs256)];
    let key_algorithm = section.choice("key_algorithm", DEFAULT.key_algorithm, &algorithms);
    let key_rotation = section.duration("key_rotation", DEFAULT.key_rotation, SECOND..=LONGEST);
    let anonymous_pulls = section.flag("anonymous_pulls", DEFAULT.anonymous_pulls);
    let failed_logins = section.number("failed_logins", u64::from(DEFAULT.failed_logins), 1..=1000);
    let show_robot_tokens = section.flag("show_robot_tokens", DEFAULT.show_robot_tokens);
    section.finish();
    let failed_logins = u32::try_from(failed_logins).ok()?;
    Some(OriginAuth { token_lifetime, key_algorithm, key_rotation, anonymous_pulls, failed_logins, show_robot_tokens })
}
