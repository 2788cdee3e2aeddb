//! What has to be done about one model: the disk and what operators want, compared with what serves. Pure, and the only
//! place with these rules.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::catalog::VersionState;
use crate::domain::ids::{Digest, VersionNumber};
use crate::model_store::{Candidate, Content, FileId, FoundVersion};

/// What the gateway knows of a version, whatever the disk says.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// The fingerprint that serves.
    pub(super) live: Option<Digest>,
    /// The fingerprint that is being loaded.
    pub(super) in_hand: Option<Digest>,
    /// The last load that failed.
    pub(super) failed: Option<Failed>,
    /// It is on its way out.
    pub(super) draining: bool,
}

/// A load that failed.
#[derive(Clone, Debug)]
pub(super) struct Failed {
    pub(super) fingerprint: Digest,
    pub(super) digest: Digest,
    /// The files as they were: a touched one is worth a try at once.
    pub(super) files: Vec<(PathBuf, FileId)>,
    pub(super) reason: String,
    /// Failures in a row.
    pub(super) times: u32,
    /// When it is tried again.
    pub(super) retry_at: Instant,
}

impl Failed {
    /// Whether it was this very candidate, down to its files.
    pub(super) fn is_of(&self, candidate: &Candidate) -> bool {
        self.fingerprint == candidate.fingerprint && self.files == candidate.files
    }
}

/// What is to be done about a version.
#[derive(Debug)]
pub(super) enum Step {
    /// It serves what the disk holds: no replacement is pending.
    Serve,
    /// It is on its way: nothing new.
    Leave,
    /// Load this.
    Load(Box<Candidate>),
    /// It stands here now, or, where an older one serves, its replacement does.
    Mark {
        state: VersionState,
        digest: Option<Digest>,
        reason: Option<String>,
    },
    /// Take it out of service, and then mark it so, or forget it.
    Retire(Option<(VersionState, Option<String>)>),
    /// It is not there any more.
    Forget,
}

/// The steps for one model, and when to look again without being told.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) steps: Vec<(VersionNumber, Step)>,
    pub(super) again_in: Option<Duration>,
}

/// Why a version that operators took out of service is not there.
pub(super) const UNLOADED: &str = "unloaded by an operator";

/// Compares what is found, and which versions are to stay `unloaded`, with what is known. A model that is gone has found
/// nothing.
pub(super) fn plan(
    found: Vec<FoundVersion>,
    unloaded: &BTreeSet<VersionNumber>,
    known: &BTreeMap<VersionNumber, Known>,
    now: Instant,
) -> Plan {
    let there: BTreeSet<VersionNumber> = found.iter().map(|version| version.number).collect();
    // While nothing that is selected serves, what served before goes on: a new choice must not open a gap.
    let chosen_serves = found.iter().any(|version| {
        !matches!(version.content, Content::NotSelected)
            && !unloaded.contains(&version.number)
            && known
                .get(&version.number)
                .is_some_and(|known| known.live.is_some())
    });
    let mut plan = Plan::default();
    for (number, known) in known {
        if there.contains(number) {
            continue;
        }
        let step = match known {
            Known { live: Some(_), .. } => Step::Retire(None),
            Known { draining: true, .. } => Step::Leave,
            _ => Step::Forget,
        };
        plan.steps.push((*number, step));
    }
    let nothing = Known::default();
    for FoundVersion { number, content } in found {
        let known = known.get(&number).unwrap_or(&nothing);
        let step = if unloaded.contains(&number) {
            step_out_of_service(&content, known)
        } else {
            step_for(content, known, chosen_serves, now, &mut plan.again_in)
        };
        plan.steps.push((number, step));
    }
    plan
}

/// An operator wants it out: at once, also where nothing takes its place.
fn step_out_of_service(content: &Content, known: &Known) -> Step {
    let reason = Some(UNLOADED.to_owned());
    match known {
        Known { live: Some(_), .. } => Step::Retire(Some((VersionState::Unloaded, reason))),
        Known { draining: true, .. } => Step::Leave,
        _ => Step::Mark {
            state: VersionState::Unloaded,
            digest: match content {
                Content::Candidate(candidate) => Some(candidate.digest),
                Content::Broken { digest, .. } => *digest,
                _ => None,
            },
            reason,
        },
    }
}

fn step_for(
    content: Content,
    known: &Known,
    chosen_serves: bool,
    now: Instant,
    again_in: &mut Option<Duration>,
) -> Step {
    let mut look_again = |after: Duration| {
        *again_in = Some(again_in.map_or(after, |before| before.min(after)));
    };
    let mark = |state, digest, reason: Option<String>| Step::Mark {
        state,
        digest,
        reason,
    };
    match content {
        Content::NotSelected if known.live.is_none() && known.draining => Step::Leave,
        Content::NotSelected if known.live.is_none() => mark(VersionState::Unloaded, None, None),
        Content::NotSelected if chosen_serves => Step::Retire(Some((VersionState::Unloaded, None))),
        Content::NotSelected => Step::Serve,
        Content::Waiting { reason, again_in } => {
            look_again(again_in);
            mark(VersionState::Waiting, None, Some(reason))
        }
        Content::Absent { reason } if known.live.is_some() => {
            Step::Retire(Some((VersionState::Failed, Some(reason))))
        }
        Content::Absent { reason } => mark(VersionState::Failed, None, Some(reason)),
        Content::Broken { digest, reason, .. } => mark(VersionState::Failed, digest, Some(reason)),
        Content::Candidate(candidate) => {
            let is = |fingerprint: Option<Digest>| fingerprint == Some(candidate.fingerprint);
            if is(known.in_hand) {
                return Step::Leave;
            }
            if is(known.live) {
                return Step::Serve;
            }
            let failed = known.failed.as_ref();
            let Some(failed) = failed.filter(|failed| failed.is_of(&candidate)) else {
                return Step::Load(candidate);
            };
            let wait = failed.retry_at.saturating_duration_since(now);
            if wait.is_zero() {
                return Step::Load(candidate);
            }
            look_again(wait);
            mark(
                VersionState::Failed,
                Some(failed.digest),
                Some(failed.reason.clone()),
            )
        }
    }
}

/// How long after so many failures in a row a load is tried again.
pub(super) fn back_off(times: u32) -> Duration {
    let doubled = 1_u32
        .checked_shl(times.saturating_sub(1))
        .unwrap_or(u32::MAX);
    FIRST_RETRY.saturating_mul(doubled).min(LAST_RETRY)
}

const FIRST_RETRY: Duration = Duration::from_secs(5);
const LAST_RETRY: Duration = Duration::from_mins(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::manifest::Manifest;
    use crate::model_store::Part;
    use crate::model_store::onnx::GraphFacts;

    fn fingerprint(byte: u8) -> Digest {
        Digest::from_bytes([byte; 32])
    }

    fn number(number: u64) -> VersionNumber {
        number.to_string().parse().expect("a number")
    }

    fn candidate(byte: u8) -> Content {
        Content::Candidate(Box::new(Candidate {
            model: "digits".parse().expect("an id"),
            number: number(1),
            graph: PathBuf::from("digits/1/model.onnx"),
            digest: fingerprint(byte),
            fingerprint: fingerprint(byte),
            manifest: Manifest::default(),
            labels: None,
            facts: GraphFacts::default(),
            golden: Vec::new(),
            files: Vec::new(),
        }))
    }

    fn waiting() -> Content {
        Content::Waiting {
            reason: "it grows".to_owned(),
            again_in: Duration::from_millis(100),
        }
    }

    fn broken() -> Content {
        Content::Broken {
            part: Part::File,
            digest: None,
            reason: "broken".to_owned(),
        }
    }

    fn absent() -> Content {
        Content::Absent {
            reason: "no file".to_owned(),
        }
    }

    fn live(byte: u8) -> Known {
        Known {
            live: Some(fingerprint(byte)),
            ..Known::default()
        }
    }

    fn in_hand(byte: u8) -> Known {
        Known {
            in_hand: Some(fingerprint(byte)),
            ..Known::default()
        }
    }

    fn failed(byte: u8, retry_at: Instant) -> Known {
        Known {
            failed: Some(Failed {
                fingerprint: fingerprint(byte),
                digest: fingerprint(byte),
                files: Vec::new(),
                reason: "it failed".to_owned(),
                times: 1,
                retry_at,
            }),
            ..Known::default()
        }
    }

    fn word(step: &Step) -> String {
        match step {
            Step::Serve => "serve".to_owned(),
            Step::Leave => "leave".to_owned(),
            Step::Load(_) => "load".to_owned(),
            Step::Mark { state, .. } => state.as_str().to_owned(),
            Step::Retire(None) => "retire".to_owned(),
            Step::Retire(Some((state, _))) => format!("retire, {}", state.as_str()),
            Step::Forget => "forget".to_owned(),
        }
    }

    /// The steps for versions given as (number, what is found, what is known).
    fn steps(versions: Vec<(u64, Option<Content>, Known)>, now: Instant) -> Vec<String> {
        steps_without(&[], versions, now)
    }

    /// The same with versions that operators want out of service.
    fn steps_without(
        unloaded: &[u64],
        versions: Vec<(u64, Option<Content>, Known)>,
        now: Instant,
    ) -> Vec<String> {
        let unloaded = unloaded.iter().map(|&n| number(n)).collect();
        let mut found = Vec::new();
        let mut known = BTreeMap::new();
        for (n, content, what) in versions {
            known.insert(number(n), what);
            found.extend(content.map(|content| FoundVersion {
                number: number(n),
                content,
            }));
        }
        let mut steps = plan(found, &unloaded, &known, now).steps;
        steps.sort_by_key(|(number, _)| *number);
        steps.iter().map(|(_, step)| word(step)).collect()
    }

    #[test]
    fn one_version() {
        let now = Instant::now();
        let draining = || Known {
            draining: true,
            ..Known::default()
        };
        let later = now + Duration::from_secs(5);
        for (content, known, wanted) in [
            (Some(candidate(1)), Known::default(), "load"),
            (Some(candidate(1)), live(1), "serve"),
            (Some(candidate(2)), live(1), "load"),
            (Some(candidate(1)), in_hand(1), "leave"),
            (Some(candidate(2)), in_hand(1), "load"),
            (Some(candidate(1)), failed(1, later), "failed"),
            (Some(candidate(1)), failed(1, now), "load"),
            (Some(candidate(2)), failed(1, later), "load"),
            (Some(candidate(1)), draining(), "load"),
            (Some(waiting()), Known::default(), "waiting"),
            (Some(waiting()), live(1), "waiting"),
            (Some(broken()), Known::default(), "failed"),
            (Some(broken()), live(1), "failed"),
            (Some(absent()), Known::default(), "failed"),
            (Some(absent()), live(1), "retire, failed"),
            (Some(Content::NotSelected), Known::default(), "unloaded"),
            (Some(Content::NotSelected), live(1), "serve"),
            (Some(Content::NotSelected), draining(), "leave"),
            (None, live(1), "retire"),
            (None, in_hand(1), "forget"),
            (None, failed(1, later), "forget"),
            (None, draining(), "leave"),
        ] {
            let given = format!("{content:?} {known:?}");
            assert_eq!(steps(vec![(1, content, known)], now), [wanted], "{given}");
        }
    }

    #[test]
    fn a_version_that_is_not_chosen_any_more_waits_for_one_that_is() {
        let now = Instant::now();
        let not = || Some(Content::NotSelected);
        let coming = vec![
            (1, not(), live(1)),
            (2, Some(candidate(2)), Known::default()),
        ];
        assert_eq!(steps(coming, now), ["serve", "load"]);
        let broken = vec![(1, not(), live(1)), (2, Some(broken()), Known::default())];
        assert_eq!(steps(broken, now), ["serve", "failed"]);
        let there = vec![(1, not(), live(1)), (2, Some(candidate(2)), live(2))];
        assert_eq!(steps(there, now), ["retire, unloaded", "serve"]);
    }

    #[test]
    fn what_operators_want_out_of_service_goes_and_does_not_come() {
        let now = Instant::now();
        let draining = Known {
            draining: true,
            ..Known::default()
        };
        for (content, known, wanted) in [
            (Some(candidate(1)), Known::default(), "unloaded"),
            (Some(candidate(1)), live(1), "retire, unloaded"),
            (Some(candidate(2)), live(1), "retire, unloaded"),
            (Some(candidate(1)), in_hand(1), "unloaded"),
            (Some(candidate(1)), failed(1, now), "unloaded"),
            (Some(candidate(1)), draining, "leave"),
            (Some(waiting()), live(1), "retire, unloaded"),
            (Some(waiting()), Known::default(), "unloaded"),
            (Some(broken()), Known::default(), "unloaded"),
            (Some(absent()), live(1), "retire, unloaded"),
            (Some(Content::NotSelected), live(1), "retire, unloaded"),
            (None, live(1), "retire"),
            (None, Known::default(), "forget"),
        ] {
            let given = format!("{content:?} {known:?}");
            let steps = steps_without(&[1], vec![(1, content, known)], now);
            assert_eq!(steps, [wanted], "{given}");
        }
        // Another one's wish is no business of this version.
        let both = vec![
            (1, Some(candidate(1)), live(1)),
            (2, Some(candidate(2)), Known::default()),
        ];
        assert_eq!(steps_without(&[1], both, now), ["retire, unloaded", "load"]);
    }

    #[test]
    fn an_unloaded_version_does_not_count_as_the_one_that_is_chosen() {
        let now = Instant::now();
        let versions = vec![
            (1, Some(Content::NotSelected), live(1)),
            (2, Some(candidate(2)), live(2)),
        ];
        assert_eq!(
            steps_without(&[2], versions, now),
            ["serve", "retire, unloaded"]
        );
    }

    #[test]
    fn what_is_unloaded_is_looked_at_again_for_no_reason_of_its_own() {
        let now = Instant::now();
        let unloaded = BTreeSet::from([number(1)]);
        let found = vec![FoundVersion {
            number: number(1),
            content: waiting(),
        }];
        let plan = plan(found, &unloaded, &BTreeMap::new(), now);
        assert_eq!(plan.again_in, None);
    }

    #[test]
    fn the_next_look_is_the_earliest_reason_for_one() {
        let now = Instant::now();
        let retry = now + Duration::from_secs(5);
        let found = |content| FoundVersion {
            number: number(1),
            content,
        };
        let known = BTreeMap::from([(number(1), failed(1, retry))]);
        let again_in = |found, known| plan(found, &BTreeSet::new(), known, now).again_in;
        let (candidate, waiting) = (vec![found(candidate(1))], vec![found(waiting())]);
        let in_millis = |millis| Some(Duration::from_millis(millis));
        assert_eq!(again_in(candidate, &known), in_millis(5000));
        assert_eq!(again_in(waiting, &known), in_millis(100));
        assert_eq!(again_in(Vec::new(), &known), None);
    }

    #[test]
    fn retries_get_rarer() {
        assert_eq!(back_off(1), FIRST_RETRY);
        assert_eq!(back_off(3), FIRST_RETRY * 4);
        assert_eq!(back_off(99), LAST_RETRY);
    }
}
