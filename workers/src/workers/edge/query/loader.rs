//! The trait of statements that answer many queries at once, and the tenants of their keys.

use std::{collections::HashMap, future::Future, hash::Hash};

use brigade_contracts::{Address, Era, Token};
use sqlx::PgConnection;

use crate::runtime::consume::HasTenant;

/// A statement that reads the rows of many keys.
pub trait Loader: Send + Sync + 'static {
    type Key: HasTenant + Clone + Eq + Hash + Send + Sync + 'static;
    type Row: Clone + Send + Sync + 'static;
    /// The most statements under way.
    const CONCURRENCY: usize;
    /// The most keys of one statement: fewer where a key brings much, so that no statement is slow.
    const MAX_KEYS: usize = 1024;

    /// Reads the rows of these keys; keys without a row are left out of the result. A database in
    /// another era fails it.
    ///
    /// # Errors
    /// If Postgres fails the statement, or a row cannot be decoded.
    fn load(
        &self,
        connection: &mut PgConnection,
        era: Era,
        keys: &[Self::Key],
    ) -> impl Future<Output = sqlx::Result<HashMap<Self::Key, Self::Row>>> + Send;
}

/// Returns the key at a place, counted from 1 as SQL does.
///
/// # Errors
/// If there is none.
pub fn key_at<K>(keys: &[K], place: i64) -> sqlx::Result<&K> {
    let at = usize::try_from(place - 1).ok().and_then(|at| keys.get(at));
    at.ok_or(sqlx::Error::RowNotFound)
}

impl HasTenant for Token {
    fn tenant(&self) -> &str {
        self.as_str()
    }
}

impl HasTenant for Address {
    fn tenant(&self) -> &str {
        self.tenant.as_str()
    }
}

/// A key of which the first half names the tenant.
impl<K: HasTenant, T> HasTenant for (K, T) {
    fn tenant(&self) -> &str {
        self.0.tenant()
    }
}

/// Addresses as the arrays that a statement takes, one for each column, all in the same order.
pub struct AddressColumns<'a> {
    pub tenants: Vec<&'a str>,
    pub aggregates: Vec<&'a str>,
    pub ids: Vec<&'a str>,
}

impl<'a> AddressColumns<'a> {
    /// Splits addresses into columns.
    #[must_use]
    pub fn new(addresses: impl Iterator<Item = &'a Address> + Clone) -> Self {
        Self {
            tenants: addresses.clone().map(|address| address.tenant.as_str()).collect(),
            aggregates: addresses.clone().map(|address| address.aggregate.as_str()).collect(),
            ids: addresses.map(|address| address.id.as_str()).collect(),
        }
    }
}
