//! Reads a request body within limits of size and time, and decodes it, naming a faulty field.

use axum::body::Body;
use axum::http::{HeaderMap, header};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

use super::refusal::{Code, Refusal};
use crate::ServingConfig;

/// A body over the limit is read and discarded up to this many times the limit. Closing at once would reset the
/// connection while the client is sending, and it would never see the reason.
const DISCARD_FACTOR: usize = 8;

pub(crate) async fn read(
    headers: &HeaderMap,
    body: Body,
    config: &ServingConfig,
) -> Result<Vec<u8>, Refusal> {
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING)
        && encoding != "identity"
    {
        return Err(Refusal::new(
            Code::UnsupportedEncoding,
            format!("content-encoding {encoding:?} is not supported, send the body as it is"),
        ));
    }
    let body = collect(body, config.max_body.len());
    let read = tokio::time::timeout(config.body_timeout.duration(), body).await;
    read.unwrap_or_else(|_| {
        let timeout_ms = config.body_timeout.ms();
        let message = format!("the body was not complete after {timeout_ms} ms");
        Err(Refusal::new(Code::BodyTimeout, message))
    })
}

async fn collect(mut body: Body, max_bytes: usize) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    let mut n_read = 0_usize;
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| Refusal::new(Code::BodyCut, format!("the body broke off: {error}")))?;
        let Some(chunk) = frame.data_ref() else { continue };
        n_read = n_read.saturating_add(chunk.len());
        if n_read <= max_bytes {
            bytes.extend_from_slice(chunk);
        } else if n_read > max_bytes.saturating_mul(DISCARD_FACTOR) {
            break;
        }
    }
    if n_read > max_bytes {
        let message = format!("the body is over {max_bytes} bytes, the limit is serving.max_body");
        return Err(Refusal::new(Code::TooLarge, message));
    }
    Ok(bytes)
}

/// Decodes JSON. A refusal names the path of the field, such as `items[3]`.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let refuse = |error: &serde_json::Error, path: &str| match error.classify() {
        serde_json::error::Category::Data => {
            // The path of the root is ".", which tells the client nothing.
            let message = if path == "." {
                error.to_string()
            } else {
                format!("{path}: {error}")
            };
            Refusal::new(Code::InvalidField, message)
        }
        _ => Refusal::new(Code::MalformedJson, format!("the body is not JSON: {error}")),
    };
    let value = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| refuse(error.inner(), &error.path().to_string()))?;
    json.end().map_err(|error| refuse(&error, "."))?;
    Ok(value)
}
