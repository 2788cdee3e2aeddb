//! How a model's traffic is shared between its versions, and which version a request gets.
//!
//! [`Rollout::assign`] is a pure function of the rule, the request's unit and the versions that are live: the same on every
//! replica and after every restart. How a rule is read and what is refused is in `wanted`; what becomes of a canary, and on
//! which evidence, in `canary`, `guard` and `evidence`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::ids::VersionNumber;

mod canary;
mod evidence;
mod figures;
mod guard;
mod wanted;

pub use canary::{Canary, CanaryState, Order, Stage, Verdict};
pub use figures::{
    Agreement, ArmFigures, ArmLabels, CanaryPlace, Counted, Disagreement, Figures, Latencies, Pair,
};
pub use guard::Guards;
pub use wanted::{Fresh, InvalidRollout};

/// How a model's requests find their version, and which one listens beside it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// The rule.
    #[serde(flatten)]
    pub rule: Rule,
    /// What also runs, on a sample, without being heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Shadow>,
}

/// The rule by which a model's requests find their version.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "lowercase")]
pub enum Rule {
    /// The highest number that is live.
    #[default]
    Latest,
    /// One version, and no other in its place.
    Pinned {
        /// Its number.
        version: VersionNumber,
    },
    /// Versions side by side.
    Split(Split),
    /// A candidate that gets more and more of the traffic, or none.
    Canary(Box<Canary>),
}

/// A version that also runs on a sample of the pictures; nobody waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shadow {
    /// The version.
    pub version: VersionNumber,
    /// The part of the pictures, from 0 to 1.
    pub sample: f64,
}

/// Versions side by side, each with its share of the traffic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Split {
    /// The salt: another one shuffles anew who gets which arm.
    pub experiment: Uuid,
    /// The arms, at least one; the first is the baseline, which gets the traffic of an arm that is not live.
    pub arms: Vec<Arm>,
    /// What stays with its arm.
    pub sticky_by: StickyBy,
}

/// A version with its share of the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Arm {
    /// The version.
    pub version: VersionNumber,
    /// Its share, as a part of the sum of all: finite and not negative.
    pub weight: f64,
}

/// What stays with its arm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StickyBy {
    /// Nothing: each picture is assigned by itself.
    None,
    /// An API key.
    #[default]
    Key,
    /// A picture, by the digest of its file.
    Image,
    /// A value of a request header, by its name in lower case.
    Header(String),
}

/// Which part of a rollout a version was chosen for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ArmName {
    /// Of a split: the arm of this version.
    Of(VersionNumber),
    /// Of a canary: what served before.
    Baseline,
    /// Of a canary: what is tried.
    Candidate,
}

impl fmt::Display for ArmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Of(version) => version.fmt(f),
            Self::Baseline => f.write_str("baseline"),
            Self::Candidate => f.write_str("candidate"),
        }
    }
}

impl FromStr for ArmName {
    type Err = super::ids::InvalidVersion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "baseline" => Ok(Self::Baseline),
            "candidate" => Ok(Self::Candidate),
            version => version.parse().map(Self::Of),
        }
    }
}

/// The version for a request, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// The version.
    pub version: VersionNumber,
    /// The arm, where there are arms.
    pub arm: Option<ArmName>,
    /// Whether it stands in for an arm that is not live.
    pub stands_in: bool,
}

impl Rollout {
    /// A rule, and nothing beside it.
    #[must_use]
    pub fn of(rule: Rule) -> Self {
        Self { rule, shadow: None }
    }

    /// The name of the mode on the wire.
    #[must_use]
    pub fn mode(&self) -> &'static str {
        match &self.rule {
            Rule::Latest => "latest",
            Rule::Pinned { .. } => "pinned",
            Rule::Split(_) => "split",
            Rule::Canary(_) => "canary",
        }
    }

    /// The canary, where it is one.
    #[must_use]
    pub fn canary(&self) -> Option<&Canary> {
        match &self.rule {
            Rule::Canary(canary) => Some(canary),
            _ => None,
        }
    }

    /// Its arms, the baseline first; none where there are none.
    pub fn arms(&self) -> impl Iterator<Item = Arm> + Clone {
        let (split, canary) = match &self.rule {
            Rule::Latest | Rule::Pinned { .. } => (&[][..], None),
            Rule::Split(split) => (&split.arms[..], None),
            Rule::Canary(canary) => (&[][..], Some(canary.arms())),
        };
        split.iter().copied().chain(canary.into_iter().flatten())
    }

    /// What the arm of a version is called, where it is one.
    #[must_use]
    pub fn arm_of(&self, version: VersionNumber) -> Option<ArmName> {
        self.arms().find(|arm| arm.version == version)?;
        Some(match &self.rule {
            Rule::Canary(canary) => canary.name_of(version),
            _ => ArmName::Of(version),
        })
    }

    /// The version without which it has none to give, or none in an arm's place.
    #[must_use]
    pub fn mainstay(&self) -> Option<VersionNumber> {
        match &self.rule {
            Rule::Latest => None,
            Rule::Pinned { version } => Some(*version),
            Rule::Split(split) => split.arms.first().map(|arm| arm.version),
            Rule::Canary(canary) if canary.stage.state == CanaryState::Promoted => {
                Some(canary.candidate)
            }
            Rule::Canary(canary) => Some(canary.baseline),
        }
    }

    /// The versions that it names, each with the name of the field that does.
    pub fn named(&self) -> impl Iterator<Item = (String, VersionNumber)> {
        let mut named = Vec::new();
        match &self.rule {
            Rule::Latest => {}
            Rule::Pinned { version } => named.push(("version".to_owned(), *version)),
            Rule::Split(split) => {
                let arms = split.arms.iter().enumerate();
                named.extend(arms.map(|(at, arm)| (format!("arms[{at}].version"), arm.version)));
            }
            Rule::Canary(canary) => {
                named.push(("baseline".to_owned(), canary.baseline));
                named.push(("candidate".to_owned(), canary.candidate));
            }
        }
        let shadow = self.shadow.as_ref();
        named.extend(shadow.map(|shadow| ("shadow.version".to_owned(), shadow.version)));
        named.into_iter()
    }

    /// What stays with its version, where that matters.
    #[must_use]
    pub fn sticky_by(&self) -> Option<&StickyBy> {
        match &self.rule {
            Rule::Latest | Rule::Pinned { .. } => None,
            Rule::Split(split) => Some(&split.sticky_by),
            Rule::Canary(canary) => Some(&canary.sticky_by),
        }
    }

    /// The version for a `unit` (what is sticky, as bytes) among those that are `live`; `None` when it has none to give.
    #[must_use]
    pub fn assign(
        &self,
        unit: &[u8],
        live: impl Iterator<Item = VersionNumber> + Clone,
    ) -> Option<Assigned> {
        let whole = |version| Assigned {
            version,
            arm: None,
            stands_in: false,
        };
        match &self.rule {
            Rule::Latest => live.max().map(whole),
            Rule::Pinned { version } => {
                let mut live = live;
                live.find(|number| number == version).map(whole)
            }
            Rule::Split(split) => assign(split.experiment, &split.arms, unit, &live, ArmName::Of),
            Rule::Canary(canary) => {
                let (arms, name) = (canary.arms(), |version| canary.name_of(version));
                // A candidate without a share stands in for nobody.
                let arms = if arms[1].weight > 0.0 {
                    &arms[..]
                } else {
                    &arms[..1]
                };
                assign(canary.experiment, arms, unit, &live, name)
            }
        }
    }
}

/// Whether a picture of a request (by its `UUIDv7`, which ends in random bits) is in a sample of this part of all.
#[must_use]
pub fn is_sampled(request: Uuid, index: u32, sample: f64) -> bool {
    let (_, random) = request.as_u64_pair();
    uniform(mixed(random, u64::from(index) + 1)) < sample
}

/// The arm of a unit; where it is not live, the first that is: the baseline before all others.
fn assign(
    experiment: Uuid,
    arms: &[Arm],
    unit: &[u8],
    live: &(impl Iterator<Item = VersionNumber> + Clone),
    name: impl Fn(VersionNumber) -> ArmName,
) -> Option<Assigned> {
    let chosen = choose(experiment, arms, unit)?.version;
    let is_live = |wanted: &VersionNumber| live.clone().any(|number| number == *wanted);
    let others = arms.iter().map(|arm| arm.version);
    let version = std::iter::once(chosen).chain(others).find(is_live)?;
    Some(Assigned {
        version,
        arm: Some(name(version)),
        stands_in: version != chosen,
    })
}

/// The arm of a unit, whether it is live or not: weighted rendezvous hashing. Each arm draws an exponentially distributed
/// number from the hash of salt, unit and arm, divided by its weight, and the least wins: an arm wins as often as its
/// share says, and a weight that rises takes from the others and gives nothing away.
///
/// Source: C. Schindelhauer, G. Schomaker, "Weighted Distributed Hash Tables", SPAA 2005 (the logarithmic method).
fn choose<'a>(experiment: Uuid, arms: &'a [Arm], unit: &[u8]) -> Option<&'a Arm> {
    let mut hasher = Sha256::new();
    hasher.update(experiment.as_bytes());
    hasher.update(unit);
    let digest: [u8; 32] = hasher.finalize().into();
    let hash = digest
        .first_chunk()
        .map_or(0, |first| u64::from_le_bytes(*first));
    let drawn = |arm: &Arm| -uniform(mixed(hash, arm.version.get())).ln() / arm.weight;
    let arms = arms.iter().filter(|arm| arm.weight > 0.0);
    arms.min_by(|a, b| drawn(a).total_cmp(&drawn(b)))
}

/// A hash of a unit and an arm out of those of both: the finalizer of `SplitMix64` (G. Steele et al., OOPSLA 2014) over their
/// difference, each arm being as far from the next as the generator's steps are.
fn mixed(unit: u64, arm: u64) -> u64 {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut mixed = unit.wrapping_add(arm.wrapping_mul(STEP));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A number between 0 and 1, neither included.
#[expect(
    clippy::cast_precision_loss,
    reason = "53 bits are what a float of 64 has"
)]
fn uniform(hash: u64) -> f64 {
    ((hash >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
}

/// A text that is not what is sticky.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be none, key, image or header:<name>")]
pub struct InvalidSticky;

impl FromStr for StickyBy {
    type Err = InvalidSticky;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self::None),
            "key" => Ok(Self::Key),
            "image" => Ok(Self::Image),
            _ => {
                let name = text.strip_prefix("header:").ok_or(InvalidSticky)?;
                // RFC 9110, `token`.
                let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
                if name.is_empty() || name.len() > 100 || !name.chars().all(is_token) {
                    return Err(InvalidSticky);
                }
                Ok(Self::Header(name.to_ascii_lowercase()))
            }
        }
    }
}

impl fmt::Display for StickyBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Key => f.write_str("key"),
            Self::Image => f.write_str("image"),
            Self::Header(name) => write!(f, "header:{name}"),
        }
    }
}

impl Serialize for StickyBy {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for StickyBy {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
