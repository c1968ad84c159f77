//! What a client's operation comes to.

use super::content::Right;

/// What a client's operation comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Success.
    Got {
        /// What came.
        what: Right,
        /// A part came as a part: 206.
        partial: bool,
    },
    /// 404, 410.
    Absent,
    /// 401 or 403, after all that can be done with the account.
    Refused,
    /// 429, in the end.
    Limited,
    /// Another 4xx.
    Rejected(u16),
    /// 5xx, no answer, a broken one, a wrong one.
    Failed(String),
}

impl Outcome {
    /// From a status that is no success.
    pub fn status(status: u16) -> Outcome {
        match status {
            404 | 410 => Outcome::Absent,
            401 | 403 => Outcome::Refused,
            429 => Outcome::Limited,
            400..500 => Outcome::Rejected(status),
            _ => Outcome::Failed(format!("status {status}")),
        }
    }

    /// Whether it is a success.
    pub fn is_success(&self) -> bool {
        matches!(self, Outcome::Got { .. })
    }

    /// Its kind, in a word.
    pub fn word(&self) -> String {
        match self {
            Outcome::Got { .. } => "success".to_owned(),
            Outcome::Absent => "absent".to_owned(),
            Outcome::Refused => "refused".to_owned(),
            Outcome::Limited => "limited".to_owned(),
            Outcome::Rejected(status) => format!("status {status}"),
            Outcome::Failed(_) => "failed".to_owned(),
        }
    }
}
