//! All metrics at one moment, and how they are written for Prometheus. The one door to the `prometheus` crate.

use std::collections::BTreeMap;

use prometheus::TextEncoder;
use prometheus::proto;

use super::histogram::{Histogram, Spread};

/// Metrics could not be written.
#[derive(Debug, thiserror::Error)]
#[error("the metrics cannot be written: {0}")]
pub struct MetricsError(#[from] prometheus::Error);

/// What is told of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A value of a metric.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Number(f64),
    Spread(Spread),
}

/// The names and values of labels.
pub(super) type Labels = Vec<(&'static str, String)>;

/// One metric and its series.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) help: &'static str,
    pub(super) kind: Kind,
    pub(super) series: Vec<(Labels, Value)>,
}

/// All metrics at one moment: whoever has something to tell adds it.
#[derive(Debug, Default)]
pub struct Page {
    pub(super) families: BTreeMap<&'static str, Family>,
}

impl Page {
    fn add(
        &mut self,
        (name, help): (&'static str, &'static str),
        kind: Kind,
        labels: &[(&'static str, &str)],
        value: Value,
    ) {
        let family = self.families.entry(name).or_insert_with(|| Family {
            help,
            kind,
            series: Vec::new(),
        });
        let mut labels: Labels = labels
            .iter()
            .map(|&(name, value)| (name, value.to_owned()))
            .collect();
        labels.sort_by_key(|(name, _)| *name);
        family.series.push((labels, value));
    }

    /// A count of what happened since the start; its name ends with `_total`.
    pub fn counter(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[(&'static str, &str)],
        count: u64,
    ) {
        let value = Value::Number(real(count));
        self.add((name, help), Kind::Counter, labels, value);
    }

    /// A sum that only rises and is no whole number, e.g. of seconds.
    pub fn sum(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[(&'static str, &str)],
        sum: f64,
    ) {
        self.add((name, help), Kind::Counter, labels, Value::Number(sum));
    }

    /// What stands just now.
    pub fn gauge(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[(&'static str, &str)],
        value: f64,
    ) {
        self.add((name, help), Kind::Gauge, labels, Value::Number(value));
    }

    /// How values are spread.
    pub fn histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[(&'static str, &str)],
        histogram: &Histogram,
    ) {
        let value = Value::Spread(histogram.snapshot());
        self.add((name, help), Kind::Histogram, labels, value);
    }

    /// As Prometheus reads it: text format 0.0.4.
    ///
    /// # Errors
    /// When a metric has no series or one that is not of its kind: never, as a page has none.
    pub fn text(self) -> Result<String, MetricsError> {
        let families: Vec<_> = self.families.into_iter().map(family).collect();
        Ok(TextEncoder::new().encode_to_string(&families)?)
    }
}

fn family((name, family): (&'static str, Family)) -> proto::MetricFamily {
    let mut written = proto::MetricFamily::default();
    written.set_name(name.to_owned());
    written.set_help(family.help.to_owned());
    written.set_field_type(match family.kind {
        Kind::Counter => proto::MetricType::COUNTER,
        Kind::Gauge => proto::MetricType::GAUGE,
        Kind::Histogram => proto::MetricType::HISTOGRAM,
    });
    let series = family.series.into_iter();
    written.set_metric(series.map(|one| metric(family.kind, one)).collect());
    written
}

fn metric(kind: Kind, (labels, value): (Labels, Value)) -> proto::Metric {
    let mut metric = proto::Metric::default();
    let labels = labels.into_iter().map(|(name, value)| {
        let mut label = proto::LabelPair::default();
        label.set_name(name.to_owned());
        label.set_value(value);
        label
    });
    metric.set_label(labels.collect());
    match (kind, value) {
        (_, Value::Spread(spread)) => metric.set_histogram(histogram(&spread)),
        (Kind::Counter, Value::Number(number)) => {
            let mut counter = proto::Counter::default();
            counter.set_value(number);
            metric.set_counter(counter);
        }
        (_, Value::Number(number)) => {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(number);
            metric.set_gauge(gauge);
        }
    }
    metric
}

fn histogram(spread: &Spread) -> proto::Histogram {
    let mut written = proto::Histogram::default();
    let mut below = 0;
    let buckets = spread.bounds.iter().zip(&spread.counts);
    let buckets = buckets.map(|(bound, count)| {
        below += count;
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(below);
        bucket
    });
    written.set_bucket(buckets.collect());
    written.set_sample_count(spread.count());
    written.set_sample_sum(spread.sum);
    written
}

/// A count as a number of a metric.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    reason = "counts are far below 2 to the 53rd"
)]
pub fn real(count: u64) -> f64 {
    count as f64
}

/// A count of things in memory as a number of a metric.
#[must_use]
pub fn real_size(count: usize) -> f64 {
    real(u64::try_from(count).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_values_and_spreads_are_written_by_name() {
        let mut page = Page::default();
        let spread = Histogram::new(&[0.5, 1.0]);
        spread.observe(0.25);
        spread.observe(3.0);
        page.gauge("lensgate_share", "A share.", &[("arm", "a \"b\"\n")], 0.25);
        page.histogram("lensgate_spread", "A spread.", &[("model", "m")], &spread);
        page.counter("lensgate_things_total", "Things.", &[], 2);
        page.counter("lensgate_things_total", "Things.", &[("of", "b")], 3);
        let wanted = "# HELP lensgate_share A share.\n\
            # TYPE lensgate_share gauge\n\
            lensgate_share{arm=\"a \\\"b\\\"\\n\"} 0.25\n\
            # HELP lensgate_spread A spread.\n\
            # TYPE lensgate_spread histogram\n\
            lensgate_spread_bucket{model=\"m\",le=\"0.5\"} 1\n\
            lensgate_spread_bucket{model=\"m\",le=\"1\"} 1\n\
            lensgate_spread_bucket{model=\"m\",le=\"+Inf\"} 2\n\
            lensgate_spread_sum{model=\"m\"} 3.25\n\
            lensgate_spread_count{model=\"m\"} 2\n\
            # HELP lensgate_things_total Things.\n\
            # TYPE lensgate_things_total counter\n\
            lensgate_things_total 2\n\
            lensgate_things_total{of=\"b\"} 3\n";
        assert_eq!(page.text().expect("text"), wanted);
        assert_eq!(Page::default().text().expect("text"), "");
    }
}
