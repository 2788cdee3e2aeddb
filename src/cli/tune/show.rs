//! What was measured and what follows from it: a table and sentences for people, one object for programs.

use std::time::Duration;

use serde_json::{Value, json};

use super::write::Written;
use crate::cli::say;
use crate::model_store::Candidate;
use crate::models::tune::{
    Choice, Contender, Figures, Goal, LEAST_NOISE, Origin, ROUNDS, ServingKeys, TuneOptions,
    TuneReport, Verdict,
};

/// What was measured.
pub(super) struct What<'a> {
    pub(super) candidate: &'a Candidate,
    pub(super) backend: &'static str,
    pub(super) providers: Vec<String>,
    pub(super) options: &'a TuneOptions,
}

/// Everything there is to say.
pub(super) struct Shown<'a> {
    pub(super) what: &'a What<'a>,
    pub(super) report: &'a TuneReport,
    pub(super) goal: Goal,
    /// Keys that the version's own manifest sets.
    pub(super) overridden: Vec<&'static str>,
}

/// The settings in a few words.
pub(super) fn name(keys: ServingKeys) -> String {
    if keys.is_default() {
        return "the default".to_owned();
    }
    let set = keys.named().into_iter();
    let set = set.filter_map(|(key, value)| Some(format!("{key} = {}", value?)));
    set.collect::<Vec<_>>().join(", ")
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

impl Shown<'_> {
    /// The table, and the best for each goal.
    pub(super) fn print(&self) {
        let What {
            candidate, options, ..
        } = self.what;
        say(format_args!(
            "{} version {} on {} ({}), cores: {}, picture: {}",
            candidate.model,
            candidate.number,
            self.what.backend,
            self.what.providers.join(", "),
            self.report.cores,
            options.picture.origin
        ));
        say(format_args!(
            "{} s a measurement; each figure in its best round\n",
            options.time.as_secs_f64()
        ));
        say(" instances  threads  max_batch_size  pictures/s   p50 ms   p99 ms   memory  rounds");
        for contender in &self.report.contenders {
            say(row(contender));
        }
        say("");
        for goal in [Goal::Throughput, Goal::Latency] {
            if let Some(choice) = self.report.choose(goal) {
                say(format_args!(
                    "best for {:<11} {}",
                    format!("{}:", goal.as_str()),
                    sentence(&choice, goal)
                ));
            }
        }
    }

    /// What to do, or what was done.
    pub(super) fn print_advice(&self, choice: &Choice<'_>, written: Option<&Written>) {
        match (written, choice.verdict) {
            (Some(Written::File(path)), _) => {
                let keys = choice.chosen.keys;
                let done = if keys.is_default() {
                    "the tuned keys were taken out of [serving]".to_owned()
                } else {
                    format!("[serving] {} is written", name(keys))
                };
                say(format_args!("{}: {done}", path.display()));
            }
            (Some(Written::Nothing), Verdict::Stay) => {
                say("nothing is written: what is in force stays");
            }
            (Some(Written::Nothing), _) => say("nothing is written: model.toml says it already"),
            (None, Verdict::Stay) => {}
            (None, _) => say(format_args!(
                "--write keeps what is recommended for {}",
                self.goal.as_str()
            )),
        }
        if !self.overridden.is_empty() {
            say(format_args!(
                "version {}'s own model.toml sets {}: there it wins over the model's",
                self.what.candidate.number,
                self.overridden.join(", ")
            ));
        }
    }

    pub(super) fn json(&self, choice: &Choice<'_>, written: Option<&Written>) -> Value {
        let candidate = self.what.candidate;
        let best = |goal| {
            let choice = self.report.choose(goal);
            choice.map(|choice| found_json(&choice))
        };
        json!({
            "model": candidate.model.as_str(),
            "version": candidate.number.get(),
            "digest": candidate.digest.to_string(),
            "backend": self.what.backend,
            "providers": self.what.providers,
            "cores": self.report.cores,
            "picture": self.what.options.picture.origin,
            "seconds": self.what.options.time.as_secs_f64(),
            "candidates": self.report.contenders.iter().map(contender_json).collect::<Vec<_>>(),
            "best": {
                "throughput": best(Goal::Throughput),
                "latency": best(Goal::Latency),
            },
            "goal": self.goal.as_str(),
            "recommended": keys_json(choice.chosen.keys),
            "written": written.map(|written| matches!(written, Written::File(_))),
            "overridden": self.overridden,
        })
    }
}

fn row(contender: &Contender) -> String {
    let cell = |value: Option<usize>| value.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let keys = contender.keys;
    let head = format!(
        "{:>10}  {:>7}  {:>14}",
        cell(keys.instances),
        cell(keys.threads),
        cell(keys.max_batch_size)
    );
    let role = match contender.origin {
        Origin::Default => "  the default",
        Origin::Written => "  as model.toml says",
        Origin::Tried => "",
    };
    let figures = match (&contender.failure, contender.figures()) {
        (Some(reason), _) => format!("  failed: {reason}"),
        (None, None) => "  not measured".to_owned(),
        (None, Some(figures)) => {
            let Figures {
                throughput,
                p50,
                p99,
                memory,
            } = figures;
            let memory =
                memory.map_or_else(|| "-".to_owned(), |bytes| format!("{} MiB", mib(bytes)));
            format!(
                "  {throughput:>10.1}  {:>7.2}  {:>7.2}  {memory:>7}  {:>6}",
                ms(p50),
                ms(p99),
                contender.runs.len()
            )
        }
    };
    format!("{head}{figures}{role}")
}

/// Which settings, by how much, and whether that means anything.
fn sentence(choice: &Choice<'_>, goal: Goal) -> String {
    let figure = choice.chosen.figures().map(|figures| match goal {
        Goal::Throughput => format!("{:.1} pictures/s", figures.throughput),
        Goal::Latency => format!("{:.2} ms", ms(figures.p50)),
    });
    let figure = figure.unwrap_or_default();
    let chosen = name(choice.chosen.keys);
    let (gain, noise) = (choice.gain * 100.0, choice.noise * 100.0);
    let stays = choice.in_force.map(|stays| name(stays.keys));
    let stays = stays.unwrap_or_else(|| "what is in force".to_owned());
    match choice.verdict {
        Verdict::Stay if choice.best.keys == choice.chosen.keys => format!("{chosen}, {figure}"),
        Verdict::Stay => format!(
            "{chosen}, {figure}; {} is {gain:.1} % better, which is within noise ({noise:.0} %)",
            name(choice.best.keys)
        ),
        Verdict::Default => {
            format!(
                "{chosen}, {figure}: better than {stays}, and nothing is better than it by more than noise"
            )
        }
        Verdict::Better if choice.in_force.is_none() => {
            format!("{chosen}, {figure}; {stays} could not be measured")
        }
        Verdict::Better => format!(
            "{chosen}, {figure}; the best is {gain:.0} % better than {stays} (noise {noise:.0} %)"
        ),
    }
}

fn found_json(choice: &Choice<'_>) -> Value {
    json!({
        "recommended": keys_json(choice.chosen.keys),
        "fastest": keys_json(choice.best.keys),
        "gain": choice.gain,
        "noise": choice.noise.max(LEAST_NOISE),
        "within_noise": choice.verdict == Verdict::Stay,
    })
}

/// As they would stand in the manifest: the default is an empty object.
fn keys_json(keys: ServingKeys) -> Value {
    let set = keys.named().into_iter();
    let set = set.filter_map(|(key, value)| Some((key.to_owned(), json!(value?))));
    Value::Object(set.collect())
}

fn contender_json(contender: &Contender) -> Value {
    let figures = contender.figures();
    json!({
        "serving": keys_json(contender.keys),
        "origin": match contender.origin {
            Origin::Default => "default",
            Origin::Written => "written",
            Origin::Tried => "tried",
        },
        "rounds": contender.runs.len(),
        "finished": contender.runs.len() >= ROUNDS,
        "pictures_per_second": figures.map(|f| f.throughput),
        "p50_ms": figures.map(|f| ms(f.p50)),
        "p99_ms": figures.map(|f| ms(f.p99)),
        "memory_bytes": figures.and_then(|f| f.memory),
        "error": contender.failure,
    })
}
