//! What a batch begins with: everything that its commands may come to, locked and read in one
//! round trip by `brigade.take_batch` (`migrations/`), which says how. Users come after
//! (`supplies`).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use brigade_contracts::{
    Address, Aggregate, Body, Command, MAX_OPEN_CARTS, Timestamp, Token, cart, command::Request,
    order, payment, table,
};
use brigade_domain::{LockSet, Missing, Mode, State};
use serde::Deserialize;
use sqlx::{Postgres, Transaction};

use crate::store::{
    carts,
    locks::LockRow,
    orders, payments,
    rows::{parse, refused},
    tables,
};

pub struct Taken {
    /// The database's clock.
    pub now: Timestamp,
    /// Stored outcomes of these commands, by tenant and Command-Id.
    pub outcomes: HashMap<(Token, Token), OutcomeRow>,
    pub states: Vec<State>,
    pub reach: LockSet,
    pub fencing_tokens: Vec<i64>,
    /// Of the aggregates of commands that were decided before those that KV may not show.
    pub unshown: BTreeSet<Address>,
    /// Tenants with an owner here whose lock has no row.
    without_lock: BTreeSet<Token>,
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

#[derive(Deserialize)]
struct TurnRow {
    tenant: Token,
    id: Token,
    table_id: Option<Token>,
}

/// Returns the aggregates that a command names, and the owners as their locks.
pub fn named(command: &Command) -> BTreeSet<Address> {
    let mut named = Named::default();
    if let Ok(request) = &command.request {
        named.add(request);
    }
    named.addresses()
}

/// Returns the aggregates that are wanted by name, and the owners as their locks.
pub fn wanted(wanted: &BTreeSet<Missing>) -> BTreeSet<Address> {
    let mut named = Named::default();
    for want in wanted {
        named.want(want);
    }
    named.addresses()
}

/// What is asked for by name.
#[derive(Default)]
struct Named {
    /// Whether what it may change besides is needed too: the owner of a cart, exclusively, and the
    /// table of an order.
    aggregates: BTreeMap<Address, bool>,
    /// By the address of the owner's lock.
    owners: BTreeMap<Address, bool>,
    sessions: BTreeSet<(Token, Token)>,
    /// Whose open carts are to be counted.
    counted: BTreeSet<(Token, Token)>,
    turns: BTreeSet<(Token, Token)>,
    fencing_tokens: i32,
    /// Tenants in which a lock may be taken.
    locking: BTreeSet<Token>,
}

/// Locks and reads what the commands name, and what they wanted when they were tried before.
///
/// # Errors
/// Those of Postgres; a row that command-handler did not write.
pub async fn take(
    tx: &mut Transaction<'_, Postgres>,
    commands: &[&Command],
    wanted: &BTreeSet<Missing>,
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
    let (session_tenants, sessions) = unzip(&named.sessions);
    let (turn_tenants, turns) = unzip(&named.turns);
    let rows = sqlx::query!(
        r#"select kind as "kind!", body as "body!"
           from brigade.take_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13,
                                   $14)"#,
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
        &turn_tenants as _,
        &turns as _,
    )
    .fetch_all(&mut **tx)
    .await?;
    let addresses: HashSet<Address> = named.aggregates.into_keys().collect();
    let mut taken = Taken {
        now: Timestamp::parse("1970-01-01T00:00:00Z").map_err(refused)?,
        outcomes: HashMap::new(),
        states: Vec::with_capacity(rows.len()),
        reach: LockSet { addresses, ..LockSet::default() },
        fencing_tokens: Vec::new(),
        unshown: BTreeSet::new(),
        without_lock: BTreeSet::new(),
    };
    for row in &rows {
        taken.add(&row.kind, &row.body)?;
    }
    let new_locks: Vec<&Token> = named.locking.intersection(&taken.without_lock).collect();
    if !new_locks.is_empty() {
        taken.reach.lock_floors = lock_floors(tx, &new_locks).await?;
    }
    if !named.counted.is_empty() {
        taken.reach.open_carts = open_carts(tx, &named.counted).await?;
    }
    Ok(taken)
}

/// Reads above which version the locks of tenants begin that have no row, in a statement that
/// begins when their owners are locked: nobody deletes such a row meanwhile.
async fn lock_floors(
    tx: &mut Transaction<'_, Postgres>,
    tenants: &[&Token],
) -> sqlx::Result<HashMap<Token, u64>> {
    let names: Vec<&str> = tenants.iter().map(|tenant| tenant.as_str()).collect();
    let floors = sqlx::query_scalar!(
        r#"select coalesce(floor.version, 0) as "version!"
           from unnest($1::text[]) with ordinality as asked (tenant, place)
           left join brigade.lock_floors floor on floor.tenant = asked.tenant
           order by asked.place"#,
        &names as _,
    )
    .fetch_all(&mut **tx)
    .await?;
    let floors = floors.into_iter().map(i64::cast_unsigned);
    Ok(tenants.iter().copied().cloned().zip(floors).collect())
}

/// Counts the open carts of owners and sessions, in a statement that begins when they are locked,
/// and not further than a decision looks.
async fn open_carts(
    tx: &mut Transaction<'_, Postgres>,
    counted: &BTreeSet<(Token, Token)>,
) -> sqlx::Result<HashMap<(Token, Token), usize>> {
    let (tenants, names) = unzip(counted);
    let counts = sqlx::query_scalar!(
        r#"select open.count as "count!"
           from unnest($1::text[], $2::text[]) with ordinality as asked (tenant, name, place)
           cross join lateral (
               select count(*) from (
                   (select c.id from brigade.carts c
                    where (c.tenant, c.owner) = (asked.tenant, asked.name) and c.status = 'open'
                    limit $3)
                   union
                   (select c.id from brigade.carts c
                    where (c.tenant, c.session) = (asked.tenant, asked.name) and c.status = 'open'
                    limit $3)
               ) of_either
           ) open
           order by asked.place"#,
        &tenants as _,
        &names as _,
        MAX_OPEN_CARTS as i64,
    )
    .fetch_all(&mut **tx)
    .await?;
    let counts = counts.into_iter().map(|count| usize::try_from(count).unwrap_or(usize::MAX));
    Ok(counted.iter().cloned().zip(counts).collect())
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
                if lock.is_none() {
                    self.without_lock.insert(tenant);
                }
                self.states.extend(lock.map(|lock| State::Lock(lock.into_lock())));
            }
            "session" => {
                let SessionRow { tenant, session, carts } = parse(row)?;
                let cart = |id| Address { tenant: tenant.clone(), aggregate: Aggregate::Cart, id };
                let carts = carts.into_iter().map(cart).collect();
                self.reach.sessions.insert((tenant, session), carts);
            }
            "turn" => {
                let TurnRow { tenant, id, table_id } = parse(row)?;
                self.reach.turns.insert((tenant, id), table_id);
            }
            "table" => {
                let (table, orders) = tables::from_row(row)?;
                let tenant = &table.head.address.tenant;
                if let Some(turn) = &table.turn {
                    let order =
                        |id| Address { tenant: tenant.clone(), aggregate: Aggregate::Order, id };
                    let orders = orders.into_iter().map(order).collect();
                    self.reach.turn_orders.insert((tenant.clone(), turn.id.clone()), orders);
                }
                self.states.push(State::Table(table));
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
                    cart::Verb::Open(open) => {
                        self.counted(&address.tenant, &open.owner);
                        open.session.iter().for_each(|id| self.counted(&address.tenant, id));
                    }
                    cart::Verb::Claim(claim) => {
                        self.counted(&address.tenant, &claim.user);
                        self.locking.insert(address.tenant.clone());
                    }
                    cart::Verb::CheckOut(said) => {
                        self.aggregate(other(Aggregate::Order, &said.order_id), false);
                        self.table(&address.tenant, said.table_id.as_ref());
                    }
                    cart::Verb::Lock(_) => {
                        self.fencing_tokens += 1;
                        self.locking.insert(address.tenant.clone());
                    }
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
                    self.aggregate(other(aggregate, id), aggregate == Aggregate::Cart);
                    self.fencing_tokens += 1;
                    if aggregate == Aggregate::Cart {
                        self.locking.insert(address.tenant.clone());
                    }
                }
                true
            }
            Body::Order(order::Verb::Place(said)) => {
                self.table(&address.tenant, said.table_id.as_ref());
                self.turn(&address.tenant, said.turn_id.as_ref());
                false
            }
            Body::Order(verb) => matches!(verb, order::Verb::Cancel(_)),
            Body::Table(verb) => {
                let turn = match verb {
                    table::Verb::OpenTurn(said) => Some(&said.turn_id),
                    table::Verb::CloseTurn(said) => Some(&said.turn_id),
                    _ => None,
                };
                self.turn(&address.tenant, turn);
                false
            }
            Body::User(_) | Body::Rebuild(..) => false,
        };
        self.aggregate(address.clone(), pays);
    }

    fn addresses(self) -> BTreeSet<Address> {
        self.aggregates.into_keys().chain(self.owners.into_keys()).collect()
    }

    fn want(&mut self, want: &Missing) {
        match want {
            Missing::Aggregate(address) => self.aggregate(address.clone(), false),
            Missing::Owner(lock, mode) => {
                self.owner(&lock.tenant, &lock.id, *mode == Mode::Exclusive);
            }
            Missing::LockFloor(tenant) => {
                self.locking.insert(tenant.clone());
            }
            Missing::Session(tenant, session) => {
                self.sessions.insert((tenant.clone(), session.clone()));
            }
            Missing::OpenCarts(tenant, name) => self.counted(tenant, name),
            Missing::Turn(tenant, turn) => self.turn(tenant, Some(turn)),
            Missing::FencingToken => self.fencing_tokens += 1,
            // Of users: see `supplies`.
            Missing::Email(..) | Missing::Password(..) | Missing::Random | Missing::Failures(_) => {
            }
        }
    }

    fn aggregate(&mut self, address: Address, exclusive: bool) {
        *self.aggregates.entry(address).or_default() |= exclusive;
    }

    fn table(&mut self, tenant: &Token, id: Option<&Token>) {
        if let Some(id) = id.cloned() {
            let address = Address { tenant: tenant.clone(), aggregate: Aggregate::Table, id };
            self.aggregate(address, false);
        }
    }

    fn turn(&mut self, tenant: &Token, id: Option<&Token>) {
        self.turns.extend(id.map(|id| (tenant.clone(), id.clone())));
    }

    /// What is counted is locked, so that it stays so.
    fn counted(&mut self, tenant: &Token, name: &Token) {
        self.owner(tenant, name, true);
        self.counted.insert((tenant.clone(), name.clone()));
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

/// Tenants and names.
fn unzip(keys: &BTreeSet<(Token, Token)>) -> (Vec<&str>, Vec<&str>) {
    keys.iter().map(|(tenant, name)| (tenant.as_str(), name.as_str())).unzip()
}

fn lock_of(tenant: &Token, owner: &Token) -> Address {
    Address { tenant: tenant.clone(), aggregate: Aggregate::Lock, id: owner.clone() }
}

fn address(row: &str) -> sqlx::Result<Address> {
    let AddressRow { tenant, aggregate, id } = parse(row)?;
    Ok(Address { tenant, aggregate, id })
}
