//! What the numbers were measured on, and with.

use std::time::Duration;

use pierhead_tests::process::run;
use tokio::process::Command;

/// The machine and the versions of everything that took part.
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    memory: u64,
    kernel: String,
    versions: Vec<String>,
}

const VERSIONS: [(&str, &[&str]); 6] = [
    ("nginx", &["-v"]),
    ("haproxy", &["-v"]),
    ("docker-registry", &["--version"]),
    ("curl", &["--version"]),
    ("h2load", &["--version"]),
    ("wrk", &["-v"]),
];

impl Machine {
    /// Looks around.
    pub(crate) async fn look() -> Machine {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let mut versions = Vec::new();
        for (program, arguments) in VERSIONS {
            // Not every measurement needs all of them.
            let Ok(output) = Command::new(program).args(arguments).output().await else {
                versions.push(format!("{program}: not installed"));
                continue;
            };
            let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
            versions.push(first_line(&text).trim_start_matches("nginx version: ").to_owned());
        }
        let mut pierhead = Command::new(pierhead_tests::pierhead::binary());
        pierhead.arg("--version");
        versions
            .insert(0, first_line(&run(pierhead, Duration::from_secs(10)).await.expect_success().stdout).to_owned());
        Machine {
            cpu: value(&read("/proc/cpuinfo"), "model name").unwrap_or("unknown").to_owned(),
            cores: threads(),
            memory: value(&read("/proc/meminfo"), "MemTotal")
                .and_then(|text| text.strip_suffix(" kB")?.parse::<u64>().ok())
                .unwrap_or_default(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            versions,
        }
    }

    /// A file name: cores and processor.
    pub(crate) fn kind(&self) -> String {
        slug(&format!("{} core {}", self.cores, self.cpu))
    }

    /// The same in words.
    pub(crate) fn text(&self) -> String {
        format!(
            "- machine: {}, {} cores, {} GiB, Linux {}; load {} at the start\n- {}\n",
            self.cpu,
            self.cores,
            self.memory >> 20,
            self.kernel,
            load(),
            self.versions.join("\n- ")
        )
    }
}

/// Cores, and so the number of threads or workers that every server gets.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// How many programs want to run, as the kernel counts over one minute.
pub(crate) fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default().trim()
}

fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim())
}

fn slug(text: &str) -> String {
    let words = text.to_ascii_lowercase();
    let words: Vec<&str> = words.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    words.join("-")
}

#[cfg(test)]
mod tests {
    use super::{slug, value};

    #[test]
    fn processors_become_file_names() {
        assert_eq!(slug("8 core AMD Ryzen 7 (TM) @ 3.2GHz"), "8-core-amd-ryzen-7-tm-3-2ghz");
    }

    #[test]
    fn values_stand_behind_colons() {
        let text = "processor\t: 0\nmodel name\t: AMD EPYC\nMemTotal:  10 kB\n";
        assert_eq!(value(text, "model name"), Some("AMD EPYC"));
        assert_eq!(value(text, "MemTotal"), Some("10 kB"));
        assert_eq!(value(text, "flags"), None);
    }
}
