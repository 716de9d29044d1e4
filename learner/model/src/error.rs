//! Errors of this crate.

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A dense weight that the configuration asks for is missing.
    #[error(
        "the model's configuration asks for the weight {name}, which is not among the {n_present} weights given"
    )]
    MissingWeight {
        /// Name of the weight.
        name: String,
        /// Number of weights given.
        n_present: usize,
    },
    /// A dense weight has another shape than the configuration asks for.
    #[error("the weight {name} has the shape {found:?}, the model's configuration asks for {expected:?}")]
    WrongShape {
        /// Name of the weight.
        name: String,
        /// Shape of the weight given.
        found: Vec<usize>,
        /// Shape that the configuration asks for.
        expected: Vec<usize>,
    },
    /// Ids, values and free rows of a table that do not fit together.
    #[error(
        "cannot restore the table {table}: {n_ids} ids and {n_values} values do not make rows of {stride} values with distinct ids"
    )]
    WrongRows {
        /// Name of the table.
        table: &'static str,
        /// Number of ids given.
        n_ids: usize,
        /// Number of values given.
        n_values: usize,
        /// Values of a row, optimizer state included.
        stride: usize,
    },
    /// Last-seen times that are not those of the table's rows.
    #[error("cannot restore when rows of the table {table} were seen: {n_seen} times for {n_rows} rows")]
    WrongSeen {
        /// Name of the table.
        table: &'static str,
        /// Number of its rows.
        n_rows: usize,
        /// Number of times given.
        n_seen: usize,
    },
    /// libtorch returned an error.
    #[error("libtorch failed: {0}")]
    Torch(#[from] tch::TchError),
}
