//! wrk as the client: many connections, kept alive, one request after the other on each.

use std::time::Duration;

use pierhead_tests::process::run;
use pierhead_tests::pull::ACCEPT;
use tokio::process::Command;

/// Connections.
pub(crate) const CONNECTIONS: usize = 32;

/// What wrk measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Load {
    /// Requests a second.
    pub(crate) rate: f64,
    /// The 99th percentile of latency, in milliseconds.
    pub(crate) p99: f64,
}

/// Asks for a manifest for `seconds`; every answer must be a success.
pub(crate) async fn load(url: &str, seconds: u32) -> Load {
    load_as(url, seconds, None).await
}

/// The same, with a token.
pub(crate) async fn load_as(url: &str, seconds: u32, token: Option<&str>) -> Load {
    let mut command = Command::new("wrk");
    command.args(["--latency", "--threads=2"]).arg(format!("--connections={CONNECTIONS}"));
    command.arg(format!("--duration={seconds}s")).arg("--header").arg(format!("Accept: {}", ACCEPT.join(", ")));
    if let Some(token) = token {
        command.arg("--header").arg(format!("Authorization: Bearer {token}"));
    }
    command.arg(url);
    let output = run(command, Duration::from_secs(u64::from(seconds) + 60)).await.expect_success();
    parse(&output.stdout).unwrap_or_else(|| panic!("wrk says:\n{}", output.stdout))
}

/// `None` when an answer was no success, or a connection failed.
fn parse(output: &str) -> Option<Load> {
    if output.contains("Non-2xx") || output.contains("Socket errors") {
        return None;
    }
    let after = |key: &str| output.lines().find_map(|line| line.trim().strip_prefix(key)).map(str::trim);
    let rate: f64 = after("Requests/sec:")?.parse().ok()?;
    let p99 = milliseconds(after("99%")?)?;
    (rate > 0.0).then_some(Load { rate, p99 })
}

fn milliseconds(text: &str) -> Option<f64> {
    let (number, factor) = [("us", 0.001), ("ms", 1.0), ("s", 1000.0), ("m", 60_000.0)]
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    Some(number.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::{Load, milliseconds, parse};

    const OUTPUT: &str = "\
Running 5s test @ https://127.0.0.1:1/v2/
  2 threads and 32 connections
  Latency Distribution
     50%  523.00us
     99%    1.50ms
  358018 requests in 5.10s, 430.29MB read
Requests/sec:  70202.29
Transfer/sec:     84.37MB
";

    #[test]
    fn a_good_run_is_read() {
        assert_eq!(parse(OUTPUT), Some(Load { rate: 70202.29, p99: 1.5 }));
    }

    #[test]
    fn a_bad_one_is_not() {
        assert_eq!(parse(&format!("{OUTPUT}  Non-2xx or 3xx responses: 1\n")), None);
        assert_eq!(parse(&format!("{OUTPUT}  Socket errors: connect 0, read 1, write 0, timeout 0\n")), None);
        assert_eq!(parse(&OUTPUT.replace("70202.29", "0.00")), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn units() {
        for (text, expected) in [("523.00us", 0.523), ("1.50ms", 1.5), ("2.00s", 2000.0), ("1.00m", 60_000.0)] {
            assert_eq!(milliseconds(text), Some(expected), "{text}");
        }
        assert_eq!(milliseconds("5"), None);
    }
}
