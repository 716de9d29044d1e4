//! The macro that declares a crate's metrics: name, unit and help text in one place.

/// Declares metric names as constants, and `describe()`, which registers their units and help texts.
///
/// A crate that uses it depends on `metrics`.
///
/// ```ignore
/// ouzel_sample::metric_names! {
///     counter REQUESTS = "ouzel_room_requests_total", Count, "Requests answered.";
/// }
/// ```
#[macro_export]
macro_rules! metric_names {
    ($($kind:ident $constant:ident = $name:literal, $unit:ident, $help:literal;)*) => {
        $(#[doc = $help] pub const $constant: &str = $name;)*

        /// Registers the unit and help text of every metric. Call it once, after installing the recorder.
        pub fn describe() {
            $($crate::metric_names!(@describe $kind $constant, $unit, $help);)*
        }
    };
    (@describe counter $constant:ident, $unit:ident, $help:literal) => {
        ::metrics::describe_counter!($constant, ::metrics::Unit::$unit, $help)
    };
    (@describe gauge $constant:ident, $unit:ident, $help:literal) => {
        ::metrics::describe_gauge!($constant, ::metrics::Unit::$unit, $help)
    };
    (@describe histogram $constant:ident, $unit:ident, $help:literal) => {
        ::metrics::describe_histogram!($constant, ::metrics::Unit::$unit, $help)
    };
}
