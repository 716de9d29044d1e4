//! What one client may cost the process: sizes, counts and times, each with its default.

use std::time::Duration;

/// Bounds of the scoring port. Every one of them answers with a status code, never by waiting without end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest request body, bytes; more is `413`.
    pub max_body_bytes: usize,
    /// Most candidates of one request; more is `422`.
    pub max_items: usize,
    /// Requests that may wait for a worker; one more is `429`.
    pub queue_len: usize,
    /// From the complete body to the reply; later is `504`.
    pub deadline: Duration,
    /// From the last reply (or the accept) to the next request's complete head; later the connection is closed.
    /// It is also how long an idle connection is kept.
    pub head_timeout: Duration,
    /// From the head to the complete body; later is `408`.
    pub body_timeout: Duration,
    /// Open connections; more wait in the kernel's accept queue.
    pub max_connections: usize,
    /// How long shutdown waits for requests in flight before it cuts them.
    pub shutdown_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body_bytes: 256 * 1024,
            max_items: 1_000,
            // At 2 ms a request and two workers a full queue is a quarter of a second: everything behind it
            // would miss a 50 ms deadline anyway.
            queue_len: 256,
            deadline: Duration::from_millis(50),
            head_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(5),
            max_connections: 1_024,
            shutdown_grace: Duration::from_secs(5),
        }
    }
}
