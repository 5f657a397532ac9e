//! Checks the passwords of a batch before it is decided.

use std::collections::HashSet;

use brigade_contracts::{
    Address, Body, Command, Secret, Token,
    user::{BY_EMAIL, Verb},
};
use brigade_domain::user::{Checked, Verified, keys_of, network, wait_ms};
use futures::future::join_all;
use sqlx::{PgConnection, PgPool};

use super::{passwords::Passwords, tenants::active};
use crate::{
    infra::postgres::bounded,
    store::{
        login_failures,
        people::{PasswordOf, passwords_of},
    },
};

/// Returns whether the password of a command has to be hashed or verified before it is decided.
#[must_use]
pub fn needs_password(command: &Command) -> bool {
    use Verb::{
        ChangeEmail, ChangePassword, Erase, Login, Register, RequestPasswordReset, ResetPassword,
    };
    let Some((_, verb)) = verb(command) else { return false };
    match verb {
        // The last one has none, and looks its user up by the email like a login.
        Register(_) | Login(_) | ChangePassword(_) | ResetPassword(_) | RequestPasswordReset(_) => {
            true
        }
        ChangeEmail(change) => change.password.is_some(),
        Erase(erase) => erase.password.is_some(),
        _ => false,
    }
}

/// Returns whether a command wants a user to be there who is not yet.
#[must_use]
pub fn is_registration(command: &Command) -> bool {
    matches!(verb(command), Some((_, Verb::Register(_))))
}

/// The result of the check of a command.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Check {
    /// `None` without a password, and where none could or need be checked.
    pub checked: Option<Checked>,
    /// The user who has the email of a command that is addressed [`BY_EMAIL`].
    pub user: Option<Token>,
}

impl Check {
    /// Addresses the user who was found.
    pub fn address(&self, command: &mut Command) {
        let request = command.request.as_mut().ok();
        let address = request.map(|request| &mut request.address);
        if let (Some(address), Some(user)) = (address, &self.user) {
            address.id = user.clone();
        }
    }
}

/// The work on the passwords of a command.
#[derive(Default)]
struct PasswordTask<'a> {
    /// To be the user's from now on.
    new: Option<&'a Secret>,
    /// To be compared with the user's present one.
    present: Option<(&'a Secret, Option<PasswordOf>)>,
}

/// The user whose password a command shows, as the command says.
struct Shown<'a> {
    user: &'a Address,
    email_folded: Option<String>,
    /// `None`: the user is only looked up.
    password: Option<&'a Secret>,
}

/// Hashes or verifies the passwords of commands. Returns one result a command. The decision of a
/// command that cannot be decided without it then reports it as missing.
///
/// For a tenant that is not active nothing is hashed: its commands are refused.
///
/// Nor is it for a registration that is answered whatever the password is: one that is repeated, or
/// whose user or email is there. Its code says so anyway, so the time of its answer reveals nothing
/// more. A repeated login is verified again, since its tokens are stored nowhere.
///
/// Logins that have to wait for those that failed before are not verified: they are refused
/// whatever the password is, and guessing would otherwise still cost the time of all others.
///
/// # Errors
/// If Postgres refuses.
pub async fn check(
    passwords: &Passwords,
    postgres: &PgPool,
    commands: &[Command],
) -> sqlx::Result<Vec<Check>> {
    // Hashing takes long: the connection goes back before it.
    let tasks = bounded(postgres, async |connection| tasks(connection, commands).await).await?;
    let check = async |(task, user): (Option<PasswordTask<'_>>, Option<Token>)| {
        let checked = match task {
            Some(task) => carry_out(passwords, task).await,
            None => None,
        };
        Check { checked, user }
    };
    Ok(join_all(tasks.into_iter().map(check)).await)
}

/// Returns what is to be done with the password of each command, and the user who was found by an
/// email.
async fn tasks<'a>(
    postgres: &mut PgConnection,
    commands: &'a [Command],
) -> sqlx::Result<Vec<(Option<PasswordTask<'a>>, Option<Token>)>> {
    let of_commands = commands.iter().map(|command| command.tenant.as_str()).collect::<Vec<_>>();
    let active = active(&mut *postgres, &of_commands).await?;
    let is_active = |command: &&Command| active.contains(command.tenant.as_str());
    let registrations = commands.iter().filter(is_active).filter_map(registration);
    let answered = answered(&mut *postgres, &registrations.collect::<Vec<_>>()).await?;
    let task = |command: &'a Command| {
        let is_answered = registration(command).is_some_and(|r| answered.contains(&r.key()));
        let new = new_password(command).filter(|_| !is_answered)?;
        Some(PasswordTask { new: Some(new), present: None })
    };
    let tasks = commands.iter().map(|c| Some(c).filter(is_active).and_then(task));
    let mut tasks: Vec<_> = tasks.map(|task| (task, None)).collect();
    let active = commands.iter().enumerate().filter(|(_, command)| is_active(command));
    let shown: Vec<_> = active.filter_map(|(at, command)| Some((at, shown(command)?))).collect();
    if shown.is_empty() {
        return Ok(tasks);
    }
    let users: Vec<_> = shown.iter().map(|(_, s)| (s.user, s.email_folded.clone())).collect();
    let found = passwords_of(&mut *postgres, &users).await?;
    let keys: Vec<_> = shown.iter().flat_map(|(at, _)| keys_of(&commands[*at])).collect();
    let (now, counts) = login_failures::count(postgres, &keys).await?;
    let waits = |command: &Command, of: Option<&PasswordOf>| {
        let keys = keys_of(command);
        let counts = counts.iter().filter(|(key, _)| keys.contains(key));
        let source = command.source.map(network);
        let is_known = source.is_some_and(|s| of.is_some_and(|of| of.known_sources.contains(&s)));
        wait_ms(counts.map(|(key, count)| (key.kind, *count)), is_known, now).is_some()
    };
    for ((at, shown), of) in shown.into_iter().zip(found) {
        let by_email = of.as_ref().filter(|_| shown.user.id.as_str() == BY_EMAIL);
        tasks[at].1 = by_email.map(|of| of.user.clone());
        if waits(&commands[at], of.as_ref()) {
            tasks[at].0 = None;
        } else if let Some(password) = shown.password {
            tasks[at].0.get_or_insert_default().present = Some((password, of));
        }
    }
    Ok(tasks)
}

async fn carry_out(passwords: &Passwords, task: PasswordTask<'_>) -> Option<Checked> {
    let checked = async {
        let mut checked = Checked::default();
        let mut new = task.new;
        if let Some((password, of)) = task.present {
            let seen = of.map(|of| of.hash);
            let ok = passwords.verify(password.clone(), seen.as_ref()).await?;
            let is_outdated = |hash| new.is_none() && passwords.is_outdated(hash);
            if ok && seen.as_ref().is_some_and(is_outdated) {
                new = Some(password);
            }
            new = new.filter(|_| ok);
            checked.verified = Some(Verified { password_hash_seen: seen, ok });
        }
        if let Some(new) = new {
            checked.hashed = Some(passwords.hash(new.clone()).await?);
        }
        anyhow::Ok(checked)
    };
    checked.await.inspect_err(|error| tracing::error!(%error, "a password was not checked")).ok()
}

fn verb(command: &Command) -> Option<(&Address, &Verb)> {
    let request = command.request.as_ref().ok()?;
    if let Body::User(verb) = &request.body { Some((&request.address, verb)) } else { None }
}

/// Returns the password that is to be the user's from now on.
fn new_password(command: &Command) -> Option<&Secret> {
    match verb(command)?.1 {
        Verb::Register(register) => Some(register.password.secret()),
        Verb::ChangePassword(change) => Some(change.new_password.secret()),
        Verb::ResetPassword(reset) => Some(reset.new_password.secret()),
        _ => None,
    }
}

/// A command that registers a user.
struct Registration<'a> {
    command: &'a Command,
    user: &'a Address,
    email_folded: String,
}

impl Registration<'_> {
    /// Returns the tenant and the key of the command.
    fn key(&self) -> (String, String) {
        (self.command.tenant.to_string(), self.command.key().to_string())
    }
}

fn registration(command: &Command) -> Option<Registration<'_>> {
    let (user, Verb::Register(register)) = verb(command)? else { return None };
    let email_folded = register.email.folded();
    Some(Registration { command, user, email_folded })
}

/// Returns the keys of those registrations that are answered whatever their passwords are.
async fn answered(
    postgres: &mut PgConnection,
    registrations: &[Registration<'_>],
) -> sqlx::Result<HashSet<(String, String)>> {
    if registrations.is_empty() {
        return Ok(HashSet::new());
    }
    let (tenants, keys): (Vec<_>, Vec<_>) = registrations.iter().map(Registration::key).unzip();
    let users: Vec<_> = registrations.iter().map(|r| r.user.id.as_str()).collect();
    let emails: Vec<_> = registrations.iter().map(|r| r.email_folded.as_str()).collect();
    let rows = sqlx::query!(
        r#"select tenant as "tenant!", command_id as "command_id!"
           from unnest($1::text[], $2::text[], $3::text[], $4::text[])
                as asked (tenant, command_id, id, email)
           where exists (select from brigade.command_inbox i
                         where (i.tenant, i.command_id) = (asked.tenant, asked.command_id))
              or exists (select from brigade.users u
                         where (u.tenant, u.id) = (asked.tenant, asked.id))
              or exists (select from brigade.users u
                         where (u.tenant, u.email_folded) = (asked.tenant, asked.email))"#,
        &tenants,
        &keys,
        &users as _,
        &emails as _,
    )
    .fetch_all(postgres)
    .await?;
    Ok(rows.into_iter().map(|row| (row.tenant, row.command_id)).collect())
}

/// Returns the password that has to be the user's present one.
fn shown(command: &Command) -> Option<Shown<'_>> {
    let (user, verb) = verb(command)?;
    let (email_folded, password) = match verb {
        Verb::Login(login) => (Some(login.email.folded()), Some(&login.password)),
        Verb::RequestPasswordReset(reset) => (Some(reset.email.folded()), None),
        Verb::ChangePassword(change) => (None, Some(&change.password)),
        Verb::ChangeEmail(change) => (None, Some(change.password.as_ref()?)),
        Verb::Erase(erase) => (None, Some(erase.password.as_ref()?)),
        _ => return None,
    };
    Some(Shown { user, email_folded, password })
}

#[cfg(test)]
mod tests;
