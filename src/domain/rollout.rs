//! How a model's traffic is shared between its versions, and which version a request gets.

use serde::Serialize;

use super::ids::VersionNumber;

/// The rule by which a model's requests find their version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "mode", rename_all = "lowercase")]
pub enum Rollout {
    /// The highest number that is live.
    Latest,
}

impl Rollout {
    /// The name of the mode on the wire.
    #[must_use]
    pub fn mode(&self) -> &'static str {
        match self {
            Self::Latest => "latest",
        }
    }

    /// The version for a request among those that are `live`; `None` when none is.
    #[must_use]
    pub fn assign(&self, live: impl Iterator<Item = VersionNumber>) -> Option<VersionNumber> {
        match self {
            Self::Latest => live.max(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latest_is_the_highest_live_number() {
        let version = |text: &str| text.parse::<VersionNumber>().expect("a version");
        let live = [version("9"), version("10"), version("2")];
        assert_eq!(
            Rollout::Latest.assign(live.into_iter()),
            Some(version("10"))
        );
        assert_eq!(Rollout::Latest.assign(std::iter::empty()), None);
    }
}
