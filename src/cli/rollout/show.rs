//! A report as tables for people: what it says, in the order in which one looks at it.

use serde::Deserialize;

use crate::cli::say;

/// Cells of a bar for the whole.
const BAR: usize = 10;

/// Classes and disagreements that are shown.
const SHOWN: usize = 10;

/// What is shown of a report.
#[derive(Deserialize)]
pub(super) struct Report {
    model: String,
    rollout: String,
    from: String,
    to: String,
    reference: Window,
    arms: Vec<Arm>,
    disagreements: Vec<Disagreement>,
}

#[derive(Deserialize)]
struct Window {
    from: String,
    to: String,
}

#[derive(Deserialize)]
struct Arm {
    version: u64,
    #[serde(rename = "arm")]
    in_rollout: Option<String>,
    is_baseline: bool,
    requests: u64,
    errors: u64,
    cached: u64,
    mean_confidence: Option<f64>,
    classes: Vec<Class>,
    latency_ms: Option<Latency>,
    agreement: Vec<Agreement>,
    accuracy: Option<Accuracy>,
    difference: Option<Difference>,
    drift: Drift,
}

#[derive(Deserialize)]
struct Class {
    #[serde(rename = "class")]
    name: String,
    requests: u64,
    share: f64,
}

#[derive(Deserialize)]
struct Latency {
    total: Percentiles,
    inference: Percentiles,
    sampled: bool,
}

#[derive(Deserialize)]
struct Percentiles {
    p50: f64,
    p95: f64,
    p99: f64,
}

#[derive(Deserialize)]
struct Agreement {
    with: u64,
    value: Option<f64>,
    low: Option<f64>,
    high: Option<f64>,
    compared: u64,
    dropped: u64,
}

#[derive(Deserialize)]
struct Accuracy {
    value: f64,
    low: f64,
    high: f64,
    labels: u64,
}

#[derive(Deserialize)]
struct Difference {
    baseline: u64,
    value: Option<f64>,
    low: Option<f64>,
    high: Option<f64>,
    p_value: Option<f64>,
    verdict: String,
}

#[derive(Deserialize)]
struct Drift {
    classes: Psi,
    confidence: Psi,
    reference_requests: u64,
}

#[derive(Deserialize)]
struct Psi {
    #[serde(rename = "psi")]
    value: Option<f64>,
    noise: Option<f64>,
    verdict: String,
}

#[derive(Deserialize)]
struct Disagreement {
    version: u64,
    shadow: u64,
    request_id: String,
    index: u32,
    class: String,
    confidence: f64,
    shadow_class: String,
    shadow_confidence: f64,
    strength: f64,
}

impl Report {
    pub(super) fn print(&self) {
        say(format_args!(
            "{} ({}), {} to {}",
            self.model,
            self.rollout,
            to_the_second(&self.from),
            to_the_second(&self.to)
        ));
        if self.arms.is_empty() {
            say("no requests");
            return;
        }
        self.traffic().print("");
        self.accuracy().print("accuracy by the labels");
        self.agreement().print("agreement with shadows");
        self.classes().print("classes");
        let Window { from, to } = &self.reference;
        let (from, to) = (to_the_second(from), to_the_second(to));
        self.drift().print(&format!("drift since {from} to {to}"));
        self.disagreements().print("strongest disagreements");
    }

    fn traffic(&self) -> Table {
        let head = [
            ">version",
            "arm",
            ">requests",
            "share",
            ">errors",
            ">cached",
            ">confidence",
            ">p50 ms",
            ">p95 ms",
            ">p99 ms",
            ">model p50 ms",
            "",
        ];
        let all: u64 = self.arms.iter().map(|arm| arm.requests).sum();
        let mut table = Table::new(&head);
        for arm in &self.arms {
            let latency = arm.latency_ms.as_ref();
            let total = |of: fn(&Percentiles) -> f64| number(latency.map(|ms| of(&ms.total)), 2);
            let sampled = latency.is_some_and(|ms| ms.sampled);
            table.row([
                arm.name(),
                arm.in_rollout.clone().unwrap_or_default(),
                arm.requests.to_string(),
                share_of(arm.requests, all),
                arm.errors.to_string(),
                arm.cached.to_string(),
                number(arm.mean_confidence, 4),
                total(|ms| ms.p50),
                total(|ms| ms.p95),
                total(|ms| ms.p99),
                number(latency.map(|ms| ms.inference.p50), 2),
                if sampled { "of a sample" } else { "" }.to_owned(),
            ]);
        }
        table
    }

    fn accuracy(&self) -> Table {
        let head = [
            ">version",
            "right",
            "95 %",
            ">labels",
            "difference",
            "95 %",
            ">p",
            "",
        ];
        let mut table = Table::new(&head);
        for arm in &self.arms {
            let Some(accuracy) = &arm.accuracy else {
                continue;
            };
            let [value, interval, p, verdict] = match &arm.difference {
                Some(difference) => difference.cells(),
                None => Default::default(),
            };
            table.row([
                arm.name(),
                share(accuracy.value),
                between(accuracy.low, accuracy.high),
                accuracy.labels.to_string(),
                value,
                interval,
                p,
                verdict,
            ]);
        }
        table
    }

    fn agreement(&self) -> Table {
        let head = [
            ">version",
            ">shadow",
            "agree",
            "95 %",
            ">compared",
            ">dropped",
        ];
        let mut table = Table::new(&head);
        for arm in &self.arms {
            for one in &arm.agreement {
                let interval = one.low.zip(one.high);
                table.row([
                    arm.name(),
                    one.with.to_string(),
                    one.value.map(share).unwrap_or_default(),
                    interval
                        .map(|(low, high)| between(low, high))
                        .unwrap_or_default(),
                    one.compared.to_string(),
                    one.dropped.to_string(),
                ]);
            }
        }
        table
    }

    fn classes(&self) -> Table {
        let mut table = Table::new(&[">version", "class", "share", ">requests"]);
        for arm in &self.arms {
            for class in arm.classes.iter().take(SHOWN) {
                table.row([
                    arm.name(),
                    class.name.clone(),
                    share(class.share),
                    class.requests.to_string(),
                ]);
            }
        }
        table
    }

    fn drift(&self) -> Table {
        let head = [
            ">version",
            ">answers then",
            ">classes",
            ">noise",
            "",
            ">confidence",
            ">noise",
            "",
        ];
        let mut table = Table::new(&head);
        for arm in &self.arms {
            let Drift {
                classes,
                confidence,
                reference_requests,
            } = &arm.drift;
            table.row([
                arm.name(),
                reference_requests.to_string(),
                number(classes.value, 3),
                number(classes.noise, 3),
                words(&classes.verdict),
                number(confidence.value, 3),
                number(confidence.noise, 3),
                words(&confidence.verdict),
            ]);
        }
        table
    }

    fn disagreements(&self) -> Table {
        let head = [
            ">version",
            "says",
            ">sure",
            ">shadow",
            "says",
            ">sure",
            ">strength",
            "picture",
        ];
        let mut table = Table::new(&head);
        for one in self.disagreements.iter().take(SHOWN) {
            table.row([
                one.version.to_string(),
                one.class.clone(),
                percent(one.confidence),
                one.shadow.to_string(),
                one.shadow_class.clone(),
                percent(one.shadow_confidence),
                number(Some(one.strength), 3),
                format!("{}.{}", one.request_id, one.index),
            ]);
        }
        table
    }
}

impl Arm {
    /// With a star where the others are compared with it.
    fn name(&self) -> String {
        let star = if self.is_baseline { "*" } else { "" };
        format!("{star}{}", self.version)
    }
}

impl Difference {
    /// The difference in points, its interval, the p-value and the verdict.
    fn cells(&self) -> [String; 4] {
        let points = |value: f64| format!("{:+.1}", value * 100.0);
        let interval = self.low.zip(self.high);
        let interval = interval.map(|(low, high)| format!("{} to {}", points(low), points(high)));
        let p = self.p_value.map(|p| match p {
            p if p < 0.0001 => "<0.0001".to_owned(),
            p => format!("{p:.4}"),
        });
        let verdict = match self.verdict.as_str() {
            "better" | "worse" => format!("{} than {}", self.verdict, self.baseline),
            other => words(other),
        };
        [
            self.value.map(points).unwrap_or_default(),
            interval.unwrap_or_default(),
            p.unwrap_or_default(),
            verdict,
        ]
    }
}

/// A word of the wire as people write it.
fn words(name: &str) -> String {
    name.replace('_', " ")
}

/// A time of the wire without what is smaller than a second.
fn to_the_second(time: &str) -> String {
    let whole = time.split_once('.').map(|(whole, _)| format!("{whole}Z"));
    whole.unwrap_or_else(|| time.to_owned())
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn between(low: f64, high: f64) -> String {
    format!("{:.1} to {:.1} %", low * 100.0, high * 100.0)
}

fn number(number: Option<f64>, digits: usize) -> String {
    number.map_or_else(|| "-".to_owned(), |number| format!("{number:.digits$}"))
}

/// A share as a bar and in percent.
fn share(share: f64) -> String {
    format!("{} {:>7}", bar(share), percent(share))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts are far below 2 to the 53rd"
)]
fn share_of(part: u64, whole: u64) -> String {
    share(part as f64 / whole.max(1) as f64)
}

/// A share, 0 to 1, as a bar of [`BAR`] cells, to the eighth of a cell.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "0 to 80"
)]
fn bar(share: f64) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (share.clamp(0.0, 1.0) * (BAR * 8) as f64).round() as usize;
    let rest = EIGHTHS.get(eighths % 8).copied().unwrap_or_default();
    format!("{:<BAR$}", "█".repeat(eighths / 8) + rest)
}

/// Rows of cells, each column as wide as its widest cell.
struct Table {
    /// The heads, and whether their columns stand to the right: those of numbers.
    head: Vec<(&'static str, bool)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With these heads; a `>` before one says that its column stands to the right.
    fn new(head: &[&'static str]) -> Self {
        let column = |head: &&'static str| match head.strip_prefix('>') {
            Some(head) => (head, true),
            None => (*head, false),
        };
        Self {
            head: head.iter().map(column).collect(),
            rows: Vec::new(),
        }
    }

    fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// Below an empty line and a title; nothing where there is no row.
    fn print(self, title: &str) {
        for line in self.lines(title) {
            say(line);
        }
    }

    fn lines(mut self, title: &str) -> Vec<String> {
        if self.rows.is_empty() {
            return Vec::new();
        }
        let head = self.head.iter().map(|(head, _)| (*head).to_owned());
        self.rows.insert(0, head.collect());
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&self.head).zip(&widths);
            let cells = cells.map(|((cell, (_, right)), &width)| match right {
                true => format!("{cell:>width$}"),
                false => format!("{cell:<width$}"),
            });
            let line = cells.collect::<Vec<_>>().join("  ");
            line.trim_end().to_owned()
        };
        let title = (!title.is_empty()).then(|| title.to_owned());
        let above = std::iter::once(String::new()).chain(title);
        above.chain(self.rows.iter().map(line)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_exact_to_the_eighth() {
        for (share, wanted) in [
            (0.0, ""),
            (0.0125, "▏"),
            (0.1, "█"),
            (0.25, "██▌"),
            (0.9999, "██████████"),
            (1.0, "██████████"),
            (7.0, "██████████"),
            (f64::NAN, ""),
        ] {
            assert_eq!(bar(share), format!("{wanted:<10}"), "{share}");
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&[">version", "class", ">n"]);
        table.row(["1", "ä long one", "5"].map(str::to_owned));
        table.row(["*12", "7", "1234"].map(str::to_owned));
        let wanted = [
            "",
            "classes",
            "version  class          n",
            "      1  ä long one     5",
            "    *12  7           1234",
        ];
        assert_eq!(table.lines("classes"), wanted);
        assert!(Table::new(&["version"]).lines("nothing").is_empty());
    }

    #[test]
    fn a_difference_is_said_in_points() {
        let difference = |verdict: &str, p_value| Difference {
            baseline: 1,
            value: Some(-0.0123),
            low: Some(-0.05),
            high: Some(0.021),
            p_value: Some(p_value),
            verdict: verdict.to_owned(),
        };
        let wanted = ["-1.2", "-5.0 to +2.1", "0.0401", "worse than 1"];
        assert_eq!(difference("worse", 0.0401).cells(), wanted);
        let said = difference("no_difference", 1e-9).cells();
        assert_eq!(said[2..], ["<0.0001", "no difference"]);
    }
}
