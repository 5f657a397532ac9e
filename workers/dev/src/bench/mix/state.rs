use std::collections::VecDeque;

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use super::{
    TENANTS, TenantDistribution,
    command::{MixCommand, MixOrder, STEPS, Then},
};

/// The commands that were sent, and those that they make possible.
pub(super) struct MixState {
    pub(super) random: StdRng,
    pub(super) tenants: TenantDistribution,
    pub(super) carts: usize,
    /// Distinct commands so far.
    pub(super) made: u64,
    pub(super) orders: VecDeque<MixOrder>,
    pub(super) added: VecDeque<(usize, u64)>,
    pub(super) members: VecDeque<(usize, u64)>,
    pub(super) past: VecDeque<MixCommand>,
}

impl MixState {
    pub(super) fn new(carts: usize) -> Self {
        Self {
            random: StdRng::seed_from_u64(7),
            tenants: TenantDistribution::new(),
            carts,
            made: 0,
            orders: VecDeque::new(),
            added: VecDeque::new(),
            members: VecDeque::new(),
            past: VecDeque::new(),
        }
    }

    fn command(
        &mut self,
        tenant: usize,
        what: String,
        payload: &Value,
        status: &'static str,
        then: Then,
    ) -> MixCommand {
        self.made += 1;
        let (id, payload) = (format!("k{}", self.made), payload.to_string().into());
        MixCommand { id, tenant, what, payload, status, then }
    }

    pub(super) fn of_cart(
        &mut self,
        cart: usize,
        verb: &str,
        payload: &Value,
        status: &'static str,
        then: Then,
    ) -> MixCommand {
        self.command(cart % TENANTS, format!("cart.c{cart}.{verb}"), payload, status, then)
    }

    pub(super) fn place_anywhere(&mut self) -> MixCommand {
        let tenant = self.tenants.draw(&mut self.random);
        self.place(tenant)
    }

    pub(super) fn place(&mut self, tenant: usize) -> MixCommand {
        let number = self.made;
        let then = Then::Step(MixOrder { tenant, number, step: 0 });
        self.command(tenant, format!("order.o{number}.place"), &order(), "201", then)
    }

    pub(super) fn step(&mut self) -> Option<MixCommand> {
        let MixOrder { tenant, number, step } = self.orders.pop_front()?;
        // One of four: then 10 % of orders have 40 % of steps, all in all.
        if number.is_multiple_of(4) {
            let (what, reason) = (format!("order.o{number}.cancel"), json!({ "reason": "late" }));
            return Some(self.command(tenant, what, &reason, "200", Then::Nothing));
        }
        let then = Then::Step(MixOrder { tenant, number, step: step + 1 });
        let what = format!("order.o{number}.{}", STEPS[step]);
        Some(self.command(tenant, what, &json!({}), "200", then))
    }

    pub(super) fn commit(&mut self) -> Option<MixCommand> {
        let (cart, n) = self.members.pop_front()?;
        let user = json!({ "user": format!("m{n}") });
        Some(self.of_cart(cart, "commit_cod", &user, "200", Then::Nothing))
    }

    pub(super) fn change(&mut self) -> MixCommand {
        let tenant = self.tenants.draw(&mut self.random);
        let cart = tenant + TENANTS * self.random.random_range(0..self.carts / TENANTS);
        match (self.random.random_range(0..4), self.added.pop_front()) {
            (0, Some((cart, n))) => {
                let item = json!({ "item_id": format!("i{n}") });
                self.of_cart(cart, "remove_item", &item, "200", Then::Nothing)
            }
            (kind, added) => {
                self.added.extend(added);
                if kind == 1 {
                    let n = self.made;
                    let then = Then::Remove(cart, n);
                    return self.of_cart(cart, "add_item", &item(&format!("i{n}")), "200", then);
                }
                let quantity = self.random.random_range(1..100);
                let set = json!({ "item_id": "pizza", "quantity": quantity });
                self.of_cart(cart, "set_item", &set, "200", Then::Nothing)
            }
        }
    }
}

pub(super) fn item(id: &str) -> Value {
    json!({ "item_id": id, "sku": "P-1", "name": "Pizza Margherita", "unit_price": 1250,
            "quantity": 1 })
}

fn order() -> Value {
    json!({ "currency": "EUR", "items": [
        { "sku": "P-1", "name": "Pizza Margherita", "unit_price": 1250, "quantity": 2 },
        { "sku": "W-1", "name": "Water", "unit_price": 300, "quantity": 1 } ] })
}
