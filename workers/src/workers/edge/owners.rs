//! Whose a thing is: a cart its owner's and its members', an order that of its cart's, a payment
//! that of its target's and its payer's.

use std::{collections::HashMap, sync::Arc};

use brigade_contracts::{Address, Aggregate, Token};
use serde::Deserialize;
use sqlx::PgConnection;

use super::together::Question;
use crate::store::rows::{parse, refused};

/// The users whose a thing is.
#[derive(Debug, Default, PartialEq)]
pub struct Owned {
    users: Vec<String>,
    /// A cart that is still its session's: whoever knows its id may claim it. Not a team cart,
    /// whose id is known to all who were invited: it goes with another one of the session.
    claimable: bool,
}

impl Owned {
    #[must_use]
    pub fn is_of(&self, user: &Token) -> bool {
        self.users.iter().any(|owner| owner == user.as_str())
    }

    #[must_use]
    pub fn may_be_claimed_by(&self, user: &Token) -> bool {
        self.claimable || self.is_of(user)
    }

    fn new(
        payer: Option<String>,
        owner: Option<String>,
        session: Option<String>,
        is_team: bool,
        members: Vec<Member>,
    ) -> Self {
        let of_session = owner.is_some() && owner == session;
        let members = members.into_iter().map(|member| member.user);
        let users = owner.into_iter().chain(members);
        // A session is no user, even where a user has its name.
        let users = users.filter(|user| !of_session || Some(user) != session.as_ref());
        Self { users: users.chain(payer).collect(), claimable: of_session && !is_team }
    }
}

#[derive(Deserialize)]
struct Member {
    user: String,
}

/// Asks whose carts, orders and payments are.
pub struct Owners;

impl Question for Owners {
    type Key = Address;
    type Row = Arc<Owned>;
    const AT_ONCE: usize = 3;
    /// With the members of a cart each.
    const MAX_KEYS: usize = 256;

    async fn ask(
        &self,
        connection: &mut PgConnection,
        addresses: &[Address],
    ) -> sqlx::Result<HashMap<Address, Arc<Owned>>> {
        let text = |f: fn(&Address) -> &str| addresses.iter().map(f).collect::<Vec<_>>();
        let rows = sqlx::query_file!(
            "src/workers/edge/owners.sql",
            &text(|a| a.tenant.as_str()) as _,
            &text(|a| a.aggregate.as_str()) as _,
            &text(|a| a.id.as_str()) as _,
        )
        .fetch_all(connection)
        .await?;
        rows.into_iter()
            .map(|row| {
                let aggregate = Aggregate::parse(&row.aggregate).ok_or(sqlx::Error::RowNotFound)?;
                let address = Address::new(&row.tenant, aggregate, &row.id).map_err(refused)?;
                let members = row.members.as_deref().map_or(Ok(Vec::new()), parse)?;
                let owned = Owned::new(
                    row.payer,
                    row.owner,
                    row.session,
                    row.is_team.unwrap_or_default(),
                    members,
                );
                Ok((address, Arc::new(owned)))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(payer: &str, owner: &str, session: &str, members: &[&str]) -> Owned {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let members: Vec<_> =
            members.iter().map(|user| Member { user: (*user).to_owned() }).collect();
        Owned::new(some(payer), some(owner), some(session), !members.is_empty(), members)
    }

    #[test]
    fn a_thing_is_its_owners_its_members_and_its_payers() {
        let token = |text| Token::new(text).expect("a token");
        let team = owned("dan", "ada", "s1", &["ada", "bob"]);
        for (user, expected) in [("ada", true), ("bob", true), ("dan", true), ("s1", false)] {
            assert_eq!(team.is_of(&token(user)), expected, "{user}");
            assert_eq!(team.may_be_claimed_by(&token(user)), expected, "{user}");
        }
        let of_session = owned("", "s1", "s1", &["s1", "bob"]);
        assert!(!of_session.is_of(&token("s1")) && of_session.is_of(&token("bob")));
        assert!(!of_session.may_be_claimed_by(&token("eve")));
        assert!(owned("", "s1", "s1", &[]).may_be_claimed_by(&token("eve")));
        assert!(!owned("", "", "", &[]).may_be_claimed_by(&token("eve")));
    }
}
