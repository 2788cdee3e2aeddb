//! Metrics for a collector: the page as OpenTelemetry's messages, sent every few seconds (the specification's "push").
//!
//! Names are OpenTelemetry's where it has conventions. Ours stay as they are, suffixes included: a collector that hands them on
//! to Prometheus adds none that is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
    ResourceMetrics, ScopeMetrics, Sum, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use tokio_util::sync::CancellationToken;

use super::page::{Family, Kind, Labels, Page, Value};
use super::{Counter, Metrics};
use crate::telemetry::otlp::{self, Sender};

/// What became of pages; nothing where none is sent.
#[derive(Debug, Default)]
pub(super) struct Pushes {
    ok: Counter,
    failed: Counter,
    begun: AtomicBool,
    away: AtomicBool,
}

impl Pushes {
    /// Whether the last page did not arrive.
    pub(super) fn are_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    pub(super) fn tell(&self, page: &mut Page) {
        if !self.begun.load(Ordering::Relaxed) {
            return;
        }
        for (outcome, count) in [("ok", &self.ok), ("failed", &self.failed)] {
            page.counter(
                "lensgate_metrics_pushes_total",
                "Pages of metrics that were sent to the collector.",
                &[("outcome", outcome)],
                count.get(),
            );
        }
    }
}

/// How long the last page may take.
const TO_SEND_THE_LAST: Duration = Duration::from_secs(1);

/// Sends all metrics every `interval` until `stop`, and once more then. Who is away misses them: they are sums, and the next
/// page has it all.
pub(crate) async fn push(
    metrics: Arc<Metrics>,
    sender: Sender,
    interval: Duration,
    stop: CancellationToken,
) {
    let pushes = &metrics.pushes;
    pushes.begun.store(true, Ordering::Relaxed);
    let began = SystemTime::now();
    let mut is_last = false;
    while !is_last {
        tokio::select! {
            () = stop.cancelled() => is_last = true,
            () = tokio::time::sleep(interval) => {}
        }
        let (asked, resource) = (Arc::clone(&metrics), sender.resource());
        let page = tokio::task::spawn_blocking(move || {
            message(asked.page(), resource, (began, SystemTime::now()))
        });
        let Ok(page) = page.await else {
            // The runtime ends.
            return;
        };
        let sending = sender.metrics(page);
        let sent = if is_last {
            // Nobody waits longer for a gateway to end.
            match tokio::time::timeout(TO_SEND_THE_LAST, sending).await {
                Ok(sent) => sent,
                Err(_) => return,
            }
        } else {
            sending.await
        };
        let was_away = pushes.away.swap(sent.is_err(), Ordering::Relaxed);
        match sent {
            Ok(()) => {
                pushes.ok.one();
                if was_away {
                    tracing::info!("the collector takes metrics again");
                }
            }
            Err(error) => {
                pushes.failed.one();
                if !was_away {
                    tracing::warn!(%error, "the collector does not take metrics: they are sent again and again");
                }
            }
        }
    }
}

/// A page as a message; counts are since `began`.
fn message(
    page: Page,
    resource: Resource,
    (began, now): (SystemTime, SystemTime),
) -> ExportMetricsServiceRequest {
    let times = (nanos(began), nanos(now));
    let families = page.families.into_iter();
    let metrics = families.map(|(name, family)| metric(name, family, times));
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(resource),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(InstrumentationScope {
                    name: "lensgate".to_owned(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    ..InstrumentationScope::default()
                }),
                metrics: metrics.collect(),
                ..ScopeMetrics::default()
            }],
            ..ResourceMetrics::default()
        }],
    }
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    let since = since.unwrap_or_default().as_nanos();
    u64::try_from(since).unwrap_or(u64::MAX)
}

/// Names and units that the semantic conventions have.
const CONVENTIONS: [(&str, &str, &str); 2] = [
    (
        "http_server_request_duration_seconds",
        "http.server.request.duration",
        "s",
    ),
    (
        "http_server_active_requests",
        "http.server.active_requests",
        "{request}",
    ),
];

/// What a name's last word says of its unit.
const UNITS: [(&str, &str); 3] = [("_seconds", "s"), ("_bytes", "By"), ("_ratio", "1")];

/// A metric's name and unit for a collector.
fn named(name: &'static str) -> (&'static str, &'static str) {
    if let Some((_, name, unit)) = CONVENTIONS.into_iter().find(|(own, ..)| *own == name) {
        return (name, unit);
    }
    let measured = name.strip_suffix("_total").unwrap_or(name);
    let mut units = UNITS.into_iter();
    let known = units.find(|(suffix, _)| measured.ends_with(suffix));
    (name, known.map_or("1", |(_, unit)| unit))
}

/// A label's name for a collector: the conventions' have dots.
fn attribute(name: &'static str, value: String) -> KeyValue {
    match name {
        "http_request_method" => otlp::text("http.request.method", value),
        "http_route" => otlp::text("http.route", value),
        "http_response_status_code" => {
            let status = value.parse().unwrap_or_default();
            otlp::of("http.response.status_code", Any::IntValue(status))
        }
        _ => otlp::text(name, value),
    }
}

fn metric(name: &'static str, family: Family, times: (u64, u64)) -> Metric {
    let (name, unit) = named(name);
    let cumulative = AggregationTemporality::Cumulative as i32;
    let (kind, series) = (family.kind, family.series.into_iter());
    let data = match kind {
        Kind::Histogram => metric::Data::Histogram(Histogram {
            data_points: series
                .filter_map(|one| histogram_point(one, times))
                .collect(),
            aggregation_temporality: cumulative,
        }),
        Kind::Counter => metric::Data::Sum(Sum {
            data_points: series.filter_map(|one| number_point(one, times)).collect(),
            aggregation_temporality: cumulative,
            is_monotonic: true,
        }),
        Kind::Gauge => metric::Data::Gauge(Gauge {
            data_points: series.filter_map(|one| number_point(one, times)).collect(),
        }),
    };
    Metric {
        name: name.to_owned(),
        description: family.help.to_owned(),
        unit: unit.to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

fn attributes(labels: Labels) -> Vec<KeyValue> {
    let labels = labels.into_iter();
    labels.map(|(name, value)| attribute(name, value)).collect()
}

fn number_point((labels, value): (Labels, Value), times: (u64, u64)) -> Option<NumberDataPoint> {
    let Value::Number(number) = value else {
        return None;
    };
    Some(NumberDataPoint {
        attributes: attributes(labels),
        start_time_unix_nano: times.0,
        time_unix_nano: times.1,
        value: Some(number_data_point::Value::AsDouble(number)),
        ..NumberDataPoint::default()
    })
}

fn histogram_point(
    (labels, value): (Labels, Value),
    times: (u64, u64),
) -> Option<HistogramDataPoint> {
    let Value::Spread(spread) = value else {
        return None;
    };
    Some(HistogramDataPoint {
        attributes: attributes(labels),
        start_time_unix_nano: times.0,
        time_unix_nano: times.1,
        count: spread.count(),
        sum: Some(spread.sum),
        explicit_bounds: spread.bounds.to_vec(),
        bucket_counts: spread.counts,
        ..HistogramDataPoint::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_collectors() {
        for (own, wanted) in [
            (
                "http_server_request_duration_seconds",
                ("http.server.request.duration", "s"),
            ),
            (
                "lensgate_predictions_total",
                ("lensgate_predictions_total", "1"),
            ),
            ("lensgate_cache_bytes", ("lensgate_cache_bytes", "By")),
            (
                "process_cpu_seconds_total",
                ("process_cpu_seconds_total", "s"),
            ),
            ("lensgate_queue_depth", ("lensgate_queue_depth", "1")),
        ] {
            assert_eq!(named(own), wanted);
        }
    }

    #[test]
    fn a_page_keeps_kinds_values_and_attributes() {
        let mut page = Page::default();
        let spread = super::super::Histogram::new(&[0.5]);
        spread.observe(0.25);
        spread.observe(2.0);
        let labels = [
            ("http_request_method", "POST"),
            ("http_response_status_code", "200"),
        ];
        page.histogram(
            "http_server_request_duration_seconds",
            "Times.",
            &labels,
            &spread,
        );
        page.counter("lensgate_things_total", "Things.", &[("of", "a")], 7);
        page.gauge("lensgate_x_bytes", "X.", &[], 1.5);
        let times = (SystemTime::UNIX_EPOCH, SystemTime::now());
        let message = message(page, Resource::default(), times);
        let metrics = &message.resource_metrics[0].scope_metrics[0].metrics;
        let names: Vec<&str> = metrics.iter().map(|one| one.name.as_str()).collect();
        let wanted = [
            "http.server.request.duration",
            "lensgate_things_total",
            "lensgate_x_bytes",
        ];
        assert_eq!(names, wanted);
        match metrics[0].data.as_ref().expect("data") {
            metric::Data::Histogram(histogram) => {
                let point = &histogram.data_points[0];
                assert_eq!((point.count, point.sum), (2, Some(2.25)));
                assert_eq!(point.bucket_counts, [1, 1]);
                let status = otlp::of("http.response.status_code", Any::IntValue(200));
                assert_eq!(point.attributes[1], status);
            }
            other => panic!("{other:?}"),
        }
        match metrics[1].data.as_ref().expect("data") {
            metric::Data::Sum(sum) => {
                assert!(sum.is_monotonic);
                let value = number_data_point::Value::AsDouble(7.0);
                assert_eq!(sum.data_points[0].value, Some(value));
            }
            other => panic!("{other:?}"),
        }
        let gauge = metrics[2].data.as_ref().expect("data");
        assert!(matches!(gauge, metric::Data::Gauge(_)), "{gauge:?}");
    }
}
