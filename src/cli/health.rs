//! `lensgate health`: asks the gateway of this machine how it is, for whoever has no other client, as a container without a shell.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use reqwest::{Client, Url};

use super::say;
use crate::config::Config;

/// How long an answer may take.
const ANSWERING: Duration = Duration::from_secs(3);

#[derive(Args, Debug)]
pub(super) struct HealthArgs {
    /// What is asked; without it the data plane of this machine by the settings, at /health/ready
    #[arg(long)]
    url: Option<Url>,
    /// Ask whether it lives, not whether it is ready
    #[arg(long, conflicts_with = "url")]
    live: bool,
}

pub(super) fn run(args: &HealthArgs, settings: &Config) -> anyhow::Result<ExitCode> {
    let url = match &args.url {
        Some(url) => url.clone(),
        None => address(settings, args.live)?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the async runtime does not start")?;
    let asked = runtime.block_on(async {
        let client = Client::builder()
            .timeout(ANSWERING)
            .no_proxy()
            // It is this machine that is asked, by an address that its certificate need not name.
            .danger_accept_invalid_certs(args.url.is_none())
            .build()?;
        client.get(url.clone()).send().await
    });
    let status = asked
        .with_context(|| format!("{url} does not answer"))?
        .status();
    say(format_args!("{url} answers {status}"));
    Ok(if status.is_success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Where the data plane of these settings is reached from this machine.
fn address(settings: &Config, live: bool) -> anyhow::Result<Url> {
    let listen = &settings.server.listen;
    let at: SocketAddr = listen
        .parse()
        .with_context(|| format!("server.listen {listen} is no address and port"))?;
    let host = match at.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let scheme = match settings.server.tls_cert {
        Some(_) => "https",
        None => "http",
    };
    let path = if live { "live" } else { "ready" };
    let url = format!(
        "{scheme}://{}/health/{path}",
        SocketAddr::new(host, at.port())
    );
    url.parse().context("the address cannot be asked")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_that_listens_everywhere_is_asked_on_this_machine() {
        for (listen, asked) in [
            ("0.0.0.0:8080", "http://127.0.0.1:8080/health/ready"),
            ("[::]:80", "http://[::1]/health/ready"),
            ("10.1.2.3:9", "http://10.1.2.3:9/health/ready"),
        ] {
            let mut settings = Config::default();
            settings.server.listen = listen.to_owned();
            assert_eq!(
                address(&settings, false).expect("an address").as_str(),
                asked
            );
        }
        let mut settings = Config::default();
        settings.server.tls_cert = Some("cert.pem".into());
        let asked = address(&settings, true).expect("an address");
        assert_eq!(asked.as_str(), "https://127.0.0.1:8080/health/live");
    }
}
