//! Which `[serving]` settings serve a version best on this machine: candidates → measurements → choice.
//!
//! Called by the command line. Every candidate is loaded and run as the gateway would, one at a time, through a real
//! scheduler. Knows no file that is written, no terminal and no HTTP.

mod choice;
mod contest;
mod measure;
mod picture;

use std::time::Duration;

pub use choice::{Choice, Goal, LEAST_NOISE, Verdict};
pub use contest::{Contender, Origin, ROUNDS};
pub use picture::{PictureChoice, TunePicture};

use super::examine::Opened;
use super::loader::{Loader, is_off_cpu, is_on_cpu};
use crate::domain::manifest::ServingSection;
use crate::model_store::Candidate;
use contest::Contest;
use measure::Bench;

/// The keys of `[serving]` that are tuned; `None` where the key is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServingKeys {
    /// Threads that execute a version side by side.
    pub instances: Option<usize>,
    /// Threads inside one run.
    pub threads: Option<usize>,
    /// The most pictures of one run.
    pub max_batch_size: Option<usize>,
}

impl ServingKeys {
    /// The keys' names with what they are set to, in the order of the manifest's page.
    #[must_use]
    pub fn named(&self) -> [(&'static str, Option<usize>); 3] {
        [
            ("instances", self.instances),
            ("threads", self.threads),
            ("max_batch_size", self.max_batch_size),
        ]
    }

    /// What a manifest says.
    #[must_use]
    pub fn of(serving: &ServingSection) -> Self {
        Self {
            instances: serving.instances,
            threads: serving.threads,
            max_batch_size: serving.max_batch_size,
        }
    }

    /// Puts these keys in the place of what a manifest says.
    pub fn put(&self, serving: &mut ServingSection) {
        serving.instances = self.instances;
        serving.threads = self.threads;
        serving.max_batch_size = self.max_batch_size;
    }

    /// Whether no key is set: the gateway decides.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    fn all(instances: usize, threads: usize, batch: usize) -> Self {
        Self {
            instances: Some(instances),
            threads: Some(threads),
            max_batch_size: Some(batch),
        }
    }
}

/// What one measurement gave, or the best of several.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// Pictures a second with enough callers to keep everything busy.
    pub throughput: f64,
    /// Half of a lone caller's pictures took no longer.
    pub p50: Duration,
    /// 99 of a hundred of a lone caller's pictures took no longer.
    pub p99: Duration,
    /// Bytes by which the resident memory grew; `None` where the system does not tell.
    pub memory: Option<u64>,
}

/// A measurement that is about to begin.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Measurements that are done.
    pub done: usize,
    /// All measurements, as far as it is known by now: what comes next depends on what was found.
    pub expected: usize,
    /// What is measured now.
    pub keys: ServingKeys,
}

/// How it is measured.
#[derive(Clone, Debug)]
pub struct TuneOptions {
    /// What is classified again and again.
    pub picture: TunePicture,
    /// The length of one measurement.
    pub time: Duration,
}

/// Everything that was measured.
#[derive(Clone, Debug)]
pub struct TuneReport {
    /// Cores that the process may use.
    pub cores: usize,
    /// All that took part, in the order in which they joined.
    pub contenders: Vec<Contender>,
}

impl TuneReport {
    /// The best for `goal`; `None` where nothing could be measured to the end.
    #[must_use]
    pub fn choose(&self, goal: Goal) -> Option<Choice<'_>> {
        choice::choose(&self.contenders, goal)
    }
}

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
pub enum TuneError {
    /// The system gives no driver for the callers.
    #[error("the callers cannot be started: {0}")]
    Callers(#[source] std::io::Error),
    /// Not even the settings that are in force now could be measured.
    #[error("{0}")]
    Nothing(String),
}

/// Measures `candidate`, which was examined as `opened`, with all settings that make sense here. Takes minutes and
/// uses all cores; `observe` hears of every measurement before it begins.
///
/// # Errors
/// When no settings at all could be measured.
pub fn tune(
    loader: &Loader,
    candidate: &Candidate,
    opened: Opened,
    options: &TuneOptions,
    observe: &mut dyn FnMut(&Step),
) -> Result<TuneReport, TuneError> {
    let (pairs, batches) = what_makes_sense(&opened, loader.cores());
    // Its memory must not count as that of the first measurement.
    drop(opened);
    let bench = Bench::new(loader, candidate, options).map_err(TuneError::Callers)?;
    let written = ServingKeys::of(&candidate.manifest.serving);
    let mut contest = Contest::new(written, &pairs, batches);
    while let Some(keys) = contest.next() {
        observe(&Step {
            done: contest.done(),
            expected: contest.done() + contest.expected(),
            keys,
        });
        contest.record(keys, bench.measure(keys));
    }
    let report = TuneReport {
        cores: loader.cores(),
        contenders: contest.into_contenders(),
    };
    if report.contenders.iter().all(|one| one.failure.is_some()) {
        let reason = report.contenders.iter().find_map(|one| one.failure.clone());
        return Err(TuneError::Nothing(reason.unwrap_or_default()));
    }
    Ok(report)
}

/// The most pictures of one run that are tried, in rising order.
const BATCHES: &[usize] = &[2, 4, 8, 16];

/// A manifest may ask for no more instances, or threads.
const MOST_THREADS: usize = 256;

/// Instances with threads each, and the batches to try.
fn what_makes_sense(opened: &Opened, cores: usize) -> (Vec<ServingKeys>, &'static [usize]) {
    let cores = cores.min(MOST_THREADS);
    let fixed = opened.input.shape.first() == Some(&Some(1));
    // tract's runs use one thread, and its batches take longer than their pictures would one by one.
    let is_tract = opened.backend == "tract";
    let batches = if fixed || is_tract { &[] } else { BATCHES };
    let pairs = if is_tract {
        one_thread_each(cores)
    } else if is_off_cpu(opened) {
        // Beside the processor threads mean nothing; a second instance takes smaller batches.
        vec![(1, 1), (2, 1)]
    } else if is_on_cpu(opened) {
        pairs(cores)
    } else {
        [pairs(cores), vec![(1, 1)]].concat()
    };
    let keys = |(instances, threads)| ServingKeys::all(instances, threads, 1);
    (pairs.into_iter().map(keys).collect(), batches)
}

/// Instances of one thread: one a core, and one for two cores, which may be two halves of a real one.
fn one_thread_each(cores: usize) -> Vec<(usize, usize)> {
    let mut found = vec![(cores, 1), ((cores / 2).max(1), 1)];
    found.dedup();
    found
}

/// All ways to share the cores, or half of them, between instances of 1, 2, 4, … threads, and one run on all cores.
/// More threads than cores only wait for each other: they are left out.
fn pairs(cores: usize) -> Vec<(usize, usize)> {
    let powers = (0..usize::BITS).map(|bit| 1_usize << bit);
    let mut threads: Vec<usize> = powers.take_while(|&power| power <= cores).collect();
    threads.push(cores);
    threads.dedup();
    let mut found: Vec<(usize, usize)> = Vec::new();
    // Half the cores may be the better half where two of the system's share one real core.
    for used in [cores, cores / 2] {
        for &threads in threads.iter().filter(|&&threads| threads <= used) {
            let pair = (used / threads, threads);
            if !found.contains(&pair) {
                found.push(pair);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cores_are_shared_out_and_never_more_than_there_are() {
        assert_eq!(pairs(1), [(1, 1)]);
        assert_eq!(pairs(2), [(2, 1), (1, 2), (1, 1)]);
        assert_eq!(pairs(4), [(4, 1), (2, 2), (1, 4), (2, 1), (1, 2)]);
        assert_eq!(
            pairs(6),
            [(6, 1), (3, 2), (1, 4), (1, 6), (3, 1), (1, 2)],
            "not only powers of two"
        );
        for cores in 1..=130 {
            for (instances, threads) in pairs(cores) {
                assert!(instances >= 1 && threads >= 1);
                assert!(
                    instances * threads <= cores,
                    "{instances} x {threads} on {cores}"
                );
            }
        }
        assert_eq!(one_thread_each(1), [(1, 1)]);
        assert_eq!(one_thread_each(8), [(8, 1), (4, 1)]);
    }
}
