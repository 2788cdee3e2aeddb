//! A candidate is tried in a child process first: what crashes, hangs or swells there does so alone.
//!
//! The child is this program's own `models check --json`, confined to memory and time; a fingerprint that has passed is
//! remembered. Called by the loader; never on the async runtime.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::examine::Check;
use super::loader::LoadError;
use super::room;
use crate::model_store::Candidate;

/// How trials are made.
#[derive(Clone, Debug)]
pub struct TrialConfig {
    /// This program.
    pub program: PathBuf,
    /// Arguments that give the child the settings of this process.
    pub arguments: Vec<OsString>,
    /// The child's whole environment.
    pub environment: Vec<(String, String)>,
    /// Bytes of memory; `None` goes by the size of the model.
    pub memory: Option<u64>,
    /// Time on one core; a child that is kept from the cores may take [`PATIENCE`] times as long by the clock.
    pub time: Duration,
}

/// Tries candidates.
pub struct Trial {
    config: TrialConfig,
    passed: Passed,
}

/// Memory that every trial may have: the runtime itself, and a run of a small graph.
const LEAST_MEMORY: u64 = 1 << 30;

/// How many times the bytes of its files a graph may take on top: read, optimised, laid out anew, and at work.
const TIMES_ITS_FILES: u64 = 6;

/// A trial goes behind requests on every core: by the clock it may take so many times its time on one core.
pub(super) const PATIENCE: u32 = 3;

/// How often a running trial is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What is read of a child's output.
const MOST_OUTPUT: u64 = 1 << 20;

/// What a child says; see `cli/check.rs`.
#[derive(Deserialize)]
struct Report {
    models: Vec<ReportedModel>,
}

#[derive(Deserialize)]
struct ReportedModel {
    versions: Vec<ReportedVersion>,
}

#[derive(Deserialize)]
struct ReportedVersion {
    ok: bool,
    #[serde(default)]
    fingerprint: Option<String>,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    checks: Vec<ReportedCheck>,
}

impl ReportedVersion {
    fn is_of(&self, fingerprint: &str) -> bool {
        self.fingerprint.as_deref() == Some(fingerprint)
    }
}

#[derive(Deserialize)]
struct ReportedCheck {
    name: String,
    ok: bool,
    detail: String,
}

/// How a child ended.
enum End {
    Exited(ExitStatus),
    TimeIsOver,
    Unwanted,
}

impl Trial {
    /// Trials by `config`, sparing what has `passed`.
    #[must_use]
    pub fn new(config: TrialConfig, passed: Passed) -> Self {
        Self { config, passed }
    }

    /// Returns once the candidate may be opened in this process.
    ///
    /// # Errors
    /// With the child's verdict, or with how it ended without one.
    pub(super) fn pass(
        &self,
        candidate: &Candidate,
        wanted: &dyn Fn() -> bool,
    ) -> Result<(), LoadError> {
        if self.passed.has(&candidate.fingerprint.to_string()) {
            return Ok(());
        }
        self.make(candidate, wanted).map(drop)
    }

    /// Makes the trial, whatever has passed before: golden pictures are no part of a fingerprint. Gives every check that
    /// was made.
    ///
    /// # Errors
    /// As [`Self::pass`].
    pub(super) fn make(
        &self,
        candidate: &Candidate,
        wanted: &dyn Fn() -> bool,
    ) -> Result<Vec<Check>, LoadError> {
        let fingerprint = candidate.fingerprint.to_string();
        let failed = |error: std::io::Error| {
            LoadError::of(format!(
                "the process that tries it cannot be started: {error}"
            ))
        };
        let mut child = self.command(candidate).spawn().map_err(failed)?;
        let said = listen(child.stdout.take(), "trial's output");
        let complained = listen(child.stderr.take(), "trial's errors");
        let end = self.wait(&mut child, wanted).map_err(failed)?;
        let (said, complained) = (heard(said), heard(complained));
        let status = match end {
            End::Unwanted => {
                return Err(LoadError::of("something newer is wanted".to_owned()).for_a_change());
            }
            End::TimeIsOver => return Err(LoadError::of(self.too_long())),
            End::Exited(status) => status,
        };
        match verdict(&said) {
            Some(version) if version.ok && status.success() && version.is_of(&fingerprint) => {
                self.passed.add(&fingerprint);
                Ok(known_checks(version.checks))
            }
            // It read other files than those that are meant here.
            Some(_) if !candidate.is_unchanged() => {
                let changed = "its files changed while it was tried".to_owned();
                Err(LoadError::of(changed).for_a_change())
            }
            Some(ReportedVersion {
                ok: false,
                reason: Some(reason),
                checks,
                ..
            }) => Err(LoadError::with(reason, known_checks(checks))),
            Some(version) if version.ok && status.success() => Err(LoadError::of(
                "the program that tries it reads it otherwise: was it replaced since the start?"
                    .into(),
            )),
            _ => {
                tracing::warn!(
                    model = candidate.model.as_str(),
                    version = candidate.number.get(),
                    %status,
                    output = tail(&complained),
                    "the process that tried a model died"
                );
                Err(LoadError::of(self.obituary(status, &complained)))
            }
        }
    }

    fn command(&self, candidate: &Candidate) -> Command {
        let config = &self.config;
        let memory = config.memory.unwrap_or_else(|| {
            let wanted =
                LEAST_MEMORY.saturating_add(candidate.bytes().saturating_mul(TIMES_ITS_FILES));
            // A container that runs out of memory loses all its processes, this one included.
            room::left().map_or(wanted, |left| wanted.min(left))
        });
        let threads = u64::try_from(candidate.manifest.serving.threads.unwrap_or(1)).unwrap_or(1);
        let mut command = Command::new(&config.program);
        command
            .args(["models", "check", "--json"])
            .arg(candidate.root())
            .arg("--model")
            .arg(candidate.model.as_str())
            .arg("--version")
            .arg(candidate.number.to_string())
            .arg("--confine-memory")
            .arg(memory.to_string())
            .arg("--confine-seconds")
            .arg(
                config
                    .time
                    .as_secs()
                    .max(1)
                    .saturating_mul(threads.max(1))
                    .to_string(),
            )
            .args(&config.arguments)
            .env_clear()
            .envs(config.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Waits for the child's end, and brings it about where it takes too long or nobody waits.
    fn wait(&self, child: &mut Child, wanted: &dyn Fn() -> bool) -> std::io::Result<End> {
        let deadline = Instant::now() + self.longest();
        let end = loop {
            if let Some(status) = child.try_wait()? {
                return Ok(End::Exited(status));
            }
            if !wanted() {
                break End::Unwanted;
            }
            if Instant::now() >= deadline {
                break End::TimeIsOver;
            }
            std::thread::sleep(LOOK_EVERY);
        };
        child.kill()?;
        child.wait()?;
        Ok(end)
    }

    /// How long a trial may take by the clock.
    pub(super) fn longest(&self) -> Duration {
        self.config.time.saturating_mul(PATIENCE)
    }

    fn too_long(&self) -> String {
        let limit = self.config.time.as_secs_f64();
        format!("trying the graph took longer than {limit} s: it was given up")
    }

    /// Why there is no verdict, in words an operator can act on and without anything of the machine's.
    fn obituary(&self, status: ExitStatus, complained: &str) -> String {
        const ABORT: i32 = libc::SIGABRT;
        let memory =
            complained.contains("memory allocation of") || complained.contains("bad_alloc");
        match status.signal() {
            Some(libc::SIGXCPU) => self.too_long(),
            Some(ABORT) if memory => {
                "the runtime aborted on this graph: it asked for more memory than it may have"
                    .to_owned()
            }
            Some(libc::SIGKILL) => {
                "the process that tried the graph was killed, most likely for its memory".to_owned()
            }
            Some(signal) => {
                format!(
                    "the runtime crashed on this graph (signal {signal}); it was tried in a child process"
                )
            }
            None => format!(
                "trying the graph ended without a verdict (exit code {})",
                status.code().unwrap_or(-1)
            ),
        }
    }
}

/// Reads a child's output to its end, the beginning of it at least, so that it never blocks.
fn listen(
    pipe: Option<impl Read + Send + 'static>,
    name: &str,
) -> Option<std::io::Result<JoinHandle<String>>> {
    pipe.map(|mut pipe| {
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let mut text = Vec::new();
                // A pipe that breaks has said what it had to say.
                let _ = pipe.by_ref().take(MOST_OUTPUT).read_to_end(&mut text);
                let _ = std::io::copy(&mut pipe, &mut std::io::sink());
                String::from_utf8_lossy(&text).into_owned()
            })
    })
}

fn heard(listener: Option<std::io::Result<JoinHandle<String>>>) -> String {
    let thread = listener.and_then(Result::ok);
    thread
        .and_then(|thread| thread.join().ok())
        .unwrap_or_default()
}

fn verdict(said: &str) -> Option<ReportedVersion> {
    let report: Report = serde_json::from_str(said).ok()?;
    report
        .models
        .into_iter()
        .next()?
        .versions
        .into_iter()
        .next()
}

fn tail(text: &str) -> String {
    let last: Vec<&str> = text.lines().rev().take(3).collect();
    last.into_iter().rev().collect::<Vec<_>>().join(" | ")
}

fn known_checks(reported: Vec<ReportedCheck>) -> Vec<Check> {
    let known = |check: ReportedCheck| {
        let name = Check::NAMES.into_iter().find(|name| *name == check.name)?;
        Some(Check {
            name,
            ok: check.ok,
            detail: check.detail,
        })
    };
    reported.into_iter().filter_map(known).collect()
}

/// Fingerprints that have passed a trial on this runtime, in memory and, where there is a file, across restarts.
pub struct Passed {
    /// What a verdict holds for beside the fingerprint: this program, its runtime.
    on: String,
    file: Option<PathBuf>,
    lines: Mutex<BTreeSet<String>>,
}

/// Lines kept when a file is read again.
const MOST_LINES: usize = 10_000;

impl Passed {
    /// What the file remembers, for verdicts that hold `on` this program and runtime (one word). A file that cannot be
    /// read or written costs a trial a start, nothing else.
    #[must_use]
    pub fn remembered(on: &str, file: Option<PathBuf>) -> Self {
        let text = file.as_ref().and_then(|file| fs::read_to_string(file).ok());
        let text = text.unwrap_or_default();
        let lines: BTreeSet<String> = text.lines().map(str::to_owned).collect();
        let passed = Self {
            on: on.to_owned(),
            file,
            lines: Mutex::default(),
        };
        if lines.len() > MOST_LINES {
            if let Some(file) = &passed.file {
                let _ = fs::remove_file(file);
            }
        } else {
            *passed.lines() = lines;
        }
        passed
    }

    fn lines(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has(&self, fingerprint: &str) -> bool {
        self.lines().contains(&self.line(fingerprint))
    }

    fn line(&self, fingerprint: &str) -> String {
        format!("{fingerprint} {}", self.on)
    }

    fn add(&self, fingerprint: &str) {
        let line = self.line(fingerprint);
        let mut lines = self.lines();
        if !lines.insert(line.clone()) {
            return;
        }
        if let Some(file) = &self.file
            && let Err(error) = append(file, &line)
        {
            tracing::debug!(%error, "what passed a trial is not remembered beyond this process");
        }
    }
}

fn append(file: &PathBuf, line: &str) -> std::io::Result<()> {
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir)?;
    }
    let mut file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(file)?;
    file.write_all(format!("{line}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passed_is_remembered_for_its_runtime_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = Some(dir.path().join("data/checked"));
        let passed = Passed::remembered("1.0/ort-1.32.0", file.clone());
        assert!(!passed.has("sha256:ab"));
        passed.add("sha256:ab");
        passed.add("sha256:ab");
        assert!(Passed::remembered("1.0/ort-1.32.0", file.clone()).has("sha256:ab"));
        assert!(!Passed::remembered("1.0/ort-1.33.0", file).has("sha256:ab"));
    }

    #[test]
    fn an_unwritable_file_costs_nothing_but_the_memory() {
        let passed = Passed::remembered("x", Some(PathBuf::from("/dev/null/none")));
        passed.add("sha256:ab");
        assert!(passed.has("sha256:ab"));
    }
}
