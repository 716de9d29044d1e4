//! The values of an array in memory: owned, or shared page by page with the learner.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// A run of values that others may hold too, such as a copy-on-write page of embedding rows.
pub type SharedChunk<T> = Arc<dyn AsRef<[T]> + Send + Sync>;

/// The values of an array, in order.
#[derive(Clone)]
pub enum Chunks<T> {
    /// One owned run.
    Owned(Vec<T>),
    /// Shared runs, one after the other.
    Shared(Vec<SharedChunk<T>>),
}

impl<T> Chunks<T> {
    pub(crate) fn runs(&self) -> impl Iterator<Item = &[T]> {
        let (owned, shared) = match self {
            Chunks::Owned(values) => (Some(values.as_slice()), [].as_slice()),
            Chunks::Shared(chunks) => (None, chunks.as_slice()),
        };
        owned
            .into_iter()
            .chain(shared.iter().map(|chunk| (**chunk).as_ref()))
    }

    /// All values as one slice, copied only when there are several runs.
    pub(crate) fn to_slice(&self) -> Cow<'_, [T]>
    where
        T: Copy,
    {
        match self {
            Chunks::Owned(values) => Cow::Borrowed(values),
            Chunks::Shared(chunks) => match chunks.as_slice() {
                [one] => Cow::Borrowed((**one).as_ref()),
                _ => Cow::Owned(self.runs().flatten().copied().collect()),
            },
        }
    }
}

/// Shows the number of values only; a table has millions.
impl<T> fmt::Debug for Chunks<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} values", self.runs().map(<[T]>::len).sum::<usize>())
    }
}
