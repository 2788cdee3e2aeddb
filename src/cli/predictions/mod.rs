//! `lensgate predictions export`: the prediction log for data scientists, straight from the database, row by row.
//!
//! Arguments and reading here, what a row is in `columns`, lines in `text`, Parquet in `columnar`.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::pick;
use crate::app;
use crate::config::Config;
use crate::domain::clock::{Clock as _, SystemClock};
use crate::domain::ids::{ModelId, VersionNumber};
use crate::domain::prediction::Prediction;
use crate::domain::tenant::KeyId;
use crate::store::{PredictionFilter, PredictionMark, Store};

#[cfg(feature = "parquet")]
mod columnar;
mod columns;
mod text;

#[derive(Args, Debug)]
pub(super) struct ExportArgs {
    /// From this time on: a day (its beginning, UTC) or an RFC 3339 time
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: DateTime<Utc>,
    /// Before this time: a day (its beginning, UTC) or an RFC 3339 time
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: DateTime<Utc>,
    /// How a prediction is written
    #[arg(long, value_enum, default_value_t = Format::Jsonl)]
    format: Format,
    /// Those of this tenant alone, by name or id
    #[arg(long)]
    tenant: Option<String>,
    /// Those that came with this key, by id
    #[arg(long, value_name = "ID")]
    key: Option<KeyId>,
    /// Those of this model
    #[arg(long, value_name = "ID")]
    model: Option<ModelId>,
    /// Those of this version
    #[arg(long)]
    version: Option<VersionNumber>,
    /// Those with this as their first class
    #[arg(long)]
    class: Option<String>,
    /// The file that is written, in place once it is whole; without it the standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A JSON object a line
    Jsonl,
    /// RFC 4180, with a header; text that a spreadsheet would take for a formula has a ' before it
    Csv,
    /// Parquet, in a build with that feature; needs --output
    Parquet,
}

/// What predictions are written to.
trait Sink {
    /// Writes a page.
    fn write(&mut self, page: Vec<Prediction>) -> anyhow::Result<()>;
    /// Writes what has to come last.
    fn finish(self: Box<Self>) -> anyhow::Result<()>;
}

/// Where the bytes go.
type Out = Box<dyn Write + Send>;

/// Rows that are read at once.
const PAGE: u32 = 1000;

/// A day or an RFC 3339 time.
pub(super) fn time(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(day) = text.parse::<NaiveDate>() {
        return Ok(day.and_time(NaiveTime::MIN).and_utc());
    }
    let time = DateTime::parse_from_rfc3339(text);
    let time =
        time.map_err(|_| "it is no day like 2027-01-31, and no time like 2027-01-31T12:00:00Z");
    Ok(time?.with_timezone(&Utc))
}

pub(super) fn export(args: &ExportArgs, settings: &Config) -> anyhow::Result<ExitCode> {
    if let Some(mistake) = mistake(args) {
        eprintln!("lensgate: {mistake}");
        return Ok(ExitCode::from(2));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the async runtime does not start")?;
    runtime.block_on(async {
        let store = app::open_store(settings).await?;
        let outcome = write_all(&*store, args).await;
        store.close().await;
        outcome
    })
}

/// What is wrong with the arguments.
fn mistake(args: &ExportArgs) -> Option<&'static str> {
    if args.from >= args.to {
        return Some("--from must be before --to");
    }
    if args.format == Format::Parquet {
        if cfg!(not(feature = "parquet")) {
            return Some(
                "this build writes no Parquet: one that is made with `cargo build --release --features parquet` does",
            );
        }
        if args.output.is_none() {
            return Some("--format parquet needs --output");
        }
    }
    None
}

async fn write_all(store: &dyn Store, args: &ExportArgs) -> anyhow::Result<ExitCode> {
    let filter = filter(store, args).await?;
    let Some(output) = &args.output else {
        let out = Box::new(BufWriter::new(io::stdout()));
        let written = copy(store, &filter, sink(args.format, out)?).await;
        return match written {
            // Whoever read has seen enough.
            Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
            outcome => outcome.map(|()| ExitCode::SUCCESS),
        };
    };
    let part = beside(output);
    let file = File::create(&part).with_context(|| format!("{} cannot be made", part.display()))?;
    let out = Box::new(BufWriter::new(file));
    let written = match sink(args.format, out) {
        Ok(sink) => copy(store, &filter, sink).await,
        Err(error) => Err(error),
    };
    let placed = written.and_then(|()| {
        let placed = std::fs::rename(&part, output);
        placed.with_context(|| format!("{} cannot be written", output.display()))
    });
    if placed.is_err() {
        // The export has failed already; what is left of it is of no use to anybody.
        let _ = std::fs::remove_file(&part);
    }
    placed.map(|()| ExitCode::SUCCESS)
}

/// The file that is written until it is whole.
fn beside(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

async fn filter(store: &dyn Store, args: &ExportArgs) -> anyhow::Result<PredictionFilter> {
    let tenant = match &args.tenant {
        // One that is gone may have predictions still.
        Some(named) => match named.parse() {
            Ok(id) => Some(id),
            Err(_) => Some(pick::tenant(store, named).await?.id),
        },
        None => None,
    };
    Ok(PredictionFilter {
        tenant,
        key: args.key,
        model: args.model.clone(),
        version: args.version,
        class: args.class.clone(),
        from: Some(args.from),
        to: Some(args.to),
    })
}

fn sink(format: Format, out: Out) -> anyhow::Result<Box<dyn Sink>> {
    match format {
        Format::Jsonl => Ok(Box::new(text::Jsonl::new(out))),
        Format::Csv => Ok(Box::new(text::Csv::begin(out)?)),
        #[cfg(feature = "parquet")]
        Format::Parquet => Ok(Box::new(columnar::Parquet::begin(out)?)),
        #[cfg(not(feature = "parquet"))]
        Format::Parquet => anyhow::bail!("this build writes no Parquet"),
    }
}

/// Copies what is wanted, the newest first, page by page: what is added meanwhile is newer, and not met any more.
async fn copy(
    store: &dyn Store,
    filter: &PredictionFilter,
    mut sink: Box<dyn Sink>,
) -> anyhow::Result<()> {
    let progress = Progress::over(filter)?;
    let mut after = None;
    loop {
        let page = store.list_predictions(filter, after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(PredictionMark::of(last));
        progress.advance(page.len(), last.at());
        sink.write(page)?;
    }
    let outcome = sink.finish();
    progress.bar.finish_and_clear();
    outcome
}

/// How far it is, told by the time that is left: nobody counts the rows before. Shown on a terminal alone.
struct Progress {
    bar: ProgressBar,
    to: DateTime<Utc>,
    rows: std::cell::Cell<usize>,
}

impl Progress {
    fn over(filter: &PredictionFilter) -> anyhow::Result<Self> {
        let now = SystemClock.now();
        let to = filter.to.map_or(now, |to| to.min(now));
        let from = filter.from.unwrap_or(to);
        let millis = (to - from).num_milliseconds().try_into().unwrap_or(0);
        let bar = ProgressBar::with_draw_target(Some(millis), ProgressDrawTarget::stderr());
        bar.set_style(ProgressStyle::with_template(
            "{wide_bar} {percent}% {msg} {elapsed}",
        )?);
        let rows = std::cell::Cell::new(0);
        Ok(Self { bar, to, rows })
    }

    fn advance(&self, rows: usize, at: DateTime<Utc>) {
        self.rows.set(self.rows.get() + rows);
        let millis = (self.to - at).num_milliseconds().try_into().unwrap_or(0);
        self.bar.set_position(millis);
        self.bar.set_message(format!("{} rows", self.rows.get()));
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let mut causes = error.chain();
    causes.any(|cause| {
        let cause = cause.downcast_ref::<io::Error>();
        cause.is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_day_or_a_moment() {
        let written = |text| time(text).map(|time| time.to_rfc3339());
        assert_eq!(
            written("2026-11-26").as_deref(),
            Ok("2026-11-26T00:00:00+00:00")
        );
        assert_eq!(
            written("2026-11-26T01:00:00.5+02:00").as_deref(),
            Ok("2026-11-25T23:00:00.500+00:00")
        );
        for bad in [
            "",
            "26.11.2026",
            "2026-11",
            "2026-11-31",
            "now",
            "2026-11-26T01:00:00",
        ] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }
}
