//! The contract of the port: shapes, order, status codes, and the reason in every refusal.

use std::io::{Read, Write};
use std::net::TcpStream;

use ouzel_sample::settings::{ByteSize, Period};
use ouzel_serving::client::ClientError;
use ouzel_serving::http::bind;
use ouzel_serving::{RankRequest, ServingConfig};
use serde_json::{Value, json};

use crate::server::{Server, Version, eventually, request};

#[test]
fn a_reply_names_its_snapshot_and_has_the_best_item_first() {
    let server = Server::start();
    server.published.publish(Version::new(9));
    let mut client = server.client();
    let items = ["a", "b", "c", "d", "e"];
    let ranking = RankRequest {
        request_id: Some("r1".to_owned()),
        ..request(&items)
    };
    let reply = client.rank(&ranking).unwrap();
    assert_eq!((reply.snapshot.as_str(), reply.version), ("snapshot-9", 1));
    assert_eq!(reply.request_id.as_deref(), Some("r1"));
    assert!(reply.items.is_sorted_by(|a, b| a.score >= b.score));
    let mut names: Vec<_> = reply.items.iter().map(|item| item.item_id.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, items);
    for item in &reply.items {
        let expected = Version::score(9, &item.item_id);
        assert_eq!(item.score.to_bits(), expected.to_bits(), "{}", item.item_id);
        assert_eq!(item.tasks["click"].to_bits(), expected.to_bits());
        assert_eq!(item.tasks["order"].to_bits(), (expected / 2.0).to_bits());
    }

    let best = client
        .rank(&RankRequest {
            top_k: Some(2),
            ..ranking
        })
        .unwrap();
    assert_eq!(best.items, reply.items[..2]);
    server.join();
}

#[test]
fn equal_scores_keep_the_order_of_the_request() {
    let server = Server::start();
    server.published.publish(Version::new(9));
    let reply = server
        .client()
        .rank(&request(&["tie-z", "tie-a", "tie-m"]))
        .unwrap();
    let names: Vec<_> = reply.items.iter().map(|item| item.item_id.as_str()).collect();
    assert_eq!(names, ["tie-z", "tie-a", "tie-m"]);
}

#[test]
fn the_wire_shape_is_the_documented_one() {
    let server = Server::start();
    server.published.publish(Version::new(1));
    let body = json!({"user_id": "u", "items": ["tie"], "context": {"hour": 7}, "top_k": 1}).to_string();
    let reply = server.client().post("/v1/rank", &body).unwrap();
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let expected = json!({
        "snapshot": "snapshot-1",
        "version": 1,
        "items": [{"item_id": "tie", "score": 0.5, "tasks": {"click": 0.5, "order": 0.25}}],
    });
    assert_eq!(serde_json::from_str::<Value>(&reply.body).unwrap(), expected);
}

#[test]
fn readiness_follows_the_first_publication_and_liveness_does_not() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(client.get("/healthz").unwrap().status, 200);
    for path in ["/v2/models/ouzel", "/v2/models/ouzel/ready"] {
        assert_eq!(client.get(path).unwrap().status, 503, "{path}");
    }
    assert_eq!(client.get("/v2/health/ready").unwrap().status, 200);
    let fallback = client.get("/readyz").unwrap();
    assert_eq!(
        (fallback.status, &*fallback.body),
        (200, r#"{"status":"fallback"}"#)
    );
    // A ranker without a fallback refuses.
    match client.rank(&request(&["a"])) {
        Err(error @ ClientError::Refused { status: 503, .. }) => {
            assert!(error.to_string().contains("no model is published yet"), "{error}");
        }
        other => panic!("{other:?}"),
    }

    server.published.publish(Version::new(4));
    let ready = client.get("/readyz").unwrap();
    assert_eq!(ready.status, 200);
    let ready: Value = serde_json::from_str(&ready.body).unwrap();
    assert_eq!(
        ready,
        json!({"status": "ready", "snapshot": "snapshot-4", "version": 1})
    );
    assert!(client.rank(&request(&["a"])).is_ok());
}

#[test]
fn the_status_is_what_the_callback_returns() {
    let reply = Server::start().client().get("/v1/status").unwrap();
    assert_eq!((reply.status, &*reply.body), (200, r#"{"learning":"running"}"#));
}

#[test]
fn a_server_without_workers_is_not_ready() {
    let server = Server::start_with(ServingConfig::default(), 0);
    server.published.publish(Version::new(1));
    let reply = server.client().get("/readyz").unwrap();
    assert_eq!(reply.status, 503);
    assert!(reply.body.contains("no scoring worker"), "{}", reply.body);
}

#[test]
fn the_metrics_page_is_what_the_callback_renders() {
    let server = Server::start();
    let reply = server.client().get("/metrics").unwrap();
    assert_eq!(
        (reply.status, reply.body.as_str()),
        (200, "ouzel_test_metric 1\n")
    );
    assert!(
        reply
            .header("content-type")
            .unwrap()
            .starts_with("text/plain; version=0.0.4")
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn each_bad_request_gets_its_status_its_code_and_the_field_by_name() {
    let server = Server::start();
    server.published.publish(Version::new(1));
    let long = "x".repeat(513);
    let too_many: Vec<String> = (0..1_001).map(|i| i.to_string()).collect();
    let rank = |body: Value| ("POST", "/v1/rank", body.to_string());
    let raw = |body: &str| ("POST", "/v1/rank", body.to_owned());
    let cases = [
        (raw(""), 400, "malformed_json", "not JSON"),
        (raw("{"), 400, "malformed_json", "not JSON"),
        (
            raw("{\"user_id\":\"u\",\"items\":[\"a\"]} x"),
            400,
            "malformed_json",
            "trailing",
        ),
        (raw(&"[".repeat(100_000)), 400, "invalid_field", "invalid type"),
        (
            raw(&format!("{{\"context\":{{\"a\":{}", "[".repeat(200))),
            400,
            "malformed_json",
            "recursion",
        ),
        (raw("\"u\""), 400, "invalid_field", "invalid type"),
        (rank(json!({"items": ["a"]})), 400, "invalid_field", "user_id"),
        (rank(json!({"user_id": "u"})), 400, "invalid_field", "items"),
        (
            rank(json!({"user_id": 7, "items": ["a"]})),
            400,
            "invalid_field",
            "user_id: invalid type",
        ),
        (
            rank(json!({"user_id": "u", "items": ["a", 7]})),
            400,
            "invalid_field",
            "items[1]",
        ),
        (
            rank(json!({"user_id": "u", "items": ["a"], "contxt": {}})),
            400,
            "invalid_field",
            "contxt",
        ),
        (
            rank(json!({"user_id": "u", "items": ["a"], "top_k": -1})),
            400,
            "invalid_field",
            "top_k",
        ),
        (
            rank(json!({"user_id": "", "items": ["a"]})),
            422,
            "invalid_request",
            "user_id is empty",
        ),
        (
            rank(json!({"user_id": "u", "items": []})),
            422,
            "invalid_request",
            "items is empty",
        ),
        (
            rank(json!({"user_id": "u", "items": ["a", ""]})),
            422,
            "invalid_request",
            "items[1] is empty",
        ),
        (
            rank(json!({"user_id": "u", "items": [long]})),
            422,
            "invalid_request",
            "items[0] has 513 bytes",
        ),
        (
            rank(json!({"user_id": "u", "items": ["a", "a"]})),
            422,
            "invalid_request",
            "items[1] repeats",
        ),
        (
            rank(json!({"user_id": "u", "items": too_many})),
            422,
            "invalid_request",
            "1001 entries",
        ),
        (
            rank(json!({"user_id": "u", "items": ["a"], "top_k": 0})),
            422,
            "invalid_request",
            "top_k",
        ),
        (
            rank(json!({"user_id": "u", "items": ["nan"]})),
            500,
            "internal",
            "not finite",
        ),
        (
            raw(&"x".repeat(1024 * 1024 + 1)),
            413,
            "too_large",
            "1048576 bytes",
        ),
        (("POST", "/v1/rnak", String::new()), 404, "not_found", "/v1/rnak"),
        (("GET", "/", String::new()), 404, "not_found", "/"),
        (
            ("GET", "/v1/rank", String::new()),
            405,
            "method_not_allowed",
            "does not take GET",
        ),
        (
            ("POST", "/readyz", String::new()),
            405,
            "method_not_allowed",
            "does not take POST",
        ),
    ];
    let mut client = server.client();
    for ((method, path, body), status, code, expected) in cases {
        let shown: String = body.chars().take(60).collect();
        let reply = client.send(method, path, &[], Some(&body)).unwrap();
        assert_eq!(reply.status, status, "{method} {path} {shown}: {}", reply.body);
        let error: Value = serde_json::from_str(&reply.body).unwrap();
        assert_eq!(error["error"]["code"], code, "{shown}");
        let message = error["error"]["message"].as_str().unwrap();
        assert!(
            message.contains(expected),
            "{shown}: {message:?} does not contain {expected:?}"
        );
    }
    assert!(client.rank(&request(&["a"])).is_ok(), "the server still answers");
    server.join();
}

#[test]
fn a_wrong_method_gets_the_allow_header() {
    let server = Server::start();
    let reply = server.client().get("/v1/rank").unwrap();
    assert_eq!(reply.header("allow"), Some("POST"));
}

#[test]
fn a_compressed_body_is_refused_and_not_unpacked() {
    let server = Server::start();
    let reply = server
        .client()
        .send("POST", "/v1/rank", &[("content-encoding", "gzip")], Some("x"))
        .unwrap();
    assert_eq!(reply.status, 415);
    assert!(reply.body.contains("unsupported_encoding"), "{}", reply.body);
}

#[test]
fn a_body_far_over_the_limit_is_refused_without_being_stored() {
    let server = Server::start_with(
        ServingConfig {
            max_body: ByteSize::from_bytes(1_024),
            ..ServingConfig::default()
        },
        1,
    );
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream
        .write_all(b"POST /v1/rank HTTP/1.1\r\nhost: x\r\ncontent-length: 9999999\r\n\r\n")
        .unwrap();
    // The server stops reading after a few times the limit; the remaining writes may fail.
    for _ in 0..16 {
        if stream.write_all(&[b'x'; 1_024]).is_err() {
            break;
        }
    }
    let mut reply = [0; 12];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"HTTP/1.1 413");
}

#[test]
fn a_body_that_never_ends_times_out() {
    let server = Server::start_with(
        ServingConfig {
            body_timeout: Period::from_ms(20),
            ..ServingConfig::default()
        },
        1,
    );
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream
        .write_all(b"POST /v1/rank HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc")
        .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 408"), "{reply}");
    assert!(reply.contains("body_timeout"), "{reply}");
}

#[test]
fn a_head_that_never_ends_loses_its_connection() {
    let server = Server::start_with(
        ServingConfig {
            header_timeout: Period::from_ms(20),
            ..ServingConfig::default()
        },
        1,
    );
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.write_all(b"POST /v1/rank HTTP/1.1\r\nhost").unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    assert!(!reply.starts_with(b"HTTP/1.1 2"));
}

#[test]
fn the_client_reconnects_when_an_idle_connection_was_closed() {
    let server = Server::start_with(
        ServingConfig {
            header_timeout: Period::from_ms(20),
            ..ServingConfig::default()
        },
        1,
    );
    let mut client = server.client();
    assert_eq!(client.get("/healthz").unwrap().status, 200);
    let mut idle = TcpStream::connect(server.address).unwrap();
    // When this younger connection has been closed for being idle, so has the client's.
    assert_eq!(idle.read(&mut [0; 1]).unwrap_or(0), 0);
    eventually("the client is answered again", || client.get("/healthz").is_ok());
}

#[test]
fn a_panic_in_the_model_is_one_failed_request_and_not_a_hang() {
    let server = Server::start();
    server.published.publish(Version::new(1));
    let mut client = server.client();
    match client.rank(&request(&["panic"])) {
        Err(ClientError::Refused {
            status: 500, code, ..
        }) => assert_eq!(code, "internal"),
        other => panic!("{other:?}"),
    }
    eventually("the dead worker is not counted", || server.queue.n_workers() == 1);
    assert!(
        client.rank(&request(&["a"])).is_ok(),
        "the other worker still answers"
    );
}

#[test]
fn a_port_in_use_is_one_line_with_the_address_and_a_hint() {
    let server = Server::start();
    let address = server.address.to_string();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let error = runtime.block_on(bind(&address)).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with(&format!("cannot listen on {address}: ")),
        "{error}"
    );
    assert!(error.hint().contains("another process"), "{}", error.hint());
    let error = runtime.block_on(bind("no port")).unwrap_err();
    assert!(error.hint().contains("host:port"), "{}", error.hint());
}
