//! Turns parsed events of the stream `users` into changes of profiles.

use ouzel_sample::{Event, IdKind, IdSpace, NumberScope, ProfileUpdate};

use super::decoder::{Decoder, Parsed};
use super::feature_changes::n_values;
use super::wire;

impl Decoder {
    /// The change of a profile: whole, partial or its deletion.
    pub(super) fn profile(&self, wire: &wire::User<'_>, timestamp_ms: Option<i64>) -> Parsed {
        let user = self.id(IdKind::User, "user_id", wire.user_id.as_ref())?;
        let ts = self.event_time(wire.ts_ms, timestamp_ms)?;
        let is_deletion = wire.deleted == Some(true);
        let given = wire.features.as_ref().filter(|_| !is_deletion);
        // Numbers of a user are numbers of the user's requests.
        let features = self.feature_changes(NumberScope::Context, IdSpace::profile_attribute, given)?;
        let n_values = features.iter().map(|(_, change)| n_values(change)).sum();
        self.check_attributes(n_values, "attributes")?;
        let is_partial = wire.partial == Some(true) && !is_deletion;
        let update = ProfileUpdate {
            user,
            ts,
            clears_features: !is_partial || wire.nulls.contains(&"features"),
            features,
            is_deletion,
        };
        Ok((Event::Profile(Box::new(update)), wire::names(&wire.unread)))
    }
}
