//! Signatures after the Standard Webhooks scheme: HMAC-SHA256 over `{id}.{timestamp}.{body}`, one for each secret.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

/// Random bytes of a secret.
pub const SECRET_BYTES: usize = 32;

/// What secrets begin with.
const PREFIX: &str = "whsec_";

/// The scheme's first version, the only symmetric one.
const VERSION: &str = "v1";

/// A new secret: `whsec_` and base64, as the scheme's libraries take it.
#[must_use]
pub fn compose_secret(random: [u8; SECRET_BYTES]) -> String {
    format!("{PREFIX}{}", STANDARD.encode(random))
}

/// The signatures of a message by all secrets, as its header carries them; `None` without a secret that can sign.
pub(super) fn sign<'s>(
    secrets: impl IntoIterator<Item = &'s str>,
    id: &str,
    timestamp: i64,
    body: &str,
) -> Option<String> {
    let signatures: Vec<String> = secrets
        .into_iter()
        .filter_map(|secret| {
            let key = STANDARD.decode(secret.strip_prefix(PREFIX)?).ok()?;
            let mut mac = Hmac::<Sha256>::new_from_slice(&key).ok()?;
            mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
            let signature = STANDARD.encode(mac.finalize().into_bytes());
            Some(format!("{VERSION},{signature}"))
        })
        .collect();
    (!signatures.is_empty()).then(|| signatures.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, HeaderValue};
    use standardwebhooks::Webhook;

    fn headers(id: &str, timestamp: i64, signature: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("webhook-id", id),
            ("webhook-timestamp", &timestamp.to_string()),
            ("webhook-signature", signature),
        ] {
            headers.insert(name, HeaderValue::from_str(value).expect("a value"));
        }
        headers
    }

    #[test]
    fn the_schemes_own_library_verifies_what_is_signed() {
        let (old, new) = (compose_secret([1; 32]), compose_secret([2; 32]));
        let now = std::time::SystemTime::now();
        let now = now.duration_since(std::time::UNIX_EPOCH).expect("a time");
        let now = i64::try_from(now.as_secs()).expect("a time");
        let body = r#"{"type":"version.live","data":{"ä":1}}"#;
        let both = [old.as_str(), new.as_str()];
        let signature = sign(both, "id-1", now, body).expect("a signature");
        assert_eq!(signature.split(' ').count(), 2);
        let headers = headers("id-1", now, &signature);
        for secret in both {
            let webhook = Webhook::new(secret).expect("a secret of the scheme");
            assert!(webhook.verify(body.as_bytes(), &headers).is_ok());
            assert!(webhook.verify(b"{}", &headers).is_err());
        }
        let other = Webhook::new(&compose_secret([3; 32])).expect("a secret");
        assert!(other.verify(body.as_bytes(), &headers).is_err());
    }

    #[test]
    fn it_is_what_the_schemes_library_signs() {
        let secret = compose_secret([7; 32]);
        let webhook = Webhook::new(&secret).expect("a secret");
        let theirs = webhook.sign("msg", 1_700_000_000, b"body");
        assert_eq!(
            sign([secret.as_str()], "msg", 1_700_000_000, "body"),
            theirs.ok()
        );
    }

    #[test]
    fn without_a_secret_nothing_is_signed() {
        assert_eq!(sign([], "id", 1, "body"), None);
        assert_eq!(sign(["whsec_%", "AAAA"], "id", 1, "body"), None);
    }
}
