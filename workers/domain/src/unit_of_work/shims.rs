use super::*;
use crate::state::{Cart, Order, Payment, Table, User};
macro_rules! copies { ($($f:ident $t:ident),*) => { impl UnitOfWork<'_> { $(pub fn $f(&mut self, a: &Address) -> Result<Option<$t>> { Ok(self.find::<$t>(a)?.cloned()) })* } } }
copies!(cart Cart, order Order, payment Payment, table Table, user User);
impl UnitOfWork<'_> {
    pub fn put<T: Stored>(&mut self, state: T) -> Handle<T> {
        let state = state.into();
        match self.states.iter().position(|s| s.head().address == state.head().address) {
            Some(at) => {
                self.states[at] = Cow::Owned(state);
                Handle { at, kind: PhantomData }
            }
            None => {
                self.states.push(Cow::Owned(state));
                Handle { at: self.states.len() - 1, kind: PhantomData }
            }
        }
    }
    pub fn put_record<T: Stored>(&mut self, state: T, kind: event::Kind, data: &impl Serialize) {
        let handle = self.put(state);
        self.record(handle, kind, data);
    }
    pub fn again(&self, cart: Cart) -> Cart {
        self.changed()
            .find(|s| s.head().address == cart.head.address)
            .and_then(State::cart)
            .cloned()
            .unwrap_or(cart)
    }
    pub fn lock_row(&self, lock: &Address) -> Option<&Lock> {
        self.present(lock).and_then(State::lock)
    }
}
