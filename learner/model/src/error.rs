//! What can go wrong with a model.

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A dense weight the configuration asks for is not there.
    #[error("the model's configuration needs the weight {name:?}, which is not among the {n_present} given")]
    MissingWeight {
        /// Which.
        name: String,
        /// How many there are.
        n_present: usize,
    },
    /// A dense weight has another shape than the configuration asks for.
    #[error("the weight {name:?} has shape {found:?}, the configuration asks for {expected:?}")]
    WrongShape {
        /// Which.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape asked for.
        expected: Vec<usize>,
    },
    /// Rows whose parts do not fit together.
    #[error("cannot build table {table:?} from {n_ids} ids and {n_values} values of {stride} a row")]
    WrongRows {
        /// Which table.
        table: &'static str,
        /// Ids given.
        n_ids: usize,
        /// Values given.
        n_values: usize,
        /// Values in a row.
        stride: usize,
    },
    /// Times of rows that are not those of the table.
    #[error("cannot tell {n_rows} rows of table {table:?} when they were seen from {n_seen} times")]
    WrongSeen {
        /// Which table.
        table: &'static str,
        /// Its rows.
        n_rows: usize,
        /// Times given.
        n_seen: usize,
    },
    /// libtorch refused.
    #[error("libtorch failed: {0}")]
    Torch(#[from] tch::TchError),
}
