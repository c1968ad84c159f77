//! The `Link` of a list: how a client asks this edge for the next page. Pure.
//!
//! Invariant: a list that goes on never looks whole. A `Link` that cannot be read, or whose next page this edge cannot ask
//! for, is an error, and the list before it is not served. Registries of every kind write this field: with commas in the
//! target, with `Rel="Next"`, as a relative reference, among links of other relations (RFC 8288).

use nom_rfc8288::complete::{LinkData, link_lenient};
use percent_encoding::percent_decode_str;
use pierhead_registry::client::ListKind;
use url::Url;

use super::route::{Addressed, Query};
use super::scope::Scope;

/// Where a list lies whose `Link` is relative. Only its last parts matter.
const BASE: &str = "http://registry.invalid/v2/name/";

/// The path of a list below its repository.
pub(super) fn path(kind: &ListKind) -> String {
    match kind {
        ListKind::Tags => "tags/list".to_owned(),
        ListKind::Referrers(digest) => format!("referrers/{digest}"),
    }
}

/// The query of the next page; `None`: the list ends here. The error says why there is a next page that cannot be had.
pub(super) fn next_query(link: &str, kind: &ListKind) -> Result<Option<String>, String> {
    let links = link_lenient(link.trim()).map_err(|_| "its Link header cannot be read (RFC 8288)".to_owned())?;
    let links: Vec<&LinkData<'_>> = links.iter().flatten().collect();
    let next = links.iter().find(|link| is_next(link));
    // Clients in Go follow the first link, whatever it is.
    let Some(next) = next.or_else(|| links.first().filter(|link| relation(link).is_none())) else { return Ok(None) };
    let path = path(kind);
    let unreadable = |_| "the target of its Link header is no URL".to_owned();
    let target = Url::parse(BASE).and_then(|base| base.join(&path)?.join(next.url)).map_err(unreadable)?;
    let decoded = percent_decode_str(target.path()).decode_utf8_lossy();
    if !decoded.strip_suffix(&path).is_some_and(|before| before.ends_with('/')) {
        return Err(format!("its next page has another path ({decoded}), which cannot be asked for through a cache"));
    }
    let query = Query::parse(target.query()).map_err(|_| "the query of its next page is too long or not UTF-8")?;
    query.list.map(Some).ok_or_else(|| "its Link header names the first page as the next".to_owned())
}

fn relation<'a>(link: &'a LinkData<'_>) -> Option<&'a str> {
    let relation = link.params.iter().find(|parameter| parameter.key.eq_ignore_ascii_case("rel"));
    relation.map(|relation| relation.val.as_deref().unwrap_or_default())
}

fn is_next(link: &LinkData<'_>) -> bool {
    relation(link).unwrap_or_default().split_ascii_whitespace().any(|name| name.eq_ignore_ascii_case("next"))
}

/// The link to the page with this query, below the name that the client used.
pub(super) fn to_page(query: &str, kind: &ListKind, scope: &Scope, addressed: Addressed) -> String {
    let (registry, repository, path) = (&scope.upstream.name, &scope.repository.name, path(kind));
    match addressed {
        Addressed::Path => format!("</v2/{registry}/{repository}/{path}?{query}>; rel=\"next\""),
        Addressed::Namespace => format!("</v2/{repository}/{path}?{query}&ns={registry}>; rel=\"next\""),
        Addressed::Host | Addressed::Default => format!("</v2/{repository}/{path}?{query}>; rel=\"next\""),
    }
}

#[cfg(test)]
mod tests {
    use pierhead_registry::client::ListKind;
    use pierhead_registry::oci::{Algorithm, Digest};

    use super::next_query;

    /// pulp/pulp_docker#338 and its like.
    #[test]
    fn finds_the_next_page_or_says_why_not() {
        for (link, expected) in [
            ("</v2/team/app/tags/list?last=v1&n=1>; rel=\"next\"", Ok(Some("last=v1&n=1"))),
            ("</v2/team/app/tags/list?n=1&last=v1>; rel=next", Ok(Some("last=v1&n=1"))),
            ("</v2/team/app/tags/list?last=a,b&n=1>; rel=\"next\"", Ok(Some("last=a%2Cb&n=1"))),
            ("</v2/team/app/tags/list?last=v1>; Rel=\"Next\"", Ok(Some("last=v1"))),
            ("</v2/team/app/tags/list?last=v1>;rel=NEXT;title=\"a, b; rel=\\\"prev\\\"\"", Ok(Some("last=v1"))),
            ("</v2/team/app/tags/list?last=v1>; rel=\"last next\"", Ok(Some("last=v1"))),
            ("</a?x=1,2>; rel=\"prev\", </v2/team/app/tags/list?last=v1>; rel=\"next\"", Ok(Some("last=v1"))),
            ("<https://other.example/v2/mirror/team/app/tags/list?last=v1>; rel=\"next\"", Ok(Some("last=v1"))),
            ("<?last=v1>; rel=\"next\"", Ok(Some("last=v1"))),
            ("<list?last=v1>; rel=\"next\"", Ok(Some("last=v1"))),
            ("</v2/team/app/tags/list?next_page=x%3D%3D>; rel=\"next\"", Ok(Some("next_page=x%3D%3D"))),
            ("</v2/team/app/tags/list?last=v1>; rel=\"prev\"", Ok(None)),
            ("</v2/team/app/tags/list?last=v1>; title=\"next\"", Ok(Some("last=v1"))),
            ("</v2/team/app/tags/list?last=v1>", Ok(Some("last=v1"))),
            ("</a?x=1>, </v2/team/app/tags/list?last=v1>; rel=\"next\"", Ok(Some("last=v1"))),
            ("</a?x=1>; rel=\"prev\", </v2/team/app/tags/list?last=v1>", Ok(None)),
            ("</a?x=1>", Err("another path")),
            ("</v2/team/app/tags/list?last=v1>; rel=\"prev\"; rel=\"next\"", Ok(None)),
            ("</v2/team/app/tags/list/cursor-1>; rel=\"next\"", Err("another path")),
            ("</v2/team/app/xtags/list?last=v1>; rel=\"next\"", Err("another path")),
            ("</v2/team/app/tags/list>; rel=\"next\"", Err("the first page")),
            ("</v2/team/app/tags/list?last=%ff>; rel=\"next\"", Err("not UTF-8")),
            ("<http://[/>; rel=\"next\"", Err("no URL")),
            ("/v2/team/app/tags/list?last=v1; rel=\"next\"", Err("cannot be read")),
            ("</v2/team/app/tags/list?last=v1>; rel=\"next", Err("cannot be read")),
            ("next", Err("cannot be read")),
        ] {
            let found = next_query(link, &ListKind::Tags);
            match expected {
                Ok(expected) => assert_eq!(found, Ok(expected.map(str::to_owned)), "{link}"),
                Err(reason) => assert!(found.as_ref().is_err_and(|error| error.contains(reason)), "{link}: {found:?}"),
            }
        }
        let digest = Digest::of(Algorithm::Sha256, b"image");
        for path in [digest.to_string(), digest.to_string().replace(':', "%3A")] {
            let found =
                next_query(&format!("</v2/team/app/referrers/{path}?last=x>; rel=next"), &ListKind::Referrers(digest));
            assert_eq!(found, Ok(Some("last=x".to_owned())), "{path}");
        }
    }
}
