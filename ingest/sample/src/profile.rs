//! Profiles of users: values of a user that hold for every request, as age, country or plan.

use serde::{Deserialize, Serialize};

use crate::named_features::{FeatureChange, Features};
use crate::{EventTime, Id, Number};

/// A change of a user's profile: a new version, some fields, or its deletion.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProfileUpdate {
    /// The user.
    pub user: Id,
    /// Event time of this version; an older version never replaces a newer one.
    pub ts: EventTime,
    /// Whether all features are removed before `features` are set: not so by a partial event.
    pub clears_features: bool,
    /// New values of features, by the hash of their names.
    pub features: Vec<(Id, FeatureChange)>,
    /// Whether the event deletes the profile.
    pub is_deletion: bool,
}

/// The newest known version of a user's profile; empty after its deletion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct UserProfile {
    /// Event time of this version.
    pub(crate) ts: EventTime,
    features: Features,
}

impl ProfileUpdate {
    /// The profile with the new values.
    pub(crate) fn apply(self, known: Option<&UserProfile>) -> UserProfile {
        let old = known.map_or_else(Features::default, |known| known.features.clone());
        UserProfile {
            ts: self.ts,
            features: old.change(self.clears_features, self.features),
        }
    }
}

impl UserProfile {
    /// The categorical values, sorted.
    pub(crate) fn values(&self) -> impl Iterator<Item = Id> + '_ {
        self.features.values.iter().map(|(_, value)| *value)
    }

    /// The numeric values, sorted by name.
    pub(crate) fn numbers(&self) -> &[Number] {
        &self.features.numbers
    }
}
