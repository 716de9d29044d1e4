//! The `[serving]` section: the scoring port and what one client may cost the process.

use std::net::{Ipv4Addr, SocketAddr};

use ouzel_sample::settings::{ByteSize, KeyError, Period, out_of_range};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ScoreExpression;

/// The scoring port. A request beyond a limit gets a status code; none waits without end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ServingConfig {
    /// Address and port of the HTTP server. It has no authentication: beyond loopback, put it on a network that only its
    /// callers reach.
    ///
    /// Change it to serve callers on other machines.
    pub listen: SocketAddr,
    /// Address and port that take events by `POST /v1/events` and write them to the topics; `listen` shares the scoring
    /// port. Unset: none. It has no authentication: who reaches it decides what the model learns.
    ///
    /// Set it for applications that have no Kafka client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events_listen: Option<SocketAddr>,
    /// From a call's last byte until every event of it is acknowledged by the broker, in wall time; a later call is
    /// answered 503.
    ///
    /// Set it to what callers wait for.
    #[schemars(extend("x-minimum" = "100ms"))]
    pub events_timeout: Period,
    /// What orders the items: an expression over the probabilities of the tasks, such as
    /// `click + 5 * order - 2 * dislike`. It knows numbers, `+`, `-`, `*`, `/`, parentheses, `min`, `max`, `log`, `exp`
    /// and `pow`; a task whose name is not a word stands in backticks. Empty: the first task.
    ///
    /// Set it where one task does not say what a good item is.
    pub score: String,
    /// Scorer threads, each with its own copy of the dense weights.
    ///
    /// Unit: threads. Raise it when requests queue while cores are idle.
    #[schemars(range(min = 1, max = 65_535))]
    pub workers: usize,
    /// Requests that may wait for a scorer; one more is answered 429 at once.
    ///
    /// Unit: requests. Lower it so that no request waits longer than `deadline`.
    #[schemars(range(min = 1))]
    pub queue_capacity: usize,
    /// From a request's last byte to its reply, in wall time; a later reply is 504.
    ///
    /// Set it to what callers wait for.
    #[schemars(extend("x-minimum" = "1ms"))]
    pub deadline: Period,
    /// Items of one request; more are answered 422.
    ///
    /// Unit: items. Raise it to rank larger candidate sets.
    #[schemars(range(min = 1))]
    pub max_candidates: usize,
    /// Size of a request body, of events too; a larger one is answered 413. It must take an event of `events.max_record`.
    ///
    /// Raise it together with `max_candidates` or `events.max_record`.
    #[schemars(extend("x-minimum" = "1B"))]
    pub max_body: ByteSize,
    /// Open connections; more wait in the kernel's accept queue.
    ///
    /// Unit: connections. Raise it to the number of callers.
    #[schemars(range(min = 1))]
    pub max_connections: usize,
    /// From the last reply, or the accept, to the next request's complete header, in wall time; then the connection is
    /// closed. An idle connection stays open as long.
    ///
    /// Raise it above the callers' keep-alive time.
    #[schemars(extend("x-minimum" = "1ms"))]
    pub header_timeout: Period,
    /// From a request's header to its complete body, in wall time; a later body is answered 408.
    ///
    /// Raise it for slow networks.
    #[schemars(extend("x-minimum" = "1ms"))]
    pub body_timeout: Period,
    /// How long a shutdown waits for requests in flight, in wall time.
    ///
    /// Lower it when the supervisor kills the process earlier.
    pub shutdown_grace: Period,
}

impl Default for ServingConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8600)),
            events_listen: None,
            events_timeout: Period::from_secs(5),
            score: String::new(),
            workers: 1,
            queue_capacity: 1024,
            deadline: Period::from_ms(50),
            max_candidates: 1000,
            max_body: ByteSize::from_bytes(1 << 20),
            max_connections: 1024,
            header_timeout: Period::from_secs(30),
            body_timeout: Period::from_secs(5),
            shutdown_grace: Period::from_secs(5),
        }
    }
}

impl ServingConfig {
    /// Every value that cannot be used, by its key below `serving`. `tasks` are the names of the tasks.
    #[must_use]
    pub fn validate(&self, tasks: &[String]) -> Vec<KeyError> {
        let mut errors = out_of_range(self);
        if let Err(error) = ScoreExpression::parse(&self.score, tasks) {
            errors.push(error.of_key("score", tasks));
        }
        errors
    }
}
