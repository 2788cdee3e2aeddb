//! Metrics: every instrument, and how all of them are written for who asks. The one door to the `prometheus` crate.
//!
//! What is counted is counted here as it happens; what stands is read by who asks, from where it stands ([`Reading`]), so that
//! nothing is shown of what is gone. Every label is a name that operators gave or that stands in this program: no request makes
//! a series.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus::core::Collector as _;
use prometheus::{GaugeVec, IntCounterVec, Opts, Registry, TextEncoder};

/// Metrics could not be set up or written.
#[derive(Debug, thiserror::Error)]
#[error("the metrics cannot be told: {0}")]
pub struct MetricsError(#[from] prometheus::Error);

/// The instruments.
pub struct Metrics {
    registry: Registry,
    rollout_decisions: IntCounterVec,
    /// Of which models and decisions there are series.
    decided: Mutex<BTreeSet<(String, &'static str)>>,
}

/// What stands just now, as one metric.
pub struct Reading {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    values: Vec<(Vec<String>, f64)>,
}

impl Reading {
    /// A metric without values.
    #[must_use]
    pub fn new(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Self {
            name,
            help,
            labels,
            values: Vec::new(),
        }
    }

    /// Adds a value; `labels` are in the order of their names.
    pub fn add(&mut self, labels: &[&str], value: f64) {
        let labels = labels.iter().map(|&label| label.to_owned());
        self.values.push((labels.collect(), value));
    }
}

impl Metrics {
    /// All instruments, at zero.
    ///
    /// # Errors
    /// When two of them have one name; never, as a test tries them.
    pub fn new() -> Result<Self, MetricsError> {
        let registry = Registry::new();
        let rollout_decisions = IntCounterVec::new(
            Opts::new(
                "lensgate_rollout_decisions_total",
                "Decisions about canaries that this replica has taken or was told.",
            ),
            &["model", "decision"],
        )?;
        registry.register(Box::new(rollout_decisions.clone()))?;
        Ok(Self {
            registry,
            rollout_decisions,
            decided: Mutex::default(),
        })
    }

    fn decided(&self) -> MutexGuard<'_, BTreeSet<(String, &'static str)>> {
        self.decided.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a decision about a model's canary.
    pub fn rollout_decided(&self, model: &str, decision: &'static str) {
        self.rollout_decisions
            .with_label_values(&[model, decision])
            .inc();
        self.decided().insert((model.to_owned(), decision));
    }

    /// Everything as Prometheus reads it (text format 0.0.4). Series of models for which `is_there` does not hold are gone.
    ///
    /// # Errors
    /// When a reading has another number of labels than it has names for.
    pub fn text(
        &self,
        readings: &[Reading],
        is_there: impl Fn(&str) -> bool,
    ) -> Result<String, MetricsError> {
        self.decided().retain(|(model, decision)| {
            let stays = is_there(model);
            if !stays {
                // It may have been removed in this moment.
                let _ = self
                    .rollout_decisions
                    .remove_label_values(&[model.as_str(), decision]);
            }
            stays
        });
        let mut families = self.registry.gather();
        for reading in readings {
            let gauge = GaugeVec::new(Opts::new(reading.name, reading.help), reading.labels)?;
            for (labels, value) in &reading.values {
                let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
                gauge.get_metric_with_label_values(&labels)?.set(*value);
            }
            let filled = gauge.collect().into_iter();
            families.extend(filled.filter(|family| !family.get_metric().is_empty()));
        }
        families.sort_by(|a, b| a.name().cmp(b.name()));
        Ok(TextEncoder::new().encode_to_string(&families)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_and_what_stands_are_written_and_what_is_gone_is_not() {
        let metrics = Metrics::new().expect("instruments");
        metrics.rollout_decided("digits", "promote");
        metrics.rollout_decided("digits", "promote");
        metrics.rollout_decided("gone", "rollback");
        let mut share = Reading::new("lensgate_share", "A share.", &["model", "arm"]);
        share.add(&["digits", "a \"b\"\n"], 0.25);
        let empty = Reading::new("lensgate_nothing", "Nothing.", &["model"]);
        let text = metrics
            .text(&[share, empty], |model| model == "digits")
            .expect("text");
        let wanted = "# HELP lensgate_rollout_decisions_total Decisions about canaries that this replica has taken or was told.\n\
                      # TYPE lensgate_rollout_decisions_total counter\n\
                      lensgate_rollout_decisions_total{decision=\"promote\",model=\"digits\"} 2\n\
                      # HELP lensgate_share A share.\n\
                      # TYPE lensgate_share gauge\n\
                      lensgate_share{arm=\"a \\\"b\\\"\\n\",model=\"digits\"} 0.25\n";
        assert_eq!(text, wanted);
        let mut wrong = Reading::new("lensgate_share", "A share.", &["model"]);
        wrong.add(&["digits", "2"], 1.0);
        assert!(metrics.text(&[wrong], |_| true).is_err());
    }
}
