//! The generations of a tenant's users, by their names.

use brigade_contracts::{
    Token,
    permissions::{NatsUser, tenant_users},
};

use super::AccountUser;

/// Returns a user of the first generation as one of another.
pub fn of_generation(user: NatsUser, generation: u32) -> NatsUser {
    match generation {
        1 => user,
        n => NatsUser { name: format!("{}-{n}", user.name), ..user },
    }
}

/// Returns the generation of a user name, if it is one of the user with this first name.
pub fn generation_of(first: &str, name: &str) -> Option<u32> {
    match name.strip_prefix(first)? {
        "" => Some(1),
        suffix => suffix.strip_prefix('-')?.parse().ok().filter(|n| *n > 1),
    }
}

/// Returns the generation of a user of a tenant, if it is one.
pub fn generation(tenant: &Token, name: &str) -> Option<u32> {
    tenant_users(tenant).iter().find_map(|user| generation_of(&user.name, name))
}

/// Returns the generations that there are, in order.
pub fn generations(tenant: &Token, entries: &[AccountUser]) -> Vec<u32> {
    let found = entries.iter().filter_map(|entry| generation(tenant, &entry.user));
    let mut found: Vec<_> = found.collect();
    found.sort_unstable();
    found.dedup();
    found
}
