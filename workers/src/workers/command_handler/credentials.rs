//! What the passwords of a batch come to, before it is decided.

use brigade_contracts::{Address, Body, Command, Secret, user::Verb};
use brigade_domain::user::{Checked, MOST_FAILURES, Verified, keys_of};
use futures::future::join_all;
use sqlx::{PgConnection, PgPool};

use super::passwords::Passwords;
use crate::{
    infra::postgres::bounded,
    store::{login_failures, users::password_hashes},
};

/// Whether a command cannot be decided before its password is worked on.
#[must_use]
pub fn needs_password(command: &Command) -> bool {
    matches!(verb(command), Some((_, Verb::Register(_) | Verb::Login(_))))
}

/// A password that has to be worked on.
enum Task<'a> {
    Hash(&'a Secret),
    Verify { password: &'a Secret, email_folded: String, seen: Option<Secret> },
}

/// One for each command: `None` without a password, and where nothing could or need be found out.
/// A command that cannot be decided without it is then wanted again by the decision.
///
/// Logins that have failed too often are not verified: they are refused whatever the password is,
/// and guessing would otherwise still cost the time of all others.
///
/// # Errors
/// Those of Postgres.
pub async fn check(
    passwords: &Passwords,
    postgres: &PgPool,
    commands: &[Command],
) -> sqlx::Result<Vec<Option<Checked>>> {
    // Hashing takes long: the connection goes back before it.
    let tasks = bounded(postgres, async |connection| tasks(connection, commands).await).await?;
    Ok(join_all(tasks.into_iter().map(async |task| work(passwords, task?).await)).await)
}

async fn tasks<'a>(
    postgres: &mut PgConnection,
    commands: &'a [Command],
) -> sqlx::Result<Vec<Option<Task<'a>>>> {
    let mut tasks: Vec<_> = commands.iter().map(registration).collect();
    let logins: Vec<_> = commands.iter().enumerate().filter_map(|(at, c)| login(at, c)).collect();
    if !logins.is_empty() {
        let asked: Vec<_> =
            logins.iter().map(|(_, user, email, _)| (*user, email.clone())).collect();
        let hashes = password_hashes(&mut *postgres, &asked).await?;
        let keys: Vec<_> = logins.iter().flat_map(|(at, ..)| keys_of(&commands[*at])).collect();
        let mut counts = login_failures::count(&mut *postgres, &keys).await?;
        counts.retain(|(_, count)| count.failures >= MOST_FAILURES);
        let stopped = |at: usize| {
            let keys = keys_of(&commands[at]);
            counts.iter().any(|(key, _)| keys.contains(key))
        };
        for ((at, _, email_folded, password), seen) in logins.into_iter().zip(hashes) {
            if !stopped(at) {
                tasks[at] = Some(Task::Verify { password, email_folded, seen });
            }
        }
    }
    Ok(tasks)
}

async fn work(passwords: &Passwords, task: Task<'_>) -> Option<Checked> {
    let checked = match task {
        Task::Hash(password) => passwords.hash(password.clone()).await.map(Checked::Hashed),
        Task::Verify { password, email_folded, seen } => {
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

fn registration(command: &Command) -> Option<Task<'_>> {
    let (_, Verb::Register(register)) = verb(command)? else { return None };
    Some(Task::Hash(&register.password))
}

/// Place in the batch, whom it is about, the folded email and the password.
fn login(at: usize, command: &Command) -> Option<(usize, &Address, String, &Secret)> {
    let (user, Verb::Login(login)) = verb(command)? else { return None };
    Some((at, user, login.email.folded(), &login.password))
}

#[cfg(test)]
mod tests;
