//! Queries of ownership: of whom a cart is and who is a member of it; the same of an order by its
//! cart; of a payment by the cart that it pays, and who pays it.
//!
//! What is answered here keeps requests away that are not for their senders. Whether a command may
//! be done is decided again with its aggregate locked.

use std::{collections::HashMap, sync::Arc};

use brigade_contracts::{Address, Aggregate, Era, Token};
use serde::Deserialize;
use sqlx::PgConnection;

use super::{
    batch_loader::BatchLoader,
    database::{LoadError, ReadDatabase},
    loader::{AddressColumns, Loader},
};
use crate::store::rows::{parse, refused};

/// Answers queries of ownership.
pub struct Owners {
    ownerships: BatchLoader<OwnerLoader>,
}

impl Owners {
    /// Reads owners from this database.
    #[must_use]
    pub fn new(database: &Arc<ReadDatabase>) -> Self {
        Self { ownerships: BatchLoader::new(database, OwnerLoader) }
    }

    /// Returns the owners of an aggregate; of one that does not exist, nobody.
    ///
    /// # Errors
    /// If Postgres does not answer.
    pub async fn get(&self, address: Address) -> Result<Arc<Ownership>, LoadError> {
        Ok(self.ownerships.load(address).await?.unwrap_or_default())
    }
}

/// The users that an aggregate belongs to. A session is none, even where a user has its name.
#[derive(Debug, Default, PartialEq)]
pub struct Ownership {
    owner: Option<String>,
    /// The owner among them, of a team cart.
    members: Vec<String>,
    payer: Option<String>,
}

impl Ownership {
    /// Returns true if the aggregate, or its cart, belongs to this user.
    #[must_use]
    pub fn is_owner(&self, user: &Token) -> bool {
        is(self.owner.as_ref(), user)
    }

    /// Returns true if the user owns it, or pays it.
    #[must_use]
    pub fn is_payer(&self, user: &Token) -> bool {
        self.is_owner(user) || is(self.payer.as_ref(), user)
    }

    /// Returns true if the user owns it, pays it, or is a member of its cart.
    #[must_use]
    pub fn is_participant(&self, user: &Token) -> bool {
        self.is_payer(user) || self.members.iter().any(|member| member == user.as_str())
    }

    fn new(
        payer: Option<String>,
        owner: Option<String>,
        session: Option<String>,
        members: Vec<CartMember>,
    ) -> Self {
        let is_of_session = owner.is_some() && owner == session;
        let is_user = |name: &String| !is_of_session || Some(name) != session.as_ref();
        let members = members.into_iter().map(|member| member.user).filter(is_user).collect();
        // Whoever paid as a session is none either.
        let payer = payer.filter(|payer| Some(payer) != session.as_ref());
        Self { owner: owner.filter(is_user), members, payer }
    }
}

fn is(name: Option<&String>, user: &Token) -> bool {
    name.is_some_and(|name| name == user.as_str())
}

/// A member of a cart, as the column `members` has it.
#[derive(Deserialize)]
struct CartMember {
    user: String,
}

/// Loads the owners of carts, orders and payments.
pub struct OwnerLoader;

impl Loader for OwnerLoader {
    type Key = Address;
    type Row = Arc<Ownership>;
    const CONCURRENCY: usize = 3;
    /// Each brings the members of a cart.
    const MAX_KEYS: usize = 256;

    async fn load(
        &self,
        connection: &mut PgConnection,
        era: Era,
        addresses: &[Address],
    ) -> sqlx::Result<HashMap<Address, Arc<Ownership>>> {
        let AddressColumns { tenants, aggregates, ids } = AddressColumns::new(addresses.iter());
        let rows = sqlx::query!(
            r#"select tenant as "tenant!", aggregate as "aggregate!", id as "id!",
                      payer, owner, session, members
               from brigade.read_owners($1, $2, $3, $4)"#,
            era.as_sql(),
            &tenants as _,
            &aggregates as _,
            &ids as _,
        )
        .fetch_all(connection)
        .await?;
        rows.into_iter()
            .map(|row| {
                let aggregate = Aggregate::parse(&row.aggregate).ok_or(sqlx::Error::RowNotFound)?;
                let address = Address::new(&row.tenant, aggregate, &row.id).map_err(refused)?;
                let members = row.members.as_deref().map_or(Ok(Vec::new()), parse)?;
                let ownership = Ownership::new(row.payer, row.owner, row.session, members);
                Ok((address, Arc::new(ownership)))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ownership(payer: &str, owner: &str, session: &str, members: &[&str]) -> Ownership {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let members: Vec<_> =
            members.iter().map(|user| CartMember { user: (*user).to_owned() }).collect();
        Ownership::new(some(payer), some(owner), some(session), members)
    }

    #[test]
    fn a_thing_is_its_owners_its_members_and_its_payers() {
        let of = |ownership: &Ownership, user: &str| {
            let user = Token::new(user).expect("a token");
            let (owner, payer) = (ownership.is_owner(&user), ownership.is_payer(&user));
            [owner, payer, ownership.is_participant(&user)]
        };
        let team = ownership("dan", "ada", "s1", &["ada", "bob"]);
        assert_eq!(of(&team, "ada"), [true, true, true]);
        assert_eq!(of(&team, "bob"), [false, false, true]);
        assert_eq!(of(&team, "dan"), [false, true, true]);
        assert_eq!(of(&team, "s1"), [false, false, false]);
        let of_session = ownership("s1", "s1", "s1", &["s1", "bob"]);
        assert_eq!(of(&of_session, "s1"), [false, false, false]);
        assert_eq!(of(&of_session, "bob"), [false, false, true]);
        // The session is a user by now, and what was paid is his.
        let claimed = ownership("s1", "ada", "s1", &[]);
        assert_eq!(of(&claimed, "s1"), [false, false, false]);
        assert_eq!(of(&claimed, "ada"), [true, true, true]);
        assert_eq!(of(&ownership("", "", "", &[]), "eve"), [false, false, false]);
    }
}
