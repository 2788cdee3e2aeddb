//! A gateway's admin plane, as commands speak to it: over HTTP, with an admin token.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use reqwest::{Client, Method, RequestBuilder, StatusCode, Url};
use serde_json::Value;

use crate::config::{ADMIN_TOKEN, Environment, Secret};

/// How long a connection may take.
const CONNECTING: Duration = Duration::from_secs(10);

/// A gateway's admin plane.
pub(super) struct Gateway {
    client: Client,
    base: String,
    token: Secret,
}

/// The admin token: in the file, else where the environment says.
pub(super) fn admin_token(
    environment: &Environment,
    file: Option<&Path>,
) -> anyhow::Result<Secret> {
    let token = environment.admin_token(file)?;
    token.with_context(|| {
        format!("there is no admin token: --token-file names a file, or {ADMIN_TOKEN} holds it")
    })
}

impl Gateway {
    /// At an address, which `flag` has named; an answer may take so long.
    pub(super) fn new(
        flag: &str,
        at: &Url,
        token: Secret,
        answering: Duration,
    ) -> anyhow::Result<Self> {
        ensure!(
            matches!(at.scheme(), "http" | "https") && at.has_host(),
            "{flag} must be an http:// or https:// address"
        );
        let base = at.as_str().trim_end_matches('/');
        let base = base.strip_suffix("/admin/v1").unwrap_or(base).to_owned();
        let client = Client::builder()
            .connect_timeout(CONNECTING)
            .read_timeout(answering)
            .user_agent(concat!("lensgate/", env!("CARGO_PKG_VERSION")))
            .build()
            .context("no client can be made")?;
        Ok(Self {
            client,
            base,
            token,
        })
    }

    /// A request that is still to be completed; `path` is below `/admin/v1`.
    pub(super) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}/admin/v1{path}", self.base);
        self.client.request(method, url)
    }

    /// Sends a request; gives the answer's status and its JSON, whatever they are.
    pub(super) async fn ask(&self, request: RequestBuilder) -> anyhow::Result<(StatusCode, Value)> {
        let sent = request.bearer_auth(self.token.expose()).send().await;
        let answer = sent.context("the gateway cannot be reached, or broke off")?;
        let status = answer.status();
        let text = answer.text().await.context("the gateway broke off")?;
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Ok((status, body))
    }
}

/// Why the gateway refused, in its own words where it has any.
pub(super) fn reason(status: StatusCode, body: &Value) -> String {
    let text = |key: &str| body.get(key).and_then(Value::as_str);
    match (text("detail"), text("code")) {
        (Some(detail), Some(code)) => format!("{detail} ({code})"),
        _ => format!("it answered {status}"),
    }
}
