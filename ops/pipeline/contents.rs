//! Content vectors of items: the frozen encoders and the store of their results.
//!
//! Each content is encoded once and looked up afterwards. An item whose content is missing, out of reach or unusable has
//! no vector in that modality and ranks without it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::{Context, bail};
use metrics::counter;

use ouzel_encoders::{Encoder, ImageEncoder, TextEncoder};
use ouzel_sample::{
    Content, ContentHash, EncoderVersion, FeatureState, Item, ItemVectors, N_MODALITIES, Vector, VectorOrigin,
};
use ouzel_snapshot::{VectorLimits, VectorStore};

use super::lock;
use crate::config::Config;
use crate::telemetry::metrics::CONTENTS_OUT_OF_REACH;

/// Contents encoded between two writes to the store.
const CHUNK: usize = 64;
/// Largest picture file that is read, bytes.
const MAX_IMAGE_BYTES: u64 = 16 << 20;

/// Vectors by content, shared by the encode stage and the join stage, which follows the plan log.
pub(crate) type SharedStore = Arc<Mutex<VectorStore>>;

/// The encoders that a configuration names, by modality.
#[derive(Debug)]
pub(crate) struct Contents {
    encoders: [Option<Box<dyn Encoder>>; N_MODALITIES],
    n_texts: usize,
    image_root: PathBuf,
    store: SharedStore,
}

impl Contents {
    /// Loads the encoders and opens the store; returns `None` if the configuration names no encoder.
    pub(crate) fn open(config: &Config) -> anyhow::Result<Option<Self>> {
        let encoders = Self::load_encoders(config)?;
        if encoders.iter().all(Option::is_none) {
            return Ok(None);
        }
        let content = &config.content;
        let dir = config.vector_dir();
        let (store, recovery) = VectorStore::open(&dir, VectorLimits::default())
            .with_context(|| format!("cannot open the vectors in {}", dir.display()))?;
        tracing::info!(dir = %dir.display(), vectors = recovery.n_vectors, damaged = recovery.n_damaged, "content vectors");
        Ok(Some(Self {
            encoders,
            n_texts: content.texts_per_item,
            image_root: content.image_root.clone(),
            store: Arc::new(Mutex::new(store)),
        }))
    }

    /// Loads the encoders that the configuration names, and compares their widths with the model's.
    pub(crate) fn load_encoders(config: &Config) -> anyhow::Result<[Option<Box<dyn Encoder>>; N_MODALITIES]> {
        let content = &config.content;
        let device = || config.learner_config().device();
        let is_named = |folder: &Path| folder != Path::new("");
        let mut encoders: [Option<Box<dyn Encoder>>; N_MODALITIES] = [None, None];
        if is_named(&content.text_encoder) {
            encoders[0] = Some(Box::new(TextEncoder::load(&content.text_encoder, device()?)?));
        }
        if is_named(&content.image_encoder) {
            encoders[1] = Some(Box::new(ImageEncoder::load(&content.image_encoder, device()?)?));
        }
        let folders = [&content.text_encoder, &content.image_encoder];
        for ((encoder, folder), width) in encoders
            .iter()
            .zip(folders)
            .zip(config.model.content.vector_widths)
        {
            let Some(dim) = encoder.as_ref().map(|encoder| encoder.version().dim) else {
                continue;
            };
            if width != 0 && usize::try_from(dim) != Ok(width) {
                bail!(
                    "the encoder {} makes vectors of {dim} floats, model.content.vector_widths says {width}: set it to \
                     {dim}, or to 0 for the width of the encoder",
                    folder.display()
                );
            }
        }
        Ok(encoders)
    }

    /// The versions of the encoders, by modality.
    pub(crate) fn versions(&self) -> [Option<EncoderVersion>; N_MODALITIES] {
        let encoders = self.encoders.each_ref();
        encoders.map(|encoder| encoder.as_ref().map(|encoder| encoder.version().clone()))
    }

    /// The stored vectors.
    pub(crate) fn store(&self) -> SharedStore {
        Arc::clone(&self.store)
    }

    /// The vectors of `items`, in order; encodes and durably stores the new ones.
    ///
    /// `on_progress` gets the number of contents encoded so far, after each chunk.
    pub(crate) fn vectors(
        &self,
        items: &[Arc<Item>],
        mut on_progress: impl FnMut(usize),
    ) -> anyhow::Result<Vec<ItemVectors>> {
        let mut vectors = vec![ItemVectors::default(); items.len()];
        let mut n_done = 0;
        for (modality, encoder) in self.encoders.iter().enumerate() {
            let Some(encoder) = encoder else { continue };
            let version = encoder.version();
            let mut found: HashMap<ContentHash, Option<Vector>> = HashMap::new();
            let mut wanted: BTreeMap<ContentHash, Content> = BTreeMap::new();
            let mut hashes = Vec::with_capacity(items.len());
            for item in items {
                let content = self.content(item, modality);
                let hash = content.as_ref().map(Content::hash);
                if let (Some(content), Some(hash)) = (content, hash)
                    && !found.contains_key(&hash)
                {
                    let known = self.stored(version, hash)?;
                    if known.is_none() {
                        wanted.insert(hash, content);
                    }
                    found.insert(hash, known);
                }
                hashes.push(hash);
            }
            let wanted: Vec<(ContentHash, Content)> = wanted.into_iter().collect();
            for chunk in wanted.chunks(CHUNK) {
                let contents: Vec<Content> = chunk.iter().map(|(_, content)| content.clone()).collect();
                let encoded = encoder.encode(&contents)?;
                let encoded: Vec<(ContentHash, Vec<f32>)> = chunk
                    .iter()
                    .zip(encoded)
                    .filter_map(|((hash, _), vector)| Some((*hash, vector.ok()?)))
                    .collect();
                self.lock().put_batch(version, &encoded)?;
                for (hash, values) in encoded {
                    found.insert(hash, Some(Vector::encoded(hash, values)));
                }
                n_done += chunk.len();
                on_progress(n_done);
            }
            for (vectors, hash) in vectors.iter_mut().zip(hashes) {
                vectors[modality] = hash.and_then(|hash| found.get(&hash)?.clone());
            }
        }
        self.lock().sync()?;
        Ok(vectors)
    }

    /// Fills in the vectors that a loaded feature state names but does not hold. Returns the number of lost vectors.
    pub(crate) fn restore(&self, features: &FeatureState) -> anyhow::Result<usize> {
        let mut missing = features.vectors().missing();
        let mut found = HashMap::new();
        for (modality, hash) in &missing {
            if let Some(encoder) = &self.encoders[*modality]
                && let Some(vector) = self.stored(encoder.version(), *hash)?
            {
                found.insert((*modality, *hash), vector.values);
            }
        }
        missing.retain(|key| !found.contains_key(key));
        if !missing.is_empty() {
            // The store is a cache: lost vectors are computed again from the contents of the items.
            let items = features.items();
            let hashes: BTreeSet<ContentHash> = missing.iter().map(|(_, hash)| *hash).collect();
            let is_wanted = |item: &Arc<Item>| {
                (0..N_MODALITIES).any(|modality| {
                    let content = self.content(item, modality);
                    content.is_some_and(|content| hashes.contains(&content.hash()))
                })
            };
            let items: Vec<Arc<Item>> = items.into_iter().filter(is_wanted).collect();
            for vectors in self.vectors(&items, |_| {})? {
                for (modality, vector) in vectors.into_iter().enumerate() {
                    let Some(vector) = vector else { continue };
                    if let VectorOrigin::Encoded(hash) = vector.origin {
                        found.insert((modality, hash), vector.values);
                    }
                }
            }
        }
        features
            .vectors()
            .fill(|modality, hash| found.get(&(modality, hash)).cloned());
        Ok(features.vectors().missing().len())
    }

    fn lock(&self) -> MutexGuard<'_, VectorStore> {
        lock(&self.store)
    }

    fn stored(&self, version: &EncoderVersion, hash: ContentHash) -> anyhow::Result<Option<Vector>> {
        let values = self.lock().get(version, &hash)?;
        Ok(values.map(|values| Vector::encoded(hash, values)))
    }

    /// The content of an item in one modality.
    fn content(&self, item: &Item, modality: usize) -> Option<Content> {
        self.encoders[modality].as_ref()?;
        if modality == 0 {
            let texts = &item.texts[..item.texts.len().min(self.n_texts)];
            return (!texts.is_empty()).then(|| Content::text(&texts.join(". ")));
        }
        let path = item.image.as_ref()?;
        let image = image(&self.image_root, path);
        if image.is_none() {
            counter!(CONTENTS_OUT_OF_REACH).increment(1);
        }
        image.map(Content::Image)
    }
}

/// The file of a picture, if it is inside the folder and not too large.
fn image(root: &Path, path: &str) -> Option<Vec<u8>> {
    let root = root.canonicalize().ok()?;
    let path = root.join(path).canonicalize().ok()?;
    if !path.starts_with(&root) {
        return None;
    }
    let mut bytes = Vec::new();
    File::open(path)
        .ok()?
        .take(MAX_IMAGE_BYTES + 1)
        .read_to_end(&mut bytes)
        .ok()?;
    (bytes.len() as u64 <= MAX_IMAGE_BYTES).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_outside_of_its_folder_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("images");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join("a.jpg"), b"inside").unwrap();
        std::fs::write(dir.path().join("b.jpg"), b"outside").unwrap();
        std::os::unix::fs::symlink(dir.path().join("b.jpg"), root.join("c.jpg")).unwrap();
        assert_eq!(image(&root, "a.jpg"), Some(b"inside".to_vec()));
        let absolute = dir.path().join("b.jpg");
        for refused in ["../b.jpg", "c.jpg", "none.jpg", "", absolute.to_str().unwrap()] {
            assert_eq!(image(&root, refused), None, "{refused}");
        }
    }

    #[test]
    fn an_encoder_of_another_width_than_the_model_reads_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("learner/encoders/tests/fixtures/tiny-bert");
        let mut config = Config::default();
        config.content.text_encoder.clone_from(&folder);
        config.content.vector_dir = dir.path().to_owned();
        for width in [0, 16] {
            config.model.content.vector_widths = [width, 0];
            assert!(Contents::open(&config).unwrap().is_some(), "{width}");
        }
        config.model.content.vector_widths = [384, 0];
        let message = Contents::open(&config).unwrap_err().to_string();
        let expected = format!(
            "the encoder {} makes vectors of 16 floats, model.content.vector_widths says 384",
            folder.display()
        );
        assert!(message.starts_with(&expected), "{message}");
    }
}
