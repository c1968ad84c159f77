//! curl as the client: one connection, kept alive, TLS 1.3 with one cipher, HTTP/1.1.

use std::path::Path;
use std::time::Duration;

use pierhead_tests::process::run;
use tokio::process::Command;

use crate::throughput::CIPHER;

/// Downloads a URL `times` times on one connection; every answer must be whole, and the cipher the agreed one.
pub(crate) async fn download(url: &str, authority: &Path, times: usize, size: u64) {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--http1.1", "--tlsv1.3", "--tls13-ciphers", CIPHER]);
    command.args(["--write-out", "%{http_code} %{http_version} %{size_download} %{num_connects}\n", "--cacert"]);
    command.arg(authority).env_remove("https_proxy").env("NO_PROXY", "*");
    for _ in 0..times {
        command.args(["--output", "/dev/null", url]);
    }
    let output = run(command, Duration::from_secs(600)).await.expect_success();
    check(&output.stdout, times, size);
}

/// What curl says of its transfers, a line each.
fn check(lines: &str, times: usize, size: u64) {
    let found: Vec<&str> = lines.lines().collect();
    assert_eq!(found.len(), times, "transfers of curl:\n{lines}");
    for (number, line) in found.into_iter().enumerate() {
        let connects = u8::from(number == 0);
        assert_eq!(
            line,
            format!("200 1.1 {size} {connects}"),
            "transfer {number} of curl: status, version, size, connects"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn whole_answers_on_one_connection_pass() {
        check("200 1.1 10 1\n200 1.1 10 0\n", 2, 10);
    }

    #[test]
    fn anything_else_does_not() {
        for lines in [
            "200 1.1 10 1\n",
            "200 1.1 10 1\n200 1.1 9 0\n",
            "200 1.1 10 1\n404 1.1 10 0\n",
            "200 1.1 10 1\n200 1.1 10 1\n",
            "200 2 10 1\n200 2 10 0\n",
        ] {
            assert!(std::panic::catch_unwind(|| check(lines, 2, 10)).is_err(), "{lines}");
        }
    }
}
