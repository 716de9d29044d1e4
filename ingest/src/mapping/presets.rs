//! Ready-made mappings, each the text of the section `[events]` that it stands for.

/// The ready-made mappings by name; `events.from` names the one to start from.
///
/// `ouzel` is the contract itself. It also reads one event per shown item.
pub const READY_MADE: [(&str, &str); 8] = [
    ("ouzel", ""),
    ("ga4", include_str!("presets/ga4.toml")),
    ("snowplow", include_str!("presets/snowplow.toml")),
    ("segment", include_str!("presets/segment.toml")),
    ("debezium", include_str!("presets/debezium.toml")),
    ("connect", include_str!("presets/connect.toml")),
    ("cloudevents", include_str!("presets/cloudevents.toml")),
    (
        "cloudevents-binary",
        include_str!("presets/cloudevents-binary.toml"),
    ),
];
