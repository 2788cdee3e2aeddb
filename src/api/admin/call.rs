//! A call of an operator: whose token, which role, from where. A handler cannot run without one.

use std::marker::PhantomData;

use poem::{Request, RequestBody};
use poem_openapi::registry::{MetaSecurityScheme, Registry};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};

use crate::admin::Actor;
use crate::api::listener::RequestId;
use crate::api::problem::ApiError;
use crate::api::security;
use crate::domain::error::ErrorKind;
use crate::domain::operator::Role;

/// The least role that a handler asks for.
pub(super) trait Needs: Send + Sync {
    /// The role.
    const ROLE: Role;
}

/// Looks at everything but pictures.
pub(super) struct Viewer;
/// Models, reload, deliveries, archived pictures.
pub(super) struct Operator;
/// Tenants, keys and tokens.
pub(super) struct Administrator;

impl Needs for Viewer {
    const ROLE: Role = Role::Viewer;
}

impl Needs for Operator {
    const ROLE: Role = Role::Operator;
}

impl Needs for Administrator {
    const ROLE: Role = Role::Admin;
}

/// A call by a token that has the role.
pub(super) struct Call<R> {
    /// Who calls, for the audit.
    pub(super) actor: Actor,
    role: PhantomData<R>,
}

/// The name of the scheme in the document.
const SCHEME: &str = "AdminToken";

impl<'a, R: Needs> ApiExtractor<'a> for Call<R> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        registry.create_security_scheme(
            SCHEME,
            MetaSecurityScheme {
                ty: "http",
                description: Some(
                    "An admin token, `lga_…`. Roles: `viewer` looks at everything but archived pictures, `operator` also at those, and manages models, \
                     `admin` also tenants, keys and tokens.",
                ),
                name: None,
                key_in: None,
                scheme: Some("bearer"),
                bearer_format: None,
                flows: None,
                openid_connect_url: None,
            },
        );
    }

    fn security_schemes() -> Vec<&'static str> {
        vec![SCHEME]
    }

    async fn from_request(
        request: &'a Request,
        _: &mut RequestBody,
        _: ExtractParamOptions<Self::ParamType>,
    ) -> poem::Result<Self> {
        let operator = security::operator(request)?;
        if operator.role < R::ROLE {
            return Err(ApiError::new(
                ErrorKind::Forbidden,
                format!(
                    "the token's role is {}; this needs {}",
                    operator.role.as_str(),
                    R::ROLE.as_str()
                ),
            )
            .into());
        }
        Ok(Self {
            actor: Actor {
                name: operator.name.to_string(),
                token: Some(operator.id),
                address: security::client_address(request).map(|address| address.to_string()),
                request_id: Some(RequestId::of(request).0),
            },
            role: PhantomData,
        })
    }
}
