//! The routes that find items: `POST /v1/recommend` and `POST /v1/similar`.

use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};

use super::app::App;
use super::body;
use super::refusal::Refusal;
use super::score::{count_reply, retrieve};
use crate::retrieval::{CheckedRetrieval, RecommendRequest, RetrievalResponse, SimilarRequest};

pub(super) async fn recommend(State(app): State<App>, headers: HeaderMap, body: Body) -> Response {
    let started = Instant::now();
    let reply = recommended(&app, &headers, body).await;
    count_reply(started, reply.as_ref().err());
    reply.map(axum::Json).into_response()
}

pub(super) async fn similar(State(app): State<App>, headers: HeaderMap, body: Body) -> Response {
    let started = Instant::now();
    let reply = found_similar(&app, &headers, body).await;
    count_reply(started, reply.as_ref().err());
    reply.map(axum::Json).into_response()
}

async fn recommended(app: &App, headers: &HeaderMap, body: Body) -> Result<RetrievalResponse, Refusal> {
    let bytes = body::read(headers, body, &app.config).await?;
    let request: RecommendRequest = body::decode(&bytes)?;
    let request_id = request.request_id.clone();
    answer(app, request.check(app.config.max_candidates)?, request_id).await
}

async fn found_similar(app: &App, headers: &HeaderMap, body: Body) -> Result<RetrievalResponse, Refusal> {
    let bytes = body::read(headers, body, &app.config).await?;
    let request: SimilarRequest = body::decode(&bytes)?;
    let request_id = request.request_id.clone();
    answer(app, request.check(app.config.max_candidates)?, request_id).await
}

async fn answer(
    app: &App,
    request: CheckedRetrieval,
    request_id: Option<String>,
) -> Result<RetrievalResponse, Refusal> {
    let k = request.k;
    Ok(RetrievalResponse::new(
        retrieve(app, request).await?,
        k,
        request_id,
    ))
}

#[cfg(test)]
mod tests;
