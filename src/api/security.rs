//! Who calls: credentials out of the head, and the extractor without which no handler of a key's routes can run.
//!
//! Around it, on every request: the slot in which the key's holder is noted, so that the answer, whatever it is, can say how
//! the key stands with its limits. Decides nothing itself: `access` does.

use std::marker::PhantomData;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use poem::http::header::AUTHORIZATION;
use poem::http::{HeaderMap, HeaderName, HeaderValue};
use poem::{Request, RequestBody};
use poem_openapi::registry::{MetaSecurityScheme, Registry};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};

use super::problem::ApiError;
use super::standing;
use crate::access::{Access, AccessError, Operator, Principal, Taken};
use crate::domain::api_key::Scope;
use crate::domain::error::ErrorKind;
use crate::domain::ids::ModelId;
use crate::domain::tenant::{KeyId, TenantId};
use crate::telemetry::metrics::TenantSeries;
use crate::telemetry::trace;

/// The other header that a key may come in.
const KEY_HEADER: HeaderName = HeaderName::from_static("x-api-key");
/// The header of RFC 7239.
const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
/// What proxies wrote before there was that.
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What every request carries to its handler, and back to the answer.
#[derive(Clone)]
pub(super) struct Slot {
    access: Arc<Access>,
    holder: Arc<OnceLock<Principal>>,
}

impl Slot {
    /// Puts an empty slot into the request.
    pub(super) fn open(request: &mut Request, access: &Arc<Access>) -> Self {
        let slot = Self {
            access: Arc::clone(access),
            holder: Arc::default(),
        };
        request.extensions_mut().insert(slot.clone());
        slot
    }

    fn of(request: &Request) -> Result<&Self, ApiError> {
        // No slot, no access: a route that stands outside the table lets nobody in.
        let slot = request.extensions().get();
        slot.ok_or_else(|| ApiError::new(ErrorKind::Internal, "the request could not be answered"))
    }

    /// How the key stands with its limits, for the answer's head; nothing where no key was presented or it has no limits.
    pub(super) fn tell(&self, headers: &mut HeaderMap) {
        if let Some(holder) = self.holder.get() {
            standing::tell(self.access.standing(holder), headers);
        }
    }
}

/// What a handler's caller must be allowed.
pub(super) trait Right: Send + Sync {
    /// One of these scopes is enough.
    const ONE_OF: &'static [Scope];
}

/// To classify pictures.
pub(super) struct ToClassify;
/// To send true labels.
pub(super) struct ToTell;
/// To look at models: whoever classifies may also see with what.
pub(super) struct ToLook;

impl Right for ToClassify {
    const ONE_OF: &'static [Scope] = &[Scope::Classify];
}

impl Right for ToTell {
    const ONE_OF: &'static [Scope] = &[Scope::Feedback];
}

impl Right for ToLook {
    const ONE_OF: &'static [Scope] = &[Scope::Read, Scope::Classify];
}

/// The holder of a key that has the right; only a request with such a key makes one.
pub(super) struct Authorized<R> {
    access: Arc<Access>,
    principal: Principal,
    right: PhantomData<R>,
}

impl<R> Authorized<R> {
    /// Whose flow and whose kept results: the tenant's id as text.
    pub(super) fn tenant(&self) -> &Arc<str> {
        self.principal.tenant_text()
    }

    /// Where it is counted what the tenant does.
    pub(super) fn series(&self) -> &Arc<TenantSeries> {
        self.principal.series()
    }

    /// The tenant's id.
    pub(super) fn tenant_id(&self) -> TenantId {
        self.principal.tenant()
    }

    /// The key's id; not the secret.
    pub(super) fn key(&self) -> KeyId {
        self.principal.key()
    }

    /// Whether the key may use this model; one that it may not is to it as if it were not there.
    pub(super) fn may_use(&self, model: &ModelId) -> bool {
        self.principal.may_use(model)
    }

    /// Bytes of one picture: the key's limit where it is less than the gateway's.
    pub(super) fn image_bytes(&self, gateway: u64) -> u64 {
        let own = self.principal.limits().max_image_bytes;
        own.map_or(gateway, |own| own.min(gateway))
    }

    /// Takes the one token that every request costs.
    pub(super) fn admit(&self) -> Result<(), ApiError> {
        let _step = trace::step("limit");
        Ok(self.access.admit(&self.principal, 1)?)
    }

    /// Takes the tokens of a batch's other pictures, and counts all of its pictures against the day.
    pub(super) fn spend(&self, pictures: usize) -> Result<Taken<'_>, ApiError> {
        let pictures = u64::try_from(pictures).unwrap_or(u64::MAX);
        self.access.admit_rest(&self.principal, pictures)?;
        Ok(self.access.spend(&self.principal, pictures)?)
    }
}

/// The names of the two schemes in the document.
const SCHEMES: [&str; 2] = ["BearerKey", "HeaderKey"];

impl<'a, R: Right> ApiExtractor<'a> for Authorized<R> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        let [bearer, header] = SCHEMES;
        let scheme = |ty, description| MetaSecurityScheme {
            ty,
            description: Some(description),
            name: None,
            key_in: None,
            scheme: None,
            bearer_format: None,
            flows: None,
            openid_connect_url: None,
        };
        let as_bearer = MetaSecurityScheme {
            scheme: Some("bearer"),
            ..scheme("http", "An API key, `lg_…`.")
        };
        let as_header = MetaSecurityScheme {
            name: Some("X-API-Key"),
            key_in: Some("header"),
            ..scheme(
                "apiKey",
                "An API key, `lg_…`, for clients that cannot set `Authorization`.",
            )
        };
        registry.create_security_scheme(bearer, as_bearer);
        registry.create_security_scheme(header, as_header);
    }

    fn security_schemes() -> Vec<&'static str> {
        SCHEMES.to_vec()
    }

    async fn from_request(
        request: &'a Request,
        _: &mut RequestBody,
        _: ExtractParamOptions<Self::ParamType>,
    ) -> poem::Result<Self> {
        let slot = Slot::of(request)?;
        let presented = key(request.headers());
        let principal = authenticated(request, presented, |secret| slot.access.principal(secret))?;
        // The answer tells how the key stands also where it is refused.
        let principal = slot.holder.get_or_init(|| principal).clone();
        trace::tenant(principal.tenant_text());
        principal.require(R::ONE_OF).map_err(ApiError::from)?;
        Ok(Self {
            access: Arc::clone(&slot.access),
            principal,
            right: PhantomData,
        })
    }
}

/// Whose admin token a request carries.
///
/// # Errors
/// Where it carries none that is valid.
pub(super) fn operator(request: &Request) -> Result<Operator, ApiError> {
    let slot = Slot::of(request)?;
    let presented = bearer(request.headers()).and_then(one);
    authenticated(request, presented, |secret| slot.access.operator(secret))
}

/// The client's address, behind proxies that are trusted; `None` where the connection has none.
pub(super) fn client_address(request: &Request) -> Option<IpAddr> {
    let peer = request.remote_addr().as_socket_addr()?.ip();
    let lines = |name: HeaderName| {
        let lines = request.headers().get_all(name).into_iter();
        lines.map(HeaderValue::as_bytes)
    };
    let access = &Slot::of(request).ok()?.access;
    Some(access.client(peer, lines(FORWARDED), lines(X_FORWARDED_FOR)))
}

/// What the secret opens. A failure is counted against the client's address; one too many is told so instead.
fn authenticated<T>(
    request: &Request,
    presented: Result<String, ApiError>,
    open: impl Fn(&str) -> Result<T, AccessError>,
) -> Result<T, ApiError> {
    let _step = trace::step("auth");
    let opened = presented.and_then(|secret| Ok(open(&secret)?));
    if opened.is_err()
        && let Some(address) = client_address(request)
    {
        Slot::of(request)?.access.failed(address)?;
    }
    opened
}

/// The API key of a request, in either header.
fn key(headers: &HeaderMap) -> Result<String, ApiError> {
    let mut presented = Vec::new();
    for value in headers.get_all(KEY_HEADER) {
        presented.push(text(value)?.to_owned());
    }
    match bearer(headers) {
        Ok(tokens) => presented.extend(tokens),
        // Another scheme may be meant for a proxy on the way, where there is a key beside it.
        Err(_) if !presented.is_empty() && !speaks_bearer(headers) => {}
        Err(error) => return Err(error),
    }
    one(presented)
}

/// The bearer tokens of a request.
fn bearer(headers: &HeaderMap) -> Result<Vec<String>, ApiError> {
    let tokens = headers.get_all(AUTHORIZATION).into_iter().map(|value| {
        let (scheme, token) = scheme(text(value)?);
        if scheme.eq_ignore_ascii_case("bearer") {
            Ok(token.to_owned())
        } else {
            let detail = "the header Authorization must be `Bearer` and the credentials";
            Err(ApiError::new(ErrorKind::InvalidCredentials, detail))
        }
    });
    tokens.collect()
}

fn speaks_bearer(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(AUTHORIZATION).into_iter();
    values.any(|value| match text(value) {
        Ok(value) => scheme(value).0.eq_ignore_ascii_case("bearer"),
        Err(_) => true,
    })
}

/// The scheme of an `Authorization`, and what follows it.
fn scheme(value: &str) -> (&str, &str) {
    let (scheme, rest) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
    (scheme, rest.trim_start())
}

fn text(value: &HeaderValue) -> Result<&str, ApiError> {
    std::str::from_utf8(value.as_bytes()).map_err(|_| {
        let detail = "the header with the credentials is no text";
        ApiError::new(ErrorKind::BadRequest, detail)
    })
}

/// The one secret that is presented, however often.
fn one(presented: Vec<String>) -> Result<String, ApiError> {
    let mut presented = presented.into_iter();
    let Some(secret) = presented.next() else {
        let detail = "credentials are needed: `Authorization: Bearer …`, or a key as `X-API-Key`";
        return Err(ApiError::new(ErrorKind::MissingCredentials, detail));
    };
    let wrong = |detail| Err(ApiError::new(ErrorKind::InvalidCredentials, detail));
    if presented.any(|other| other != secret) {
        return wrong("the request carries several credentials, and they differ");
    }
    if secret.is_empty() {
        return wrong("the credentials are empty");
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value).expect("a value"));
        }
        headers
    }

    #[test]
    fn a_key_comes_in_either_header() {
        const AUTH: &str = "authorization";
        const KEY: &str = "x-api-key";
        let missing = Err(ErrorKind::MissingCredentials);
        let invalid = Err(ErrorKind::InvalidCredentials);
        for (lines, expected) in [
            (&[(AUTH, &b"Bearer secret"[..])][..], Ok("secret")),
            (&[(AUTH, b"bearer secret")], Ok("secret")),
            (&[(AUTH, b"BEARER   secret  ")], Ok("secret")),
            (&[(AUTH, b"Bearer two words")], Ok("two words")),
            (&[(KEY, b"secret")], Ok("secret")),
            (&[(KEY, "schl\u{fc}ssel".as_bytes())], Ok("schl\u{fc}ssel")),
            (&[(KEY, b"secret"), (AUTH, b"Bearer secret")], Ok("secret")),
            (&[(KEY, b"secret"), (KEY, b"secret")], Ok("secret")),
            // Somebody else's: for a proxy on the way.
            (&[(KEY, b"secret"), (AUTH, b"Basic dXNlcjpw")], Ok("secret")),
            (&[], missing),
            (&[(KEY, b"")], invalid),
            (&[(AUTH, b"")], invalid),
            (&[(AUTH, b"Bearer")], invalid),
            (&[(AUTH, b"Bearer ")], invalid),
            (&[(AUTH, b"secret")], invalid),
            (&[(AUTH, b"Basic dXNlcjpw")], invalid),
            (&[(AUTH, b"Bearersecret")], invalid),
            (&[(KEY, b"secret"), (AUTH, b"Bearer other")], invalid),
            (&[(KEY, b"secret"), (AUTH, b"Bearer")], invalid),
            (&[(KEY, b"secret"), (KEY, b"other")], invalid),
            (
                &[(AUTH, b"Bearer secret"), (AUTH, b"Bearer other")],
                invalid,
            ),
            (
                &[(AUTH, b"Bearer secret"), (AUTH, b"Basic dXNlcjpw")],
                invalid,
            ),
            (&[(KEY, b"\xff\xfe")], Err(ErrorKind::BadRequest)),
            (&[(AUTH, b"Bearer \xff")], Err(ErrorKind::BadRequest)),
            (
                &[(KEY, b"secret"), (AUTH, b"Bearer \xff")],
                Err(ErrorKind::BadRequest),
            ),
        ] {
            let headers = headers(lines);
            let found = key(&headers).map_err(|error| error.kind());
            assert_eq!(found.as_deref(), expected.as_ref().copied(), "{headers:?}");
        }
    }

    #[test]
    fn an_admin_token_comes_as_bearer_alone() {
        let found = |lines| {
            bearer(&headers(lines))
                .and_then(one)
                .map_err(|error| error.kind())
        };
        assert_eq!(found(&[("authorization", b"Bearer t")]).as_deref(), Ok("t"));
        assert_eq!(
            found(&[("x-api-key", b"t")]),
            Err(ErrorKind::MissingCredentials)
        );
        assert_eq!(found(&[]), Err(ErrorKind::MissingCredentials));
    }
}
