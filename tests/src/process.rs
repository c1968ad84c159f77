//! A program that was started for a test: its output is read line by line as it comes, and it never outlives the test.

use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};

use crate::eventually;

/// What a program has written so far, standard output and error together.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    /// All lines.
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// How many lines satisfy `test`.
    pub fn count(&self, mut test: impl FnMut(&str) -> bool) -> usize {
        self.0.lock().unwrap().iter().filter(|line| test(line)).count()
    }

    /// What `pick` makes of the first line, at or after number `from`, of which it makes something.
    pub fn find<T>(&self, from: usize, mut pick: impl FnMut(&str) -> Option<T>) -> Option<T> {
        self.0.lock().unwrap().iter().skip(from).find_map(|line| pick(line))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn read(&self, from: impl AsyncRead + Unpin + Send + 'static) {
        let lines = self.clone();
        tokio::spawn(async move {
            let mut from = BufReader::new(from).lines();
            while let Ok(Some(line)) = from.next_line().await {
                lines.0.lock().unwrap().push(line);
            }
        });
    }
}

/// A running program. Dropping it kills it.
pub struct Process {
    child: Child,
    /// What it writes.
    pub lines: Lines,
}

impl Process {
    /// Starts it. Its output is added to `lines`, which may hold that of an earlier run.
    pub fn start(mut command: Command, lines: Lines) -> Process {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{:?}: {error}", command.as_std().get_program()));
        lines.read(child.stdout.take().unwrap());
        lines.read(child.stderr.take().unwrap());
        Process { child, lines }
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("still running")
    }

    /// Its exit status, once it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap(), signal).unwrap();
    }

    /// Waits for it to end by itself.
    pub async fn wait(&mut self, within: Duration) -> ExitStatus {
        match tokio::time::timeout(within, self.child.wait()).await {
            Ok(status) => status.unwrap(),
            Err(_) => panic!("still running after {within:?}"),
        }
    }

    /// Ends it at once, as a power failure would.
    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Peak resident memory in bytes.
    pub fn peak_memory(&self) -> u64 {
        self.kilobytes("VmHWM:") * 1024
    }

    /// Resident memory in bytes.
    pub fn memory(&self) -> u64 {
        self.kilobytes("VmRSS:") * 1024
    }

    /// How many files and sockets it has open.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    fn kilobytes(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Waits for a line of which `pick` makes something; panics with the output when the program ends first.
    pub async fn expect_line<T>(&mut self, what: &str, from: usize, mut pick: impl FnMut(&str) -> Option<T>) -> T {
        eventually(what, Duration::from_secs(30), async || {
            let ended = self.ended();
            let found = self.lines.find(from, &mut pick);
            if let (None, Some(status)) = (&found, ended) {
                panic!("ended with {status} before {what}:\n{}", self.lines.all().join("\n"));
            }
            found
        })
        .await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Its directory is deleted next, so it must be gone by then, not only told to go.
        let _ = self.child.start_kill();
        let deadline = Instant::now() + Duration::from_secs(5);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A process that a program of the test has started and left behind. Dropping it kills it.
pub struct Orphan(Pid);

impl Orphan {
    /// By its id.
    pub fn new(pid: i32) -> Orphan {
        Orphan(Pid::from_raw(pid).unwrap())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        u32::try_from(self.0.as_raw_nonzero().get()).unwrap()
    }

    /// Whether it runs: nobody may be there to take note of its end.
    pub fn running(&self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        status.rsplit(')').next().is_some_and(|rest| rest.trim().chars().next().is_some_and(|state| state != 'Z'))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.0, signal).unwrap();
    }

    /// Waits for it to end by itself.
    pub async fn wait(&self, within: Duration) {
        eventually("the end of a process", within, async || (!self.running()).then_some(())).await;
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::KILL);
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.running() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// What a program that ran to its end has said.
pub struct Output {
    /// Whether it exited with 0.
    pub success: bool,
    /// Its exit code.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// The output of a program that must have succeeded.
    #[track_caller]
    pub fn expect_success(self) -> Output {
        assert!(self.success, "exit code {:?}\n{}\n{}", self.code, self.stdout, self.stderr);
        self
    }

    /// The output of a program that must have failed.
    #[track_caller]
    pub fn expect_failure(self) -> Output {
        assert!(!self.success, "succeeded\n{}\n{}", self.stdout, self.stderr);
        self
    }
}

/// Runs a program to its end; kills it, and panics, when that takes too long.
pub async fn run(mut command: Command, within: Duration) -> Output {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(within, command.output()).await {
        Ok(output) => output.unwrap_or_else(|error| panic!("{:?}: {error}", command.as_std().get_program())),
        Err(_) => panic!("still running after {within:?}: {:?}", command.as_std()),
    };
    Output {
        success: output.status.success(),
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
