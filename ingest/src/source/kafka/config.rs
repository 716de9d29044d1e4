//! How to reach the topics.

use std::collections::BTreeMap;
use std::sync::Arc;

use ouzel_sample::Stream;

use crate::formats::RecordFormats;
use crate::topics::Topics;

/// How to reach the topics.
#[derive(Clone, Debug)]
pub struct KafkaConfig {
    /// Broker addresses, `host:port` separated by commas.
    pub bootstrap: String,
    /// librdkafka properties, passed through except those that ouzel sets itself.
    pub properties: BTreeMap<String, String>,
    /// The topic of each stream.
    pub topics: Topics,
    /// The streams to read.
    pub streams: Vec<Stream>,
    /// Streams whose records are read with their keys and headers, because their mapping reads those.
    pub with_metadata: Vec<Stream>,
    /// The formats of the records. The source delivers a record once its schema is known.
    pub formats: Arc<RecordFormats>,
    /// Refuses a partition that is read from its start but no longer has offset 0. Set for the embedded broker,
    /// which drops old data silently; on a real broker, retention before the first start is normal.
    pub is_whole_log_expected: bool,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            bootstrap: String::new(),
            properties: BTreeMap::new(),
            topics: Topics::default(),
            streams: Topics::default().events(),
            with_metadata: Vec::new(),
            formats: Arc::default(),
            is_whole_log_expected: false,
        }
    }
}
