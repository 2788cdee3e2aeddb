//! `lensgate models push`: a version, or a model with all its versions, to a gateway's admin plane.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use futures_util::StreamExt as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use reqwest::multipart::{Form, Part};
use reqwest::{Body, Method, StatusCode, Url};
use serde_json::{Value, json};
use tokio_util::io::ReaderStream;

use super::gateway::{Gateway, admin_token, reason};
use super::say;
use crate::config::Environment;
use crate::domain::ids::{ModelId, VersionNumber};
use crate::model_store::{Package, texts_of};

#[derive(Args, Debug)]
pub(super) struct PushArgs {
    /// A version's folder, which holds model.onnx, or a model's, which holds versions
    folder: PathBuf,
    /// The gateway's admin plane, e.g. `http://127.0.0.1:8081`
    #[arg(long, value_name = "URL")]
    to: Url,
    /// The model's id; without it the name of the model's folder
    #[arg(long, value_name = "ID")]
    model: Option<ModelId>,
    /// The version's number; without it the name of its folder
    #[arg(long)]
    version: Option<VersionNumber>,
    /// A file that holds the admin token; without it the variable `LENSGATE_ADMIN_TOKEN` does
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Have every check made, and keep nothing
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// How long an answer may take once everything is sent: checks wait for their turn, and a large model takes its time.
const ANSWERING: Duration = Duration::from_mins(15);

/// Bytes of a file that are read in one go.
const PIECE: usize = 1 << 18;

/// What is to be pushed.
struct What {
    model: ModelId,
    model_dir: PathBuf,
    versions: Vec<(VersionNumber, PathBuf)>,
}

/// What the gateway said of a version.
struct Verdict {
    number: VersionNumber,
    status: StatusCode,
    body: Value,
}

pub(super) fn run(args: &PushArgs, environment: &Environment) -> anyhow::Result<ExitCode> {
    let token = admin_token(environment, args.token_file.as_deref())?;
    let what = What::of(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the async runtime does not start")?;
    let gateway = Gateway::new("--to", &args.to, token, ANSWERING)?;
    runtime.block_on(Pusher { gateway }.push(args, &what))
}

impl What {
    fn of(args: &PushArgs) -> anyhow::Result<Self> {
        let shown = args.folder.display();
        let folder = std::fs::canonicalize(&args.folder)
            .with_context(|| format!("{shown} cannot be read"))?;
        let is_version = folder.join("model.onnx").is_file();
        let model_dir = if is_version {
            folder.parent().unwrap_or(&folder).to_path_buf()
        } else {
            folder.clone()
        };
        let model = match &args.model {
            Some(model) => model.clone(),
            None => name_of(&model_dir).parse().with_context(|| {
                format!(
                    "the model's folder is {:?}; --model names it",
                    name_of(&model_dir)
                )
            })?,
        };
        let versions = if is_version {
            let number = match args.version {
                Some(number) => number,
                None => name_of(&folder).parse().with_context(|| {
                    format!(
                        "the version's folder is {:?}; --version names it",
                        name_of(&folder)
                    )
                })?,
            };
            vec![(number, folder)]
        } else {
            ensure!(
                args.version.is_none(),
                "--version is for the folder of one version, which holds model.onnx; {shown} has none"
            );
            versions_in(&folder)?
        };
        ensure!(
            !versions.is_empty(),
            "{shown} is no version, as it has no model.onnx, and no model, as it has no versions"
        );
        Ok(Self {
            model,
            model_dir,
            versions,
        })
    }
}

fn name_of(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn versions_in(model_dir: &Path) -> anyhow::Result<Vec<(VersionNumber, PathBuf)>> {
    let mut versions = Vec::new();
    for entry in std::fs::read_dir(model_dir).context("the model's folder cannot be read")? {
        let path = entry.context("the model's folder cannot be read")?.path();
        if let Ok(number) = name_of(&path).parse()
            && path.join("model.onnx").is_file()
        {
            versions.push((number, path));
        }
    }
    versions.sort();
    Ok(versions)
}

/// What is done at a gateway.
struct Pusher {
    gateway: Gateway,
}

impl Pusher {
    async fn push(&self, args: &PushArgs, what: &What) -> anyhow::Result<ExitCode> {
        let created = self.see_to_the_model(args, what).await?;
        if created && !args.json {
            say(format_args!("{}  made", what.model));
        }
        let mut verdicts = Vec::new();
        for (number, dir) in &what.versions {
            let verdict = self.upload(args, &what.model, *number, dir).await?;
            if !args.json {
                verdict.print(&what.model);
            }
            verdicts.push(verdict);
        }
        let ok = verdicts.iter().all(Verdict::is_good);
        if args.json {
            let versions: Vec<Value> = verdicts.iter().map(Verdict::json).collect();
            say(json!({
                "ok": ok, "model": what.model.as_str(), "created": created, "versions": versions,
            }));
        }
        Ok(if ok {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    /// Makes the model where it is not there; says whether it was made.
    async fn see_to_the_model(&self, args: &PushArgs, what: &What) -> anyhow::Result<bool> {
        let path = format!("/models/{}", what.model);
        let (status, body) = self
            .gateway
            .ask(self.gateway.request(Method::GET, &path))
            .await?;
        match (status, body.get("code").and_then(Value::as_str)) {
            (StatusCode::OK, _) => return Ok(false),
            (StatusCode::NOT_FOUND, Some("model_not_found")) => {}
            _ => bail!(
                "the gateway refuses to show the model: {}",
                reason(status, &body)
            ),
        }
        ensure!(
            !args.dry_run,
            "the gateway has no model {}, and a dry run makes none",
            what.model
        );
        let texts = texts_of(&what.model_dir).map_err(anyhow::Error::msg)?;
        let new = json!({"id": what.model.as_str(), "title": texts.0, "description": texts.1});
        let request = self.gateway.request(Method::POST, "/models").json(&new);
        match self.gateway.ask(request).await? {
            (StatusCode::CREATED, _) => Ok(true),
            (status, body) => bail!("the gateway makes no model: {}", reason(status, &body)),
        }
    }

    async fn upload(
        &self,
        args: &PushArgs,
        model: &ModelId,
        number: VersionNumber,
        dir: &Path,
    ) -> anyhow::Result<Verdict> {
        let package =
            Package::of(dir).map_err(|reason| anyhow::anyhow!("version {number}: {reason}"))?;
        let (form, bar) = form(&package, &format!("{model} {number}")).await?;
        let path = format!("/models/{model}/versions/{number}");
        let mut query = vec![("sha256", package.digest.to_string())];
        if args.dry_run {
            query.push(("dry_run", "true".to_owned()));
        }
        let request = self.gateway.request(Method::PUT, &path);
        let request = request.query(&query).multipart(form);
        let outcome = self.gateway.ask(request).await;
        bar.finish_and_clear();
        let (status, body) = outcome?;
        Ok(Verdict {
            number,
            status,
            body,
        })
    }
}

/// The files as a form that streams, and the bar that shows how far it is.
async fn form(package: &Package, name: &str) -> anyhow::Result<(Form, ProgressBar)> {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    let style = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}";
    bar.set_style(ProgressStyle::with_template(style)?);
    bar.set_message(name.to_owned());
    let mut form = Form::new()
        .percent_encode_noop()
        .part("model", part(&package.graph, &bar).await?);
    if let Some(manifest) = &package.manifest {
        form = form.part("manifest", Part::text(manifest.clone()));
    }
    if let Some(labels) = &package.labels {
        form = form.part("labels", part(labels, &bar).await?);
    }
    for (name, path) in &package.files {
        let file = part(path, &bar).await?.file_name(name.to_string());
        form = form.part("file", file);
    }
    Ok((form, bar))
}

/// A file that is read while it is sent.
async fn part(path: &Path, bar: &ProgressBar) -> anyhow::Result<Part> {
    let unreadable = || format!("{} cannot be read", path.display());
    let file = tokio::fs::File::open(path).await.with_context(unreadable)?;
    let length = file.metadata().await.with_context(unreadable)?.len();
    bar.inc_length(length);
    let bar = bar.clone();
    let pieces = ReaderStream::with_capacity(file, PIECE).map(move |piece| {
        if let Ok(piece) = &piece {
            bar.inc(u64::try_from(piece.len()).unwrap_or(0));
        }
        piece
    });
    Ok(Part::stream_with_length(Body::wrap_stream(pieces), length))
}

impl Verdict {
    fn is_good(&self) -> bool {
        let tried = self.body.get("ok").and_then(Value::as_bool);
        self.status.is_success() && tried.unwrap_or(true)
    }

    fn outcome(&self) -> &'static str {
        match (self.status, self.body.get("ok").and_then(Value::as_bool)) {
            (StatusCode::CREATED, _) => "new",
            (status, None) if status.is_success() => "same",
            (status, Some(true)) if status.is_success() => "passed",
            _ => "refused",
        }
    }

    fn checks(&self) -> &[Value] {
        let checks = self.body.get("checks").and_then(Value::as_array);
        checks.map_or(&[], Vec::as_slice)
    }

    fn print(&self, model: &ModelId) {
        let said = match self.outcome() {
            "new" => "uploaded, and live".to_owned(),
            "same" => "there already, and live".to_owned(),
            "passed" => "would be taken; nothing was kept".to_owned(),
            _ => format!("REFUSED  {}", reason(self.status, &self.body)),
        };
        say(format_args!("{model} {}  {said}", self.number));
        for check in self.checks() {
            let text = |key: &str| check.get(key).and_then(Value::as_str).unwrap_or_default();
            let ok = check.get("ok").and_then(Value::as_bool).unwrap_or(false);
            let word = if ok { "ok" } else { "FAILED" };
            say(format_args!(
                "  {word:<6}  {:<8}  {}",
                text("name"),
                text("detail")
            ));
        }
    }

    fn json(&self) -> Value {
        json!({
            "version": self.number.get(),
            "outcome": self.outcome(),
            "status": self.status.as_u16(),
            "answer": self.body,
        })
    }
}
