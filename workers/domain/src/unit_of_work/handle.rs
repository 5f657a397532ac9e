//! Handles of the states that a command has looked up.

use std::{
    marker::PhantomData,
    ops::{Index, IndexMut},
};

use super::UnitOfWork;
use crate::state::Stored;

/// Names a state of this kind in the unit of work that gave the handle.
/// [`UnitOfWork::roll_back`] ends all handles.
pub(crate) struct Handle<T> {
    pub(super) at: usize,
    kind: PhantomData<fn() -> T>,
}

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Handle<T> {}

impl<T> Handle<T> {
    pub(super) fn new(at: usize) -> Self {
        Self { at, kind: PhantomData }
    }
}

impl<T: Stored> Index<Handle<T>> for UnitOfWork<'_> {
    type Output = T;

    fn index(&self, handle: Handle<T>) -> &T {
        T::of(&self.states[handle.at]).expect("a handle is made for a state of its kind")
    }
}

impl<T: Stored> IndexMut<Handle<T>> for UnitOfWork<'_> {
    fn index_mut(&mut self, handle: Handle<T>) -> &mut T {
        let state = self.states[handle.at].to_mut();
        T::of_mut(state).expect("a handle is made for a state of its kind")
    }
}
