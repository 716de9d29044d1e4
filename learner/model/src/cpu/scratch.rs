//! Large buffers, kept by a thread from pass to pass: new ones would be filled with zeros, page by page, before a loop
//! writes all of them again.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Buffers kept at most, count: those of one step.
const KEPT: usize = 16;

thread_local! {
    static SPARE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Numbers that are whatever they were last, for who writes before it reads.
#[derive(Debug, Default)]
pub(super) struct ScratchBuffer(Vec<f32>);

impl ScratchBuffer {
    /// `n` of them: the smallest buffer that has room, or else the largest, made larger.
    pub(super) fn new(n: usize) -> Self {
        let found = SPARE.with_borrow_mut(|spare| {
            let (room, most) = (|v: &Vec<f32>| v.capacity() >= n, Vec::capacity);
            let all = || spare.iter().enumerate();
            let fits = all().filter(|(_, v)| room(v)).min_by_key(|(_, v)| most(v));
            let (at, _) = fits.or_else(|| all().max_by_key(|(_, v)| most(v)))?;
            Some(spare.swap_remove(at))
        });
        let mut numbers = found.unwrap_or_default();
        numbers.resize(n, 0.0);
        Self(numbers)
    }
}

impl Drop for ScratchBuffer {
    fn drop(&mut self) {
        let numbers = std::mem::take(&mut self.0);
        // A thread that ends has let go of its own already.
        let _is_kept = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if numbers.capacity() > 0 && spare.len() < KEPT {
                spare.push(numbers);
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
    fn a_buffer_is_taken_again_and_has_as_many_numbers_as_were_asked_for() {
        let mut large = ScratchBuffer::new(1000);
        large.fill(7.0);
        let place = large.as_ptr();
        drop(ScratchBuffer::new(10));
        drop(large);
        let again = ScratchBuffer::new(900);
        assert_eq!((again.as_ptr(), again.len()), (place, 900));
        assert!(again.iter().all(|x| *x > 6.0), "nothing was written");
        // Another at the same time is another one.
        let mut other = ScratchBuffer::new(900);
        other.fill(1.0);
        assert!(again.iter().all(|x| *x > 6.0));
        assert!(ScratchBuffer::new(0).is_empty());
    }
}
