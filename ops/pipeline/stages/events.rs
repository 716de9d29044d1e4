//! Events: checks the events that clients post, writes those of a call all or not at all, and answers.
//!
//! The stage ends when the ports that post to it have closed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use ouzel_ingest::{CheckedEvent, EventProducer};
use ouzel_serving::events::{BadEvent, EventsCall, EventsOutcome};

use crate::telemetry::clock::Clock;

/// Calls that may wait for the stage; one more is answered 429.
pub(crate) const MAX_WAITING_CALLS: usize = 64;
/// Bytes on their way to the broker from which no further call is taken.
const MAX_IN_FLIGHT_BYTES: usize = 32 << 20;
/// Longest wait for an acknowledgement, and so for the next call while some are in flight.
const POLL: Duration = Duration::from_millis(1);
/// Longest wait for a call while nothing is in flight.
const IDLE: Duration = Duration::from_millis(100);
/// Pause of a call for which the client's queue is full.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(10);

/// The stage.
pub(crate) struct Events {
    producer: EventProducer,
    clock: Arc<dyn Clock>,
    in_flight: BTreeMap<usize, InFlight>,
    in_flight_bytes: usize,
    next_call: usize,
}

/// A call whose events are on their way.
struct InFlight {
    n_events: usize,
    n_pending: usize,
    n_failed: usize,
    first_failure: Option<String>,
    n_bytes: usize,
    reply: oneshot::Sender<EventsOutcome>,
}

impl Events {
    /// A stage that writes with `producer`. `clock` dates the events, for the check of times in the future.
    pub(crate) fn new(producer: EventProducer, clock: Arc<dyn Clock>) -> Self {
        Self {
            producer,
            clock,
            in_flight: BTreeMap::new(),
            in_flight_bytes: 0,
            next_call: 0,
        }
    }

    /// Answers calls until their channel closes and everything in flight has ended.
    pub(crate) fn run(mut self, calls: &Receiver<EventsCall>) -> anyhow::Result<()> {
        let mut is_open = true;
        while is_open || !self.in_flight.is_empty() {
            let has_room = self.in_flight_bytes < MAX_IN_FLIGHT_BYTES;
            if is_open && has_room {
                let wait = if self.in_flight.is_empty() {
                    IDLE
                } else {
                    Duration::ZERO
                };
                match calls.recv_timeout(wait) {
                    Ok(call) => self.start(call),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => is_open = false,
                }
            }
            self.poll(if self.in_flight.is_empty() {
                Duration::ZERO
            } else {
                POLL
            });
        }
        Ok(())
    }

    /// Checks a call and sends its events, or refuses it.
    fn start(&mut self, call: EventsCall) {
        let EventsCall {
            events,
            deadline,
            reply,
        } = call;
        if reply.is_closed() {
            return;
        }
        let now_ms = self.clock.now_ms();
        let (mut checked, mut bad) = (Vec::with_capacity(events.len()), Vec::new());
        for (index, event) in events.into_iter().enumerate() {
            let payload = event.event.to_string().into_bytes();
            match self.producer.check(event.stream, payload, now_ms) {
                Ok(event) => checked.push(event),
                Err(reject) => bad.push(BadEvent {
                    index,
                    stream: event.stream.name().to_owned(),
                    reason: reject.reason.name().to_owned(),
                    detail: reject.detail,
                }),
            }
        }
        if bad.is_empty() {
            self.send(&checked, deadline, reply);
        } else {
            answer(reply, EventsOutcome::Refused(bad));
        }
    }

    /// Queues the events of a call. A full queue is waited for until the deadline of the call.
    fn send(&mut self, events: &[CheckedEvent], deadline: Instant, reply: oneshot::Sender<EventsOutcome>) {
        let number = self.next_call;
        self.next_call = self.next_call.wrapping_add(1);
        let n_bytes = events.iter().map(CheckedEvent::len).sum();
        self.in_flight_bytes += n_bytes;
        self.in_flight.insert(
            number,
            InFlight {
                n_events: events.len(),
                n_pending: events.len(),
                n_failed: 0,
                first_failure: None,
                n_bytes,
                reply,
            },
        );
        for event in events {
            let failure = loop {
                match self.producer.send(number, event) {
                    Ok(true) => break None,
                    Ok(false) if Instant::now() < deadline => self.poll(QUEUE_FULL_PAUSE),
                    Ok(false) => break Some("the queue to the broker is full".to_owned()),
                    Err(error) => break Some(error.to_string()),
                }
            };
            if failure.is_some() {
                self.end_event(number, failure);
            }
        }
    }

    fn poll(&mut self, wait: Duration) {
        for delivery in self.producer.poll(wait) {
            self.end_event(delivery.call, delivery.failure);
        }
    }

    /// Counts the end of one event, and answers its call after the last.
    fn end_event(&mut self, number: usize, failure: Option<String>) {
        let Some(call) = self.in_flight.get_mut(&number) else {
            return;
        };
        call.n_pending -= 1;
        if let Some(failure) = failure {
            call.n_failed += 1;
            call.first_failure.get_or_insert(failure);
        }
        if call.n_pending > 0 {
            return;
        }
        let Some(call) = self.in_flight.remove(&number) else {
            return;
        };
        self.in_flight_bytes -= call.n_bytes;
        let outcome = match call.first_failure {
            None => EventsOutcome::Written,
            Some(first) => EventsOutcome::Unacknowledged(format!(
                "{} of {} events were not acknowledged, the first to {first}; post the call again: what was written \
                 already is recognised by its ids",
                call.n_failed, call.n_events
            )),
        };
        answer(call.reply, outcome);
    }
}

/// Sends the answer; a client that has gone needs none.
fn answer(reply: oneshot::Sender<EventsOutcome>, outcome: EventsOutcome) {
    let _is_received = reply.send(outcome).is_ok();
}
