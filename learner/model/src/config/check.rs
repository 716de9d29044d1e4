//! Validation of the `[model]` section beyond the ranges of its keys.

use ouzel_sample::settings::{KeyError, out_of_range};

use crate::config::{LoraConfig, ModelConfig};
use crate::fields::Feature;
use crate::shapes::weight_specs;

/// Largest number of members beside a model.
const MAX_MEMBERS: usize = 8;

impl ModelConfig {
    /// Every value that makes no model, by its key below `model`; empty for a model that can be built.
    ///
    /// `content.enabled` is taken as stated: the caller knows whether anything brings frozen vectors.
    #[must_use]
    pub fn validate(&self) -> Vec<KeyError> {
        let mut errors = out_of_range(self);
        let mut refuse_unless = |is_valid: bool, key: &str, message: String| {
            if !is_valid {
                errors.push(KeyError::new(key, message));
            }
        };
        for feature in Feature::ALL {
            let width = self.width(feature);
            refuse_unless(
                width <= self.dim,
                match feature {
                    Feature::User => "dims.user",
                    Feature::Item => "dims.item",
                    Feature::Attribute => "dims.attribute",
                },
                format!("must be at most dim, {}, not {width}: raise dim", self.dim),
            );
        }
        refuse_unless(
            !self.hidden.is_empty() && !self.hidden.contains(&0),
            "hidden",
            format!(
                "must list at least one layer, each at least 1 wide, not {:?}",
                self.hidden
            ),
        );
        refuse_unless(
            self.members.len() <= MAX_MEMBERS,
            "members",
            format!(
                "must list at most {MAX_MEMBERS} models, not {}",
                self.members.len()
            ),
        );
        for (n, member) in self.members.iter().enumerate() {
            refuse_unless(
                !member.hidden.is_empty() && !member.hidden.contains(&0),
                &format!("members[{n}].hidden"),
                format!(
                    "must list at least one layer, each at least 1 wide, not {:?}",
                    member.hidden
                ),
            );
        }
        let content = &self.content;
        refuse_unless(
            content.width.is_multiple_of(content.heads.max(1)),
            "content.heads",
            format!(
                "must divide content.width: {} is no multiple of {}",
                content.width, content.heads
            ),
        );
        for (is_on, key, off) in [
            (self.interest.enabled, "interest.enabled", "false"),
            (self.contrast_width > 0, "contrast_width", "0"),
        ] {
            refuse_unless(
                !is_on || content.enabled,
                key,
                format!("needs content: set content.enabled = true, or {key} = {off}"),
            );
        }
        errors.extend(self.unknown_layers());
        errors
    }

    /// The linear layers that may have an adapter, sorted.
    #[must_use]
    pub fn adaptable(&self) -> Vec<String> {
        let mut layers: Vec<String> = weight_specs(self)
            .into_iter()
            .filter_map(|spec| spec.layer)
            .collect();
        layers.sort();
        layers
    }

    /// Adapters on layers that the model lacks. The default list may name more than a model has.
    fn unknown_layers(&self) -> Vec<KeyError> {
        if self.lora.rank == 0 || self.lora.layers == LoraConfig::default().layers {
            return Vec::new();
        }
        let known = self.adaptable();
        let unknown = self.lora.layers.iter().filter(|layer| !known.contains(layer));
        unknown
            .map(|layer| KeyError {
                unknown: Some((layer.clone(), known.clone())),
                ..KeyError::new(
                    "lora.layers",
                    format!(
                        "names {layer}, which is no layer of the model; it has {}",
                        known.join(", ")
                    ),
                )
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ContentConfig, HeadConfig, HeadKind, InterestConfig, SequenceConfig, SequenceKind};

    fn full_model() -> ModelConfig {
        ModelConfig {
            content: ContentConfig {
                enabled: true,
                vector_widths: [4, 0],
                ..ContentConfig::default()
            },
            interest: InterestConfig {
                enabled: true,
                ..InterestConfig::default()
            },
            contrast_width: 8,
            sequence: SequenceConfig {
                kind: SequenceKind::Hstu,
                ..SequenceConfig::default()
            },
            ..ModelConfig::default()
        }
    }

    #[track_caller]
    fn check(change: impl Fn(&mut ModelConfig), key: &str, message: &str) {
        let mut config = full_model();
        change(&mut config);
        let errors = config.validate();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert_eq!(errors[0].key, key);
        assert!(errors[0].message.contains(message), "{:?}", errors[0]);
    }

    #[test]
    fn a_model_that_can_be_built_is_valid() {
        assert_eq!(full_model().validate(), []);
        assert_eq!(ModelConfig::default().validate(), []);
    }

    #[test]
    fn each_value_that_makes_no_model_is_refused_by_its_key() {
        check(|m| m.content.heads = 3, "content.heads", "64 is no multiple of 3");
        check(|m| m.content.width = 0, "content.width", "at least 1");
        check(|m| m.content.layers = 0, "content.layers", "at least 1");
        check(|m| m.sequence.key_width = 0, "sequence.key_width", "at least 1");
        check(
            |m| m.sequence.attention_hidden = [3, 0],
            "sequence.attention_hidden[1]",
            "at least 1",
        );
        check(|m| m.head.experts = 0, "head.experts", "at least 1");
        check(|m| m.dims.item = 9, "dims.item", "at most dim, 8, not 9");
        check(|m| m.hidden = Vec::new(), "hidden", "at least one layer");
        check(|m| m.hidden = vec![8, 0], "hidden", "at least 1 wide");
        check(|m| m.lora.alpha = 0.0, "lora.alpha", "more than 0");
        check(
            |m| {
                m.content.enabled = false;
                m.contrast_width = 0;
            },
            "interest.enabled",
            "needs content",
        );
        check(
            |m| {
                m.content.enabled = false;
                m.interest.enabled = false;
            },
            "contrast_width",
            "or contrast_width = 0",
        );
    }

    #[test]
    fn an_adapter_is_on_a_layer_of_the_model() {
        let on = |layers: &[&str]| {
            let layers: Vec<String> = layers.iter().map(|layer| (*layer).to_owned()).collect();
            move |m: &mut ModelConfig| m.lora.layers.clone_from(&layers)
        };
        let mut fine = full_model();
        on(&[
            "sequence.layer0.uvqk",
            "interest.key",
            "out",
            "content.layer0.query",
        ])(&mut fine);
        assert_eq!(fine.validate(), []);
        check(
            on(&["sequence.layer1.uvqk"]),
            "lora.layers",
            "sequence.layer1.uvqk, which is no layer",
        );
        check(on(&["first.user"]), "lora.layers", "it has cic.content, ");
        check(
            |m| {
                m.head = HeadConfig {
                    kind: HeadKind::Mmoe,
                    ..HeadConfig::default()
                };
                m.lora.layers = vec!["out".to_owned()];
            },
            "lora.layers",
            "head.tower0",
        );
        // The default list may name what a model lacks, and without a rank there is no adapter.
        let plain = ModelConfig::default();
        assert_eq!(plain.validate(), []);
        let mut off = full_model();
        on(&["nowhere"])(&mut off);
        off.lora.rank = 0;
        assert_eq!(off.validate(), []);
    }
}
