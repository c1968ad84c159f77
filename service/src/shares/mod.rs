//! Fair shares of what is scarce: request slots, memory, connections, questions to upstreams, password hashes.
//!
//! One mechanism for the edge and the origin. A [`Room`] has so many units. A [`Permit`] holds some of them and gives them back when it
//! is dropped. Each permit is charged to a [`Party`]: the client's network, and its account where that is proven.
//!
//! Invariants:
//! - One account never holds more than is left free (at most half of the room), one network never more than four times that (at most four
//!   fifths). So there is always room for a client that holds nothing, and shares shrink as more clients want one.
//! - Among those that wait, the one that holds least comes first, and of equals the one whose turn is longest ago.
//! - While a client waits, the room takes a unit back from the slowest client that keeps the server waiting below the [`Floor`].
//! - Units that give way ([`Permit::gives_way`]) need no free room beside them: one party may hold all of them while no other wants one.
//!   As soon as a party waits that holds less, the room asks for one back.
//!
//! The decisions are in `ledger` and `pace`, which take `now` and do nothing; `room` does.

mod ledger;
mod pace;
mod party;
mod room;
mod rounds;
mod tally;

pub use pace::{Floor, Flow, Pace};
pub use party::Party;
pub use room::{Full, Observer, Permit, Room, Rules};
pub use rounds::Rounds;
pub use tally::Tally;
