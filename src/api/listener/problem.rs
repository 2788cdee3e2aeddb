//! The few problem documents that the listener writes itself, as a poem response or as raw HTTP/1.1.
//! Called by `service` and `connection`. Everything else has its place in the API's own error table.

use std::time::SystemTime;

use http::{HeaderValue, StatusCode, header};
use poem::Response;
use uuid::Uuid;

pub(super) const X_REQUEST_ID: &str = "x-request-id";
const PROBLEM_JSON: &str = "application/problem+json";

/// One kind of refusal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: &'static str,
}

pub(super) const OVERLOADED: Problem = Problem {
    status: StatusCode::SERVICE_UNAVAILABLE,
    code: "overloaded",
    detail: "the gateway has as many connections as it may have; only /health is answered on this one",
};
pub(super) const INTERNAL: Problem = Problem {
    status: StatusCode::INTERNAL_SERVER_ERROR,
    code: "internal",
    detail: "something went wrong inside the gateway; its log has more under this request id",
};
pub(super) const SLOW_HEAD: Problem = Problem {
    status: StatusCode::REQUEST_TIMEOUT,
    code: "request_timeout",
    detail: "the request's head did not arrive in time",
};
pub(super) const SLOW_BODY: Problem = Problem {
    status: StatusCode::REQUEST_TIMEOUT,
    code: "request_timeout",
    detail: "the request's body did not arrive in time",
};
const MALFORMED: Problem = Problem {
    status: StatusCode::BAD_REQUEST,
    code: "bad_request",
    detail: "this is not a valid HTTP request",
};

impl Problem {
    /// For a request that hyper could not parse and would have answered with `status` and no body.
    pub(super) fn unparsable(status: StatusCode) -> Self {
        let detail = match status {
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
                "the request's header fields are too large or too many"
            }
            StatusCode::URI_TOO_LONG => "the request's target is too long",
            _ => return MALFORMED,
        };
        Self {
            status,
            code: "bad_request",
            detail,
        }
    }

    pub(super) fn code(&self) -> &'static str {
        self.code
    }

    fn document(self, id: Uuid) -> String {
        serde_json::json!({
            "type": format!("urn:lensgate:problem:{}", self.code),
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "code": self.code,
            "request_id": id.to_string(),
        })
        .to_string()
    }

    pub(super) fn response(self, id: Uuid) -> Response {
        let mut response = Response::builder()
            .status(self.status)
            .content_type(PROBLEM_JSON)
            .header(X_REQUEST_ID, id.to_string())
            .body(self.document(id));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }

    /// The whole answer as bytes, for a connection on which hyper has given up.
    pub(super) fn raw(self, id: Uuid) -> Vec<u8> {
        let document = self.document(id);
        format!(
            "HTTP/1.1 {status} {reason}\r\ncontent-type: {PROBLEM_JSON}\r\n{X_REQUEST_ID}: {id}\r\n\
             content-length: {length}\r\nconnection: close\r\ndate: {date}\r\n\r\n{document}",
            status = self.status.as_u16(),
            reason = self.status.canonical_reason().unwrap_or("Error"),
            length = document.len(),
            date = httpdate::fmt_http_date(SystemTime::now()),
        )
        .into_bytes()
    }
}
