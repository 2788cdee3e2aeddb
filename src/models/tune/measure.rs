//! One measurement: the version loaded with the settings, a lone caller, then a crowd, through the real scheduler.
//!
//! Called by `tune`. Each caller asks again as soon as it is answered; all of them are tasks of this one thread, as
//! requests are tasks of the runtime's. Knows no other settings than the ones it measures.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use super::{Figures, ServingKeys, TuneOptions};
use crate::backend::memory;
use crate::engine::{EngineError, Flow, Job, Prepare, Priority};
use crate::model_store::Candidate;
use crate::models::loaded::LoadedVersion;
use crate::models::loader::Loader;
use crate::vision::{self, DecodeLimits};

/// Before a figure counts, callers run for this share of its time, so that caches, clocks and arenas have settled.
const WARM_UP: u32 = 4;

/// Classes that are sorted out of each answer: what a request asks for unless it says otherwise.
const TOP_K: usize = 5;

/// No job is ever given up: how long one takes is what is measured.
const PATIENCE: Duration = Duration::from_hours(1);

/// What stays the same from measurement to measurement.
pub(super) struct Bench<'a> {
    loader: &'a Loader,
    candidate: Candidate,
    picture: Arc<[u8]>,
    limits: DecodeLimits,
    time: Duration,
    flow: Flow,
    runtime: Runtime,
}

impl<'a> Bench<'a> {
    pub(super) fn new(
        loader: &'a Loader,
        candidate: &Candidate,
        options: &TuneOptions,
    ) -> std::io::Result<Self> {
        let mut candidate = candidate.clone();
        // Checked already, and no part of what is measured.
        candidate.golden.clear();
        candidate.manifest.serving.warm_up = None;
        // A crowd that is turned away would be measured as a smaller one.
        candidate.manifest.serving.max_queue = None;
        Ok(Self {
            loader,
            candidate,
            picture: Arc::clone(&options.picture.bytes),
            limits: options.picture.limits,
            time: options.time,
            flow: Flow("tune".into()),
            runtime: tokio::runtime::Builder::new_current_thread().build()?,
        })
    }

    /// Loads the version with `keys`, measures it, and ends it.
    pub(super) fn measure(&self, keys: ServingKeys) -> Result<Figures, String> {
        memory::give_back();
        let before = resident();
        let mut candidate = self.candidate.clone();
        keys.put(&mut candidate.manifest.serving);
        let loaded = self.loader.load(&candidate, &|_, _| (), &|| true);
        let version = loaded.map_err(|error| error.reason)?;
        let figures = self.runtime.block_on(self.figures(&version, keys));
        let after = resident();
        version.scheduler.stop();
        drop(version);
        let memory = before.zip(after);
        figures.map(|figures| Figures {
            memory: memory.map(|(before, after)| after.saturating_sub(before)),
            ..figures
        })
    }

    async fn figures(&self, version: &LoadedVersion, keys: ServingKeys) -> Result<Figures, String> {
        let mut took = self.lone(version).await?;
        let throughput = self.crowd(version, self.callers(keys)).await?;
        took.sort_unstable();
        let at = |per_cent: usize| {
            let place = (took.len() * per_cent).div_ceil(100).saturating_sub(1);
            took.get(place).copied().unwrap_or_default()
        };
        Ok(Figures {
            throughput,
            p50: at(50),
            p99: at(99),
            memory: None,
        })
    }

    /// Twice as many as are answered at the same time: while one half runs, the other waits right behind it.
    fn callers(&self, keys: ServingKeys) -> usize {
        let instances = keys.instances.unwrap_or(self.loader.cores());
        let at_once = instances * keys.max_batch_size.unwrap_or(1);
        at_once.max(self.loader.cores()) * 2
    }

    /// How long each of a lone caller's pictures took.
    async fn lone(&self, version: &LoadedVersion) -> Result<Vec<Duration>, String> {
        let started = Instant::now();
        while started.elapsed() < self.time / WARM_UP {
            self.ask(version).await?;
        }
        let started = Instant::now();
        let mut took = Vec::new();
        while took.is_empty() || started.elapsed() < self.time {
            let asked = Instant::now();
            self.ask(version).await?;
            took.push(asked.elapsed());
        }
        Ok(took)
    }

    /// Pictures a second with so many callers. They are at it before and after the time that counts: a crowd that
    /// comes or goes does not keep everything busy.
    async fn crowd(&self, version: &LoadedVersion, callers: usize) -> Result<f64, String> {
        let started = Instant::now();
        let from = started + self.time / WARM_UP;
        let until = from + self.time;
        let caller = async || -> Result<Vec<Instant>, String> {
            let mut answered = Vec::new();
            while Instant::now() < until {
                self.ask(version).await?;
                answered.push(Instant::now());
            }
            Ok(answered)
        };
        let all = (0..callers).map(|_| caller());
        let answered = futures_util::future::try_join_all(all).await?.concat();
        Ok(rate(&answered, started, (from, until)))
    }

    /// One picture from the bytes to the classes.
    async fn ask(&self, version: &LoadedVersion) -> Result<(), String> {
        let (reply, outcome) = oneshot::channel();
        let job = Job {
            prepare: self.prepare(version),
            flow: self.flow.clone(),
            priority: Priority::Normal,
            deadline: Instant::now() + PATIENCE,
            reply,
            trace: None,
        };
        let said = |error: EngineError| error.to_string();
        version.scheduler.submit(job).map_err(said)?;
        let outcome = outcome.await.map_err(|_| said(EngineError::Stopped))?;
        let done = outcome.map_err(said)?;
        let raw = done.output.data();
        let scores = vision::scores(raw, 0..raw.len(), &version.output);
        if vision::top_k(&scores, TOP_K).is_empty() {
            return Err("a run gave no scores".to_owned());
        }
        Ok(())
    }

    /// The work before the session, on the instance's thread.
    fn prepare(&self, version: &LoadedVersion) -> Prepare {
        let (picture, limits) = (Arc::clone(&self.picture), self.limits);
        let preprocessor = Arc::clone(&version.preprocessor);
        Box::new(move || {
            let header = vision::read_header(&picture, &limits)?;
            let decoded = preprocessor.decode_for(&picture, &header)?;
            Ok(preprocessor.tensor(&decoded))
        })
    }
}

/// Answers a second within the time that counts; where one picture takes longer than that, all that there were.
fn rate(answered: &[Instant], started: Instant, (from, until): (Instant, Instant)) -> f64 {
    let counted = answered.iter().filter(|at| (from..until).contains(*at));
    let (count, time) = match counted.count() {
        0 => {
            let last = answered.iter().max().copied().unwrap_or(started);
            (answered.len(), last.saturating_duration_since(started))
        }
        count => (count, until.saturating_duration_since(from)),
    };
    let count = f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    count / time.as_secs_f64().max(1e-9)
}

/// The memory that this process has; `None` where the system does not tell.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kibibytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_within_the_time_that_counts_are_counted() {
        let started = Instant::now();
        let at = |ms| started + Duration::from_millis(ms);
        let answered: Vec<Instant> = [50, 99, 100, 600, 1099, 1100, 1500].map(at).to_vec();
        let counted = rate(&answered, started, (at(100), at(1100)));
        assert!((counted - 3.0).abs() < 1e-9, "{counted}");
        // One picture took four times as long as the measurement.
        let slow = rate(&[at(4000), at(2000)], started, (at(100), at(1100)));
        assert!((slow - 0.5).abs() < 1e-9, "{slow}");
    }
}
