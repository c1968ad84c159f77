//! h2load as the client: one connection, one stream at a time, TLS 1.3 with one cipher, HTTP/2.

use std::time::Duration;

use pierhead_tests::process::run;
use tokio::process::Command;

use crate::throughput::CIPHER;

/// Downloads a URL `times` times on one connection; every answer must be whole, and the cipher the agreed one.
pub(crate) async fn download(url: &str, times: usize, size: u64) {
    let mut command = Command::new("h2load");
    command.args(["--clients=1", "--max-concurrent-streams=1", "--tls13-ciphers", CIPHER]);
    command.arg(format!("--requests={times}")).arg(url);
    let output = run(command, Duration::from_secs(600)).await.expect_success();
    check(&output.stdout, times, size);
}

fn check(output: &str, times: usize, size: u64) {
    for wanted in [
        "TLS Protocol: TLSv1.3".to_owned(),
        format!("Cipher: {CIPHER}"),
        "Application protocol: h2".to_owned(),
        format!("{times} done, {times} succeeded, 0 failed, 0 errored, 0 timeout"),
        format!("status codes: {times} 2xx, 0 3xx, 0 4xx, 0 5xx"),
        format!("({}) data", times as u64 * size),
    ] {
        assert!(output.contains(&wanted), "h2load does not say {wanted:?}:\n{output}");
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    const OUTPUT: &str = "\
TLS Protocol: TLSv1.3
Cipher: TLS_AES_256_GCM_SHA384
Application protocol: h2
finished in 1.00s, 2.00 req/s, 20B/s
requests: 2 total, 2 started, 2 done, 2 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 2 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 30B (30) total, 10B (10) headers (space savings 0.00%), 20B (20) data
";

    #[test]
    fn whole_answers_pass() {
        check(OUTPUT, 2, 10);
    }

    #[test]
    fn anything_else_does_not() {
        for (from, to) in [
            ("AES_256", "AES_128"),
            ("protocol: h2", "protocol: http/1.1"),
            ("2 succeeded, 0 failed", "1 succeeded, 1 failed"),
            ("2 2xx, 0 3xx, 0 4xx", "1 2xx, 0 3xx, 1 4xx"),
            ("(20) data", "(19) data"),
        ] {
            let output = OUTPUT.replace(from, to);
            assert_ne!(output, OUTPUT);
            assert!(std::panic::catch_unwind(|| check(&output, 2, 10)).is_err(), "{from}");
        }
    }
}
