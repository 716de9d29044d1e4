//! What librdkafka tells a client besides records: its log lines and error texts.

use std::sync::{Mutex, PoisonError};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tracing::debug;

/// Keeps the last complaint, so that an error can say why instead of "timed out".
#[derive(Debug, Default)]
pub(crate) struct Client {
    last_words: Mutex<Option<String>>,
}

impl Client {
    /// What the library last complained of, once.
    pub(crate) fn last_words(&self) -> Option<String> {
        self.last_words
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    fn remember(&self, words: &str) {
        *self.last_words.lock().unwrap_or_else(PoisonError::into_inner) = Some(plain(words).to_owned());
    }
}

impl ClientContext for Client {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        // Its own levels call an unreachable broker an error each second; ours are counted by the source.
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
        // "All brokers are down" follows the reason why and would hide it.
        if !matches!(
            code,
            Some(RDKafkaErrorCode::PartitionEOF | RDKafkaErrorCode::AllBrokersDown)
        ) {
            self.remember(reason);
        }
    }
}

impl ConsumerContext for Client {}

/// A log line without the name of the thread that wrote it.
fn plain(words: &str) -> &str {
    match words.split_once("]: ") {
        Some((thread, rest)) if thread.starts_with("[thrd:") => rest,
        _ => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_complaint_is_kept_once_and_without_its_thread() {
        let client = Client::default();
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
        assert_eq!(client.last_words().as_deref(), Some("connection refused"));
        assert_eq!(client.last_words(), None);
    }
}
