//! Overload: a full queue refuses at once, a late reply is a 504, and no request is lost.

use ouzel_sample::settings::Period;
use ouzel_serving::ServingConfig;
use ouzel_serving::client::ClientError;

use crate::server::{Server, eventually, request, thread};

#[test]
fn a_full_queue_refuses_at_once_and_names_the_retry_time() {
    let config = ServingConfig {
        queue_capacity: 1,
        deadline: Period::from_secs(60),
        ..ServingConfig::default()
    };
    let (server, entered, open) = Server::start_gated(config);
    let rank = || {
        let mut client = server.client();
        thread(move || assert_eq!(client.rank(&request(&["a"])).unwrap().snapshot, "gated"))
    };
    let scoring = rank();
    entered.recv().unwrap();
    let waiting = rank();
    eventually("the second request waits", || server.queue.len() == 1);

    let body = serde_json::to_string(&request(&["a"])).unwrap();
    let refused = server.client().post("/v1/rank", &body).unwrap();
    assert_eq!(refused.status, 429, "{}", refused.body);
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert!(refused.body.contains("overloaded"), "{}", refused.body);

    open.send(()).unwrap();
    open.send(()).unwrap();
    scoring.join().unwrap();
    waiting.join().unwrap();
}

#[test]
fn a_reply_that_comes_too_late_is_a_504_and_the_next_one_succeeds() {
    let config = ServingConfig {
        deadline: Period::from_ms(200),
        ..ServingConfig::default()
    };
    let (server, entered, open) = Server::start_gated(config);
    let mut client = server.client();
    match client.rank(&request(&["a"])) {
        Err(error @ ClientError::Refused { status: 504, .. }) => {
            assert!(error.to_string().contains("deadline of 200 ms"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    entered.recv().unwrap();
    // From here on the gate stays open for the late request and for the next one.
    drop(open);
    eventually("a later request is scored", || {
        client.rank(&request(&["a"])).is_ok()
    });
}
