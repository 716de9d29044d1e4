//! Encode: turns new items' contents into vectors, beside the stream and never in its way.
//!
//! Join sends every item version it takes; what comes back is used from the next entry of the plan log on. The
//! backlog may be long after a start: it costs this thread's time, which gives way to every other.

use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, PoisonError};

use metrics::{counter, gauge};
use ouzel_ingest::plan::Encoded;
use ouzel_sample::{ContentHash, EncoderVersion, FeatureState, Id, Item, ItemVectors, N_MODALITIES, Vector};

use crate::pipeline::contents::{Contents, SharedStore};
use crate::telemetry::metrics::{ITEMS_TO_ENCODE, VECTORS_LOST};

/// Items encoded between two looks at the input.
const CHUNK: usize = 256;

/// Of the thread: the least urgent there is.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 19;

/// Join's end of the line.
pub struct Encoding {
    /// Items to encode.
    pub to: Sender<Arc<Item>>,
    /// What came of them.
    pub from: Receiver<Vec<(Id, ItemVectors)>>,
    /// What was encoded before, for a plan that is followed.
    pub store: SharedStore,
    /// By what.
    pub versions: [Option<EncoderVersion>; N_MODALITIES],
}

impl Encoding {
    /// Asks for the vectors of items. Without the stage they stay without.
    pub fn ask(&self, items: impl IntoIterator<Item = Arc<Item>>) {
        for item in items {
            if self.to.send(item).is_err() {
                return;
            }
        }
    }

    /// The vectors that a recorded plan entry names. One that the store has lost is empty, and like none.
    pub fn load(&self, encoded: Vec<Encoded>) -> anyhow::Result<Vec<(Id, ItemVectors)>> {
        let load = |(item, contents)| Ok((item, self.load_one(contents)?));
        encoded.into_iter().map(load).collect()
    }

    fn load_one(&self, contents: [Option<ContentHash>; N_MODALITIES]) -> anyhow::Result<ItemVectors> {
        let mut vectors = ItemVectors::default();
        for (modality, (version, content)) in self.versions.iter().zip(contents).enumerate() {
            let (Some(version), Some(content)) = (version, content) else {
                continue;
            };
            let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
            let values = store.get(version, &content)?.unwrap_or_else(|| {
                counter!(VECTORS_LOST).increment(1);
                tracing::warn!(%content, encoder = %version, "the plan names a content vector that the store has lost");
                Vec::new()
            });
            vectors[modality] = Some(Vector::encoded(content, values));
        }
        Ok(vectors)
    }
}

/// The stage.
pub struct Encode {
    /// The encoders and their store.
    pub contents: Contents,
    /// Whose items have vectors already.
    pub features: Arc<FeatureState>,
    /// To join.
    pub out: Sender<Vec<(Id, ItemVectors)>>,
}

impl Encode {
    /// Encodes until join ends.
    pub fn run(self, input: &Receiver<Arc<Item>>) -> anyhow::Result<()> {
        give_way();
        let mut backlog: Vec<Arc<Item>> = Vec::new();
        loop {
            if backlog.is_empty() {
                let Ok(item) = input.recv() else { return Ok(()) };
                backlog.push(item);
            }
            backlog.extend(input.try_iter());
            gauge!(ITEMS_TO_ENCODE).set(u32::try_from(backlog.len()).unwrap_or(u32::MAX));
            let chunk: Vec<Arc<Item>> = backlog.drain(..backlog.len().min(CHUNK)).collect();
            let vectors = self.contents.vectors(&chunk, |_| {})?;
            let new: Vec<(Id, ItemVectors)> = chunk
                .iter()
                .zip(vectors)
                .map(|(item, vectors)| (item.id, vectors))
                .filter(|(item, vectors)| self.is_new(*item, vectors))
                .collect();
            gauge!(ITEMS_TO_ENCODE).set(u32::try_from(backlog.len()).unwrap_or(u32::MAX));
            if !new.is_empty() && self.out.send(new).is_err() {
                return Ok(());
            }
        }
    }

    fn is_new(&self, item: Id, vectors: &ItemVectors) -> bool {
        let table = self.features.vectors();
        let list = table.read();
        let known = list.get(table.current(item));
        let origin = |vector: &Option<Vector>| vector.as_ref().map(|vector| vector.origin);
        vectors.iter().enumerate().any(|(modality, vector)| {
            vector.is_some() && known.map(|known| origin(&known[modality])) != Some(origin(vector))
        })
    }
}

/// Lets every other thread go first. Linux knows a niceness of threads; elsewhere it is the process's, and stays.
fn give_way() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::nice(NICENESS) {
        tracing::warn!(%error, "the encoding thread cannot be made to give way to others");
    }
}
