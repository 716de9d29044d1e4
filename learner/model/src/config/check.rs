//! What a model's configuration cannot be, beyond what its types say.

use crate::config::{LoraConfig, ModelConfig};
use crate::fields::Feature;
use crate::shapes::weight_specs;

/// A setting that makes no model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Path of the key within the model, as `content.heads`.
    pub key: String,
    /// What is wrong with it, to be read behind the key.
    pub message: String,
    /// The name in it that is not known, if that is what is wrong.
    pub unknown: Option<String>,
}

impl ModelConfig {
    /// Everything that is wrong, in the order of the sections; empty for a model that can be made.
    ///
    /// `content.enabled` is taken by its word: whether anything brings frozen vectors is the caller's to know.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut unless = |is_fine: bool, key: &str, message: String| {
            if !is_fine {
                faults.push(Fault {
                    key: key.to_owned(),
                    message,
                    unknown: None,
                });
            }
        };
        for (key, size) in self.sizes() {
            unless(size >= 1, key, "must be at least 1".to_owned());
        }
        for feature in Feature::ALL {
            let width = self.width(feature);
            unless(
                width <= self.dim,
                match feature {
                    Feature::User => "dims.user",
                    Feature::Item => "dims.item",
                    Feature::Attribute => "dims.attribute",
                },
                format!(
                    "must be at most dim: blocks read rows of one width, {}, and a row of {width} does not fit; raise dim",
                    self.dim
                ),
            );
        }
        let is_hidden = !self.hidden.is_empty() && !self.hidden.contains(&0);
        unless(
            is_hidden,
            "hidden",
            "must list at least one layer, each at least 1 wide".to_owned(),
        );
        let content = &self.content;
        unless(
            content.width.is_multiple_of(content.heads.max(1)),
            "content.heads",
            format!(
                "must divide content.width: {} is no multiple of {}",
                content.width, content.heads
            ),
        );
        for (is_on, key, what) in [
            (self.interest.enabled, "interest.enabled", "false"),
            (self.contrast > 0, "contrast", "0"),
        ] {
            unless(
                !is_on || content.enabled,
                key,
                format!("needs content: set content.enabled = true, or {key} = {what}"),
            );
        }
        let lora = &self.lora;
        unless(
            lora.alpha.is_finite() && lora.alpha > 0.0,
            "lora.alpha",
            "must be more than 0".to_owned(),
        );
        faults.extend(self.wrong_adapters());
        faults
    }

    /// The linear layers that may have an adapter, sorted.
    ///
    /// Those that make content vectors may not: what they make is a constant of its item once the base is frozen,
    /// which is when adapters begin to learn.
    #[must_use]
    pub fn adaptable(&self) -> Vec<String> {
        let mut layers: Vec<String> = weight_specs(self)
            .into_iter()
            .filter_map(|spec| spec.layer)
            .collect();
        layers.sort();
        layers
    }

    fn sizes(&self) -> [(&'static str, usize); 18] {
        let Self {
            content,
            interest,
            sequence,
            head,
            ..
        } = self;
        [
            ("dim", self.dim),
            ("content.width", content.width),
            ("content.queries", content.queries),
            ("content.layers", content.layers),
            ("content.heads", content.heads),
            ("interest.width", interest.width),
            ("interest.history_len", interest.history_len),
            ("sequence.history_len", sequence.history_len),
            ("sequence.width", sequence.width),
            ("sequence.layers", sequence.layers),
            ("sequence.heads", sequence.heads),
            ("sequence.key", sequence.key),
            ("sequence.value", sequence.value),
            ("sequence.unit", sequence.unit[0]),
            ("sequence.unit", sequence.unit[1]),
            ("head.experts", head.experts),
            ("head.expert", head.expert),
            ("head.tower", head.tower),
        ]
    }

    /// Adapters on layers that are not there. The list that is the default may name more than a model has.
    fn wrong_adapters(&self) -> Vec<Fault> {
        if self.lora.rank == 0 || self.lora.on == LoraConfig::default().on {
            return Vec::new();
        }
        let layers = self.adaptable();
        let wrong = self.lora.on.iter().filter(|layer| !layers.contains(layer));
        wrong
            .map(|layer| Fault {
                key: "lora.on".to_owned(),
                unknown: Some(layer.clone()),
                message: format!("the model has no layer {layer}; it has {}", layers.join(", ")),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ContentConfig, HeadConfig, HeadKind, InterestConfig, SequenceConfig, SequenceKind};

    fn whole() -> ModelConfig {
        ModelConfig {
            content: ContentConfig {
                enabled: true,
                widths: [4, 0],
                ..ContentConfig::default()
            },
            interest: InterestConfig {
                enabled: true,
                ..InterestConfig::default()
            },
            contrast: 8,
            sequence: SequenceConfig {
                kind: SequenceKind::Hstu,
                ..SequenceConfig::default()
            },
            ..ModelConfig::default()
        }
    }

    #[track_caller]
    fn check(change: impl Fn(&mut ModelConfig), key: &str, message: &str) {
        let mut config = whole();
        change(&mut config);
        let faults = config.faults();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert_eq!(faults[0].key, key);
        assert!(faults[0].message.contains(message), "{:?}", faults[0]);
    }

    #[test]
    fn a_model_that_can_be_made_has_no_fault() {
        assert_eq!(whole().faults(), []);
        assert_eq!(ModelConfig::default().faults(), []);
    }

    #[test]
    fn each_setting_that_makes_no_model_is_named() {
        check(|m| m.content.heads = 3, "content.heads", "64 is no multiple of 3");
        check(|m| m.content.width = 0, "content.width", "at least 1");
        check(|m| m.content.layers = 0, "content.layers", "at least 1");
        check(|m| m.sequence.key = 0, "sequence.key", "at least 1");
        check(|m| m.sequence.unit = [3, 0], "sequence.unit", "at least 1");
        check(|m| m.head.experts = 0, "head.experts", "at least 1");
        check(|m| m.dims.item = 9, "dims.item", "a row of 9 does not fit");
        check(|m| m.hidden = Vec::new(), "hidden", "at least one layer");
        check(|m| m.hidden = vec![8, 0], "hidden", "at least 1 wide");
        check(|m| m.lora.alpha = f64::NAN, "lora.alpha", "more than 0");
        check(
            |m| {
                m.content.enabled = false;
                m.contrast = 0;
            },
            "interest.enabled",
            "needs content",
        );
        check(
            |m| {
                m.content.enabled = false;
                m.interest.enabled = false;
            },
            "contrast",
            "or contrast = 0",
        );
    }

    #[test]
    fn an_adapter_is_on_a_layer_that_is_there() {
        let on = |layers: &[&str]| {
            let layers: Vec<String> = layers.iter().map(|layer| (*layer).to_owned()).collect();
            move |m: &mut ModelConfig| m.lora.on.clone_from(&layers)
        };
        let mut fine = whole();
        on(&[
            "sequence.layer0.uvqk",
            "interest.key",
            "out",
            "content.layer0.query",
        ])(&mut fine);
        assert_eq!(fine.faults(), []);
        check(
            on(&["sequence.layer1.uvqk"]),
            "lora.on",
            "no layer sequence.layer1.uvqk",
        );
        check(on(&["first.user"]), "lora.on", "it has cic.content, ");
        check(
            |m| {
                m.head = HeadConfig {
                    kind: HeadKind::Mmoe,
                    ..HeadConfig::default()
                };
                m.lora.on = vec!["out".to_owned()];
            },
            "lora.on",
            "head.tower0",
        );
        // The list that nobody wrote may name what a model lacks, and without a rank there is no adapter.
        let plain = ModelConfig::default();
        assert_eq!(plain.faults(), []);
        let mut off = whole();
        on(&["nowhere"])(&mut off);
        off.lora.rank = 0;
        assert_eq!(off.faults(), []);
    }
}
