//! `lensgate classify`: a picture in, a label out, without a server.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::json;

use super::pick;
use crate::config::{Config, Environment};
use crate::domain::ids::{ModelId, VersionNumber};
use crate::model_store::{Candidate, FoundModel, ModelStore as _};
use crate::models::Opened;
use crate::{app, vision};

#[derive(Args, Debug)]
pub(super) struct ClassifyArgs {
    /// The model; without it the default model, or the only one
    #[arg(long)]
    model: Option<String>,
    /// The version; without it the highest that can be loaded
    #[arg(long)]
    version: Option<VersionNumber>,
    /// How many classes are shown
    #[arg(long, default_value_t = 5)]
    top_k: usize,
    /// Print one JSON object a picture
    #[arg(long)]
    json: bool,
    /// Pictures
    #[arg(required = true)]
    pictures: Vec<PathBuf>,
}

pub(super) fn run(
    args: &ClassifyArgs,
    settings: &Config,
    environment: &Environment,
) -> anyhow::Result<ExitCode> {
    let model = find(args, settings)?;
    let loader = app::loader(settings, app::backends(settings, environment));
    let (candidate, opened) = pick::version(&model, args.version, &loader)?;
    classify_all(args, settings, candidate, &opened)
}

fn find(args: &ClassifyArgs, settings: &Config) -> anyhow::Result<FoundModel> {
    match args.model.as_ref().or(settings.default_model.as_ref()) {
        Some(name) => {
            let id: ModelId = name.parse().with_context(|| format!("{name:?}"))?;
            pick::model(settings, &id)
        }
        None => match <[FoundModel; 1]>::try_from(app::model_store(settings).scan()?) {
            Ok([only]) => Ok(only),
            Err(several) => {
                let ids: Vec<&str> = several.iter().map(|model| model.id.as_str()).collect();
                bail!("--model is needed; there are: {}", ids.join(", "))
            }
        },
    }
}

fn classify_all(
    args: &ClassifyArgs,
    settings: &Config,
    candidate: &Candidate,
    opened: &Opened,
) -> anyhow::Result<ExitCode> {
    if args.top_k == 0 || args.top_k > opened.classes {
        bail!(
            "--top-k is {}; allowed is 1 to {}",
            args.top_k,
            opened.classes
        );
    }
    let mut failed = false;
    for path in &args.pictures {
        let name = path.display();
        match classify(path, args.top_k, settings, opened) {
            Ok(classes) if args.json => {
                let best = classes.first();
                let line = json!({
                    "picture": name.to_string(),
                    "model": candidate.model.as_str(),
                    "version": candidate.number.get(),
                    "digest": candidate.digest.to_string(),
                    "backend": opened.backend,
                    "class": best.map(|class| class.0.as_str()),
                    "confidence": best.map(|class| class.2),
                    "classes": classes.iter().map(|(class, index, confidence)| {
                        json!({"class": class, "index": index, "confidence": confidence})
                    }).collect::<Vec<_>>(),
                });
                super::say(line);
            }
            Ok(classes) => {
                let (model, version) = (&candidate.model, candidate.number);
                super::say(format_args!(
                    "{name}  ({model} version {version}, {})",
                    opened.backend
                ));
                for (class, index, confidence) in classes {
                    super::say(format_args!(
                        "  {:>8.4} %  {index:>5}  {class}",
                        confidence * 100.0
                    ));
                }
            }
            Err(error) => {
                failed = true;
                if args.json {
                    super::say(json!({"picture": name.to_string(), "error": format!("{error:#}")}));
                } else {
                    eprintln!("{name}: {error:#}");
                }
            }
        }
    }
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Label, index and confidence of the first `top_k` classes.
fn classify(
    path: &Path,
    top_k: usize,
    settings: &Config,
    opened: &Opened,
) -> anyhow::Result<Vec<(String, usize, f32)>> {
    let bytes = pick::picture(path, settings)?;
    let limits = vision::DecodeLimits {
        max_pixels: settings.limits.max_image_pixels,
    };
    Ok(opened
        .top_classes(&bytes, &limits, top_k)?
        .into_iter()
        .filter_map(|(index, score)| Some((opened.labels.get(index)?.clone(), index, score)))
        .collect())
}
