//! Checks the passwords of a batch before it is decided.

use brigade_contracts::{Address, Body, Command, Secret, user::Verb};
use brigade_domain::user::{Checked, MOST_FAILURES, Verified, keys_of};
use futures::future::join_all;
use sqlx::{PgConnection, PgPool};

use super::{passwords::Passwords, tenants::active};
use crate::{
    infra::postgres::bounded,
    store::{login_failures, users::password_hashes},
};

/// Returns whether the password of a command has to be hashed or verified before it is decided.
#[must_use]
pub fn needs_password(command: &Command) -> bool {
    matches!(verb(command), Some((_, Verb::Register(_) | Verb::Login(_))))
}

/// A password that has to be hashed or verified.
enum PasswordTask<'a> {
    Hash(&'a Secret),
    Verify { password: &'a Secret, email_folded: String, seen: Option<Secret> },
}

/// Hashes or verifies the passwords of commands. Returns one result a command: `None` without a
/// password, and where none could or need be checked. The decision of a command that cannot be
/// decided without it then reports it as missing.
///
/// For a tenant that is not active nothing is hashed: its commands are refused.
///
/// Logins that have failed too often are not verified: they are refused whatever the password is,
/// and guessing would otherwise still cost the time of all others.
///
/// # Errors
/// If Postgres refuses.
pub async fn check(
    passwords: &Passwords,
    postgres: &PgPool,
    commands: &[Command],
) -> sqlx::Result<Vec<Option<Checked>>> {
    // Hashing takes long: the connection goes back before it.
    let tasks = bounded(postgres, async |connection| tasks(connection, commands).await).await?;
    Ok(join_all(tasks.into_iter().map(async |task| carry_out(passwords, task?).await)).await)
}

async fn tasks<'a>(
    postgres: &mut PgConnection,
    commands: &'a [Command],
) -> sqlx::Result<Vec<Option<PasswordTask<'a>>>> {
    let of_commands = commands.iter().map(|command| command.tenant.as_str()).collect::<Vec<_>>();
    let active = active(&mut *postgres, &of_commands).await?;
    let is_active = |command: &&Command| active.contains(command.tenant.as_str());
    let registrations = commands.iter().map(|c| Some(c).filter(is_active).and_then(registration));
    let mut tasks: Vec<_> = registrations.collect();
    let active = commands.iter().enumerate().filter(|(_, command)| is_active(command));
    let logins: Vec<_> = active.filter_map(|(at, command)| login(at, command)).collect();
    if !logins.is_empty() {
        let users: Vec<_> =
            logins.iter().map(|(_, user, email, _)| (*user, email.clone())).collect();
        let hashes = password_hashes(&mut *postgres, &users).await?;
        let keys: Vec<_> = logins.iter().flat_map(|(at, ..)| keys_of(&commands[*at])).collect();
        let mut counts = login_failures::count(&mut *postgres, &keys).await?;
        counts.retain(|(_, count)| count.failures >= MOST_FAILURES);
        let stopped = |at: usize| {
            let keys = keys_of(&commands[at]);
            counts.iter().any(|(key, _)| keys.contains(key))
        };
        for ((at, _, email_folded, password), seen) in logins.into_iter().zip(hashes) {
            if !stopped(at) {
                tasks[at] = Some(PasswordTask::Verify { password, email_folded, seen });
            }
        }
    }
    Ok(tasks)
}

async fn carry_out(passwords: &Passwords, task: PasswordTask<'_>) -> Option<Checked> {
    let checked = match task {
        PasswordTask::Hash(password) => passwords.hash(password.clone()).await.map(Checked::Hashed),
        PasswordTask::Verify { password, email_folded, seen } => {
            let verified = passwords.verify(password.clone(), seen.as_ref()).await;
            verified.map(|ok| {
                Checked::Verified(Verified { email_folded, password_hash_seen: seen, ok })
            })
        }
    };
    checked.inspect_err(|error| tracing::error!(%error, "a password was not checked")).ok()
}

fn verb(command: &Command) -> Option<(&Address, &Verb)> {
    let request = command.request.as_ref().ok()?;
    if let Body::User(verb) = &request.body { Some((&request.address, verb)) } else { None }
}

fn registration(command: &Command) -> Option<PasswordTask<'_>> {
    let (_, Verb::Register(register)) = verb(command)? else { return None };
    Some(PasswordTask::Hash(&register.password))
}

/// Returns the position of a login in the batch, its user, the folded email and the password.
fn login(at: usize, command: &Command) -> Option<(usize, &Address, String, &Secret)> {
    let (user, Verb::Login(login)) = verb(command)? else { return None };
    Some((at, user, login.email.folded(), &login.password))
}

#[cfg(test)]
mod tests;
