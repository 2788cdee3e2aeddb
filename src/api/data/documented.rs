//! What the framework's macro cannot say of the routes: the headers that all of them take and give, under their own names
//! and once for all.
//!
//! Wrapped around the routes by the route table. Changes the document alone, never a request.

use std::collections::HashMap;

use poem::endpoint::BoxEndpoint;
use poem::http::Method;
use poem_openapi::OpenApi;
use poem_openapi::registry::{
    MetaApi, MetaHeader, MetaOperationParam, MetaParamIn, MetaSchema, MetaSchemaRef, Registry,
};

use super::asynchronous::{IDEMPOTENCY_KEY, PREFER};
use super::headers::{CACHE_STATUS, SERVER_TIMING, TIMEOUT};

/// Routes whose document names the headers of a classify request and its answer.
pub struct Documented<A>(pub(in crate::api) A);

impl<A: OpenApi> OpenApi for Documented<A> {
    fn meta() -> Vec<MetaApi> {
        let mut apis = A::meta();
        let paths = apis.iter_mut().flat_map(|api| &mut api.paths);
        for operation in paths.flat_map(|path| &mut path.operations) {
            operation.params.extend([
                timeout(),
                cache_control(),
                callback_url(),
                prefer(),
                idempotency_key(),
            ]);
            for response in &mut operation.responses.responses {
                if response.status == Some(200) {
                    response.headers.extend([cache_status(), server_timing()]);
                }
            }
        }
        apis
    }

    fn register(registry: &mut Registry) {
        A::register(registry);
    }

    fn add_routes(self, table: &mut HashMap<String, HashMap<Method, BoxEndpoint<'static>>>) {
        self.0.add_routes(table);
    }
}

/// Routes that need a key: their document names the headers that tell how it stands with its limits.
pub struct Limited<A>(pub(in crate::api) A);

impl<A: OpenApi> OpenApi for Limited<A> {
    fn meta() -> Vec<MetaApi> {
        let mut apis = A::meta();
        let paths = apis.iter_mut().flat_map(|api| &mut api.paths);
        let operations = paths.flat_map(|path| &mut path.operations);
        for response in operations.flat_map(|operation| &mut operation.responses.responses) {
            match response.status {
                Some(200 | 202) => response.headers.extend([limits(), what_is_left()]),
                Some(401) => response.headers.push(scheme()),
                Some(429) => {
                    response
                        .headers
                        .extend([limits(), what_is_left(), retry_after()]);
                }
                Some(503) => response.headers.push(retry_after()),
                _ => {}
            }
        }
        apis
    }

    fn register(registry: &mut Registry) {
        A::register(registry);
    }

    fn add_routes(self, table: &mut HashMap<String, HashMap<Method, BoxEndpoint<'static>>>) {
        self.0.add_routes(table);
    }
}

fn limits() -> MetaHeader {
    given(
        "RateLimit-Policy",
        "The key's limits, where it has any (draft-ietf-httpapi-ratelimit-headers): `\"burst\";q=10;w=2`, ten pictures at \
         once, and as many in two seconds; `\"day\";q=1000;w=86400`, a thousand a day (UTC).",
    )
}

fn what_is_left() -> MetaHeader {
    given(
        "RateLimit",
        "What is left of them, and in how many seconds they are whole again: `\"burst\";r=9;t=1, \"day\";r=990;t=4711`.",
    )
}

fn retry_after() -> MetaHeader {
    given("Retry-After", "When to try again, in seconds.")
}

fn scheme() -> MetaHeader {
    given("WWW-Authenticate", "`Bearer`.")
}

fn timeout() -> MetaOperationParam {
    let schema = MetaSchema {
        minimum: Some(1.0),
        ..MetaSchema::new_with_format("integer", "uint64")
    };
    taken(
        TIMEOUT,
        schema,
        "Milliseconds after the request's arrival at which the caller stops waiting, where the model's own time is \
         not over before; then 504 `deadline_exceeded`.",
    )
}

fn cache_control() -> MetaOperationParam {
    taken(
        "Cache-Control",
        MetaSchema::new("string"),
        "`no-cache`: a run of its own, whose result is kept for others. `no-store`: a run of its own, and nothing is \
         kept. Other directives mean nothing here.",
    )
}

fn callback_url() -> MetaOperationParam {
    MetaOperationParam {
        in_type: MetaParamIn::Query,
        ..taken(
            "callback_url",
            MetaSchema::new_with_format("string", "uri"),
            "Where the result is sent: nobody waits for it, the answer is 202.",
        )
    }
}

fn prefer() -> MetaOperationParam {
    taken(
        PREFER,
        MetaSchema::new("string"),
        "`respond-async` (RFC 7240): the answer is 202. Without `callback_url`, the result is sent to the tenant's own \
         address, where it has one; it is at `GET /v1/predictions/{request_id}` in any case.",
    )
}

fn idempotency_key() -> MetaOperationParam {
    let schema = MetaSchema {
        min_length: Some(1),
        max_length: Some(255),
        ..MetaSchema::new("string")
    };
    taken(
        IDEMPOTENCY_KEY,
        schema,
        "With `callback_url` or `Prefer: respond-async`: the client's own name for this request. The same sent again under \
         the same name within 24 hours is not done again, and is answered with the first request's id.",
    )
}

fn cache_status() -> MetaHeader {
    given(
        CACHE_STATUS,
        "What the result cache did (RFC 9211), of `lensgate`: `hit` and for how many seconds it is still kept (`ttl`); \
         `fwd=miss`; `fwd=request`, asked for by `Cache-Control`; `fwd=bypass`, turned off. `stored` where the result \
         was kept, `collapsed` where it was worked out for another request at the same time. A batch has it where one \
         word is true of all its pictures.",
    )
}

fn server_timing() -> MetaHeader {
    given(SERVER_TIMING, "Where the time went, in milliseconds.")
}

fn taken(name: &str, schema: MetaSchema, description: &str) -> MetaOperationParam {
    MetaOperationParam {
        name: name.to_owned(),
        schema: MetaSchemaRef::Inline(Box::new(schema)),
        in_type: MetaParamIn::Header,
        description: Some(description.to_owned()),
        required: false,
        deprecated: false,
        explode: true,
        style: None,
    }
}

fn given(name: &str, description: &str) -> MetaHeader {
    MetaHeader {
        name: name.to_owned(),
        description: Some(description.to_owned()),
        required: false,
        deprecated: false,
        schema: MetaSchemaRef::Inline(Box::new(MetaSchema::new("string"))),
    }
}
