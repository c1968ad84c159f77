//! What one upstream does, as plain data: its addresses, how it authenticates, how it redirects, and its faults.
//!
//! A behaviour is printed with a failure, so every part of it must be readable there: `Debug` is its text.

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Thing {
    /// `/v2/`
    Ping,
    /// A manifest by tag.
    Tag,
    /// A manifest by digest.
    Digest,
    /// A blob.
    Blob,
    /// The list of tags.
    Tags,
    /// The list of referrers.
    Referrers,
}

/// How a request asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// HEAD.
    Head,
    /// GET without a range.
    Get,
    /// GET with a range.
    Range,
}

/// Which server has a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// The registry itself.
    Registry,
    /// The server that the registry redirects to.
    Target,
}

/// Which requests for one path meet a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// All of them.
    Always,
    /// As many as this; then the fault is gone.
    First(u32),
    /// All until a GET has asked for the path: a cache fills itself.
    UntilGet,
}

/// During which part of a script a fault exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// From the beginning.
    Cold,
    /// Once the content has been pulled.
    Known,
    /// After all faults of [`Phase::Known`] are over.
    Healed,
}

/// One deviation from what a registry should answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// The things that it concerns.
    pub things: Vec<Thing>,
    /// The ways of asking that it concerns.
    pub ways: Vec<Way>,
    /// Whether it concerns the first repository only.
    pub first_repository: bool,
    /// Where.
    pub site: Site,
    /// Which requests.
    pub when: When,
    /// `Cold`: in all phases. `Known`: in that phase only.
    pub phase: Phase,
    /// The deviation.
    pub what: What,
}

/// A deviation.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// A status instead of content.
    Status {
        /// The code.
        status: u16,
        /// `Retry-After`, in seconds.
        retry_after: Option<u64>,
        /// With a page instead of JSON.
        html: bool,
    },
    /// 200 with a page: a login form, an error of a load balancer.
    Page,
    /// How long the body is, as the header says.
    Length(Length),
    /// The `Content-Type`; empty: none.
    Type(&'static str),
    /// The `Docker-Content-Digest`.
    ContentDigest(DigestLabel),
    /// A `Content-Encoding` for a body that is not encoded.
    Encoding(&'static str),
    /// How ranges of blobs are answered.
    Ranges(Ranges),
    /// The `ETag`.
    Etag(Etag),
    /// The connection closes in the middle of the body.
    Truncated,
    /// The body comes in five pieces.
    Slow,
}

/// How a length is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// Not at all: the body ends with the connection.
    UntilClose,
    /// HEAD says 0.
    HeadZero,
    /// HEAD says nothing.
    HeadNone,
}

/// How a digest is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DigestLabel {
    /// Not at all.
    None,
    /// That of something else.
    Wrong,
    /// No digest.
    Garbage,
}

/// How a range is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ranges {
    /// With the whole blob.
    Ignored,
    /// With a refusal of this status.
    Refused(u16),
    /// With `Content-Range: bytes a-b/*`.
    UnknownTotal,
    /// Properly, but without saying `Accept-Ranges`.
    Unannounced,
}

/// What validator an answer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Etag {
    /// A weak one.
    Weak,
    /// One without quotes.
    Unquoted,
    /// Another one each time.
    Changing,
}

/// Where the registry redirects to.
#[derive(Clone, Debug, PartialEq)]
pub struct Redirect {
    /// The things that are redirected.
    pub things: Vec<Thing>,
    /// The status.
    pub status: u16,
    /// To another host; otherwise to another path of the registry.
    pub elsewhere: bool,
    /// How often before the content comes.
    pub hops: u32,
    /// The query of the target, signed by the maker of the URL.
    pub query: &'static str,
    /// The target refuses requests that carry `Authorization`.
    pub refuses_credentials: bool,
}

/// Who may pull.
#[derive(Clone, Debug, PartialEq)]
pub enum Auth {
    /// Everybody.
    None,
    /// The account.
    Basic,
    /// Holders of a token.
    Bearer(Bearer),
}

/// How tokens are had.
#[derive(Clone, Debug, PartialEq)]
pub struct Bearer {
    /// The token service wants the account; otherwise everybody gets a token.
    pub account: bool,
    /// The token service is another host.
    pub elsewhere: bool,
    /// Each repository names a realm of its own, and a token is good for that repository only.
    pub per_repository: bool,
    /// The scope in the challenge.
    pub scope: ScopeSpelling,
    /// The challenge names a service.
    pub service: bool,
    /// How the challenge is written.
    pub form: ChallengeForm,
    /// How many requests a token is good for.
    pub uses: Option<u32>,
    /// The realm redirects to another path of its host, with this status.
    pub moved: Option<u16>,
    /// The token's field in the answer.
    pub field: &'static str,
    /// As many requests for a token fail with this status at first; `u32::MAX`: all.
    pub failing: Option<(u16, u32)>,
}

/// How a challenge writes the scope of `team/app`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScopeSpelling {
    /// `repository:team/app:pull`
    Plain,
    /// `repository:proxy/team/app:pull`, and no other is granted.
    Prefixed,
    /// Not at all.
    Missing,
    /// Plain at first; a token for that is refused with `insufficient_scope` and a wider one.
    Widened,
}

/// How a challenge is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChallengeForm {
    /// `Bearer realm="…",service="…",scope="…"`
    Plain,
    /// Without quotes.
    Unquoted,
    /// `bearer Realm = "…" , …`
    Spaced,
    /// A line with `Basic` before it.
    BasicBefore,
    /// A line with `Negotiate` after it.
    NegotiateAfter,
    /// `Basic realm="…", Bearer realm="…"` in one line.
    OneLine,
}

/// An address before the registry's own: a mirror that holds some of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Mirror {
    /// What it lacks.
    pub lacks: Vec<Thing>,
    /// What it answers then.
    pub status: u16,
    /// With this `WWW-Authenticate`.
    pub challenge: Option<&'static str>,
    /// It is not there: connections are refused.
    pub dead: bool,
}

/// How the list of tags is cut into pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// It is not.
    One,
    /// `Link: </v2/…>; rel="next"`
    Path,
    /// `Link: <http://…>; rel="next"`
    Absolute,
    /// With a comma in the cursor.
    Comma,
    /// `Rel=Next`, without quotes.
    Bare,
    /// After another link.
    Second,
}

/// How a client names the registry to the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// In the path.
    Path,
    /// `?ns=`
    Namespace,
}

/// Which keys the edge's configuration has beside the defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    /// `tag_ttl: 0s`
    pub expired: bool,
    /// `negative_ttl: 0s`
    pub forgetful: bool,
    /// `retries: 2` instead of 3: as many tries as the direct client makes
    pub hasty: bool,
    /// `parallel_above: 64KiB`
    pub parallel: bool,
}

/// All that an upstream does, and what is asked of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Behaviour {
    /// What it was made from.
    pub seed: u64,
    /// Who may pull.
    pub auth: Auth,
    /// An address before the registry's own.
    pub mirror: Option<Mirror>,
    /// Where content comes from.
    pub redirect: Option<Redirect>,
    /// Pages of the tag list.
    pub pages: Pages,
    /// Deviations.
    pub faults: Vec<Fault>,
    /// How the edge is asked.
    pub naming: Naming,
    /// How the edge is configured.
    pub keys: Keys,
    /// What is asked, phase by phase.
    pub script: Vec<(Phase, Vec<Ask>)>,
}

/// One operation of a client, on the first repository or the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// 0 or 1.
    pub repository: usize,
    /// What is done.
    pub operation: Operation,
}

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// GET of `/v2/`.
    Ping,
    /// What does this name mean? HEAD, and a GET where that does not tell.
    Resolve(Name),
    /// GET of a manifest.
    Manifest(Name),
    /// HEAD of a blob.
    Exists(Piece),
    /// GET of a blob, taken up again where it breaks.
    Blob(Piece),
    /// GET of a part of a blob: from the first byte to the last, or to the end.
    Part(Piece, u64, Option<u64>),
    /// All pages of the tag list.
    Tags,
    /// The referrers of the image.
    Referrers,
}

/// A manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// Its tag.
    Tag,
    /// Its digest.
    Digest,
    /// A tag that does not exist.
    NoTag,
    /// A digest that does not exist.
    NoDigest,
}

/// A blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The image's configuration.
    Config,
    /// A layer of a few kilobytes.
    Small,
    /// A layer of some tens of kilobytes, which both repositories hold.
    Large,
    /// Zero bytes.
    Empty,
    /// One of the further layers of an image that has more.
    Layer(usize),
    /// One that does not exist.
    None,
}

impl Behaviour {
    /// Whether parts of blobs come without the length of the blob.
    pub fn hides_lengths(&self) -> bool {
        self.faults.iter().any(|fault| fault.what == What::Ranges(Ranges::UnknownTotal))
    }
}

impl Fault {
    /// Whether it concerns a request.
    pub fn concerns(&self, repository: usize, thing: Thing, way: Way, site: Site, phase: Phase) -> bool {
        self.things.contains(&thing)
            && self.ways.contains(&way)
            && self.site == site
            && (repository == 0 || !self.first_repository)
            && (self.phase == Phase::Cold || self.phase == phase)
    }
}
