//! The Open Inference Protocol: the same scores in its own shapes.

use serde_json::{Value, json};

use crate::server::{Server, Version};

fn infer(items: &[&str]) -> Value {
    json!({
        "id": "42",
        "inputs": [
            {"name": "user_id", "datatype": "BYTES", "shape": [1], "data": ["u"]},
            {"name": "items", "datatype": "BYTES", "shape": [items.len()], "data": items},
        ],
        "outputs": [{"name": "score"}],
    })
}

#[test]
fn scores_come_as_tensors_in_the_order_of_the_input() {
    let server = Server::start();
    server.published.publish(Version::new(5));
    let reply = server.client().post(
        "/v2/models/ouzel/infer",
        &infer(&["tie-b", "x", "tie-a"]).to_string(),
    );
    let reply: Value = serde_json::from_str(&reply.unwrap().body).unwrap();
    assert_eq!(reply["model_name"], "ouzel");
    assert_eq!(reply["model_version"], "1");
    assert_eq!(reply["id"], "42");
    assert_eq!(reply["parameters"]["snapshot"], "snapshot-5");
    let x = Version::score(5, "x");
    let expected = json!([
        {"name": "score", "datatype": "FP32", "shape": [3], "data": [0.5, x, 0.5]},
        {"name": "click", "datatype": "FP32", "shape": [3], "data": [0.5, x, 0.5]},
        {"name": "order", "datatype": "FP32", "shape": [3], "data": [0.25, x / 2.0, 0.25]},
    ]);
    assert_eq!(reply["outputs"], expected);
}

#[test]
fn the_metadata_names_inputs_outputs_and_the_served_version() {
    let server = Server::start();
    server.published.publish(Version::new(5));
    server.published.publish(Version::new(6));
    let mut client = server.client();
    let mut get = |path: &str| -> Value { serde_json::from_str(&client.get(path).unwrap().body).unwrap() };
    assert_eq!(get("/v2")["name"], "ouzel");
    assert_eq!(get("/v2/health/live"), json!({"live": true}));
    assert_eq!(get("/v2/health/ready"), json!({"ready": true}));
    let model = get("/v2/models/ouzel");
    assert_eq!(model["versions"], json!(["2"]));
    assert_eq!(model["parameters"]["snapshot"], "snapshot-6");
    assert_eq!(
        model["inputs"][1],
        json!({"name": "items", "datatype": "BYTES", "shape": [-1]})
    );
    let outputs: Vec<_> = model["outputs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|o| o["name"].clone())
        .collect();
    assert_eq!(outputs, ["score", "click", "order"]);
}

#[test]
fn a_wrong_tensor_is_refused_by_name_with_a_string_message() {
    let server = Server::start();
    server.published.publish(Version::new(5));
    let with = |index: usize, key: &str, value: Value| {
        let mut body = infer(&["a", "b"]);
        body["inputs"][index][key] = value;
        body
    };
    let cases = [
        (with(1, "datatype", json!("FP32")), 422, "\"items\" is FP32"),
        (with(1, "shape", json!([3])), 422, "\"items\" has shape [3]"),
        (with(1, "name", json!("item")), 422, "no input \"item\""),
        (with(1, "name", json!("user_id")), 422, "comes twice"),
        (with(1, "data", json!(["a", "a"])), 422, "repeats"),
        (with(1, "data", json!(["a", 1])), 400, "inputs[1].data[1]"),
        (with(0, "data", json!([])), 422, "has shape"),
        (json!({"inputs": []}), 422, "\"user_id\" is missing"),
        (json!({}), 400, "inputs"),
    ];
    let mut client = server.client();
    for (body, status, expected) in cases {
        let reply = client.post("/v2/models/ouzel/infer", &body.to_string()).unwrap();
        assert_eq!(reply.status, status, "{body}: {}", reply.body);
        let error: Value = serde_json::from_str(&reply.body).unwrap();
        let message = error["error"].as_str().unwrap();
        assert!(
            message.contains(expected),
            "{body}: {message:?} does not contain {expected:?}"
        );
    }
    assert_eq!(client.post("/v2/models/other/infer", "{}").unwrap().status, 404);
}
