//! Whose address it is, where proxies stand between: `Forwarded` (RFC 7239) and `X-Forwarded-For`, as far as they are to be
//! believed.
//!
//! Read from the right, where the nearest proxy has written, through the hops that are trusted. The first that is not is
//! the client; what stands left of it is the client's own word and is never believed. Whatever cannot be read, and two
//! fields that tell different stories, fall back to the peer. Called by `mod.rs`. Knows no HTTP library.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

/// The proxies that are believed.
#[derive(Clone, Debug, Default)]
pub(super) struct Proxies(Vec<IpNet>);

/// What a proxy says of the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hop {
    At(IpAddr),
    /// `unknown`, an obfuscated name, or nothing.
    Hidden,
}

/// A field that cannot be read as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Malformed;

impl Proxies {
    /// Addresses and networks as they are configured; the configuration has refused everything else.
    pub(super) fn new(trusted: &[String]) -> Self {
        let network = |text: &String| match text.parse::<IpNet>() {
            Ok(network) => Some(network.trunc()),
            Err(_) => text.parse::<IpAddr>().ok().map(IpNet::from),
        };
        Self(trusted.iter().filter_map(network).collect())
    }

    /// The client's address: the peer's, unless a proxy that is trusted tells another. Each field in its lines' order.
    pub(super) fn client<'h>(
        &self,
        peer: IpAddr,
        forwarded: impl Iterator<Item = &'h [u8]>,
        x_forwarded_for: impl Iterator<Item = &'h [u8]>,
    ) -> IpAddr {
        let peer = peer.to_canonical();
        if !self.trust(peer) {
            return peer;
        }
        let forwarded = joined(forwarded).map(|text| {
            let hops = elements(&text).ok_or(Malformed)?;
            self.walk(peer, hops.into_iter().rev().map(Ok))
        });
        let x_forwarded_for = joined(x_forwarded_for).map(|text| {
            let hops = text.rsplit(|&byte| byte == b',').map(<[u8]>::trim_ascii);
            let hops = hops.filter(|hop| !hop.is_empty());
            self.walk(peer, hops.map(|hop| node(hop).ok_or(Malformed)))
        });
        match (forwarded, x_forwarded_for) {
            (Some(Ok(client)), None) | (None, Some(Ok(client))) => client,
            // A proxy writes one of them and may hand on the other as the client sent it.
            (Some(Ok(one)), Some(Ok(other))) if one == other => one,
            _ => peer,
        }
    }

    /// From the peer through trusted hops, the nearest first. Where a hop is hidden, the one that says so is the last known.
    fn walk(
        &self,
        peer: IpAddr,
        hops: impl Iterator<Item = Result<Hop, Malformed>>,
    ) -> Result<IpAddr, Malformed> {
        let mut last = peer;
        for hop in hops {
            match hop? {
                Hop::Hidden => break,
                Hop::At(address) => last = address,
            }
            if !self.trust(last) {
                break;
            }
        }
        Ok(last)
    }

    fn trust(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// Several lines of a field are one list.
fn joined<'h>(lines: impl Iterator<Item = &'h [u8]>) -> Option<Vec<u8>> {
    let lines: Vec<&[u8]> = lines.collect();
    (!lines.is_empty()).then(|| lines.join(&b','))
}

/// The hops of a `Forwarded` field.
fn elements(text: &[u8]) -> Option<Vec<Hop>> {
    let elements = split(text, b',')?.into_iter().map(<[u8]>::trim_ascii);
    let elements = elements.filter(|element| !element.is_empty());
    elements.map(element).collect()
}

/// `for=…;by=…;proto=…;host=…`, in any order: what `for` says.
fn element(text: &[u8]) -> Option<Hop> {
    let mut hop = None;
    for pair in split(text, b';')? {
        let pair = pair.trim_ascii();
        if pair.is_empty() {
            continue;
        }
        let equals = pair.iter().position(|&byte| byte == b'=')?;
        let (name, value) = pair.split_at_checked(equals)?;
        let value = unquoted(value.get(1..)?)?;
        if name.is_empty() || !name.iter().copied().all(is_token) {
            return None;
        }
        if name.eq_ignore_ascii_case(b"for") && hop.replace(node(&value)?).is_some() {
            return None;
        }
    }
    Some(hop.unwrap_or(Hop::Hidden))
}

/// The parts between separators that stand in no quoted string; `None` where one is not closed.
fn split(text: &[u8], separator: u8) -> Option<Vec<&[u8]>> {
    let (mut quoted, mut escaped) = (false, false);
    let parts = text
        .split(|&byte| {
            if escaped {
                escaped = false;
            } else if quoted && byte == b'\\' {
                escaped = true;
            } else if byte == b'"' {
                quoted = !quoted;
            }
            byte == separator && !quoted
        })
        .collect();
    (!quoted).then_some(parts)
}

/// A token, or what a quoted string says.
fn unquoted(value: &[u8]) -> Option<Vec<u8>> {
    let Some(inner) = value.strip_prefix(b"\"") else {
        let whole = !value.is_empty() && value.iter().copied().all(is_token);
        return whole.then(|| value.to_vec());
    };
    let mut text = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter().copied();
    loop {
        match bytes.next()? {
            b'"' => break,
            b'\\' => text.push(bytes.next()?),
            byte => text.push(byte),
        }
    }
    // Nothing may follow the quote that closes it.
    bytes.next().is_none().then_some(text)
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// An address with or without a port, or a name that stands for one.
fn node(text: &[u8]) -> Option<Hop> {
    let text = std::str::from_utf8(text).ok()?;
    // Without brackets there is no port behind an IPv6 address, and X-Forwarded-For has them so.
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(Hop::At(address.to_canonical()));
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        let address: Ipv6Addr = address.parse().ok()?;
        let fits = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return fits.then(|| Hop::At(IpAddr::V6(address).to_canonical()));
    }
    let name = match text.split_once(':') {
        Some((name, port)) if is_port(port) => name,
        Some(_) => return None,
        None => text,
    };
    if name.eq_ignore_ascii_case("unknown") || is_obfuscated(name) {
        return Some(Hop::Hidden);
    }
    let address = name.parse::<std::net::Ipv4Addr>().ok()?;
    Some(Hop::At(IpAddr::V4(address)))
}

fn is_port(text: &str) -> bool {
    let digits = (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    digits || is_obfuscated(text)
}

fn is_obfuscated(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    text.len() > 1 && text.starts_with('_') && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "10.0.0.1";

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn proxies() -> Proxies {
        let trusted = ["10.0.0.0/8", "192.168.7.7", "2001:db8:aaaa::/48"];
        Proxies::new(&trusted.map(str::to_owned))
    }

    fn client(peer: &str, forwarded: &[&str], x_forwarded_for: &[&str]) -> String {
        let forwarded = forwarded.iter().map(|line| line.as_bytes());
        let x_forwarded_for = x_forwarded_for.iter().map(|line| line.as_bytes());
        let client = proxies().client(address(peer), forwarded, x_forwarded_for);
        client.to_string()
    }

    #[test]
    fn forwarded_is_read_through_trusted_hops() {
        for (lines, expected) in [
            (
                &["for=192.0.2.60;proto=http;by=203.0.113.43"][..],
                "192.0.2.60",
            ),
            (&["For=\"[2001:db8:cafe::17]:4711\""], "2001:db8:cafe::17"),
            (&["for=192.0.2.43, for=198.51.100.17"], "198.51.100.17"),
            (&["for=192.0.2.43,for=10.1.2.3"], "192.0.2.43"),
            (&["for=192.0.2.43", "for=192.168.7.7"], "192.0.2.43"),
            (&["for=192.0.2.43", "for=192.168.7.8"], "192.168.7.8"),
            (&["proto=https;FOR=192.0.2.1"], "192.0.2.1"),
            (&["for=\"192.0.2.1:80\""], "192.0.2.1"),
            (&["for=\"192.0.2.1:_port\""], "192.0.2.1"),
            (&["for=\"192\\.0.2.1\""], "192.0.2.1"),
            (&["for=\"[::ffff:192.0.2.1]\""], "192.0.2.1"),
            (&["for=192.0.2.9;host=\"a,b;c\\\"d\""], "192.0.2.9"),
            (&[" for=192.0.2.1 ; ; proto=http , , "], "192.0.2.1"),
            // All are trusted: the one that is furthest away.
            (&["for=10.9.9.9, for=10.1.1.1"], "10.9.9.9"),
            // Hidden: the last that is known.
            (&["for=unknown"], PEER),
            (&["for=192.0.2.1, for=_hidden"], PEER),
            (&["for=192.0.2.1, for=unknown, for=10.3.3.3"], "10.3.3.3"),
            (&["for=\"_hidden:80\""], PEER),
            (&["proto=http"], PEER),
            (&[""], PEER),
        ] {
            assert_eq!(client(PEER, lines, &[]), expected, "{lines:?}");
        }
    }

    #[test]
    fn what_is_malformed_falls_back_to_the_peer() {
        for line in [
            "for",
            "for=",
            "=192.0.2.1",
            "for=\"192.0.2.1",
            "for=192.0.2.1\"",
            "for=\"192.0.2.1\"x",
            "for=\"\"",
            "for=192.0.2.1:80",
            "for=[2001:db8::1]",
            "for=\"[2001:db8::1\"",
            "for=\"[2001:db8::1]80\"",
            "for=\"[2001:db8::1]:\"",
            "for=\"[192.0.2.1]\"",
            "for=\"192.0.2.1:123456\"",
            "for=\"192.0.2.1:\"",
            "for=256.0.2.1",
            "for=192.0.2",
            "for=_",
            "for=hidden",
            "for=\"fe80::1%eth0\"",
            "for = 192.0.2.1",
            "for=192.0.2.1;for=192.0.2.1",
            "f or=192.0.2.1",
            "for=192.0.2.1 proto=http",
            "for=\u{fc}",
        ] {
            assert_eq!(client(PEER, &[line], &[]), PEER, "{line:?}");
        }
    }

    #[test]
    fn x_forwarded_for_is_read_from_the_right() {
        for (lines, expected) in [
            (&["192.0.2.1"][..], "192.0.2.1"),
            (&["1.1.1.1, 192.0.2.1"], "192.0.2.1"),
            (&["1.1.1.1, 192.0.2.1, 10.2.2.2"], "192.0.2.1"),
            (&["1.1.1.1", "192.0.2.1", "10.2.2.2,10.3.3.3"], "192.0.2.1"),
            (&["2001:db8::5"], "2001:db8::5"),
            (&["[2001:db8::5]:443"], "2001:db8::5"),
            (&["192.0.2.1:50000"], "192.0.2.1"),
            (&["2001:db8:bbbb::5, 2001:db8:aaaa::1"], "2001:db8:bbbb::5"),
            // What the client itself has sent is not even looked at.
            (&["nonsense \"', 192.0.2.1"], "192.0.2.1"),
            (&["192.0.2.1, nonsense"], PEER),
            (&["192.0.2.1, unknown"], PEER),
            (&["192.0.2.1,,"], "192.0.2.1"),
            (&["10.1.1.1"], "10.1.1.1"),
            (&["", ""], PEER),
        ] {
            assert_eq!(client(PEER, &[], lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn only_a_trusted_peer_is_believed() {
        for peer in ["192.0.2.9", "2001:db8::9", "11.0.0.1", "192.168.7.8"] {
            assert_eq!(client(peer, &["for=1.1.1.1"], &[]), peer);
            assert_eq!(client(peer, &[], &["1.1.1.1"]), peer);
        }
        assert_eq!(client("::ffff:10.0.0.1", &[], &["192.0.2.1"]), "192.0.2.1");
        assert_eq!(client("2001:db8:aaaa::1", &[], &["192.0.2.1"]), "192.0.2.1");
        assert_eq!(client("::ffff:192.0.2.9", &[], &[]), "192.0.2.9");
        let nobody = Proxies::new(&[]);
        let lines = [&b"1.1.1.1"[..]];
        let seen = nobody.client(address(PEER), [].into_iter(), lines.into_iter());
        assert_eq!(seen, address(PEER));
    }

    #[test]
    fn two_fields_must_tell_the_same() {
        assert_eq!(
            client(PEER, &["for=192.0.2.1"], &["192.0.2.1"]),
            "192.0.2.1"
        );
        // A client's `Forwarded` that came through a proxy which writes the other field, and the other way round.
        assert_eq!(client(PEER, &["for=1.1.1.1"], &["192.0.2.1"]), PEER);
        assert_eq!(client(PEER, &["for=192.0.2.1"], &["1.1.1.1"]), PEER);
        assert_eq!(client(PEER, &["for=\""], &["192.0.2.1"]), PEER);
    }

    /// A small generator (Knuth's multiplier): the same numbers everywhere.
    struct Seeded(u64);

    impl Seeded {
        fn below(&mut self, n: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
            self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(self.0 >> 33).expect("31 bits") % n
        }
    }

    #[test]
    fn whatever_comes_is_read_without_a_panic_and_never_believed_beyond_a_trusted_hop() {
        const PIECES: [&[u8]; 28] = [
            b"for=",
            b"For=",
            b"by=",
            b"host=",
            b"\"",
            b"\\",
            b",",
            b";",
            b"=",
            b"[",
            b"]",
            b":",
            b" ",
            b"\t",
            b"192.0.2.1",
            b"10.0.0.7",
            b"2001:db8::1",
            b"::ffff:10.0.0.2",
            b"unknown",
            b"_x",
            b"80",
            b"%",
            b"\xff",
            b"\xc3\xbc",
            b"\0",
            b"999999999999",
            b"-",
            b"for=\"[2001:db8::1]:1\"",
        ];
        let mut random = Seeded(20_260_101);
        let proxies = proxies();
        let peer = address(PEER);
        let mut believed = 0;
        for _ in 0..200_000 {
            let mut line = Vec::new();
            for _ in 0..random.below(12) {
                line.extend_from_slice(PIECES[random.below(PIECES.len())]);
            }
            let lines = [line.as_slice()];
            // What a proxy that is trusted appends is all that is believed, whatever stands before it.
            let known: &[u8] = b"198.51.100.9";
            let appended = [line.as_slice(), known];
            let seen = proxies.client(peer, [].into_iter(), appended.into_iter());
            assert_eq!(seen, address("198.51.100.9"), "{line:?}");
            let known: &[u8] = b"for=198.51.100.9";
            let appended = [line.as_slice(), known];
            let seen = proxies.client(peer, appended.into_iter(), [].into_iter());
            assert!(
                seen == peer || seen == address("198.51.100.9"),
                "{line:?} gave {seen}"
            );
            let alone = proxies.client(peer, lines.into_iter(), [].into_iter());
            let other = proxies.client(peer, [].into_iter(), lines.into_iter());
            believed += usize::from(alone != peer) + usize::from(other != peer);
            let stranger = address("203.0.113.1");
            let seen = proxies.client(stranger, lines.into_iter(), lines.into_iter());
            assert_eq!(seen, stranger);
        }
        assert!(believed > 1000, "or nothing was read: {believed}");
    }
}
