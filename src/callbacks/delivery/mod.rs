//! One attempt: a POST to an address that may be called. The only door to the HTTP client of callbacks.
//!
//! No proxy, no redirect, no cookie; a time for the connection and for the whole. Names are resolved here, and a connection
//! goes only to an address that was looked at: there is no moment between the check and the use.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, Response};

use self::resolver::{Checked, ResolveError};
use super::CallbackError;
use crate::config::CallbacksConfig;

mod address;
mod resolver;
mod target;

pub use target::{Targets, check_url};

/// Bytes of an answer that are read, and how long that may take: it only keeps the connection usable.
const MOST_READ: usize = 16 << 10;
const READING: Duration = Duration::from_secs(1);

/// Connections to a host that are kept for the next callback, and for how long.
const KEPT_CONNECTIONS: usize = 2;
const KEPT_FOR: Duration = Duration::from_secs(30);

/// Sends callbacks.
pub(super) struct Deliverer {
    client: Client,
    targets: Targets,
    timeout: Duration,
}

/// What became of an attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sent {
    /// The answer's status.
    pub(super) status: Option<u16>,
    /// Its `Retry-After`.
    pub(super) retry_after: Option<String>,
    /// Why it failed, in words that tell nothing of this side.
    pub(super) error: Option<String>,
    /// Whether no other attempt could fare better.
    pub(super) is_hopeless: bool,
}

impl Deliverer {
    /// # Errors
    /// When the client cannot be made, e.g. as the machine's certificates cannot be read.
    pub(super) fn new(config: &CallbacksConfig) -> Result<Self, CallbackError> {
        let targets = Targets::of(config);
        let client = Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            .referer(false)
            .connect_timeout(config.connect_timeout.get())
            .timeout(config.timeout.get())
            .pool_max_idle_per_host(KEPT_CONNECTIONS)
            .pool_idle_timeout(KEPT_FOR)
            .user_agent(concat!("lensgate/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(Arc::new(Checked(targets)))
            .build()
            .map_err(|error| CallbackError::Client(error.to_string()))?;
        Ok(Self {
            client,
            targets,
            timeout: config.timeout.get(),
        })
    }

    /// Where callbacks may go.
    pub(super) fn targets(&self) -> Targets {
        self.targets
    }

    /// Makes one attempt.
    pub(super) async fn send(
        &self,
        url: &str,
        headers: &[(&'static str, String)],
        body: String,
    ) -> Sent {
        // The settings may have changed since it was accepted.
        let url = match target::parse(url, self.targets) {
            Ok(url) => url,
            Err(error) => {
                return Sent {
                    error: Some(error.to_string()),
                    is_hopeless: true,
                    ..Sent::default()
                };
            }
        };
        let request = self
            .client
            .post(url)
            .header("content-type", "application/json");
        let request = headers.iter().fold(request, |request, (name, value)| {
            request.header(*name, value)
        });
        match request.body(body).send().await {
            Ok(response) => answered(response).await,
            Err(error) => Sent {
                error: Some(self.reason(&error)),
                ..Sent::default()
            },
        }
    }

    /// Why there was no answer.
    fn reason(&self, error: &reqwest::Error) -> String {
        let mut cause = error.source();
        while let Some(inner) = cause {
            if let Some(resolving) = inner.downcast_ref::<ResolveError>() {
                return resolving.to_string();
            }
            cause = inner.source();
        }
        if error.is_connect() {
            "no connection could be made".to_owned()
        } else if error.is_timeout() {
            format!("there was no answer within {} ms", self.timeout.as_millis())
        } else {
            "the connection broke off before there was an answer".to_owned()
        }
    }
}

async fn answered(response: Response) -> Sent {
    let status = response.status();
    let retry_after = response.headers().get("retry-after");
    let retry_after = retry_after.and_then(|value| value.to_str().ok());
    let retry_after = retry_after.map(str::to_owned);
    let error = if status.is_success() {
        None
    } else if status.is_redirection() {
        Some("the answer was a redirect, which is not followed".to_owned())
    } else {
        Some(format!("the answer was {}", status.as_u16()))
    };
    // What the answer says, and whether it comes to its end, does not matter.
    let _ = tokio::time::timeout(READING, read(response)).await;
    Sent {
        status: Some(status.as_u16()),
        retry_after,
        error,
        is_hopeless: false,
    }
}

async fn read(mut response: Response) {
    let mut left = MOST_READ;
    while let Ok(Some(piece)) = response.chunk().await {
        match left.checked_sub(piece.len()) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}
