//! CPU time and memory of a server, from /proc: all its processes, with all their threads.

use std::collections::HashMap;
use std::path::Path;

/// What /proc/PID/stat says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    /// Ticks in user and kernel mode, all threads, ended ones too.
    own: u64,
    /// Ticks of children that ended and were waited for.
    children: u64,
}

/// The name in the second field may hold anything, spaces and parentheses included.
fn parse_stat(text: &str) -> Option<Stat> {
    let rest = text.rsplit_once(") ")?.1;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Stat {
        parent: u32::try_from(number(4)?).ok()?,
        own: number(14)? + number(15)?,
        children: number(16)? + number(17)?,
    })
}

/// A value of /proc/PID/status in bytes.
fn parse_status(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// The processes that descend from `root`, itself included.
fn descendants(root: u32, parents: &HashMap<u32, u32>) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(parents.iter().filter(|(_, of)| **of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found
}

/// A running server: its first process, which stands for all that it started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Server(pub(crate) u32);

impl Server {
    fn processes(self) -> Vec<u32> {
        let parents = std::fs::read_dir("/proc").expect("/proc").flatten().filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, read_stat(&entry.path())?.parent))
        });
        descendants(self.0, &parents.collect())
    }

    /// Seconds of CPU that it has used.
    pub(crate) fn cpu(self) -> f64 {
        let stats: Vec<Stat> = self.processes().iter().filter_map(|pid| read_stat(&folder(*pid))).collect();
        assert!(!stats.is_empty(), "process {} has ended", self.0);
        // Workers that ended count with the parent that waited for them.
        seconds(stats.iter().map(|stat| stat.own + stat.children).sum())
    }

    /// Seconds of CPU that its first process has used, without those that it started.
    pub(crate) fn threads(self) -> f64 {
        let stat = read_stat(&folder(self.0)).unwrap_or_else(|| panic!("process {} has ended", self.0));
        seconds(stat.own)
    }

    /// Peak resident memory in bytes, each process by itself, added up.
    pub(crate) fn peak_memory(self) -> u64 {
        self.memory("VmHWM")
    }

    /// Resident memory in bytes.
    pub(crate) fn resident_memory(self) -> u64 {
        self.memory("VmRSS")
    }

    fn memory(self, key: &str) -> u64 {
        let of = |pid: &u32| parse_status(&std::fs::read_to_string(folder(*pid).join("status")).ok()?, key);
        let found: Vec<u64> = self.processes().iter().filter_map(of).collect();
        assert!(!found.is_empty(), "process {} has ended", self.0);
        found.iter().sum()
    }
}

/// Seconds of CPU that programs which ended have used: the clients', when nothing else ended between two calls.
pub(crate) fn ended_children() -> f64 {
    seconds(read_stat(Path::new("/proc/self")).expect("/proc/self").children)
}

fn folder(pid: u32) -> std::path::PathBuf {
    Path::new("/proc").join(pid.to_string())
}

fn read_stat(folder: &Path) -> Option<Stat> {
    parse_stat(&std::fs::read_to_string(folder.join("stat")).ok()?)
}

fn seconds(ticks: u64) -> f64 {
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

#[cfg(test)]
mod tests {
    use super::{Server, Stat, descendants, parse_stat, parse_status};

    #[test]
    fn stat_is_read_past_any_name() {
        for name in ["nginx", "a b", "evil) R 9 9", "(sd-pam)"] {
            let text = format!("42 ({name}) S 7 42 42 0 -1 4194560 1 2 3 4 150 25 10 5 20 0 1 0 100 200 300");
            assert_eq!(parse_stat(&text), Some(Stat { parent: 7, own: 175, children: 15 }), "{name}");
        }
        assert_eq!(parse_stat(""), None);
        assert_eq!(parse_stat("42 (x) S 7 42"), None);
    }

    #[test]
    fn status_is_in_bytes() {
        let text = "Name:\tx\nVmPeak:\t  900 kB\nVmHWM:\t  20 kB\nVmRSS:\t  10 kB\n";
        assert_eq!(parse_status(text, "VmHWM"), Some(20 * 1024));
        assert_eq!(parse_status(text, "VmRSS"), Some(10 * 1024));
        assert_eq!(parse_status(text, "Vm"), None);
        assert_eq!(parse_status("VmRSS: many kB", "VmRSS"), None);
    }

    #[test]
    fn workers_of_workers_belong_to_a_server() {
        let parents = [(10, 1), (11, 10), (12, 11), (20, 1), (21, 20)].into();
        let mut found = descendants(10, &parents);
        found.sort_unstable();
        assert_eq!(found, [10, 11, 12]);
    }

    #[test]
    fn this_process_uses_something() {
        let own = Server(std::process::id());
        let peak = own.peak_memory();
        assert!(own.resident_memory() > 1 << 20 && peak > 1 << 20);
        let before = own.cpu();
        let mut work = 1u64;
        while own.cpu() < before + 0.02 {
            work = std::hint::black_box(work.wrapping_mul(3));
        }
    }
}
