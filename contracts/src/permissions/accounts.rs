//! The NATS accounts: one for the fleet, and one for each tenant that is tied to it by imports.
//!
//! A subject means something within its account only. The server maps the reply subject of a
//! request into the account of its sender, so whatever a tenant's program names there, no key,
//! stream or inbox of anybody else is reached by it.

use std::{collections::BTreeMap, fmt};

use serde::Deserialize;
use serde_json::{Value, json};

use super::NatsUser;
use crate::{MAX_PAYLOAD, Refusal, Token, header::REQUEST_INFO};

/// The account of the workers, the operators and JetStream.
const FLEET: &str = "BRIGADE";
/// Stands before the tenant in the name of its account: so no tenant's account has the name of the
/// fleet's or of one of the server's own, whatever the tenant is called.
const TENANT_PREFIX: &str = "T-";

/// Most connections of all programs of one tenant: its screens and tills, and those that come back
/// before the server has noticed that they were gone. For each that does not read the server keeps
/// up to its `max_pending`.
const MAX_CONNECTIONS: u32 = 128;
/// Most subscriptions of one connection, for which the server counts them: a program has one for
/// each outcome that it waits for.
const MAX_SUBSCRIPTIONS: u32 = 2_048;
/// Largest message in bytes, headers and payload: four times the largest payload of a command. One
/// that is too large by mistake is answered with 413 up to there; beyond it the server ends the
/// connection, so that nobody fills those of workers with what is refused anyway.
const MAX_MESSAGE: usize = 4 * MAX_PAYLOAD;

/// The NATS account of a user, in which its subjects have a meaning.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Account {
    Fleet,
    Tenant(Token),
}

impl Account {
    fn tenant(&self) -> Option<&Token> {
        match self {
            Self::Fleet => None,
            Self::Tenant(tenant) => Some(tenant),
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fleet => f.write_str(FLEET),
            Self::Tenant(tenant) => write!(f, "{TENANT_PREFIX}{tenant}"),
        }
    }
}

/// Returns the subjects on which the programs of a tenant send requests into the fleet's account.
fn services(tenant: &Token) -> [String; 3] {
    ["cmd", "req", "q"].map(|door| format!("{door}.{tenant}.>"))
}

/// Returns the subjects that the programs of a tenant receive from the fleet's account.
fn streams(tenant: &Token) -> [String; 2] {
    [format!("outcome.{tenant}.>"), format!("live.*.{tenant}.>")]
}

/// Returns the subjects on which the fleet sends requests to the programs of a tenant.
fn hooks(tenant: &Token) -> String {
    format!("hooks.{tenant}.>")
}

/// Returns what the fleet's account imports from a tenant's.
#[must_use]
pub fn imports_of_fleet(tenant: &Token) -> Value {
    let account = Account::Tenant(tenant.clone()).to_string();
    json!({ "service": { "account": account, "subject": hooks(tenant) } })
}

fn exports_of_tenant(tenant: &Token) -> Value {
    json!([{ "accounts": [FLEET], "service": hooks(tenant) }])
}

/// Returns what the fleet's account exports to a tenant's.
#[must_use]
pub fn exports(tenant: &Token) -> Vec<Value> {
    let accounts = [Account::Tenant(tenant.clone()).to_string()];
    let export = |kind: &str, subject| json!({ kind: subject, "accounts": accounts });
    let services = services(tenant).map(|subject| export("service", subject));
    services.into_iter().chain(streams(tenant).map(|subject| export("stream", subject))).collect()
}

fn imports(tenant: &Token) -> Vec<Value> {
    let import =
        |kind: &str, subject: String| json!({ kind: { "account": FLEET, "subject": subject } });
    let services = services(tenant).map(|subject| import("service", subject));
    services.into_iter().chain(streams(tenant).map(|subject| import("stream", subject))).collect()
}

fn limits() -> Value {
    json!({
        "max_connections": MAX_CONNECTIONS,
        "max_subscriptions": MAX_SUBSCRIPTIONS,
        "max_payload": MAX_MESSAGE,
    })
}

/// Returns a user with its password, as an account lists it.
#[must_use]
pub fn listed_user(user: &NatsUser, password: &str) -> Value {
    json!({ "user": user.name, "password": password, "permissions": user.permissions() })
}

/// Returns the account of a tenant, with users as [`listed_user`] writes them.
#[must_use]
pub fn tenant_account(tenant: &Token, users: &[Value]) -> Value {
    json!({
        "limits": limits(), "exports": exports_of_tenant(tenant), "imports": imports(tenant),
        "users": users,
    })
}

/// The `accounts` block of nats-server's configuration, each user with its password.
#[must_use]
pub fn accounts<'a>(users: impl IntoIterator<Item = (&'a NatsUser, &'a str)>) -> String {
    block(
        users
            .into_iter()
            .map(|(user, password)| (&user.account, listed_user(user, password).to_string())),
    )
}

/// The same with what an installation has of its own left out: passwords are variables, which the
/// installation defines in front of the block, and permissions come from the files beside it.
///
/// Not from the server's environment: a running server cannot get a new variable there, so no
/// tenant could be added by a reload.
#[cfg(test)]
pub(super) fn template(users: &[NatsUser]) -> String {
    let comment = "# For the configuration of nats-server, with each tenant in the place of \
                   TENANT.\n\
                   # Each $NATS_PASSWORD_… is defined in front of this block, in this file, by a \
                   line such as\n\
                   #   NATS_PASSWORD_EDGE: \"p0123…\"\n\
                   # so that a reload gets those of a further tenant. The server's environment \
                   cannot change.\n";
    let users = users.iter().map(|user| {
        let name = &user.name;
        let variable = name.to_ascii_uppercase().replace('-', "_");
        let entry = format!(
            "{{ user: \"{name}\", password: $NATS_PASSWORD_{variable}, \
             include \"permissions/{name}.conf\" }}"
        );
        (&user.account, entry)
    });
    comment.to_owned() + &block(users)
}

/// The block, of users as they are written there.
fn block<'a>(users: impl Iterator<Item = (&'a Account, String)>) -> String {
    let mut accounts: BTreeMap<_, Vec<_>> = BTreeMap::from([(&Account::Fleet, Vec::new())]);
    for (account, user) in users {
        accounts.entry(account).or_default().push(user);
    }
    let tenants = || accounts.keys().filter_map(|account| account.tenant());
    let texts = |entries: Vec<Value>| entries.iter().map(Value::to_string).collect::<Vec<_>>();
    let exports = texts(tenants().flat_map(exports).collect());
    let hooks = texts(tenants().map(imports_of_fleet).collect());
    let list = |name: &str, entries: &[String]| {
        format!("    {name}: [\n      {}\n    ]\n", entries.join("\n      "))
    };
    let block = |(account, users): (&&Account, &Vec<String>)| {
        let ties = match account.tenant() {
            None => {
                let exports = list("exports", &exports);
                format!("    jetstream: enabled\n{exports}{}", list("imports", &hooks))
            }
            Some(tenant) => {
                let exports = exports_of_tenant(tenant);
                let imports = list("imports", &texts(imports(tenant)));
                format!("    limits: {}\n    exports: {exports}\n{imports}", limits())
            }
        };
        format!("  \"{account}\": {{\n{ties}{}  }}\n", list("users", users))
    };
    format!("accounts: {{\n{}}}\n", accounts.iter().map(block).collect::<String>())
}

/// Checks that a message on a tenant's subject comes from the tenant's account, where the server
/// says which account it comes from.
///
/// The server says so of each request that comes through an import, in a header that it takes away
/// first where the sender wrote it. What the fleet sends has no such header, and what was stored
/// has lost it.
///
/// # Errors
/// `403 wrong_tenant`.
pub fn check_sender<'a>(
    subject: &str,
    headers: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<(), Refusal> {
    #[derive(Deserialize)]
    struct Info<'a> {
        #[serde(rename = "acc")]
        account: &'a str,
    }
    let tenant = subject.split('.').nth(1);
    let is_tenant = |info: Info<'_>| info.account.strip_prefix(TENANT_PREFIX) == tenant;
    // Case matters: the server takes away and writes the header in this one only.
    for (_, info) in headers.filter(|(name, _)| *name == REQUEST_INFO) {
        if !serde_json::from_str(info).is_ok_and(is_tenant) {
            return Err(Refusal::new(403, "wrong_tenant", "sent from another tenant's account"));
        }
    }
    Ok(())
}

/// Returns whether the server says of a request that it comes from the account of a tenant.
pub fn is_from_tenant<'a>(mut headers: impl Iterator<Item = (&'a str, &'a str)>) -> bool {
    headers.any(|(name, _)| name == REQUEST_INFO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permissions::{Role, tenant_users};

    #[test]
    fn what_a_tenants_users_may_do_is_what_its_account_imports() {
        let tenant = Token::new("t1").unwrap();
        let sorted = |mut subjects: Vec<String>| {
            subjects.sort();
            subjects
        };
        let backend = Role::Backend.user(&tenant);
        assert_eq!(sorted(backend.publish), sorted(services(&tenant).into()));
        let subscribe = streams(&tenant).into_iter().chain([hooks(&tenant)]);
        assert_eq!(sorted(backend.subscribe), sorted(subscribe.collect()));
        let services = services(&tenant).map(|subject| subject.replace('>', ""));
        for user in tenant_users(&tenant) {
            assert_eq!(user.account, Account::Tenant(tenant.clone()));
            let is_service = |subject: &String| {
                services.iter().any(|service| subject.starts_with(service.as_str()))
            };
            assert!(user.publish.iter().all(is_service), "{}", user.name);
            let streams = streams(&tenant);
            let is_stream =
                |subject: &String| streams.contains(subject) || *subject == hooks(&tenant);
            assert!(user.subscribe.iter().all(is_stream));
            // Who is asked answers; nobody else has a reply to give.
            assert_eq!(user.may_reply, user.subscribe.contains(&hooks(&tenant)), "{}", user.name);
        }
    }

    #[test]
    fn no_tenant_has_the_account_of_the_fleet_or_of_another() {
        let name = |tenant: &str| Account::Tenant(Token::new(tenant).unwrap()).to_string();
        for tenant in ["BRIGADE", "SYS", "T-BRIGADE"] {
            assert_ne!(name(tenant), Account::Fleet.to_string());
            assert!(!name(tenant).starts_with('$'));
        }
        assert_ne!(name("T-t1"), name("t1"));
    }

    #[test]
    fn a_message_is_taken_from_the_account_of_its_tenant_alone() {
        let check = |subject: &str, headers: &[(&str, &str)]| {
            check_sender(subject, headers.iter().copied()).map_err(|refusal| refusal.code)
        };
        let wrong = Err("wrong_tenant".into());
        let own = (REQUEST_INFO, r#"{"acc":"T-t1","rtt":606258229}"#);
        assert_eq!(check("req.t1.cart.c1.open", &[("A", "b"), own]), Ok(()));
        assert_eq!(check("q.t1.active_orders", &[]), Ok(()));
        assert_eq!(check("req.t2.cart.c1.open", &[own]), wrong);
        for other in [r#"{"acc":"T-t11"}"#, r#"{"acc":"t1"}"#, r#"{"acc":"BRIGADE"}"#, "{}", ""] {
            assert_eq!(check("req.t1.cart.c1.open", &[own, (REQUEST_INFO, other)]), wrong);
        }
    }
}
