//! `lensgate models check`: every version tried, what it is or why it cannot be served.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use rustix::process::{
    Resource, Rlimit, Signal, getrlimit, nice, set_parent_process_death_signal, setrlimit,
};
use serde_json::{Value, json};

use crate::app;
use crate::config::{Config, Environment};
use crate::domain::graph::display_shape;
use crate::domain::ids::{ModelId, VersionNumber};
use crate::model_store::{Content, FoundVersion, ModelStore as _};
use crate::models::{Check, Loader, Opened};

#[derive(Args, Debug)]
pub(super) struct CheckArgs {
    /// The model store's folder; without it the configured one
    dir: Option<PathBuf>,
    /// This model alone
    #[arg(long)]
    model: Option<String>,
    /// This version alone
    #[arg(long, requires = "model")]
    version: Option<VersionNumber>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Take no more memory than this; also let others go first on every core, and die with the parent
    #[arg(long, value_name = "BYTES")]
    confine_memory: Option<u64>,
    /// Take no more time on the cores than this
    #[arg(long, value_name = "SECONDS")]
    confine_seconds: Option<u64>,
}

/// What came of a version.
enum Outcome {
    Good {
        opened: Box<Opened>,
        digest: String,
        fingerprint: String,
        checks: Vec<Check>,
    },
    Bad {
        reason: String,
        digest: Option<String>,
        fingerprint: Option<String>,
        checks: Vec<Check>,
    },
    NotSelected,
}

pub(super) fn run(
    args: &CheckArgs,
    mut settings: Config,
    environment: &Environment,
) -> anyhow::Result<ExitCode> {
    if let Some(dir) = &args.dir {
        settings.model_store.url = dir.to_string_lossy().into_owned();
    }
    confine(args)?;
    let mut store = app::model_store(&settings);
    if let Some(version) = args.version {
        store = store.only(version);
    }
    let models = match &args.model {
        Some(name) => {
            let id: ModelId = name.parse()?;
            let found = store.find(&id, &mut |_| ())?;
            vec![found.ok_or_else(|| anyhow::anyhow!("there is no model {id}"))?]
        }
        None => store.scan()?,
    };
    let loader = app::loader(&settings, app::backends(&settings, environment));
    let (mut bad, mut report) = (0_usize, Vec::new());
    for model in models {
        if !args.json {
            super::say(&model.id);
        }
        let mut versions = Vec::new();
        let wanted = |found: &FoundVersion| args.version.is_none_or(|one| one == found.number);
        for version in model.versions.into_iter().filter(wanted) {
            let outcome = try_version(&loader, &version);
            bad += usize::from(matches!(outcome, Outcome::Bad { .. }));
            if args.json {
                versions.push(outcome.json(version.number.get()));
            } else {
                outcome.print(version.number.get());
            }
        }
        report.push(json!({"id": model.id.as_str(), "versions": versions}));
    }
    if args.json {
        super::say(json!({"ok": bad == 0, "models": report}));
    } else if bad > 0 {
        super::say(format_args!("{bad} versions cannot be served"));
    }
    Ok(if bad == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What a trial of untrusted graphs asks for: limits, a low priority, and no life without the parent.
fn confine(args: &CheckArgs) -> anyhow::Result<()> {
    // Over the first the process is told why it ends, over the second it just ends.
    let limit = |resource, first: u64, second: u64| {
        // What this process inherited may be less already, and cannot be raised.
        let most = getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let limit = Rlimit {
            current: Some(first.min(most)),
            maximum: Some(second.min(most)),
        };
        setrlimit(resource, limit).context("the limits cannot be set")
    };
    if let Some(bytes) = args.confine_memory {
        limit(Resource::Data, bytes, bytes)?;
        limit(Resource::Core, 0, 0)?;
        set_parent_process_death_signal(Some(Signal::KILL))?;
        nice(10)?;
        // Where the limit does not hold, this process goes before the gateway does.
        let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    }
    if let Some(seconds) = args.confine_seconds {
        limit(Resource::Cpu, seconds, seconds.saturating_add(5))?;
    }
    Ok(())
}

fn try_version(loader: &Loader, version: &FoundVersion) -> Outcome {
    match &version.content {
        Content::NotSelected => Outcome::NotSelected,
        Content::Broken {
            part,
            digest,
            reason,
        } => Outcome::Bad {
            reason: reason.clone(),
            digest: digest.map(|digest| digest.to_string()),
            fingerprint: None,
            checks: vec![Check::failed(*part, reason.clone())],
        },
        Content::Absent { reason } | Content::Waiting { reason, .. } => Outcome::Bad {
            reason: reason.clone(),
            digest: None,
            fingerprint: None,
            checks: Vec::new(),
        },
        Content::Candidate(candidate) => {
            let digest = candidate.digest.to_string();
            let fingerprint = candidate.fingerprint.to_string();
            match loader.examine(candidate) {
                Ok((opened, checks)) => Outcome::Good {
                    opened: Box::new(opened),
                    digest,
                    fingerprint,
                    checks,
                },
                Err(error) => Outcome::Bad {
                    reason: error.reason,
                    digest: Some(digest),
                    fingerprint: Some(fingerprint),
                    checks: error.checks,
                },
            }
        }
    }
}

impl Outcome {
    fn print(&self, number: u64) {
        match self {
            Self::NotSelected => super::say(format_args!("  {number}  not selected")),
            Self::Bad { reason, .. } => super::say(format_args!("  {number}  FAILED  {reason}")),
            Self::Good {
                opened,
                digest,
                checks,
                ..
            } => {
                super::say(format_args!("  {number}  ok  {digest}"));
                let input = &opened.input;
                super::say(format_args!(
                    "       backend {} on {}, warm-up {:.1} ms",
                    opened.backend,
                    opened.session.providers().join(", "),
                    opened.warm_up.as_secs_f64() * 1e3
                ));
                super::say(format_args!(
                    "       input {} {} {}, output {} {}",
                    input.name,
                    input.spec.element,
                    display_shape(&input.shape),
                    opened.output_name,
                    opened.output.activation.as_str()
                ));
                for check in checks
                    .iter()
                    .filter(|check| matches!(check.name, "labels" | "golden"))
                {
                    super::say(format_args!("       {}: {}", check.name, check.detail));
                }
            }
        }
    }

    fn json(&self, version: u64) -> Value {
        let listed = |checks: &[Check]| {
            checks
                .iter()
                .map(|check| json!({"name": check.name, "ok": check.ok, "detail": check.detail}))
                .collect::<Vec<_>>()
        };
        match self {
            Self::NotSelected => json!({"version": version, "ok": true, "state": "unloaded"}),
            Self::Bad {
                reason,
                digest,
                fingerprint,
                checks,
            } => json!({
                "version": version, "ok": false, "state": "failed", "reason": reason,
                "digest": digest, "fingerprint": fingerprint, "checks": listed(checks),
            }),
            Self::Good {
                opened,
                digest,
                fingerprint,
                checks,
            } => json!({
                "version": version, "ok": true, "state": "live", "digest": digest,
                "fingerprint": fingerprint,
                "backend": opened.backend,
                "providers": opened.session.providers(),
                "input": {
                    "name": opened.input.name,
                    "element": opened.input.spec.element.as_str(),
                    "shape": opened.input.shape,
                    "size": [opened.input.spec.height, opened.input.spec.width],
                },
                "output": {
                    "name": opened.output_name,
                    "activation": opened.output.activation.as_str(),
                },
                "labels_count": opened.classes,
                "unlabelled": opened.unlabelled,
                "warm_up_ms": opened.warm_up.as_secs_f64() * 1e3,
                "checks": listed(checks),
            }),
        }
    }
}
