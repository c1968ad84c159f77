//! `admin`: the operators' own listener.

use std::net::SocketAddr;

use crate::claims::Claims;
use crate::credentials::{Given, TOKEN, secret};
use crate::field::Field;
use crate::listener::bind;
use crate::model::Admin;
use crate::secret::Secret;
use crate::section::Section;

/// Where operators look when nothing else is said.
const DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9090);
/// A shorter token can be guessed.
const SHORTEST_TOKEN: usize = 16;

/// The section, or what holds without it.
pub(crate) fn admin(field: Option<Field<'_>>, claims: &mut Claims) -> Option<Admin> {
    let Some(field) = field else { return Some(Admin { bind: DEFAULT, token: None }) };
    let mut section = field.section()?;
    let bind = section.required("bind").and_then(|field| bind(&field, claims));
    let token = token(&mut section, bind);
    section.finish();
    Some(Admin { bind: bind?, token: token? })
}

/// What the API asks of its callers: whoever reaches it can take servers out of their pools.
fn token(section: &mut Section<'_>, bind: Option<SocketAddr>) -> Option<Option<Secret>> {
    match secret(section, TOKEN) {
        Given::Wrong => None,
        Given::Secret(token) => {
            let text = token.reveal();
            if text.len() < SHORTEST_TOKEN || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
                section.problem(format!("the token needs at least {SHORTEST_TOKEN} letters, digits and signs"));
                return None;
            }
            Some(Some(token))
        }
        Given::Nothing => {
            if bind.is_some_and(|address| !address.ip().is_loopback()) {
                section.problem("needs a `token` (or `token_file`, `token_env`) unless `bind` is on loopback");
                return None;
            }
            Some(None)
        }
    }
}
