//! The place of a span in its trace, as W3C Trace Context writes it (`traceparent`), and where new ids come from.

use std::cell::Cell;
use std::fmt;

use http::HeaderMap;

/// A span that others may be children of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace; never 0.
    pub(super) trace: u128,
    /// The span; never 0.
    pub(super) span: u64,
    /// Whether who began the trace wants it kept.
    pub(super) sampled: bool,
}

const TRACEPARENT: &str = "traceparent";

impl TraceContext {
    /// The caller's span, by its header; `None` where that is not well formed, or comes twice.
    #[must_use]
    pub fn of_caller(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let value = values.next()?;
        let is_one = values.next().is_none();
        Self::parse(value.to_str().ok()?).filter(|_| is_one)
    }

    /// Reads `00-<32 hexadecimal digits>-<16>-<2>`; of a later version what comes after that is left alone.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('-');
        let mut hex = |length| {
            let part = parts.next()?;
            let plain = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            let is_hex = part.len() == length && part.bytes().all(plain);
            u128::from_str_radix(part, 16).ok().filter(|_| is_hex)
        };
        let (version, trace, span, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        // A later version may say more; the first must not.
        let is_known = version != 0xff && (version != 0 || parts.next().is_none());
        let span = u64::try_from(span).ok()?;
        (is_known && trace != 0 && span != 0).then_some(Self {
            trace,
            span,
            sampled: flags & 1 == 1,
        })
    }

    /// The trace's id: 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace)
    }

    /// A new span of the same trace.
    pub(super) fn child(&self) -> Self {
        Self {
            span: span_id(),
            ..*self
        }
    }
}

/// As the header `traceparent` has it.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.sampled);
        write!(f, "00-{:032x}-{:016x}-{flags:02x}", self.trace, self.span)
    }
}

/// A new trace's id.
pub(super) fn new_trace_id() -> u128 {
    (u128::from(span_id()) << 64) | u128::from(span_id())
}

/// A new span's id. Ids are no secrets: they must differ, and cost nothing.
pub(super) fn span_id() -> u64 {
    thread_local! {
        static STATE: Cell<u64> = Cell::new(seed());
    }
    STATE.with(|state| {
        // Steele, Lea and Flood's SplitMix64: every number once before one comes again.
        let next = state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        state.set(next);
        let mixed = (next ^ (next >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).max(1)
    })
}

/// Where a thread's ids begin.
fn seed() -> u64 {
    let mut bytes = [0; 8];
    if getrandom::fill(&mut bytes).is_ok() {
        return u64::from_le_bytes(bytes);
    }
    let (high, low) = uuid::Uuid::now_v7().as_u64_pair();
    high ^ low.rotate_left(32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_told_by_a_well_formed_header() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let parent = format!("00-{trace}-b7ad6b7169203331-01");
        let read = |lines: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                let value = http::HeaderValue::from_bytes(line).expect("a value");
                headers.append(TRACEPARENT, value);
            }
            TraceContext::of_caller(&headers)
        };
        let found = read(&[parent.as_bytes()]).expect("a context");
        assert_eq!(found.trace_id(), trace);
        assert!(found.sampled);
        assert_eq!(found.to_string(), parent, "there and back");
        assert!(
            !read(&[parent.replace("-01", "-00").as_bytes()])
                .expect("one")
                .sampled
        );
        let later = format!("cc-{trace}-b7ad6b7169203331-01-what-the-future-will-be-like");
        assert!(read(&[later.as_bytes()]).is_some());
        for bad in [
            String::new(),
            trace.to_owned(),
            parent.replace("00-", "ff-"),
            parent.replace(trace, &"0".repeat(32)),
            parent.replace("b7ad6b7169203331", "0000000000000000"),
            parent.to_uppercase(),
            format!("{parent}-more"),
            parent.replace("-01", "-1"),
            format!("{parent}\u{e4}"),
        ] {
            assert_eq!(read(&[bad.as_bytes()]), None, "{bad}");
        }
        assert_eq!(read(&[parent.as_bytes(), parent.as_bytes()]), None);
        assert_eq!(read(&[]), None);
    }

    #[test]
    fn ids_differ() {
        let ids: std::collections::BTreeSet<u64> = (0..10_000).map(|_| span_id()).collect();
        assert_eq!(ids.len(), 10_000);
        let elsewhere = std::thread::scope(|scope| scope.spawn(span_id).join());
        assert!(!ids.contains(&elsewhere.expect("an id")));
    }
}
