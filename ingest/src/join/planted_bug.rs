//! Planted bugs: mistakes that the property tests must be able to catch.
//!
//! Only a test can set one; a joiner in production has none.

/// One mistake that a joiner could make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlantedBug {
    /// A second copy of an impression replaces the first.
    ForgetImpressionDedup,
    /// A second copy of an action is joined again.
    ForgetActionDedup,
    /// An action at the last millisecond of its window is late.
    WindowEdge,
    /// A window closes one millisecond too soon.
    CloseTooSoon,
    /// An action dated exactly the allowed skew before its impression does not count.
    SkewEdge,
    /// The watermark does not wait for the actions.
    IgnoreActionsWatermark,
    /// An impression ignores the actions that came before it.
    ForgetEarlyActions,
    /// A closed request is not remembered.
    ForgetClosed,
    /// A positive is emitted before the negatives of its request.
    PositiveFirst,
    /// A further impression of a request is joined with the items that were shown before.
    TakeItemTwice,
    /// Time follows every event, however far ahead it is.
    TrustEveryClock,
    /// An action without a request belongs to the first impression of its item instead of the last.
    FirstTouch,
}

impl PlantedBug {
    #[cfg(test)]
    pub(crate) const ALL: [PlantedBug; 12] = [
        PlantedBug::ForgetImpressionDedup,
        PlantedBug::ForgetActionDedup,
        PlantedBug::WindowEdge,
        PlantedBug::CloseTooSoon,
        PlantedBug::SkewEdge,
        PlantedBug::IgnoreActionsWatermark,
        PlantedBug::ForgetEarlyActions,
        PlantedBug::ForgetClosed,
        PlantedBug::PositiveFirst,
        PlantedBug::TakeItemTwice,
        PlantedBug::TrustEveryClock,
        PlantedBug::FirstTouch,
    ];
}
