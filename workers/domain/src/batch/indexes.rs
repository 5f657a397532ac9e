//! Everything that later commands of a batch find by something else than an address, kept up to date.

use std::collections::BTreeSet;

use brigade_contracts::{Address, Token, cart::Status};

use super::BatchState;
use crate::state::State;

impl BatchState {
    /// Lets later commands see who has an email now.
    pub(super) fn move_email(&mut self, address: &Address, before: Option<&State>) {
        let key = |state: &State| {
            let user = state.user()?;
            Some((address.tenant.clone(), user.email.folded()))
        };
        let emails = &mut self.loaded.locked.emails;
        if let Some(owner) = before.and_then(key).and_then(|key| emails.get_mut(&key)) {
            *owner = None;
        }
        if let Some(key) = self.loaded.states.get(address).and_then(key) {
            emails.insert(key, Some(address.clone()));
        }
    }

    /// Lets later commands see how many open carts there are now.
    pub(super) fn count_open(&mut self, address: &Address, before: Option<&State>) {
        let names = |state: Option<&State>| {
            let cart = state.and_then(State::cart).filter(|cart| cart.status == Status::Open);
            let names =
                cart.into_iter().flat_map(|cart| [Some(&cart.owner), cart.session.as_ref()]);
            names.flatten().cloned().collect::<BTreeSet<Token>>()
        };
        let (before, after) = (names(before), names(self.loaded.states.get(address)));
        for name in before.symmetric_difference(&after) {
            let key = (address.tenant.clone(), name.clone());
            let Some(count) = self.loaded.locked.open_carts.get_mut(&key) else { continue };
            *count = if after.contains(name) { *count + 1 } else { count.saturating_sub(1) };
        }
    }

    /// Lets later commands see how many orders of an owner are pending now.
    pub(super) fn count_pending(&mut self, address: &Address, before: Option<&State>) {
        let owner = |state: Option<&State>| {
            let order = state.and_then(State::order).filter(|order| order.is_pending())?;
            order.owner.clone()
        };
        let (before, after) = (owner(before), owner(self.loaded.states.get(address)));
        if before == after {
            return;
        }
        let Some(owner) = after.as_ref().or(before.as_ref()) else { return };
        let key = (address.tenant.clone(), owner.clone());
        if let Some(count) = self.loaded.locked.pending_orders.get_mut(&key) {
            *count = if after.is_some() { *count + 1 } else { count.saturating_sub(1) };
        }
    }

    /// Puts what is new into the list that it belongs to.
    pub(super) fn list(&mut self, address: &Address) {
        let key = |id: &Token| (address.tenant.clone(), id.clone());
        let list = match self.loaded.states.get(address) {
            Some(State::Cart(cart)) => {
                cart.session.as_ref().and_then(|id| self.loaded.locked.sessions.get_mut(&key(id)))
            }
            Some(State::Order(order)) => order
                .turn_id
                .as_ref()
                .and_then(|id| self.loaded.locked.turn_orders.get_mut(&key(id))),
            _ => None,
        };
        if let Some(list) = list {
            list.push(address.clone());
        }
    }
}
