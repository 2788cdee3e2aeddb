//! What came of the requests, in figures; and guarantees that are kept or missed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// One request's end.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// When it was to be sent: its time counts from here.
    pub(crate) due: Instant,
    /// How much later it began to be sent.
    pub(crate) behind: Duration,
    pub(crate) done: Instant,
    /// The answer's name, or the error that came instead.
    pub(crate) name: String,
}

impl Outcome {
    pub(crate) fn took(&self) -> Duration {
        self.done - self.due
    }
}

pub(crate) const ACCEPTED: &str = "200";
pub(crate) const REFUSED: &str = "503 overloaded";

/// Milliseconds of those that ended so, in rising order.
pub(crate) fn millis(outcomes: &[Outcome], name: &str) -> Vec<f64> {
    let named = outcomes.iter().filter(|outcome| outcome.name == name);
    sorted(named.map(|outcome| outcome.took().as_secs_f64() * 1e3))
}

/// How many ended in which way.
pub(crate) fn counts(outcomes: &[Outcome]) -> BTreeMap<&str, u32> {
    let mut counts = BTreeMap::new();
    for outcome in outcomes {
        *counts.entry(outcome.name.as_str()).or_default() += 1;
    }
    counts
}

pub(crate) fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The value below which this share of sorted values lies.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a place among few values"
)]
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = (sorted.len() as f64 * share).ceil() as usize;
    let value = sorted.get(place.saturating_sub(1));
    value.copied().unwrap_or(f64::NAN)
}

pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    quantile(&sorted(values), 0.5)
}

/// Guarantees and whether they were kept, one a line.
#[derive(Default)]
pub(crate) struct Guarantees {
    lines: Vec<String>,
    missed: bool,
}

impl Guarantees {
    /// Whose guarantees the next ones are.
    pub(crate) fn of(&mut self, whom: &str) {
        self.lines.push(format!("\n{whom}:"));
    }

    pub(crate) fn note(&mut self, kept: bool, what: &str) {
        self.missed |= !kept;
        let kept = if kept { "ok" } else { "MISSED" };
        self.lines.push(format!("- {what}: {kept}"));
    }

    /// Prints them; 1 where one was missed.
    pub(crate) fn conclude(&self) -> std::process::ExitCode {
        println!("{}", self.lines.join("\n"));
        u8::from(self.missed).into()
    }
}
