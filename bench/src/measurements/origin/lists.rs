//! Pages of long lists: the catalog of 100 000 repositories, and a repository of as many tags.

use std::path::Path;
use std::time::{Duration, Instant};

use pierhead_tests::origin::Setup;
use pierhead_tests::process::run;
use pierhead_tests::pull::Client;
use tokio::process::Command;

use crate::options::Scale;
use crate::report::{Figure, Findings, Series, Target};
use crate::statistics::percentile;

/// What is measured.
pub(crate) const ABOUT: &str =
    "a page of the catalog of 100 000 repositories, and of the list of as many tags: the slowest of 99 %";

/// How often each page is asked for in a run.
const TIMES: usize = 50;

const PASSWORD: &str = "the password of bench";

/// Measures it: as somebody who may see all, and as somebody who may see one in a hundred; at the beginning, in the middle, and near the end.
pub(crate) async fn measure(scale: Scale) -> Findings {
    let count = scale.pick(100_000, 1000);
    let setup = Setup::new().set("/access_log", false);
    for name in ["many", "few"] {
        setup.user(name, PASSWORD, &[]).await;
    }
    fill(&setup.dir.path().join("meta.db"), count).await;
    let origin = setup.start().await;
    let scopes = ["registry:catalog:*", "repository:many/r000000:pull"];
    let many = origin.login("many", PASSWORD, &scopes).await;
    let few = origin.login("few", PASSWORD, &scopes[..1]).await;
    let mut figures = Vec::new();
    for (name, client, path, last) in [
        ("catalog, one who sees all of it", &many, "/v2/_catalog", "many/r"),
        ("catalog, one who sees one in a hundred", &few, "/v2/_catalog", "many/r"),
        ("tags of one repository", &many, "/v2/many/r000000/tags/list", "t"),
    ] {
        for size in [100, 1000] {
            let mut slowest = Vec::new();
            for _ in 0..scale.runs {
                slowest.push(pages(client, path, last, size, count).await);
            }
            let series = Series::new("p99 of a page", "ms", slowest);
            figures.push(Figure::limit(
                format!("{name}, {size} a page"),
                series,
                Vec::new(),
                Some(Target::Below(20.0)),
            ));
        }
    }
    Findings {
        figures,
        notes: vec![format!(
            "{count} repositories with a tag each, one of them with {count} tags; SQLite; {TIMES} times from each of three places in a run"
        )],
        settings: Vec::new(),
    }
}

/// The 99th percentile, in milliseconds, from the first to the last byte of the answer.
async fn pages(client: &Client, path: &str, last: &str, size: usize, count: usize) -> f64 {
    let mut times = Vec::new();
    for place in [0, count / 2, count - size.min(count)] {
        let path = format!("{path}?n={size}&last={last}{place:06}");
        for _ in 0..TIMES {
            let begun = Instant::now();
            let reply = client.get(&path).await;
            times.push(begun.elapsed().as_secs_f64() * 1000.0);
            assert_eq!(reply.status, 200, "{path}");
        }
    }
    percentile(&times, 99.0)
}

/// Writes rows as the origin would, only faster.
async fn fill(database: &Path, count: usize) {
    let numbers = format!("WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {count})");
    let owner = "(SELECT id FROM account WHERE name = 'many')";
    let sql = format!(
        "BEGIN;
         {numbers} INSERT INTO repository (namespace_id, name, visibility, state, description, created)
           SELECT {owner}, printf('many/r%06d', i), 0, 0, '', 0 FROM n;
         INSERT INTO repository_permission (repository_id, account_id, team_id, role)
           SELECT id, (SELECT id FROM account WHERE name = 'few'), NULL, 0 FROM repository WHERE name LIKE '%00';
         INSERT INTO manifest (repository_id, digest, media_type, content, size, layers_size, pushed)
           SELECT id, 'sha256:' || printf('%064d', 0), 'application/json', x'7b7d', 2, 0, 0 FROM repository;
         INSERT INTO tag (repository_id, name, manifest_id, started, reversion)
           SELECT repository_id, 'latest', id, 0, 0 FROM manifest;
         {numbers} INSERT INTO tag (repository_id, name, manifest_id, started, reversion)
           SELECT m.repository_id, printf('t%06d', i), m.id, 0, 0 FROM n JOIN manifest m
           ON m.repository_id = (SELECT id FROM repository WHERE name = 'many/r000000');
         COMMIT;"
    );
    let mut command = Command::new("sqlite3");
    command.arg("-bail").arg(database).arg(sql);
    run(command, Duration::from_secs(300)).await.expect_success();
}
