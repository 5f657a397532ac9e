//! The additional inputs of commands about users. They are loaded last: users are the last in the
//! order in which everybody locks.

use std::{collections::BTreeSet, io};

use brigade_contracts::{Address, Aggregate, Body, Command, Token, user::Verb};
use brigade_domain::{
    Missing, State,
    user::{AuthInputs, FailureKey, Throttle, keys_of},
};
use rand::{TryRngCore, rngs::OsRng};
use sqlx::{Postgres, Transaction};

use super::load_batch::LoadedBatch;
use crate::store::{login_failures, people, rows::keys, users};

/// Each `login` and `refresh` makes two tokens.
const RANDOMS: usize = 2;

/// The inputs that commands need.
#[derive(Default)]
struct AuthPlan {
    emails: BTreeSet<(Token, String)>,
    failures: BTreeSet<FailureKey>,
    randoms: usize,
}

/// Locks the users of a batch and loads them into `loaded`, with the inputs that their commands
/// need. Does nothing without users.
///
/// # Errors
/// If Postgres refuses, or if the system has no random numbers.
pub async fn load_auth_inputs(
    tx: &mut Transaction<'_, Postgres>,
    commands: &[&Command],
    missing: &BTreeSet<Missing>,
    loaded: &mut LoadedBatch,
) -> sqlx::Result<AuthInputs> {
    let is_user = |address: &&Address| address.aggregate == Aggregate::User;
    if !loaded.locked.addresses.iter().any(|address| is_user(&address)) {
        return Ok(AuthInputs::default());
    }
    for tenant in missing.iter().filter_map(managed) {
        // Whoever is one no more when he is locked is seen as what he is then.
        let managers = people::managers(&mut **tx, tenant).await?;
        loaded.locked.addresses.extend(managers.iter().cloned());
        loaded.locked.managers.insert(tenant.clone(), managers);
    }
    let addresses: Vec<Address> = loaded.locked.addresses.iter().filter(is_user).cloned().collect();
    lock(tx, &addresses).await?;
    // A statement of its own, which begins when they are locked.
    let found = users::load(&mut **tx, addresses.iter()).await?;
    loaded.states.extend(found.into_iter().map(State::User));
    let plan = AuthPlan::of(commands, missing);
    if !plan.emails.is_empty() {
        let emails: Vec<_> = plan.emails.into_iter().collect();
        loaded.locked.emails = people::owners(&mut **tx, &emails).await?;
    }
    let mut throttle = Throttle::default();
    if !plan.failures.is_empty() {
        let keys: Vec<_> = plan.failures.into_iter().collect();
        throttle = Throttle::new(login_failures::count(&mut **tx, &keys).await?.1);
    }
    let mut randoms = vec![[0; 32]; plan.randoms];
    for random in &mut randoms {
        OsRng.try_fill_bytes(random).map_err(|error| sqlx::Error::Io(io::Error::other(error)))?;
    }
    Ok(AuthInputs { randoms, throttle })
}

/// Returns the tenant whose managers are missing.
fn managed(missing: &Missing) -> Option<&Token> {
    match missing {
        Missing::Managers(tenant) => Some(tenant),
        _ => None,
    }
}

async fn lock(tx: &mut Transaction<'_, Postgres>, addresses: &[Address]) -> sqlx::Result<()> {
    let (tenants, ids) = keys(Aggregate::User, addresses.iter());
    sqlx::query!(
        "select from unnest($1::text[], $2::text[]) as requested (tenant, id)
           join brigade.users u using (tenant, id)
           order by u.tenant, u.id for update of u",
        &tenants as _,
        &ids as _,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

impl AuthPlan {
    fn of(commands: &[&Command], missing: &BTreeSet<Missing>) -> Self {
        let mut plan = Self::default();
        for command in commands {
            plan.add(command);
        }
        for missing in missing {
            match missing {
                Missing::Email(tenant, email) => {
                    plan.emails.insert((tenant.clone(), email.clone()));
                }
                Missing::Failures(key) => {
                    plan.failures.insert(key.clone());
                }
                Missing::Random => plan.randoms += 1,
                _ => {}
            }
        }
        plan
    }

    fn add(&mut self, command: &Command) {
        let Ok(Body::User(verb)) = command.request.as_ref().map(|request| &request.body) else {
            return;
        };
        self.failures.extend(keys_of(command));
        let email = match verb {
            Verb::Register(payload) => Some(&payload.email),
            Verb::ChangeEmail(payload) => Some(&payload.email),
            Verb::Login(_) | Verb::Refresh(_) => {
                self.randoms += RANDOMS;
                None
            }
            Verb::RequestPasswordReset(_) => {
                self.randoms += 1;
                None
            }
            _ => None,
        };
        self.emails.extend(email.map(|email| (command.tenant.clone(), email.folded())));
    }
}
