//! Changes of the features of an item or of a user, which a version of either brings.

use ouzel_sample::{FeatureChange, Id, NumberScope, Reject};

use super::decoder::{Decoder, HashValue};
use super::wire::Features;

impl Decoder {
    /// The features of an item's or a user's event by name, whose categorical values `hash` hashes; `null` removes one.
    pub(super) fn feature_changes(
        &self,
        scope: NumberScope,
        hash: HashValue,
        pairs: Option<&Features<'_>>,
    ) -> Result<Vec<(Id, FeatureChange)>, Reject> {
        let pairs = pairs.map_or(&[][..], |pairs| &pairs.0);
        self.check_attributes(pairs.len(), "names in `features`")?;
        let mut changes: Vec<(Id, FeatureChange)> = Vec::with_capacity(pairs.len());
        for (name, of_name) in pairs {
            let id = self.ids.number(scope, name);
            let change = match self.number(scope, "features", (&**name, of_name))? {
                Some(number) => FeatureChange::Number(number.value),
                None => {
                    let mut values: Vec<Id> = self.categories(hash, name, of_name).collect();
                    values.sort_unstable();
                    values.dedup();
                    FeatureChange::Values(values)
                }
            };
            // Of a name that comes twice the first value counts, as elsewhere.
            if changes.iter().all(|(known, _)| *known != id) {
                changes.push((id, change));
            }
        }
        Ok(changes)
    }
}

/// Number of values that a change sets.
pub(super) fn n_values(change: &FeatureChange) -> usize {
    match change {
        FeatureChange::Values(values) => values.len(),
        FeatureChange::Number(_) => 1,
    }
}
