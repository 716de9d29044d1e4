//! `[content]`: what an item's texts and picture are turned into vectors by.

use std::fs;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Config;

/// Numbers in a vector of an EfficientNet-Lite, of any size.
const EFFICIENTNET_LITE: usize = 1280;

/// Frozen content encoders. Vectors that item events carry need none. Part of a snapshot's schema: another encoder
/// makes other vectors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Content {
    /// Folder of the text encoder, a BERT with `config.json`, `model.safetensors` and `tokenizer.json`, as
    /// `make encoders` leaves one in `.encoders`; empty for none.
    pub text_encoder: PathBuf,
    /// How many of an item's texts are encoded together, the title first, count.
    #[schemars(range(min = 1))]
    pub texts: usize,
    /// Folder of the picture encoder, an EfficientNet-Lite with `config.json` and `model.safetensors`; empty for
    /// none.
    pub image_encoder: PathBuf,
    /// Folder that the items' `image` paths start from; nothing outside of it is read.
    pub image_root: PathBuf,
    /// Where vectors are kept, so that a content is encoded once; empty for `vectors` in the state directory.
    pub store: PathBuf,
}

impl Default for Content {
    fn default() -> Self {
        Self {
            text_encoder: PathBuf::new(),
            texts: 1,
            image_encoder: PathBuf::new(),
            image_root: PathBuf::from("."),
            store: PathBuf::new(),
        }
    }
}

impl Config {
    /// Where vectors are kept.
    #[must_use]
    pub fn vector_dir(&self) -> PathBuf {
        if self.content.store == Path::new("") {
            self.snapshot.dir.join("vectors")
        } else {
            self.content.store.clone()
        }
    }

    /// Fills in the widths of vectors that the model leaves to the encoders, as far as their folders tell.
    pub(super) fn with_widths(mut self) -> Self {
        let folders = [&self.content.text_encoder, &self.content.image_encoder];
        for (width, folder) in self.model.content.widths.iter_mut().zip(folders) {
            if *width == 0 && folder != Path::new("") {
                *width = encoder_width(folder).unwrap_or(0);
            }
        }
        self
    }
}

/// Numbers in a vector of the encoder in `folder`; opening it says what is wrong with it, if anything is.
fn encoder_width(folder: &Path) -> Option<usize> {
    let text = fs::read_to_string(folder.join("config.json")).ok()?;
    let config: serde_json::Value = serde_json::from_str(&text).ok()?;
    if config["model_type"] == "efficientnet-lite" {
        return Some(EFFICIENTNET_LITE);
    }
    usize::try_from(config["hidden_size"].as_u64()?).ok()
}
