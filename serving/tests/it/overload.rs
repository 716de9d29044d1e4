//! More work than the workers can do: refused early, told when late, and nothing lost.

use ouzel_sample::settings::Period;
use ouzel_serving::ServingConfig;
use ouzel_serving::client::ClientError;

use crate::server::{Server, eventually, request, thread};

#[test]
fn a_full_queue_refuses_at_once_and_says_when_to_come_back() {
    let config = ServingConfig {
        queue_capacity: 1,
        deadline: Period::from_secs(60),
        ..ServingConfig::default()
    };
    let (server, entered, open) = Server::start_gated(config);
    let ask = || {
        let mut client = server.client();
        thread(move || assert_eq!(client.rank(&request(&["a"])).unwrap().snapshot, "gated"))
    };
    let scoring = ask();
    entered.recv().unwrap();
    let waiting = ask();
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
fn a_reply_that_comes_too_late_is_a_504_and_the_next_one_is_fine() {
    let config = ServingConfig {
        deadline: Period::from_ms(200),
        ..ServingConfig::default()
    };
    let (server, entered, open) = Server::start_gated(config);
    let mut client = server.client();
    match client.rank(&request(&["a"])) {
        Err(error @ ClientError::Refused { status: 504, .. }) => {
            assert!(error.is_transient());
            assert!(error.to_string().contains("deadline of 200 ms"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    entered.recv().unwrap();
    // Both the late request's scores and the next one's: the gate stays open from here on.
    drop(open);
    eventually("a later request is scored", || {
        client.rank(&request(&["a"])).is_ok()
    });
}
