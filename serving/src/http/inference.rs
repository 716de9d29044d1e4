//! The Open Inference Protocol, for clients that already use it: JSON only, one model.
//!
//! `user_id` is a `BYTES` tensor of shape `[1]`, `items` one of shape `[n]`. The outputs are `score` and one tensor per
//! task, `FP32 [n]`, in the order of `items`; `parameters` contains the snapshot, or that the fallback scored. A task that
//! the fallback does not know is `null`. There is neither context nor the binary
//! extension; `/v1/rank` is the native route.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::app::App;
use super::refusal::{Code, Refusal};
use super::score::{count_reply, score};
use super::{body, status};
use crate::{RankItem, RankRequest, Ranked, ScoredBy};

pub(super) const MODEL: &str = "ouzel";

/// An inference request. `outputs` and `parameters` are allowed by the protocol and ignored.
#[derive(Debug, Deserialize)]
struct InferRequest {
    id: Option<String>,
    inputs: Vec<InputTensor>,
}

#[derive(Debug, Deserialize)]
struct InputTensor {
    name: String,
    datatype: String,
    shape: Vec<usize>,
    data: Vec<String>,
}

pub(super) async fn server() -> Response {
    Json(json!({ "name": MODEL, "version": env!("CARGO_PKG_VERSION"), "extensions": [] })).into_response()
}

pub(super) async fn live() -> Response {
    Json(json!({ "live": true })).into_response()
}

/// Readiness of the server: a request would be scored, if only by the fallback.
pub(super) async fn ready(State(app): State<App>) -> Response {
    match status::ready(&app) {
        Ok(_) => Json(json!({ "ready": true })).into_response(),
        Err(refusal) => refusal.into_inference_response(),
    }
}

/// Readiness of the model: a request would be scored by it.
pub(super) async fn model_ready(State(app): State<App>) -> Response {
    match status::ready(&app) {
        Ok(Some(_)) => Json(json!({ "ready": true })).into_response(),
        Ok(None) => no_model().into_inference_response(),
        Err(refusal) => refusal.into_inference_response(),
    }
}

fn no_model() -> Refusal {
    Refusal::new(Code::NotReady, "no model is published: the fallback answers")
}

pub(super) async fn model(State(app): State<App>) -> Response {
    let Some(model) = (app.model)() else {
        return no_model().into_inference_response();
    };
    let tensor =
        |name: &str, datatype: &str, n: i64| json!({ "name": name, "datatype": datatype, "shape": [n] });
    let outputs: Vec<Value> = std::iter::once("score")
        .chain(model.tasks.iter().map(|task| &**task))
        .map(|name| tensor(name, "FP32", -1))
        .collect();
    Json(json!({
        "name": MODEL,
        "versions": [model.version.to_string()],
        "platform": "ouzel",
        "inputs": [tensor("user_id", "BYTES", 1), tensor("items", "BYTES", -1)],
        "outputs": outputs,
        "parameters": { "snapshot": &*model.snapshot },
    }))
    .into_response()
}

pub(super) async fn infer(State(app): State<App>, headers: HeaderMap, body: Body) -> Response {
    let started = Instant::now();
    let reply = reply(&app, &headers, body).await;
    count_reply(started, reply.as_ref().err());
    match reply {
        Ok(reply) => Json(reply).into_response(),
        Err(refusal) => refusal.into_inference_response(),
    }
}

async fn reply(app: &App, headers: &HeaderMap, body: Body) -> Result<Value, Refusal> {
    let bytes = body::read(headers, body, &app.config).await?;
    let InferRequest { id, inputs } = body::decode(&bytes)?;
    let request = to_rank_request(inputs)?.check(app.config.max_candidates)?;
    let ranked = score(app, Arc::new(request)).await?;
    Ok(to_outputs(id, &ranked))
}

fn to_rank_request(inputs: Vec<InputTensor>) -> Result<RankRequest, Refusal> {
    let invalid = |message: String| Refusal::new(Code::InvalidRequest, message);
    let (mut user, mut items) = (None, None);
    for InputTensor {
        name,
        datatype,
        shape,
        data,
    } in inputs
    {
        if datatype != "BYTES" {
            return Err(invalid(format!("input {name:?} is {datatype}, expected BYTES")));
        }
        if shape != [data.len()] {
            let n = data.len();
            return Err(invalid(format!(
                "input {name:?} has shape {shape:?} and {n} values"
            )));
        }
        let slot = match name.as_str() {
            "user_id" => &mut user,
            "items" => &mut items,
            _ => {
                return Err(invalid(format!(
                    "there is no input {name:?}, expected user_id and items"
                )));
            }
        };
        if slot.replace(data).is_some() {
            return Err(invalid(format!("input {name:?} comes twice")));
        }
    }
    let user = user.ok_or_else(|| invalid("input \"user_id\" is missing".to_owned()))?;
    let items = items.ok_or_else(|| invalid("input \"items\" is missing".to_owned()))?;
    let [user_id] = <[String; 1]>::try_from(user)
        .map_err(|user| invalid(format!("input \"user_id\" has {} values, expected 1", user.len())))?;
    Ok(RankRequest {
        user_id,
        items: items.into_iter().map(RankItem::from).collect(),
        ..RankRequest::default()
    })
}

fn to_outputs(id: Option<String>, ranked: &Ranked) -> Value {
    let n_items = ranked.scores.len();
    let n_tasks = ranked.tasks.len();
    let tensor = |name: &str, data: Value| json!({ "name": name, "datatype": "FP32", "shape": [n_items], "data": data });
    let mut outputs = vec![tensor("score", json!(ranked.scores))];
    for (column, task) in ranked.tasks.iter().enumerate() {
        let values = ranked.probabilities.iter().skip(column).step_by(n_tasks);
        outputs.push(tensor(task, json!(values.collect::<Vec<_>>())));
    }
    let mut parameters = match (ranked.is_fallback(), ranked.fallback.is_empty()) {
        (true, _) => json!({ "model": ScoredBy::Fallback }),
        (false, true) => json!({ "snapshot": &*ranked.snapshot }),
        (false, false) => json!({ "snapshot": &*ranked.snapshot, "fallback_items": &ranked.fallback }),
    };
    if let Some(variant) = ranked.variant {
        parameters["variant"] = variant.name().into();
    }
    let mut reply = json!({
        "model_name": MODEL,
        "model_version": ranked.version.to_string(),
        "parameters": parameters,
        "outputs": outputs,
    });
    if let Some(id) = id {
        reply["id"] = id.into();
    }
    reply
}
