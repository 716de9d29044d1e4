//! Refusals of the port: a status, a code from a closed set, and a message.
//!
//! The body is `{"error":{"code":"..","message":".."}}`. Programs match on the code; the message is for people and may
//! change.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::retrieval::RetrieveError;
use crate::{InvalidRequest, PushError, RankError};

/// The kind of a refusal, which is also the `outcome` label of the request counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    MalformedJson,
    InvalidField,
    InvalidRequest,
    InvalidEvents,
    NotFound,
    MethodNotAllowed,
    BodyTimeout,
    BodyCut,
    TooLarge,
    UnsupportedEncoding,
    Overloaded,
    Internal,
    Unacknowledged,
    NotReady,
    NoTowers,
    UnknownItem,
    ShuttingDown,
    DeadlineExceeded,
}

impl Code {
    pub(crate) fn name(self) -> &'static str {
        self.wire().0
    }

    /// The name and the status of a reply with this code.
    fn wire(self) -> (&'static str, StatusCode) {
        match self {
            Code::MalformedJson => ("malformed_json", StatusCode::BAD_REQUEST),
            Code::InvalidField => ("invalid_field", StatusCode::BAD_REQUEST),
            Code::InvalidRequest => ("invalid_request", StatusCode::UNPROCESSABLE_ENTITY),
            Code::InvalidEvents => ("invalid_events", StatusCode::BAD_REQUEST),
            Code::NotFound => ("not_found", StatusCode::NOT_FOUND),
            Code::MethodNotAllowed => ("method_not_allowed", StatusCode::METHOD_NOT_ALLOWED),
            Code::BodyTimeout => ("body_timeout", StatusCode::REQUEST_TIMEOUT),
            Code::BodyCut => ("body_cut", StatusCode::BAD_REQUEST),
            Code::TooLarge => ("too_large", StatusCode::PAYLOAD_TOO_LARGE),
            Code::UnsupportedEncoding => ("unsupported_encoding", StatusCode::UNSUPPORTED_MEDIA_TYPE),
            Code::Overloaded => ("overloaded", StatusCode::TOO_MANY_REQUESTS),
            Code::Internal => ("internal", StatusCode::INTERNAL_SERVER_ERROR),
            Code::Unacknowledged => ("unacknowledged", StatusCode::SERVICE_UNAVAILABLE),
            Code::NotReady => ("not_ready", StatusCode::SERVICE_UNAVAILABLE),
            Code::NoTowers => ("no_towers", StatusCode::CONFLICT),
            Code::UnknownItem => ("unknown_item", StatusCode::NOT_FOUND),
            Code::ShuttingDown => ("shutting_down", StatusCode::SERVICE_UNAVAILABLE),
            Code::DeadlineExceeded => ("deadline_exceeded", StatusCode::GATEWAY_TIMEOUT),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// The response in the Open Inference Protocol's shape, whose `error` is a string.
    pub(crate) fn into_inference_response(self) -> Response {
        let body = json!({ "error": format!("{}: {}", self.code.name(), self.message) });
        self.respond(&body)
    }

    fn respond(&self, body: &serde_json::Value) -> Response {
        let mut response = (self.code.wire().1, axum::Json(body)).into_response();
        if matches!(
            self.code,
            Code::Overloaded | Code::Unacknowledged | Code::NotReady | Code::ShuttingDown
        ) {
            // The queue empties within its deadline, far below a second, which is the header's smallest unit.
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = json!({ "error": { "code": self.code.name(), "message": self.message } });
        self.respond(&body)
    }
}

impl From<InvalidRequest> for Refusal {
    fn from(invalid: InvalidRequest) -> Self {
        Refusal::new(Code::InvalidRequest, invalid.to_string())
    }
}

impl From<PushError> for Refusal {
    fn from(error: PushError) -> Self {
        let code = match error {
            PushError::Full => Code::Overloaded,
            PushError::Closed => Code::ShuttingDown,
        };
        Refusal::new(code, error.to_string())
    }
}

impl From<RetrieveError> for Refusal {
    fn from(error: RetrieveError) -> Self {
        let code = match error {
            RetrieveError::NoTowers => Code::NoTowers,
            RetrieveError::NotIndexed => Code::NotReady,
            RetrieveError::UnknownItem(_) => Code::UnknownItem,
            RetrieveError::Rank(error) => return error.into(),
        };
        Refusal::new(code, error.to_string())
    }
}

impl From<RankError> for Refusal {
    fn from(error: RankError) -> Self {
        let code = match error {
            RankError::NotReady => Code::NotReady,
            RankError::Failed(_) | RankError::NotFinite(_) => Code::Internal,
        };
        Refusal::new(code, error.to_string())
    }
}
