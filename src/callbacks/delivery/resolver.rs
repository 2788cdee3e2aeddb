//! Names to addresses, of which those that may not be called are left out: the client connects to nothing else.

use std::io;
use std::net::SocketAddr;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::address::is_open;
use super::target::Targets;

/// Why a name leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ResolveError {
    /// It is not known, or the name servers do not answer.
    #[error("the host's name could not be resolved")]
    Unknown,
    /// It is known, under addresses that may not be called alone.
    #[error("the host's address is not of the open internet, and may not be called")]
    Refused,
}

/// The system's resolver, with every address looked at.
pub(super) struct Checked(pub(super) Targets);

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_private = self.0.allow_private;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await;
            let allowed = allowed(found, allow_private)?;
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

fn allowed(
    found: io::Result<impl Iterator<Item = SocketAddr>>,
    allow_private: bool,
) -> Result<Vec<SocketAddr>, ResolveError> {
    let found: Vec<SocketAddr> = found.map_err(|_| ResolveError::Unknown)?.collect();
    if found.is_empty() {
        return Err(ResolveError::Unknown);
    }
    let may_be_called = |address: &SocketAddr| allow_private || is_open(address.ip());
    let allowed: Vec<SocketAddr> = found.into_iter().filter(may_be_called).collect();
    if allowed.is_empty() {
        return Err(ResolveError::Refused);
    }
    Ok(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> io::Result<std::vec::IntoIter<SocketAddr>> {
        let address = |text: &&str| SocketAddr::new(text.parse().expect(text), 0);
        Ok(texts.iter().map(address).collect::<Vec<_>>().into_iter())
    }

    #[test]
    fn of_a_names_addresses_those_are_left_that_may_be_called() {
        let mixed = || addresses(&["127.0.0.1", "1.1.1.1", "169.254.169.254"]);
        assert_eq!(
            allowed(mixed(), false),
            Ok(addresses(&["1.1.1.1"]).expect("one").collect())
        );
        assert_eq!(
            allowed(mixed(), true),
            Ok(mixed().expect("three").collect())
        );
        let inside = addresses(&["10.0.0.1", "fd00::1"]);
        assert_eq!(allowed(inside, false), Err(ResolveError::Refused));
        assert_eq!(allowed(addresses(&[]), true), Err(ResolveError::Unknown));
        let failed: io::Result<std::vec::IntoIter<SocketAddr>> = Err(io::Error::other("no"));
        assert_eq!(allowed(failed, true), Err(ResolveError::Unknown));
    }
}
