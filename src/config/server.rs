//! `[server]`: the data plane's listener and its life.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{ConfigError, Seconds, bad};

/// `[server]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// Address and port of the data plane.
    pub listen: String,
    /// Models that must be live before the gateway is ready.
    pub required_models: Vec<String>,
    /// How long a stopping gateway says "not ready" while it still serves.
    pub drain_delay: Seconds,
    /// How long running requests may take to end after that; delay and this together are 40 s at most.
    pub drain_timeout: Seconds,
    /// Proxies (addresses or networks) whose `Forwarded` headers tell the client's address.
    pub trusted_proxies: Vec<String>,
    /// PEM file of the certificate chain.
    pub tls_cert: Option<PathBuf>,
    /// PEM file of the certificate's private key.
    pub tls_key: Option<PathBuf>,
    /// Connections that are served at the same time; a few more are kept for health checks.
    pub max_connections: usize,
    /// How long a client may take to send a request's head.
    pub header_timeout: Seconds,
    /// How long a client may pause while it sends a body.
    pub body_timeout: Seconds,
    /// How long a connection may stay open without a request.
    pub idle_timeout: Seconds,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: "0.0.0.0:8080".to_owned(),
            required_models: Vec::new(),
            drain_delay: Seconds::new(5),
            drain_timeout: Seconds::new(30),
            trusted_proxies: Vec::new(),
            tls_cert: None,
            tls_key: None,
            max_connections: 1024,
            header_timeout: Seconds::new(10),
            body_timeout: Seconds::new(10),
            idle_timeout: Seconds::new(75),
        }
    }
}

/// From the signal to the end, whatever still runs.
const LONGEST_END: Duration = Duration::from_secs(40);

/// What ending the models may take of it.
const TO_STOP_MODELS: Duration = Duration::from_secs(5);

impl ServerConfig {
    /// How long running requests may take once the delay is over.
    #[must_use]
    pub fn time_to_finish(&self) -> Duration {
        self.drain_timeout
            .get()
            .min(LONGEST_END.saturating_sub(self.drain_delay.get() + TO_STOP_MODELS))
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        check_address("server.listen", &self.listen)?;
        if self.max_connections == 0 {
            return Err(bad("server.max_connections", "must be at least 1"));
        }
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            return Err(bad(
                "server.tls_cert",
                "and server.tls_key are set together or not at all",
            ));
        }
        if let Some(proxy) = self.trusted_proxies.iter().find(|proxy| !is_network(proxy)) {
            return Err(bad(
                "server.trusted_proxies",
                format!("has {proxy:?}; allowed are addresses and networks, e.g. 10.0.0.0/8"),
            ));
        }
        if self.drain_delay.get() > LONGEST_END {
            return Err(bad("server.drain_delay", "must be 40s at most"));
        }
        for (key, value) in [
            ("server.header_timeout", self.header_timeout),
            ("server.body_timeout", self.body_timeout),
            ("server.idle_timeout", self.idle_timeout),
        ] {
            if value.get().is_zero() {
                return Err(bad(key, "must be more than 0"));
            }
        }
        Ok(())
    }
}

/// An address, or an address and a prefix length.
fn is_network(text: &str) -> bool {
    text.parse::<IpNet>().is_ok() || text.parse::<IpAddr>().is_ok()
}

/// `address:port`, the address numeric or `localhost`.
pub(super) fn check_address(key: &str, address: &str) -> Result<(), ConfigError> {
    let numeric = address.parse::<SocketAddr>().is_ok();
    let local = address.starts_with("localhost:") && address.to_socket_addrs().is_ok();
    if numeric || local {
        Ok(())
    } else {
        Err(bad(
            key,
            format!("is {address:?}; allowed is address:port, e.g. 127.0.0.1:8080"),
        ))
    }
}
