//! Queries of ownership: a cart belongs to its owner and its members, an order to those of its
//! cart, a payment to those of its target and to its payer.

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

/// The users that an aggregate belongs to.
#[derive(Debug, Default, PartialEq)]
pub struct Ownership {
    users: Vec<String>,
    /// The cart still belongs to its session: whoever knows its id may claim it. A team cart may
    /// not be claimed, since all who were invited know its id: it goes with another cart of the
    /// session.
    is_claimable: bool,
}

impl Ownership {
    /// Returns true if the aggregate belongs to this user.
    #[must_use]
    pub fn is_owned_by(&self, user: &Token) -> bool {
        self.users.iter().any(|owner| owner == user.as_str())
    }

    /// Returns true if it belongs to this user, or to a session from which the user may claim it.
    #[must_use]
    pub fn may_be_claimed_by(&self, user: &Token) -> bool {
        self.is_claimable || self.is_owned_by(user)
    }

    fn new(
        payer: Option<String>,
        owner: Option<String>,
        session: Option<String>,
        is_team: bool,
        members: Vec<CartMember>,
    ) -> Self {
        let of_session = owner.is_some() && owner == session;
        let members = members.into_iter().map(|member| member.user);
        let users = owner.into_iter().chain(members);
        // A session is no user, even where a user has its name.
        let users = users.filter(|user| !of_session || Some(user) != session.as_ref());
        Self { users: users.chain(payer).collect(), is_claimable: of_session && !is_team }
    }
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
                      payer, owner, session, is_team, members
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
                let is_team = row.is_team.unwrap_or_default();
                let ownership = Ownership::new(row.payer, row.owner, row.session, is_team, members);
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
        Ownership::new(some(payer), some(owner), some(session), !members.is_empty(), members)
    }

    #[test]
    fn a_thing_is_its_owners_its_members_and_its_payers() {
        let token = |text| Token::new(text).expect("a token");
        let team = ownership("dan", "ada", "s1", &["ada", "bob"]);
        for (user, expected) in [("ada", true), ("bob", true), ("dan", true), ("s1", false)] {
            assert_eq!(team.is_owned_by(&token(user)), expected, "{user}");
            assert_eq!(team.may_be_claimed_by(&token(user)), expected, "{user}");
        }
        let of_session = ownership("", "s1", "s1", &["s1", "bob"]);
        assert!(!of_session.is_owned_by(&token("s1")) && of_session.is_owned_by(&token("bob")));
        assert!(!of_session.may_be_claimed_by(&token("eve")));
        assert!(ownership("", "s1", "s1", &[]).may_be_claimed_by(&token("eve")));
        assert!(!ownership("", "", "", &[]).may_be_claimed_by(&token("eve")));
    }
}
