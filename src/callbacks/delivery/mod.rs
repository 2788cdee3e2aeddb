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

#[cfg(test)]
mod tests {
    use super::*;

    fn deliverer(allow_private: bool) -> Deliverer {
        let config = CallbacksConfig {
            allow_private,
            ..CallbacksConfig::default()
        };
        Deliverer::new(&config).expect("a client")
    }

    #[tokio::test]
    async fn a_name_that_leads_inside_is_not_connected_to() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let strict = deliverer(false);
        // Past the look at the address itself, as a name of the open internet would be.
        let url = format!("http://localhost:{port}/");
        let error = strict.client.post(&url).send().await.expect_err("refused");
        assert_eq!(strict.reason(&error), ResolveError::Refused.to_string());
        let accepted = tokio::time::timeout(Duration::from_millis(1), listener.accept()).await;
        assert!(accepted.is_err(), "somebody connected");
    }

    #[tokio::test]
    async fn what_cannot_be_called_says_why() {
        let open = deliverer(true);
        let send = async |url: &str| open.send(url, &[], "{}".to_owned()).await;
        let refused = send("ftp://example.com/").await;
        assert!(refused.is_hopeless && refused.status.is_none());
        let unknown = send("http://no-such-host.invalid/").await;
        let reason = ResolveError::Unknown.to_string();
        assert_eq!(unknown.error, Some(reason));
        assert!(!unknown.is_hopeless, "name servers mend");
        // A port that was free a moment ago.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let closed = send(&format!("http://{address}/")).await;
        assert_eq!(closed.error.as_deref(), Some("no connection could be made"));
        let (strict, url) = (deliverer(false), format!("http://{address}/"));
        let inner = strict.send(&url, &[], String::new()).await;
        assert!(inner.is_hopeless);
    }
}
