//! Planted bugs: what the property tests must be able to catch.
//!
//! Only a test can set one; a joiner in production has none.

/// One mistake that a joiner could make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A second copy of an impression replaces the first.
    ForgetImpressionDedup,
    /// A second copy of an action is joined again.
    ForgetActionDedup,
    /// An action at the very end of its window is late.
    WindowEdge,
    /// A window closes one millisecond too soon.
    CloseTooSoon,
    /// An action dated exactly the allowed skew before its impression does not count.
    SkewEdge,
    /// The watermark does not wait for the actions.
    IgnoreActionsWatermark,
    /// An impression does not look for the actions that came before it.
    ForgetEarlyActions,
    /// A closed request is not remembered.
    ForgetClosed,
    /// A positive is told before its item was told as a negative.
    PositiveFirst,
}

impl Fault {
    /// Every fault.
    #[cfg(test)]
    pub(crate) const ALL: [Fault; 9] = [
        Fault::ForgetImpressionDedup,
        Fault::ForgetActionDedup,
        Fault::WindowEdge,
        Fault::CloseTooSoon,
        Fault::SkewEdge,
        Fault::IgnoreActionsWatermark,
        Fault::ForgetEarlyActions,
        Fault::ForgetClosed,
        Fault::PositiveFirst,
    ];
}
