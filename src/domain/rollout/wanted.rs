//! A rollout as operators write it: read, checked, and refused by the name of the field that is wrong.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{Arm, Canary, CanaryState, Guards, Rollout, Rule, Shadow, Split, Stage, StickyBy};
use crate::domain::ids::{Alias, InvalidAlias, VersionNumber};

/// The most arms of a split.
const MOST_ARMS: usize = 16;

/// Why a rollout is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}`: {reason}")]
pub struct InvalidRollout {
    /// The field, e.g. `arms[1].weight`.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

fn wrong(field: impl Into<String>, reason: impl Into<String>) -> InvalidRollout {
    InvalidRollout {
        field: field.into(),
        reason: reason.into(),
    }
}

/// The fields of an object that has no others than are known.
struct Fields<'a> {
    /// What its fields' names begin with.
    prefix: &'a str,
    object: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    fn of(prefix: &'a str, value: &'a Value, known: &[&str]) -> Result<Self, InvalidRollout> {
        let object = value.as_object().ok_or_else(|| {
            let name = prefix.trim_end_matches('.');
            wrong(
                if name.is_empty() { "body" } else { name },
                "must be an object",
            )
        })?;
        let fields = Self { prefix, object };
        match object.keys().find(|key| !known.contains(&key.as_str())) {
            Some(unknown) => Err(wrong(
                fields.name(unknown),
                format!(
                    "there is no such field here; there are {}",
                    known.join(", ")
                ),
            )),
            None => Ok(fields),
        }
    }

    fn name(&self, field: &str) -> String {
        format!("{}{field}", self.prefix)
    }

    /// A field's value; `null` is as if it were not there.
    fn get(&self, field: &str) -> Option<&'a Value> {
        self.object.get(field).filter(|value| !value.is_null())
    }

    /// A field's number, where it is given and `fits`; else the field's name.
    fn number(&self, field: &str, fits: impl Fn(f64) -> bool) -> Result<Option<f64>, String> {
        let Some(value) = self.get(field) else {
            return Ok(None);
        };
        let number = value.as_f64().filter(|&number| fits(number));
        number.map(Some).ok_or_else(|| self.name(field))
    }

    fn version(&self, field: &str) -> Result<VersionNumber, InvalidRollout> {
        let number = self.get(field).and_then(Value::as_u64);
        let number = number.and_then(std::num::NonZeroU64::new);
        number
            .map(VersionNumber::from)
            .ok_or_else(|| wrong(self.name(field), "must be a version's number"))
    }
}

/// What a rollout takes from outside when it begins.
#[derive(Clone, Copy, Debug)]
pub struct Fresh {
    /// Names it, where it is none that went on.
    pub id: Uuid,
    /// The time.
    pub now: DateTime<Utc>,
}

/// What is said of a rollout beside its rule.
const BESIDE: [&str; 2] = ["mode", "shadow"];

impl Rollout {
    /// Reads a rollout as `PUT …/rollout` takes it. The experiment of a split or canary stays that of `before` where the arms and
    /// what is sticky are the same, so that nobody is shuffled. A canary begins at its first step. What is only shown
    /// (`experiment`, and where a canary stands) is passed over: what was read may be sent back.
    ///
    /// # Errors
    /// [`InvalidRollout`], by the field's name. Whether the versions are there is not asked.
    pub fn wanted(value: &Value, before: &Self, fresh: Fresh) -> Result<Self, InvalidRollout> {
        let known = |fields: &[&'static str]| [&BESIDE[..], fields].concat();
        let rule = match value.get("mode").and_then(Value::as_str) {
            Some("latest") => {
                Fields::of("", value, &known(&[]))?;
                Rule::Latest
            }
            Some("pinned") => {
                let version = Fields::of("", value, &known(&["version"]))?.version("version")?;
                Rule::Pinned { version }
            }
            Some("split") => {
                let fields = Fields::of("", value, &known(&["arms", "sticky_by", "experiment"]))?;
                let mut split = split(&fields, fresh.id)?;
                if let Rule::Split(before) = &before.rule
                    && before.shares_with(&split)
                {
                    split.experiment = before.experiment;
                }
                Rule::Split(split)
            }
            Some("canary") => {
                let fields = Fields::of("", value, &known(&[CANARY, CANARY_SHOWN].concat()))?;
                let mut canary = canary(&fields, fresh)?;
                if let Rule::Canary(before) = &before.rule
                    && before.shares_with(&canary)
                {
                    canary.experiment = before.experiment;
                }
                Rule::Canary(Box::new(canary))
            }
            _ => {
                return Err(wrong("mode", "must be latest, pinned, split or canary"));
            }
        };
        let shadow = value.get("shadow").filter(|shadow| !shadow.is_null());
        let shadow = shadow.map(|value| shadow_of(value, &rule)).transpose()?;
        Ok(Self { rule, shadow })
    }
}

impl Split {
    /// Whether another one shares the traffic among the same arms, by the same units.
    fn shares_with(&self, other: &Self) -> bool {
        let has = |split: &Self, arm: &Arm| split.arms.iter().any(|one| one.version == arm.version);
        self.sticky_by == other.sticky_by
            && self.arms.len() == other.arms.len()
            && self.arms.iter().all(|arm| has(other, arm))
    }
}

impl Canary {
    /// As a split's.
    fn shares_with(&self, other: &Self) -> bool {
        (self.baseline, self.candidate, &self.sticky_by)
            == (other.baseline, other.candidate, &other.sticky_by)
    }
}

fn shadow_of(value: &Value, rule: &Rule) -> Result<Shadow, InvalidRollout> {
    let fields = Fields::of("shadow.", value, &["version", "sample"])?;
    let version = fields.version("version")?;
    if matches!(rule, Rule::Pinned { version: pinned } if *pinned == version) {
        let reason = format!("version {version} has all the traffic itself");
        return Err(wrong("shadow.version", reason));
    }
    let sample = fields.number("sample", |sample| sample > 0.0 && sample <= 1.0);
    let sample = sample.map_err(|name| wrong(name, "must be more than 0, and 1 at most"))?;
    Ok(Shadow {
        version,
        sample: sample.unwrap_or(DEFAULT_SAMPLE),
    })
}

fn sticky_by(fields: &Fields<'_>) -> Result<StickyBy, InvalidRollout> {
    match fields.get("sticky_by") {
        None => Ok(StickyBy::default()),
        Some(Value::String(text)) => text
            .parse()
            .map_err(|error: super::InvalidSticky| wrong("sticky_by", error.to_string())),
        Some(_) => Err(wrong("sticky_by", super::InvalidSticky.to_string())),
    }
}

fn split(fields: &Fields<'_>, experiment: Uuid) -> Result<Split, InvalidRollout> {
    let sticky_by = sticky_by(fields)?;
    let Some(Value::Array(listed)) = fields.get("arms") else {
        return Err(wrong("arms", "must be a list of {version, weight}"));
    };
    if listed.is_empty() || listed.len() > MOST_ARMS {
        return Err(wrong("arms", format!("must be 1 to {MOST_ARMS}")));
    }
    let mut arms: Vec<Arm> = Vec::new();
    for (place, arm) in listed.iter().enumerate() {
        let prefix = format!("arms[{place}].");
        let fields = Fields::of(&prefix, arm, &["version", "weight"])?;
        let version = fields.version("version")?;
        if arms.iter().any(|one| one.version == version) {
            let reason = format!("version {version} is an arm already");
            return Err(wrong(fields.name("version"), reason));
        }
        let weight = fields.get("weight").and_then(Value::as_f64);
        let weight = weight.filter(|weight| weight.is_finite() && *weight >= 0.0);
        let weight = weight.ok_or_else(|| {
            wrong(
                fields.name("weight"),
                "must be a number, not negative and finite",
            )
        })?;
        arms.push(Arm { version, weight });
    }
    let sum: f64 = arms.iter().map(|arm| arm.weight).sum();
    if !sum.is_finite() || sum <= 0.0 {
        return Err(wrong(
            "arms",
            "the weights' sum must be more than 0 and finite",
        ));
    }
    Ok(Split {
        experiment,
        arms,
        sticky_by,
    })
}

/// What a canary is told.
const CANARY: &[&str] = &[
    "baseline",
    "candidate",
    "steps",
    "step_requests",
    "guards",
    "agreement_sample",
    "sticky_by",
    "promote_aliases",
];

/// What is only shown of it.
const CANARY_SHOWN: &[&str] = &[
    "experiment",
    "state",
    "step",
    "share",
    "since",
    "reason",
    "begun_at",
    "figures",
    "waits_for",
];

/// The part of the pictures that a shadow runs on, where nothing else is said.
const DEFAULT_SAMPLE: f64 = 0.1;

/// A canary's steps, where nothing else is said.
const DEFAULT_STEPS: [f64; 4] = [1.0, 10.0, 50.0, 100.0];

/// Answers of a step, where nothing else is said.
const DEFAULT_STEP_REQUESTS: u64 = 500;

/// The most errors, where nothing is said of guards at all.
const DEFAULT_ERROR_RATE: f64 = 0.01;

/// The most steps of a canary, and aliases that it moves.
const MOST_STEPS: usize = 32;

fn canary(fields: &Fields<'_>, fresh: Fresh) -> Result<Canary, InvalidRollout> {
    let baseline = fields.version("baseline")?;
    let candidate = fields.version("candidate")?;
    if baseline == candidate {
        return Err(wrong(
            "candidate",
            "must be another version than the baseline",
        ));
    }
    let step_requests = match fields.get("step_requests") {
        None => DEFAULT_STEP_REQUESTS,
        Some(value) => value
            .as_u64()
            .filter(|&requests| requests > 0)
            .ok_or_else(|| wrong("step_requests", "must be a whole number, at least 1"))?,
    };
    let guards = guards(fields)?;
    let sample = fields.number("agreement_sample", |sample| (0.0..=1.0).contains(&sample));
    let sample = sample.map_err(|name| wrong(name, "must be from 0 to 1"))?;
    let agreement_sample = sample.unwrap_or(DEFAULT_SAMPLE);
    if agreement_sample <= 0.0 && guards.min_agreement.is_some() {
        let reason = "must be more than 0 where min_agreement is to hold";
        return Err(wrong("agreement_sample", reason));
    }
    Ok(Canary {
        experiment: fresh.id,
        run: fresh.id,
        baseline,
        candidate,
        steps: steps(fields)?,
        step_requests,
        guards,
        agreement_sample,
        sticky_by: sticky_by(fields)?,
        promote_aliases: aliases(fields)?,
        begun_at: fresh.now,
        stage: Stage {
            state: CanaryState::Running,
            step: 0,
            since: fresh.now,
            reason: None,
        },
    })
}

fn steps(fields: &Fields<'_>) -> Result<Vec<f64>, InvalidRollout> {
    let listed = match fields.get("steps") {
        None => return Ok(DEFAULT_STEPS.to_vec()),
        Some(Value::Array(listed)) => listed,
        Some(_) => return Err(wrong("steps", "must be a list of percentages")),
    };
    if listed.is_empty() || listed.len() > MOST_STEPS {
        return Err(wrong("steps", format!("must be 1 to {MOST_STEPS}")));
    }
    let mut steps = Vec::new();
    for (place, step) in listed.iter().enumerate() {
        let name = format!("steps[{place}]");
        let before = steps.last().copied().unwrap_or_default();
        let step = step.as_f64().filter(|&step| step > 0.0 && step <= 100.0);
        let step = step.ok_or_else(|| {
            wrong(
                name.as_str(),
                "must be a percentage: more than 0, and 100 at most",
            )
        })?;
        if step <= before {
            return Err(wrong(
                name,
                format!("must be more than {before}: steps rise"),
            ));
        }
        steps.push(step);
    }
    Ok(steps)
}

fn guards(fields: &Fields<'_>) -> Result<Guards, InvalidRollout> {
    let Some(value) = fields.get("guards") else {
        return Ok(Guards {
            max_error_rate: Some(DEFAULT_ERROR_RATE),
            ..Guards::default()
        });
    };
    let known = [
        "max_error_rate",
        "max_p95_ratio",
        "min_agreement",
        "min_accuracy",
        "max_accuracy_drop",
    ];
    let fields = Fields::of("guards.", value, &known)?;
    let share = |field| {
        let share = fields.number(field, |share| (0.0..=1.0).contains(&share));
        share.map_err(|name| wrong(name, "must be from 0 to 1"))
    };
    let ratio = fields.number("max_p95_ratio", |ratio| ratio > 0.0 && ratio.is_finite());
    Ok(Guards {
        max_error_rate: share("max_error_rate")?,
        max_p95_ratio: ratio.map_err(|name| wrong(name, "must be more than 0 and finite"))?,
        min_agreement: share("min_agreement")?,
        min_accuracy: share("min_accuracy")?,
        max_accuracy_drop: share("max_accuracy_drop")?,
    })
}

fn aliases(fields: &Fields<'_>) -> Result<Vec<Alias>, InvalidRollout> {
    let listed = match fields.get("promote_aliases") {
        None => return Ok(Vec::new()),
        Some(Value::Array(listed)) if listed.len() <= MOST_STEPS => listed,
        Some(_) => {
            let reason = format!("must be a list of {MOST_STEPS} aliases at most");
            return Err(wrong("promote_aliases", reason));
        }
    };
    let mut aliases = Vec::new();
    for (place, alias) in listed.iter().enumerate() {
        let name = format!("promote_aliases[{place}]");
        let text = alias.as_str().unwrap_or_default();
        let alias: Alias = text
            .parse()
            .map_err(|error: InvalidAlias| wrong(name.as_str(), error.to_string()))?;
        if aliases.contains(&alias) {
            return Err(wrong(name, format!("{alias} is in the list already")));
        }
        aliases.push(alias);
    }
    Ok(aliases)
}
