//! What `/v2/` says where another answer leaves it open: what it wants to be shown, and whether it takes the account.
//!
//! Some registries challenge at `/v2/` alone, where most clients begin, and refuse or deny everything else to whoever shows nothing. So
//! `/v2/` is asked, once in a while, before such an answer to a GET counts: before a 401 without a challenge, and where there is an
//! account to show, before a 403 and a 404.
//!
//! Where Basic was asked for and is refused (401, 403), `/v2/` is asked whether the account is: one more request for each GET that is
//! refused.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, Response, StatusCode};
use tokio::time::Instant;

use super::Account;
use super::endpoint::Endpoint;
use super::failure::Failure;
use super::login::Since;
use super::pauses::Kind;
use super::reach::Aim;
use super::schemes::{Scheme, SchemeKey};
use super::upstream::{Asking, Line, Upstream, sent_at};
use super::verdict::{self, AccountVerdict};

impl Upstream {
    /// What `/v2/` wants to see of a client that shows nothing. A failure is not remembered: it does not say what `/v2/` wants.
    ///
    /// The scope of its challenge is left out: it is not the repository's, and ghcr.io sends `repository:user/image:pull` to all.
    pub(super) async fn scheme_of_base(&self, endpoint: &Endpoint, key: &SchemeKey) -> Result<Option<Scheme>, Failure> {
        // The origin that we are the front of is asked as its clients ask us.
        if endpoint.transport.is_some() {
            return Ok(None);
        }
        if let Some(known) = endpoint.schemes.of_base(Instant::now()) {
            return Ok(known);
        }
        let response = self.ask_base(endpoint, &HeaderMap::new()).await?;
        let status = response.status();
        if status.is_server_error() {
            let status = status.as_u16();
            return Err(Failure::broken(format!("status {status}")).at(endpoint.host(), Some(status)));
        }
        let lines = response.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|line| line.to_str().ok());
        let scheme = match status {
            StatusCode::UNAUTHORIZED => self.choose(endpoint, lines, key).ok().map(Scheme::with_usual_scope),
            _ => None,
        };
        endpoint.schemes.base_wants(scheme.clone(), Instant::now());
        Ok(scheme)
    }

    /// GET of `/v2/`.
    async fn ask_base(&self, endpoint: &Endpoint, headers: &HeaderMap) -> Result<Response, Failure> {
        let (line, method, kind) = (Line::Api, &Method::GET, Kind::Other);
        let asking = Asking { line, method, target: None, kind, account: None, aim: Aim::Other, patient: false };
        self.request(endpoint, &asking, &endpoint.base(), headers).await
    }

    /// Fails where the endpoint's own account is refused, and not only what was asked for with it by a request from `sent`: where
    /// `/v2/` refuses it too.
    pub(super) async fn basic_refused(
        &self,
        endpoint: &Endpoint,
        account: &Account,
        method: &Method,
        sent: Instant,
    ) -> Result<(), Failure> {
        let login = &endpoint.login;
        // A HEAD decides nothing. The GET that does follows.
        if method == Method::HEAD && login.is_proven(Instant::now()) {
            return Ok(());
        }
        let _turn = login.turn().await;
        match login.since(account, sent) {
            Since::Worked => return Ok(()),
            Since::Refused(failure) => return Err(failure),
            Since::Unknown => {}
        }
        let headers = HeaderMap::from_iter([(AUTHORIZATION, basic(account)?)]);
        let response = self.ask_base(endpoint, &headers).await?;
        let (status, asked) = (response.status().as_u16(), sent_at(&response));
        match verdict::judge_account(response.status()) {
            AccountVerdict::Taken => login.worked(account, asked),
            AccountVerdict::Refused => {
                return Err(login.refused(account, endpoint.host(), status, asked, Instant::now()));
            }
            AccountVerdict::Failed => {
                return Err(Failure::broken(format!("status {status}")).at(endpoint.host(), Some(status)));
            }
            AccountVerdict::Silent => {}
        }
        Ok(())
    }
}

/// The account as a header.
pub(super) fn basic(account: &Account) -> Result<HeaderValue, Failure> {
    let encoded = STANDARD.encode(format!("{}:{}", account.username, account.password));
    let mut header = HeaderValue::try_from(format!("Basic {encoded}"))
        .map_err(|_| Failure::invalid("the credential cannot be sent"))?;
    header.set_sensitive(true);
    Ok(header)
}
