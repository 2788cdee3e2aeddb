//! Which web addresses are accepted. What a name leads to is looked at when it is called, see `resolver`.

use std::net::IpAddr;

use reqwest::Url;

use super::address::is_open;
use crate::callbacks::CallbackError;
use crate::config::CallbacksConfig;

/// Characters of an address.
const LONGEST: usize = 2000;

/// Where callbacks may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Targets {
    /// Whether private and loopback addresses may be called.
    pub allow_private: bool,
    /// Whether `http://` may be called.
    pub allow_http: bool,
}

impl Targets {
    /// Where the settings let them go.
    #[must_use]
    pub fn of(config: &CallbacksConfig) -> Self {
        Self {
            allow_private: config.allow_private,
            allow_http: config.allow_http,
        }
    }
}

/// Whether callbacks may be sent to an address, as far as the address alone tells.
///
/// # Errors
/// [`CallbackError::Refused`] where not, with the reason.
pub fn check_url(url: &str, targets: Targets) -> Result<(), CallbackError> {
    parse(url, targets).map(|_| ())
}

/// The address as the client reads it: `http://0x7f.1` is `http://127.0.0.1`.
pub(super) fn parse(text: &str, targets: Targets) -> Result<Url, CallbackError> {
    let refused = |reason| Err(CallbackError::Refused(reason));
    if text.len() > LONGEST {
        return refused("must have at most 2000 characters");
    }
    let odd = |c: char| c.is_control() || c.is_whitespace();
    let url = match Url::parse(text) {
        Ok(url) if !text.contains(odd) => url,
        _ => return refused("must be an http:// or https:// address with a host"),
    };
    match url.scheme() {
        "https" => {}
        "http" if targets.allow_http => {}
        "http" => return refused("must begin with https://: http:// is not allowed here"),
        _ => return refused("must be an http:// or https:// address with a host"),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return refused("must have no credentials");
    }
    if url.fragment().is_some() {
        return refused("must have no fragment");
    }
    let Some(host) = url.host_str().filter(|host| !host.is_empty()) else {
        return refused("must be an http:// or https:// address with a host");
    };
    if url.port() == Some(0) {
        return refused("must have no port 0");
    }
    if !targets.allow_private && !may_be_open(host) {
        return refused(
            "must be of the open internet: private, loopback, link-local and metadata addresses are not allowed here",
        );
    }
    Ok(url)
}

/// Whether a host may be of the open internet, as far as it says itself.
fn may_be_open(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(address) => is_open(address),
        Err(_) => {
            let name = host.trim_end_matches('.');
            name != "localhost" && !name.ends_with(".localhost")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRICT: Targets = Targets {
        allow_private: false,
        allow_http: true,
    };

    #[test]
    fn callbacks_go_to_web_addresses() {
        let long = format!("https://example.com/{}", "a".repeat(LONGEST));
        for good in [
            "https://example.com/hook?x=1",
            "http://example.com:8080",
            "https://1.1.1.1/",
            "https://[2606:4700:4700::1111]:8443/a",
            "https://bücher.example/",
        ] {
            assert_eq!(check_url(good, STRICT), Ok(()), "{good}");
        }
        for bad in [
            "",
            "/hook",
            "example.com",
            "ftp://example.com",
            "file:///etc/passwd",
            "https://",
            "https://u:p@example.com",
            "https://u@example.com",
            "https://example.com/#x",
            "https://example.com:0/",
            "https://exa mple.com",
            " https://example.com",
            "https://example.com/a\nb",
            "https://example.com/\0",
            &long,
        ] {
            assert!(check_url(bad, STRICT).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn addresses_within_are_refused_however_they_are_written() {
        let open = Targets {
            allow_private: true,
            ..STRICT
        };
        for inside in [
            "http://127.0.0.1:9000/",
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f.0.0.1/",
            "http://0177.0.0.1/",
            "http://0/",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[::ffff:7f00:1]/",
            "http://[fd00:ec2::254]/latest/meta-data",
            "http://169.254.169.254/latest/meta-data",
            "http://10.1.2.3/",
            "http://localhost/",
            "http://LOCALHOST./",
            "http://a.localhost/",
        ] {
            assert!(check_url(inside, STRICT).is_err(), "{inside}");
            assert_eq!(check_url(inside, open), Ok(()), "{inside}");
        }
    }

    #[test]
    fn plain_http_can_be_switched_off() {
        let https = Targets {
            allow_http: false,
            ..STRICT
        };
        assert!(check_url("http://example.com", https).is_err());
        assert_eq!(check_url("https://example.com", https), Ok(()));
    }
}
