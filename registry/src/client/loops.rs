//! Loops of edges, by `CDN-Loop` (RFC 8586).
//!
//! An upstream may lead an edge back to itself by ways that no address tells: a load balancer, a NAT, another edge. So each
//! request of this client names the edge that sends it, after those edges that the request came through. An edge that finds
//! itself among them refuses the request.
//!
//! Only ids of edges are passed on. All else that a caller writes there could make upstream refuse the request, and its
//! answer may be for other callers, too.

use std::sync::Arc;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

/// RFC 8586, section 2.
pub(super) const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");

const PREFIX: &str = "pierhead-";
/// Hexadecimal digits of an id.
const DIGITS: usize = 32;
/// Edges in the longest chain that is served. Real ones have two or three.
const LONGEST: usize = 16;

/// What an edge is called in `CDN-Loop`: `pierhead-` and 32 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeId(Arc<str>);

impl EdgeId {
    /// From bytes that no other edge has.
    pub fn new(unique: [u8; DIGITS / 2]) -> EdgeId {
        EdgeId(format!("{PREFIX}{:032x}", u128::from_be_bytes(unique)).into())
    }

    /// From an entry of the header, which may have parameters. `None`: not an edge's.
    fn parse(entry: &str) -> Option<EdgeId> {
        let id = entry.split(';').next()?.trim().to_ascii_lowercase();
        let digits = id.strip_prefix(PREFIX)?;
        let is_id = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_id.then(|| EdgeId(id.into()))
    }
}

/// The edges that a request came through, the first one first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trail(Vec<EdgeId>);

impl Trail {
    /// What the header of a request says, as far as it matters.
    pub fn of(headers: &HeaderMap) -> Trail {
        let lines = headers.get_all(CDN_LOOP).iter().filter_map(|line| line.to_str().ok());
        Trail(lines.flat_map(|line| line.split(',')).filter_map(EdgeId::parse).take(LONGEST).collect())
    }

    /// Whether a request that came this way is refused: it came through the edge `own` before, or through too many edges.
    pub fn is_loop(&self, own: &EdgeId) -> bool {
        self.0.contains(own) || self.0.len() >= LONGEST
    }

    /// Writes it into the header of a request. The edge that sends the request is added by [`sign`].
    pub(super) fn write(&self, headers: &mut HeaderMap) {
        let ids: Vec<&str> = self.0.iter().map(|id| &*id.0).collect();
        if !ids.is_empty()
            && let Ok(value) = HeaderValue::try_from(ids.join(", "))
        {
            headers.insert(CDN_LOOP, value);
        }
    }
}

/// Adds the edge that sends a request to its header.
pub(super) fn sign(headers: &mut HeaderMap, own: Option<&EdgeId>) {
    let Some(own) = own else { return };
    let mut trail = Trail::of(headers);
    trail.0.push(own.clone());
    trail.write(headers);
}

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderMap, HeaderValue};

    use super::{CDN_LOOP, EdgeId, LONGEST, Trail, sign};

    fn headers(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(CDN_LOOP, HeaderValue::from_str(line).unwrap());
        }
        headers
    }

    #[test]
    fn finds_loops_and_keeps_what_edges_wrote() {
        let (own, other) = (EdgeId::new([0xab; 16]), EdgeId::new([1; 16]));
        let (me, it) = (&*own.0, &*other.0);
        assert_eq!(me, "pierhead-abababababababababababababababab");
        let many = |count: usize| (0..count).map(|_| it).collect::<Vec<_>>().join(",");
        // lines, whether that is a loop, what goes out
        for (lines, is_loop, sent) in [
            (vec![], false, me.to_owned()),
            (vec![it.to_owned()], false, format!("{it}, {me}")),
            (vec![me.to_owned()], true, format!("{me}, {me}")),
            (vec![me.to_uppercase()], true, format!("{me}, {me}")),
            (vec![format!("cloudflare; loops=16, {it};a=b ,foo.example:80")], false, format!("{it}, {me}")),
            (vec!["Fastly".to_owned(), format!("{it}, {me}; x=1")], true, format!("{it}, {me}, {me}")),
            (vec![format!("{me}0, x{me}, pierhead-, pierhead-zz")], false, me.to_owned()),
            (vec![many(LONGEST - 1)], false, format!("{}, {me}", many(LONGEST - 1).replace(',', ", "))),
        ] {
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let mut headers = headers(&lines);
            assert_eq!(Trail::of(&headers).is_loop(&own), is_loop, "{lines:?}");
            sign(&mut headers, Some(&own));
            let all: Vec<_> = headers.get_all(CDN_LOOP).iter().collect();
            assert_eq!(all, [sent.as_str()], "{lines:?}");
        }
        assert!(Trail::of(&headers(&[&many(LONGEST)])).is_loop(&own));
        assert!(Trail::of(&headers(&[&many(1000)])).is_loop(&own));
        let mut none = HeaderMap::new();
        sign(&mut none, None);
        assert!(none.is_empty());
    }
}
