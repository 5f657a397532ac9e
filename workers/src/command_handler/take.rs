//! What a batch begins with: everything that its commands may come to, locked and read in one
//! round trip by `brigade.take_batch` (`migrations/`), which says how. Users come after
//! (`supplies`).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use brigade_contracts::{
    Address, Aggregate, Body, Command, Timestamp, Token, cart, command::Request, payment,
};
use serde::Deserialize;
use sqlx::{Postgres, Transaction};

use crate::{
    domain::{Mode, Reach, State, Want},
    store::{
        carts,
        locks::LockRow,
        orders, payments,
        rows::{parse, refused},
    },
};

pub struct Taken {
    /// The database's clock.
    pub now: Timestamp,
    /// Stored outcomes of these commands, by tenant and Command-Id.
    pub outcomes: HashMap<(Token, Token), OutcomeRow>,
    pub states: Vec<State>,
    pub reach: Reach,
    pub fencing_tokens: Vec<i64>,
    /// Of the aggregates of commands that were decided before those that KV may not show.
    pub unshown: BTreeSet<Address>,
}

/// A stored outcome.
#[derive(Deserialize)]
pub struct OutcomeRow {
    tenant: Token,
    command_id: Token,
    /// `<door>.<target>`
    pub subject: String,
    /// In hexadecimal digits.
    pub payload_hash: String,
    pub outcome: String,
}

#[derive(Deserialize)]
struct AddressRow {
    tenant: Token,
    aggregate: Aggregate,
    id: Token,
}

#[derive(Deserialize)]
struct OwnerRow {
    tenant: Token,
    owner: Token,
    exclusive: bool,
    lock: Option<LockRow>,
}

#[derive(Deserialize)]
struct SessionRow {
    tenant: Token,
    session: Token,
    carts: Vec<Token>,
}

/// What is asked for by name.
#[derive(Default)]
struct Named {
    /// Whether the owner of the cart that is meant is needed exclusively.
    aggregates: BTreeMap<Address, bool>,
    /// By the address of the owner's lock.
    owners: BTreeMap<Address, bool>,
    sessions: BTreeSet<(Token, Token)>,
    fencing_tokens: i32,
}

/// Locks and reads what the commands name, and what they wanted when they were tried before.
///
/// # Errors
/// Those of Postgres; a row that command-handler did not write.
pub async fn take(
    tx: &mut Transaction<'_, Postgres>,
    commands: &[&Command],
    wanted: &BTreeSet<Want>,
) -> sqlx::Result<Taken> {
    let mut named = Named::default();
    for request in commands.iter().filter_map(|command| command.request.as_ref().ok()) {
        named.add(request);
    }
    for want in wanted {
        named.want(want);
    }
    let command = |f: fn(&Command) -> &str| commands.iter().map(|c| f(c)).collect::<Vec<_>>();
    let aggregate = |f: fn(&Address) -> &str| named.aggregates.keys().map(f).collect::<Vec<_>>();
    let owner = |f: fn(&Address) -> &str| named.owners.keys().map(f).collect::<Vec<_>>();
    let (session_tenants, sessions): (Vec<_>, Vec<_>) =
        named.sessions.iter().map(|(tenant, session)| (tenant.as_str(), session.as_str())).unzip();
    let rows = sqlx::query!(
        r#"select kind as "kind!", body as "body!"
           from brigade.take_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"#,
        &command(|c| c.tenant.as_str()) as _,
        &command(|c| c.command_id.as_str()) as _,
        &aggregate(|a| a.tenant.as_str()) as _,
        &aggregate(|a| a.aggregate.as_str()) as _,
        &aggregate(|a| a.id.as_str()) as _,
        &named.aggregates.values().copied().collect::<Vec<_>>(),
        &owner(|a| a.tenant.as_str()) as _,
        &owner(|a| a.id.as_str()) as _,
        &named.owners.values().copied().collect::<Vec<_>>(),
        &session_tenants as _,
        &sessions as _,
        named.fencing_tokens,
    )
    .fetch_all(&mut **tx)
    .await?;
    let addresses: HashSet<Address> = named.aggregates.into_keys().collect();
    let mut taken = Taken {
        now: Timestamp::parse("1970-01-01T00:00:00Z").map_err(refused)?,
        outcomes: HashMap::new(),
        states: Vec::with_capacity(rows.len()),
        reach: Reach { addresses, ..Reach::default() },
        fencing_tokens: Vec::new(),
        unshown: BTreeSet::new(),
    };
    for row in &rows {
        taken.add(&row.kind, &row.body)?;
    }
    Ok(taken)
}

impl Taken {
    fn add(&mut self, kind: &str, row: &str) -> sqlx::Result<()> {
        match kind {
            "clock" => self.now = parse(row)?,
            "outcome" => {
                let row: OutcomeRow = parse(row)?;
                self.outcomes.insert((row.tenant.clone(), row.command_id.clone()), row);
            }
            "unshown" => {
                self.unshown.insert(address(row)?);
            }
            "reach" => {
                self.reach.addresses.insert(address(row)?);
            }
            "owner" => {
                let OwnerRow { tenant, owner, exclusive, lock } = parse(row)?;
                let mode = if exclusive { Mode::Exclusive } else { Mode::Shared };
                self.reach.owners.insert(lock_of(&tenant, &owner), mode);
                self.states.extend(lock.map(|lock| State::Lock(lock.into_lock())));
            }
            "session" => {
                let SessionRow { tenant, session, carts } = parse(row)?;
                let cart = |id| Address { tenant: tenant.clone(), aggregate: Aggregate::Cart, id };
                let carts = carts.into_iter().map(cart).collect();
                self.reach.sessions.insert((tenant, session), carts);
            }
            "token" => self.fencing_tokens.push(parse(row)?),
            "cart" => self.states.push(State::Cart(carts::from_row(row)?)),
            "order" => self.states.push(State::Order(orders::from_row(row)?)),
            "payment" => self.states.push(State::Payment(payments::from_row(row)?)),
            other => return Err(sqlx::Error::Decode(format!("a row of kind {other:?}").into())),
        }
        Ok(())
    }
}

impl Named {
    fn add(&mut self, request: &Request) {
        let Request { address, body, .. } = request;
        let other =
            |aggregate, id: &Token| Address { aggregate, id: id.clone(), ..address.clone() };
        let pays = match body {
            Body::Cart(verb) => {
                match verb {
                    cart::Verb::Open(open) => self.owner(&address.tenant, &open.owner, false),
                    cart::Verb::Claim(claim) => self.owner(&address.tenant, &claim.user, true),
                    cart::Verb::CheckOut(said) => {
                        self.aggregate(other(Aggregate::Order, &said.order_id), false);
                    }
                    cart::Verb::Lock(_) => self.fencing_tokens += 1,
                    _ => {}
                }
                changes_locks(verb)
            }
            Body::Payment(verb) => {
                if let payment::Verb::Initiate(said) = verb {
                    let (aggregate, id) = match &said.target {
                        payment::Target::Cart(id) => (Aggregate::Cart, id),
                        payment::Target::Order(id) => (Aggregate::Order, id),
                    };
                    self.aggregate(other(aggregate, id), true);
                    self.fencing_tokens += 1;
                }
                true
            }
            Body::Order(_) | Body::User(_) | Body::Rebuild(..) => false,
        };
        self.aggregate(address.clone(), pays);
    }

    fn want(&mut self, want: &Want) {
        match want {
            Want::Aggregate(address) => self.aggregate(address.clone(), false),
            Want::Owner(lock, mode) => {
                self.owner(&lock.tenant, &lock.id, *mode == Mode::Exclusive);
            }
            Want::Session(tenant, session) => {
                self.sessions.insert((tenant.clone(), session.clone()));
            }
            Want::FencingToken => self.fencing_tokens += 1,
            // Of users: see `supplies`.
            Want::Email(..) | Want::Password(..) | Want::Random | Want::Failures(_) => {}
        }
    }

    fn aggregate(&mut self, address: Address, exclusive: bool) {
        *self.aggregates.entry(address).or_default() |= exclusive;
    }

    fn owner(&mut self, tenant: &Token, owner: &Token, exclusive: bool) {
        *self.owners.entry(lock_of(tenant, owner)).or_default() |= exclusive;
    }
}

/// Whether a verb may take, change or release the lock of the cart's owner. That others find it
/// overdue is rare: those are decided in the next batch.
fn changes_locks(verb: &cart::Verb) -> bool {
    use cart::Verb::{BindTransaction, CheckOut, Claim, ExpireLock, Extend, Lock, Unlock};
    matches!(
        verb,
        Claim(_)
            | Lock(_)
            | BindTransaction(_)
            | Extend(_)
            | Unlock(_)
            | ExpireLock(_)
            | CheckOut(_)
    )
}

fn lock_of(tenant: &Token, owner: &Token) -> Address {
    Address { tenant: tenant.clone(), aggregate: Aggregate::Lock, id: owner.clone() }
}

fn address(row: &str) -> sqlx::Result<Address> {
    let AddressRow { tenant, aggregate, id } = parse(row)?;
    Ok(Address { tenant, aggregate, id })
}
