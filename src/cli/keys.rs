//! `lensgate keys create`: a key straight into the database, where no admin plane is at hand.

use std::process::ExitCode;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use clap::Args;
use serde_json::json;

use super::pick;
use crate::admin::{self, Actor, NewKey};
use crate::app;
use crate::config::Config;
use crate::domain::api_key::{KeyLimits, LimitMode};
use crate::domain::clock::SystemClock;
use crate::store::Store;

#[derive(Args, Debug)]
pub(super) struct CreateArgs {
    /// The tenant whose key it is, by name or id
    #[arg(long, default_value = "default")]
    tenant: String,
    /// The key's name for people
    #[arg(long)]
    name: String,
    /// What it may be used for: classify, feedback, read; all where left out
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// A model that it may use, * for any characters; all where left out
    #[arg(long = "model", value_name = "PATTERN")]
    models: Vec<String>,
    /// Pictures a second in the long run
    #[arg(long, value_name = "RATE")]
    requests_per_second: Option<f64>,
    /// Pictures at once after a pause
    #[arg(long)]
    burst: Option<u32>,
    /// Pictures a day
    #[arg(long)]
    images_per_day: Option<u64>,
    /// Bytes of one picture
    #[arg(long, value_name = "BYTES")]
    max_image_bytes: Option<u64>,
    /// Count and log what is over a limit, but let it through
    #[arg(long)]
    observe: bool,
    /// When it ends, e.g. 2027-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    expires_at: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn create(args: &CreateArgs, settings: &Config) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the async runtime does not start")?;
    runtime.block_on(async {
        let store = app::open_store(settings).await?;
        let outcome = create_in(&*store, args).await;
        store.close().await;
        outcome
    })
}

async fn create_in(store: &dyn Store, args: &CreateArgs) -> anyhow::Result<ExitCode> {
    let tenant = pick::tenant(store, &args.tenant).await?;
    let some = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
    let new = NewKey {
        tenant: tenant.id,
        name: args.name.clone(),
        scopes: some(&args.scopes),
        models: some(&args.models),
        limits: KeyLimits {
            requests_per_second: args.requests_per_second,
            burst: args.burst,
            images_per_day: args.images_per_day,
            max_image_bytes: args.max_image_bytes,
            mode: if args.observe {
                LimitMode::Observe
            } else {
                LimitMode::Enforce
            },
        },
        expires_at: args.expires_at.as_deref().map(time).transpose()?,
    };
    let actor = Actor::program("command line");
    let (key, secret) = admin::create_key(store, &SystemClock, &actor, new).await?;
    if args.json {
        super::say(json!({
            "id": key.id.to_string(),
            "tenant_id": key.tenant.to_string(),
            "name": key.name,
            "secret": secret,
        }));
    } else {
        super::say(format_args!("key {} of tenant {:?}", key.id, tenant.name));
        super::say(format_args!("secret (shown this once): {secret}"));
    }
    Ok(ExitCode::SUCCESS)
}

fn time(text: &str) -> anyhow::Result<DateTime<Utc>> {
    use chrono::SubsecRound as _;
    let time = DateTime::parse_from_rfc3339(text);
    let time =
        time.with_context(|| format!("--expires-at is {text:?}, which is no RFC 3339 time"))?;
    Ok(time.with_timezone(&Utc).trunc_subsecs(6))
}
