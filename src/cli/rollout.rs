//! `lensgate rollout report`: how the versions of a model do beside each other, as a gateway's admin plane counts it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use chrono::{DateTime, SecondsFormat, Utc};
use clap::Args;
use reqwest::{Method, StatusCode, Url};

use super::gateway::{Gateway, admin_token, reason};
use super::{predictions, say};
use crate::config::Environment;
use crate::domain::ids::ModelId;

mod show;

#[derive(Args, Debug)]
pub(super) struct ReportArgs {
    /// The model's id
    model: ModelId,
    /// Requests from this time on: a day (its beginning, UTC) or an RFC 3339 time; without it 24 hours before the end
    #[arg(long, value_name = "TIME", value_parser = predictions::time)]
    from: Option<DateTime<Utc>>,
    /// Requests before this time; without it now
    #[arg(long, value_name = "TIME", value_parser = predictions::time)]
    to: Option<DateTime<Utc>>,
    /// Where the reference for drift begins; without it as long before its end as the report's time is long
    #[arg(long, value_name = "TIME", value_parser = predictions::time)]
    reference_from: Option<DateTime<Utc>>,
    /// Where the reference for drift ends; without it where the report's time begins
    #[arg(long, value_name = "TIME", value_parser = predictions::time)]
    reference_to: Option<DateTime<Utc>>,
    /// The gateway's admin plane
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8081")]
    gateway: Url,
    /// A file that holds the admin token; without it the variable `LENSGATE_ADMIN_TOKEN` does
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print the report as the gateway gives it, one JSON object
    #[arg(long)]
    json: bool,
}

/// How long the answer may take: the gateway counts in two steps, and gives each of them 30 s.
const ANSWERING: Duration = Duration::from_mins(2);

pub(super) fn report(args: &ReportArgs, environment: &Environment) -> anyhow::Result<ExitCode> {
    let token = admin_token(environment, args.token_file.as_deref())?;
    let gateway = Gateway::new("--gateway", &args.gateway, token, ANSWERING)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the async runtime does not start")?;
    let path = format!("/models/{}/report", args.model);
    let request = gateway.request(Method::GET, &path).query(&times(args));
    let (status, report) = runtime.block_on(gateway.ask(request))?;
    if status != StatusCode::OK {
        bail!("the gateway gives no report: {}", reason(status, &report));
    }
    if args.json {
        say(report);
    } else {
        let report: show::Report = serde_json::from_value(report).context(
            "the gateway's report is not one that this release can show; --json prints it",
        )?;
        report.print();
    }
    Ok(ExitCode::SUCCESS)
}

/// The times that were named.
fn times(args: &ReportArgs) -> Vec<(&'static str, String)> {
    let named = [
        ("from", args.from),
        ("to", args.to),
        ("reference_from", args.reference_from),
        ("reference_to", args.reference_to),
    ];
    let named = named.into_iter();
    named
        .filter_map(|(name, time)| {
            let time = time?.to_rfc3339_opts(SecondsFormat::Micros, true);
            Some((name, time))
        })
        .collect()
}
