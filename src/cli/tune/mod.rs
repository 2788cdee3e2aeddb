//! `lensgate models tune`: which settings of `[serving]` serve a model best on this machine, measured.
//!
//! Arguments and progress here, tables in `show`, the manifest's text in `write`; the measuring is in `models::tune`.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::pick;
use crate::app;
use crate::backend::memory;
use crate::config::{Config, Environment};
use crate::domain::ids::{ModelId, VersionNumber};
use crate::model_store::Candidate;
use crate::models::tune::{
    Choice, Goal, PictureChoice, Step, TuneOptions, TunePicture, TuneReport, Verdict, tune,
};
use crate::models::{Loader, Opened};
use crate::vision::DecodeLimits;

mod show;
mod write;

use show::{Shown, What};
use write::Written;

#[derive(Args, Debug)]
pub(super) struct TuneArgs {
    /// The model
    #[arg(value_name = "ID")]
    model: ModelId,
    /// The version that is measured; without it the highest that can be loaded
    #[arg(long)]
    version: Option<VersionNumber>,
    /// The picture that is classified again and again; without it one of the model's own, or a gray ramp
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
    /// Seconds a measurement; there are two for each of the settings in each of up to three rounds
    #[arg(long, value_name = "S", default_value = "2", value_parser = seconds)]
    seconds: Duration,
    /// What --write keeps the best of
    #[arg(long, value_enum, default_value_t = GoalArg::Throughput)]
    goal: GoalArg,
    /// Keep the best in the model's model.toml, if it is better by more than noise
    #[arg(long)]
    write: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum GoalArg {
    /// Pictures a second with a crowd
    Throughput,
    /// A lone caller's median
    Latency,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| "is no number".to_owned())?;
    if !(0.01..=600.0).contains(&number) {
        return Err("must be 0.01 to 600".to_owned());
    }
    Ok(Duration::from_secs_f64(number))
}

pub(super) fn run(
    args: &TuneArgs,
    mut settings: Config,
    environment: &Environment,
) -> anyhow::Result<ExitCode> {
    // As in the gateway: how memory is given back has a part in how fast it is.
    memory::settle();
    // A crowd waits as long as it takes; nobody is turned away.
    settings.limits.max_queue_ms = 3_600_000;
    let given = args.picture.as_deref().map(|path| {
        let bytes = pick::picture(path, &settings);
        bytes.with_context(|| format!("the picture {}", path.display()))
    });
    let given = given.transpose()?;
    let model = pick::model(&settings, &args.model)?;
    let loader = app::loader(&settings, app::backends(&settings, environment));
    let (candidate, opened) = pick::version(&model, args.version, &loader)?;
    let choice = match (&given, &args.picture) {
        (Some(bytes), Some(path)) => PictureChoice::Given(bytes, path),
        _ => PictureChoice::OfTheModel,
    };
    let limits = DecodeLimits {
        max_pixels: settings.limits.max_image_pixels,
    };
    let options = TuneOptions {
        picture: TunePicture::find(choice, candidate, &opened, limits)
            .map_err(|reason| anyhow::anyhow!("the picture cannot be classified: {reason}"))?,
        time: args.seconds,
    };
    let what = What {
        candidate,
        backend: opened.backend,
        providers: opened.session.providers().to_vec(),
        options: &options,
    };
    let report = measure(&loader, candidate, opened, &options)?;
    let goal = match args.goal {
        GoalArg::Throughput => Goal::Throughput,
        GoalArg::Latency => Goal::Latency,
    };
    let choice = report.choose(goal).context("nothing could be measured")?;
    let dir = settings.model_store.folder().join(args.model.as_str());
    let shown = Shown {
        what: &what,
        report: &report,
        goal,
        overridden: write::overridden(&dir, candidate.number),
    };
    conclude(args, &shown, &choice, &dir)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints what was found; where it is asked for, what is to be kept is written between table and last word, so that a
/// file that cannot be written costs nobody the figures.
fn conclude(
    args: &TuneArgs,
    shown: &Shown<'_>,
    choice: &Choice<'_>,
    dir: &Path,
) -> anyhow::Result<()> {
    if !args.json {
        shown.print();
    }
    let written = match (args.write, choice.verdict) {
        (false, _) => None,
        (true, Verdict::Stay) => Some(Written::Nothing),
        (true, Verdict::Default | Verdict::Better) => {
            let version = shown.what.candidate.number;
            Some(write::keep(dir, choice.chosen.keys, version)?)
        }
    };
    if args.json {
        super::say(shown.json(choice, written.as_ref()));
    } else {
        shown.print_advice(choice, written.as_ref());
    }
    Ok(())
}

/// Measures, with a progress bar where somebody watches.
fn measure(
    loader: &Loader,
    candidate: &Candidate,
    opened: Opened,
    options: &TuneOptions,
) -> anyhow::Result<TuneReport> {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(0), target);
    let style = "{bar:30} {pos}/{len}  {elapsed} of about {duration}  {msg}";
    bar.set_style(ProgressStyle::with_template(style).context("the progress bar")?);
    // It is drawn between measurements alone: a thread that draws beside them would be measured too.
    let mut observe = |step: &Step| {
        bar.set_length(u64::try_from(step.expected).unwrap_or(u64::MAX));
        bar.set_message(show::name(step.keys));
        bar.set_position(u64::try_from(step.done).unwrap_or(u64::MAX));
        bar.tick();
    };
    let outcome = tune(loader, candidate, opened, options, &mut observe);
    bar.finish_and_clear();
    Ok(outcome?)
}
