//! What the framework's macro cannot say of the classify routes: the headers that all of them take and give, under their
//! own names and once for all.
//!
//! Wrapped around the routes by the route table. Changes the document alone, never a request.

use std::collections::HashMap;

use poem::endpoint::BoxEndpoint;
use poem::http::Method;
use poem_openapi::OpenApi;
use poem_openapi::registry::{
    MetaApi, MetaHeader, MetaOperationParam, MetaParamIn, MetaSchema, MetaSchemaRef, Registry,
};

use super::headers::{CACHE_STATUS, SERVER_TIMING, TIMEOUT};

/// Routes whose document names the headers of a classify request and its answer.
pub struct Documented<A>(pub(in crate::api) A);

impl<A: OpenApi> OpenApi for Documented<A> {
    fn meta() -> Vec<MetaApi> {
        let mut apis = A::meta();
        let paths = apis.iter_mut().flat_map(|api| &mut api.paths);
        for operation in paths.flat_map(|path| &mut path.operations) {
            operation.params.extend([timeout(), cache_control()]);
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
