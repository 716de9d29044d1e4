//! Large buffers that a thread reuses from step to step: a new one would be filled with zeros, page by page, before a loop
//! overwrites all of it.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Most free buffers of a thread: those of one step.
const MAX_FREE: usize = 16;

thread_local! {
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// A scratch buffer with unspecified contents: write before reading. Dropping it returns it to its thread.
#[derive(Debug, Default)]
pub(super) struct ScratchBuffer(Vec<f32>);

impl ScratchBuffer {
    /// A buffer of `n` floats: the smallest free one with that capacity, or else the largest, grown.
    pub(super) fn new(n: usize) -> Self {
        let free = FREE.with_borrow_mut(|free| {
            let all = || free.iter().enumerate();
            let fits = all().filter(|(_, buffer)| buffer.capacity() >= n);
            let smallest = fits.min_by_key(|(_, buffer)| buffer.capacity());
            let (at, _) = smallest.or_else(|| all().max_by_key(|(_, buffer)| buffer.capacity()))?;
            Some(free.swap_remove(at))
        });
        let mut buffer = free.unwrap_or_default();
        buffer.resize(n, 0.0);
        Self(buffer)
    }
}

impl Drop for ScratchBuffer {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        // A thread that ends has dropped its free list already.
        let _is_returned = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            if buffer.capacity() > 0 && free.len() < MAX_FREE {
                free.push(buffer);
            }
        });
    }
}

impl Deref for ScratchBuffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for ScratchBuffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_reused_with_its_contents() {
        let mut large = ScratchBuffer::new(1000);
        large.fill(7.0);
        let place = large.as_ptr();
        drop(ScratchBuffer::new(10));
        drop(large);
        let again = ScratchBuffer::new(900);
        assert_eq!((again.as_ptr(), again.len()), (place, 900));
        assert!(again.iter().all(|x| *x > 6.0), "the contents were overwritten");
        // Two buffers in use at a time do not overlap.
        let mut other = ScratchBuffer::new(900);
        other.fill(1.0);
        assert!(again.iter().all(|x| *x > 6.0));
        assert!(ScratchBuffer::new(0).is_empty());
    }
}
