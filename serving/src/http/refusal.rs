//! Every way the port says no: a status, a code from a closed set, and a sentence.
//!
//! The body is `{"error":{"code":"..","message":".."}}`. Programs match on the code; the message is for people
//! and may change.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::{Invalid, PushError, RankError};

/// What kind of refusal; also the `outcome` label of the request counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    MalformedJson,
    InvalidField,
    InvalidRequest,
    NotFound,
    MethodNotAllowed,
    BodyTimeout,
    BodyCut,
    TooLarge,
    UnsupportedEncoding,
    Overloaded,
    Internal,
    NotReady,
    ShuttingDown,
    DeadlineExceeded,
}

impl Code {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Code::MalformedJson => "malformed_json",
            Code::InvalidField => "invalid_field",
            Code::InvalidRequest => "invalid_request",
            Code::NotFound => "not_found",
            Code::MethodNotAllowed => "method_not_allowed",
            Code::BodyTimeout => "body_timeout",
            Code::BodyCut => "body_cut",
            Code::TooLarge => "too_large",
            Code::UnsupportedEncoding => "unsupported_encoding",
            Code::Overloaded => "overloaded",
            Code::Internal => "internal",
            Code::NotReady => "not_ready",
            Code::ShuttingDown => "shutting_down",
            Code::DeadlineExceeded => "deadline_exceeded",
        }
    }

    pub(crate) fn status(self) -> StatusCode {
        match self {
            Code::MalformedJson | Code::InvalidField | Code::BodyCut => StatusCode::BAD_REQUEST,
            Code::InvalidRequest => StatusCode::UNPROCESSABLE_ENTITY,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Code::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Code::UnsupportedEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Code::Overloaded => StatusCode::TOO_MANY_REQUESTS,
            Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Code::NotReady | Code::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
            Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        }
    }
}

/// One refusal, ready to be sent.
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

    /// The same refusal in the Open Inference Protocol's shape, whose `error` is a plain string.
    pub(crate) fn into_inference_response(self) -> Response {
        let body = json!({ "error": format!("{}: {}", self.code.name(), self.message) });
        self.respond(&body)
    }

    fn respond(&self, body: &serde_json::Value) -> Response {
        let mut response = (self.code.status(), axum::Json(body)).into_response();
        if matches!(self.code, Code::Overloaded | Code::NotReady | Code::ShuttingDown) {
            // A queue empties within its deadline, far under a second, the header's smallest unit.
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

impl From<Invalid> for Refusal {
    fn from(invalid: Invalid) -> Self {
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

impl From<RankError> for Refusal {
    fn from(error: RankError) -> Self {
        let code = match error {
            RankError::NotReady => Code::NotReady,
            RankError::Failed(_) => Code::Internal,
        };
        Refusal::new(code, error.to_string())
    }
}
