//! Whose time on the cores it was: the gateway's, the load's or somebody else's.

use std::time::{Duration, Instant};

use super::gateway::Gateway;

/// The kernel counts in hundredths of a second wherever it speaks to programs.
const TICKS_A_SECOND: f64 = 100.0;

/// A moment's counters.
pub(crate) struct Clock {
    at: Instant,
    gateway: Duration,
    trials: Duration,
    load: Duration,
    machine: Duration,
}

/// Cores that were taken on average.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cores {
    pub(crate) gateway: f64,
    /// The gateway's child processes that tried a model.
    pub(crate) trials: f64,
    /// This process.
    pub(crate) load: f64,
    /// Everybody else on this machine, and what its host gave to others.
    pub(crate) others: f64,
}

impl Clock {
    pub(crate) fn read(gateway: &Gateway) -> Self {
        let (own, trials) = gateway.cpu();
        let stat = std::fs::read_to_string("/proc/self/stat").expect("proc");
        Self {
            at: Instant::now(),
            gateway: own,
            trials,
            load: cpu_of(&stat).0,
            machine: taken(&std::fs::read_to_string("/proc/stat").expect("proc")),
        }
    }

    /// What was taken since.
    pub(crate) fn until_now(&self, gateway: &Gateway) -> Cores {
        let now = Self::read(gateway);
        let elapsed = (now.at - self.at).as_secs_f64();
        let cores =
            |now: Duration, then: Duration| now.saturating_sub(then).as_secs_f64() / elapsed;
        let [all, own, trials, load] = [
            cores(now.machine, self.machine),
            cores(now.gateway, self.gateway),
            cores(now.trials, self.trials),
            cores(now.load, self.load),
        ];
        Cores {
            gateway: own,
            trials,
            load,
            others: (all - own - trials - load).max(0.0),
        }
    }
}

/// How many cores this machine has for us.
pub(crate) fn cores() -> f64 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    f64::from(u32::try_from(cores).expect("a count"))
}

/// From a process's `stat`: its own time, and that of the children it has waited for.
pub(super) fn cpu_of(stat: &str) -> (Duration, Duration) {
    // The name stands in parentheses and may hold spaces; utime is the twelfth field behind it.
    let fields = stat.rsplit(')').next().expect("a name").split_whitespace();
    let ticks: Vec<f64> = fields
        .skip(11)
        .take(4)
        .map(|field| field.parse().expect("ticks"))
        .collect();
    let sum = |ticks: &[f64]| Duration::from_secs_f64(ticks.iter().sum::<f64>() / TICKS_A_SECOND);
    (sum(&ticks[..2]), sum(&ticks[2..]))
}

/// From the machine's `stat`: user, nice, system, irq, softirq and steal, but neither idle nor iowait.
fn taken(stat: &str) -> Duration {
    let fields = stat.lines().next().expect("a line").split_whitespace();
    let ticks: Vec<f64> = fields
        .skip(1)
        .take(8)
        .map(|field| field.parse().expect("ticks"))
        .collect();
    let idle = ticks[3] + ticks[4];
    Duration::from_secs_f64((ticks.iter().sum::<f64>() - idle) / TICKS_A_SECOND)
}
