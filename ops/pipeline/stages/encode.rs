//! Encode: turns the contents of new items into vectors, without delaying the stream.
//!
//! Join sends every item version and uses the vectors from the next plan log entry on. The backlog may be long after a
//! start, so this thread has the lowest priority, and items that are shown most are encoded first.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

use metrics::{counter, gauge};
use ouzel_ingest::plan::Encoded;
use ouzel_sample::{ContentHash, EncoderVersion, FeatureState, Id, Item, ItemVectors, N_MODALITIES, Vector};

use crate::pipeline::contents::{Contents, SharedStore};
use crate::pipeline::lock;
use crate::telemetry::metrics::{ITEMS_TO_ENCODE, VECTORS_LOST};

/// Items encoded between two reads of the input.
const CHUNK: usize = 256;

/// Niceness of the thread, the lowest priority.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 19;

/// The connection of join to the encode stage.
pub struct Encoding {
    pub(crate) to: Sender<Arc<Item>>,
    pub(crate) from: Receiver<Vec<(Id, ItemVectors)>>,
    /// Vectors of recorded plan entries.
    pub(crate) store: SharedStore,
    /// Encoder versions by modality.
    pub(crate) versions: [Option<EncoderVersion>; N_MODALITIES],
}

impl Encoding {
    /// Sends items to the stage. If it has ended, they get no vectors.
    pub(crate) fn send(&self, items: impl IntoIterator<Item = Arc<Item>>) {
        for item in items {
            if self.to.send(item).is_err() {
                return;
            }
        }
    }

    /// Drops what was encoded: another daemon says what comes into use.
    pub(crate) fn discard(&self) {
        for vectors in self.from.try_iter() {
            drop(vectors);
        }
    }

    /// True if the store has every vector that a recorded plan entry names.
    pub(crate) fn has(&self, encoded: &[Encoded]) -> anyhow::Result<bool> {
        let mut store = lock(&self.store);
        for (_, contents) in encoded {
            for (version, content) in self.versions.iter().zip(contents) {
                if let (Some(version), Some(content)) = (version, content)
                    && store.get(version, content)?.is_none()
                {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// The vectors that a recorded plan entry names. A vector that the store has lost is empty, which counts as none.
    pub(crate) fn load(&self, encoded: Vec<Encoded>) -> anyhow::Result<Vec<(Id, ItemVectors)>> {
        let load = |(item, contents)| Ok((item, self.load_one(contents)?));
        encoded.into_iter().map(load).collect()
    }

    fn load_one(&self, contents: [Option<ContentHash>; N_MODALITIES]) -> anyhow::Result<ItemVectors> {
        let mut vectors = ItemVectors::default();
        for (modality, (version, content)) in self.versions.iter().zip(contents).enumerate() {
            let (Some(version), Some(content)) = (version, content) else {
                continue;
            };
            let values = lock(&self.store).get(version, &content)?.unwrap_or_else(|| {
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
pub(crate) struct Encode {
    pub(crate) contents: Contents,
    pub(crate) features: Arc<FeatureState>,
    pub(crate) out: Sender<Vec<(Id, ItemVectors)>>,
}

impl Encode {
    /// Encodes until join ends.
    pub(crate) fn run(self, input: &Receiver<Arc<Item>>) -> anyhow::Result<()> {
        lower_priority();
        let mut backlog: Vec<Arc<Item>> = Vec::new();
        loop {
            if backlog.is_empty() {
                let Ok(item) = input.recv() else { return Ok(()) };
                backlog.push(item);
            }
            backlog.extend(input.try_iter());
            gauge!(ITEMS_TO_ENCODE).set(u32::try_from(backlog.len()).unwrap_or(u32::MAX));
            if backlog.len() > CHUNK {
                // Stable: items that are shown equally often stay in the order of their events.
                backlog.sort_by_cached_key(|item| Reverse(self.features.n_shown(item.id)));
            }
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

/// Lowers the priority of this thread. Only Linux has a niceness of threads; elsewhere it belongs to the process.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::nice(NICENESS) {
        tracing::warn!(%error, "the priority of the encoding thread cannot be lowered");
    }
}
