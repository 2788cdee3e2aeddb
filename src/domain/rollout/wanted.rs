//! A rollout as operators write it: read, checked, and refused by the name of the field that is wrong.

use serde_json::{Map, Value};
use uuid::Uuid;

use super::{Arm, Rollout, Split, StickyBy};
use crate::domain::ids::VersionNumber;

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

    fn version(&self, field: &str) -> Result<VersionNumber, InvalidRollout> {
        let number = self.get(field).and_then(Value::as_u64);
        let number = number.and_then(std::num::NonZeroU64::new);
        number
            .map(VersionNumber::from)
            .ok_or_else(|| wrong(self.name(field), "must be a version's number"))
    }
}

impl Rollout {
    /// Reads a rollout as `PUT …/rollout` takes it. The experiment of a split stays that of `before` where nothing but weights
    /// is another, so that nobody is shuffled; else it is `fresh`. An `experiment` that is given is passed over: what was read
    /// may be sent back.
    ///
    /// # Errors
    /// [`InvalidRollout`], by the field's name. Whether the versions are there is not asked.
    pub fn wanted(value: &Value, before: &Self, fresh: Uuid) -> Result<Self, InvalidRollout> {
        match value.get("mode").and_then(Value::as_str) {
            Some("latest") => {
                Fields::of("", value, &["mode"])?;
                Ok(Self::Latest)
            }
            Some("pinned") => {
                let version = Fields::of("", value, &["mode", "version"])?.version("version")?;
                Ok(Self::Pinned { version })
            }
            Some("split") => {
                let mut split = split(value, fresh)?;
                if let Self::Split(before) = before
                    && before.shares_with(&split)
                {
                    split.experiment = before.experiment;
                }
                Ok(Self::Split(split))
            }
            _ => Err(wrong("mode", "must be latest, pinned or split")),
        }
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

fn split(value: &Value, experiment: Uuid) -> Result<Split, InvalidRollout> {
    let fields = Fields::of("", value, &["mode", "arms", "sticky_by", "experiment"])?;
    let sticky_by = match fields.get("sticky_by") {
        None => StickyBy::default(),
        Some(Value::String(text)) => text
            .parse()
            .map_err(|error: super::InvalidSticky| wrong("sticky_by", error.to_string()))?,
        Some(_) => return Err(wrong("sticky_by", super::InvalidSticky.to_string())),
    };
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
