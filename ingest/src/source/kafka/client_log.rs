//! The log of a librdkafka client: forwards log lines and remembers the last error.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tracing::debug;

/// A client context that keeps the last error text, so that an error can say more than "timed out".
#[derive(Debug, Default)]
pub(crate) struct ClientLog {
    last_error: Mutex<Option<String>>,
}

impl ClientLog {
    /// The last error text, once.
    pub(crate) fn take_last_error(&self) -> Option<String> {
        self.last_error().take()
    }

    fn last_error(&self) -> MutexGuard<'_, Option<String>> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, text: &str) {
        *self.last_error() = Some(without_thread(text).to_owned());
    }
}

impl ClientContext for ClientLog {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        // librdkafka logs an unreachable broker as an error every second; the source counts such errors instead.
        debug!(target: "librdkafka", ?level, facility, line);
        if matches!(
            level,
            RDKafkaLogLevel::Emerg
                | RDKafkaLogLevel::Alert
                | RDKafkaLogLevel::Critical
                | RDKafkaLogLevel::Error
        ) {
            self.remember(line);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        // "All brokers are down" follows the actual reason and would hide it.
        if !matches!(
            code,
            Some(RDKafkaErrorCode::PartitionEOF | RDKafkaErrorCode::AllBrokersDown)
        ) {
            self.remember(reason);
        }
    }
}

impl ConsumerContext for ClientLog {}

/// A log line without the name of the thread that wrote it.
fn without_thread(text: &str) -> &str {
    match text.split_once("]: ") {
        Some((thread, message)) if thread.starts_with("[thrd:") => message,
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_is_returned_once_and_without_its_thread() {
        let client = ClientLog::default();
        client.log(RDKafkaLogLevel::Info, "X", "nothing");
        client.log(
            RDKafkaLogLevel::Error,
            "FAIL",
            "[thrd:127.0.0.1:1/boot]: connection refused",
        );
        client.error(
            KafkaError::Global(RDKafkaErrorCode::AllBrokersDown),
            "1/1 brokers are down",
        );
        assert_eq!(client.take_last_error().as_deref(), Some("connection refused"));
        assert_eq!(client.take_last_error(), None);
    }
}
