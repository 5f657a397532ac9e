//! The beginning of a batch: everything that its commands may come to, locked and loaded in one
//! round trip by `brigade.load_batch` (`migrations/functions/`), which says how. Users come after
//! (`auth_inputs`).

mod owners;

use std::collections::{BTreeSet, HashMap, HashSet};

use brigade_contracts::{
    Address, Aggregate, Body, Command, Era, IdSpace, Timestamp, Token, cart, tenant::TenantState,
};
use brigade_domain::{LockSet, Missing, Mode, State, Table};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, types::Json};

use super::lock_plan::{LockPlan, lock_of};
use crate::store::{
    locks::StoredLock,
    named_people, orders,
    rows::{columns, columns_of_names, parse, refused},
    states,
    tables::TableRows,
};

/// Everything that a batch of commands is decided on.
pub struct LoadedBatch {
    /// The database's clock.
    pub now: Timestamp,
    /// Stored outcomes of these commands, by tenant and key.
    pub outcomes: HashMap<(Token, String), OutcomeRow>,
    /// The tenants of these commands; `None` of those that are not registered.
    pub tenants: HashMap<Token, Option<TenantState>>,
    pub states: Vec<State>,
    pub locked: LockSet,
    pub fencing_tokens: Vec<i64>,
    /// Aggregates of commands that were decided before, where KV may not have their newest version.
    pub backlog: BTreeSet<Address>,
    /// Tenants with an owner here whose lock has no row.
    without_lock: BTreeSet<Token>,
}

/// The parameter of `brigade.load_batch`: one array a column.
#[derive(Serialize)]
struct LoadRequest<'a> {
    command_tenants: Vec<&'a str>,
    command_ids: Vec<String>,
    tenants: Vec<&'a str>,
    aggregates: Vec<&'a str>,
    ids: Vec<&'a str>,
    exclusive: Vec<bool>,
    owner_tenants: Vec<&'a str>,
    owners: Vec<&'a str>,
    owner_exclusive: Vec<bool>,
    session_tenants: Vec<&'a str>,
    sessions: Vec<&'a str>,
    with_tenants: bool,
    turn_tenants: Vec<&'a str>,
    turns: Vec<&'a str>,
    fencing_tokens: i32,
    era: Era,
}

/// A stored outcome.
#[derive(Deserialize)]
pub struct OutcomeRow {
    tenant: Token,
    command_id: String,
    /// As `<door>.<target>`.
    pub subject: String,
    /// In hexadecimal digits.
    pub payload_hash: String,
    pub outcome: String,
    pub actor: Option<Token>,
    /// None in a row of a version that had one name space for all.
    pub via: Option<String>,
}

#[derive(Deserialize)]
struct TenantRow {
    tenant: Token,
    state: Option<String>,
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
    lock: Option<StoredLock>,
}

#[derive(Deserialize)]
struct SessionRow {
    tenant: Token,
    session: Token,
    carts: Vec<Token>,
}

#[derive(Deserialize)]
struct TurnTableRow {
    tenant: Token,
    id: Token,
    table_id: Option<Token>,
}

/// Locks and loads what the commands name, and what they were found to lack when they were tried
/// before.
///
/// # Errors
/// If Postgres refuses a statement, or command-handler did not write a row.
pub async fn load_batch(
    connection: &mut PgConnection,
    era: Era,
    commands: &[&Command],
    missing: &BTreeSet<Missing>,
) -> sqlx::Result<LoadedBatch> {
    let plan = LockPlan::new(commands.iter().copied(), missing);
    let rows = sqlx::query!(
        r#"select kind as "kind!", body as "body!" from brigade.load_batch($1)"#,
        Json(LoadRequest::new(era, commands, &plan)) as _,
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut loaded = LoadedBatch {
        now: Timestamp::parse("1970-01-01T00:00:00Z").map_err(refused)?,
        outcomes: HashMap::new(),
        tenants: HashMap::new(),
        states: Vec::with_capacity(rows.len()),
        locked: LockSet {
            addresses: plan.aggregates.into_keys().collect::<HashSet<_>>(),
            ..LockSet::default()
        },
        fencing_tokens: Vec::new(),
        backlog: BTreeSet::new(),
        without_lock: BTreeSet::new(),
    };
    for row in &rows {
        loaded.add(&row.kind, &row.body)?;
    }
    let new_locks: Vec<&Token> = plan.locking.intersection(&loaded.without_lock).collect();
    if !new_locks.is_empty() {
        loaded.locked.lock_floors = owners::lock_floors(&mut *connection, &new_locks).await?;
    }
    if !plan.counted.is_empty() {
        loaded.locked.open_carts = owners::open_carts(&mut *connection, &plan.counted).await?;
    }
    if !plan.named.is_empty() {
        loaded.locked.named = named_people::load(&mut *connection, &plan.named).await?;
    }
    let mut pending = plan.pending;
    pending.extend(loaded.owners_who_check_out(commands));
    if !pending.is_empty() {
        loaded.locked.pending_orders = orders::count_pending(connection, &pending).await?;
    }
    Ok(loaded)
}

impl<'a> LoadRequest<'a> {
    fn new(era: Era, commands: &[&'a Command], plan: &'a LockPlan) -> Self {
        let ids = |c: &&'a Command| {
            let keys = [Some(c.key().to_string()), before_spaces(c)];
            keys.into_iter().flatten().map(|key| (c.tenant.as_str(), key))
        };
        let (command_tenants, command_ids) = commands.iter().flat_map(ids).unzip();
        let (tenants, aggregates, ids) = columns(plan.aggregates.keys());
        let (owner_tenants, _, owners) = columns(plan.owners.keys());
        let (session_tenants, sessions) = columns_of_names(&plan.sessions);
        let (turn_tenants, turns) = columns_of_names(&plan.turns);
        Self {
            command_tenants,
            command_ids,
            with_tenants: true,
            tenants,
            aggregates,
            ids,
            exclusive: plan.aggregates.values().copied().collect(),
            owner_tenants,
            owners,
            owner_exclusive: plan.owners.values().copied().collect(),
            session_tenants,
            sessions,
            turn_tenants,
            turns,
            fencing_tokens: plan.fencing_tokens,
            era,
        }
    }
}

/// Returns the key under which a version without name spaces has stored the outcome of a command,
/// if it is another one.
pub fn before_spaces(command: &Command) -> Option<String> {
    (command.space != IdSpace::Nats).then(|| command.command_id.to_string())
}

impl LoadedBatch {
    /// Returns the owners of carts that customers check out.
    fn owners_who_check_out(&self, commands: &[&Command]) -> BTreeSet<(Token, Token)> {
        let is_check_out = |body: &Body| matches!(body, Body::Cart(cart::Verb::CheckOut(_)));
        let requests = commands.iter().filter(|command| command.relation.is_some());
        let requests = requests.filter_map(|command| command.request.as_ref().ok());
        let carts: HashSet<&Address> = requests
            .filter(|request| is_check_out(&request.body))
            .map(|request| &request.address)
            .collect();
        if carts.is_empty() {
            return BTreeSet::new();
        }
        let loaded = self.states.iter().filter_map(State::cart);
        let loaded = loaded.filter(|cart| carts.contains(&cart.head.address));
        loaded.map(|cart| (cart.head.address.tenant.clone(), cart.owner.clone())).collect()
    }

    fn add(&mut self, kind: &str, row: &str) -> sqlx::Result<()> {
        match kind {
            "clock" => self.now = parse(row)?,
            "tenant" => {
                let TenantRow { tenant, state } = parse(row)?;
                self.tenants.insert(tenant, state.as_deref().and_then(TenantState::parse));
            }
            "outcome" => {
                let row: OutcomeRow = parse(row)?;
                self.outcomes.insert((row.tenant.clone(), row.command_id.clone()), row);
            }
            "backlog" => {
                self.backlog.insert(address(row)?);
            }
            "also_locked" => {
                self.locked.addresses.insert(address(row)?);
            }
            "owner" => {
                let OwnerRow { tenant, owner, exclusive, lock } = parse(row)?;
                let mode = if exclusive { Mode::Exclusive } else { Mode::Shared };
                self.locked.owners.insert(lock_of(&tenant, &owner), mode);
                if lock.is_none() {
                    self.without_lock.insert(tenant);
                }
                self.states.extend(lock.map(|lock| State::Lock(lock.into())));
            }
            "session" => {
                let SessionRow { tenant, session, carts } = parse(row)?;
                let cart = |id| Address { tenant: tenant.clone(), aggregate: Aggregate::Cart, id };
                let carts = carts.into_iter().map(cart).collect();
                self.locked.sessions.insert((tenant, session), carts);
            }
            "turn" => {
                let TurnTableRow { tenant, id, table_id } = parse(row)?;
                self.locked.turns.insert((tenant, id), table_id);
            }
            "table" => {
                let mut rows: TableRows = parse(row)?;
                let orders = std::mem::take(&mut rows.orders);
                self.add_table(rows.into(), orders);
            }
            "token" => self.fencing_tokens.push(parse(row)?),
            _ => self.states.push(states::from_row(kind, row)?),
        }
        Ok(())
    }

    /// Adds a table, and the orders of its open or latest turn.
    fn add_table(&mut self, table: Table, orders: Vec<Token>) {
        let tenant = &table.head.address.tenant;
        if let Some(turn) = &table.turn {
            let order = |id| Address { tenant: tenant.clone(), aggregate: Aggregate::Order, id };
            let orders = orders.into_iter().map(order).collect();
            self.locked.turn_orders.insert((tenant.clone(), turn.id.clone()), orders);
        }
        self.states.push(State::Table(table));
    }
}

fn address(row: &str) -> sqlx::Result<Address> {
    let AddressRow { tenant, aggregate, id } = parse(row)?;
    Ok(Address { tenant, aggregate, id })
}
