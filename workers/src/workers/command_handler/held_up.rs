//! Aggregates that somebody else has locked for longer than a batch waits: an operator's open
//! transaction, a commit that waits for a standby, a handler that was stopped in the middle.
//!
//! Their commands are put aside, and everybody else's are decided at once. What is locked is found
//! out by asking ([`locked`]), which takes no time. Some locks cannot be asked for, such as that of
//! a row that is not committed yet: then the commands themselves are tried in smaller pieces, until
//! those are left that wait. They are suspects, and are tried beside the batches.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use brigade_contracts::{Address, Aggregate, Command, Token};
use sqlx::PgPool;
use tokio::time::{MissedTickBehavior, interval};

use super::lock_plan::addresses_of;
use crate::{
    infra::{Context, postgres::bounded},
    store::rows::refused,
};

/// How often it is asked what is still locked.
const LOOK: Duration = Duration::from_millis(200);
/// A suspect that nothing was heard of for so long is none any more.
const SUSPECTED: Duration = Duration::from_secs(2);

/// What is known to be locked by others, by the name of the aggregate.
#[derive(Default)]
pub struct HeldUp(Mutex<HashMap<String, Known>>);

struct Known {
    /// Where it can be asked for; else it is a suspect.
    address: Option<Address>,
    at: Instant,
}

/// What holds a command up.
#[derive(Debug, PartialEq, Eq)]
pub enum By {
    /// An aggregate that is locked.
    Locked(String),
    /// One that is suspected to be.
    Suspect(String),
}

impl HeldUp {
    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known().is_empty()
    }

    /// Returns what holds a command up, as far as is known.
    #[must_use]
    pub fn by(&self, command: &Command) -> Option<By> {
        let known = self.known();
        if known.is_empty() {
            return None;
        }
        let names = addresses_of(command).into_iter().map(|address| address.to_string());
        names.chain([name(command)]).find_map(|name| {
            let suspect = known.get(&name)?.address.is_none();
            Some(if suspect { By::Suspect(name) } else { By::Locked(name) })
        })
    }

    /// Returns whether an aggregate is locked, as far as that can be asked.
    #[must_use]
    pub fn is_locked(&self, name: &str) -> bool {
        self.known().get(name).is_some_and(|known| known.address.is_some())
    }

    /// Notes aggregates that are locked.
    pub fn add(&self, locked: &BTreeSet<Address>) {
        let (mut known, at) = (self.known(), Instant::now());
        for address in locked {
            let name = address.to_string();
            let before = known.insert(name, Known { address: Some(address.clone()), at });
            if before.is_none_or(|before| before.address.is_none()) {
                tracing::warn!(%address, "locked by somebody else: its commands wait aside");
            }
        }
    }

    /// Notes the aggregate of a command that waits for something that cannot be asked for. Returns
    /// its name.
    pub fn suspect(&self, command: &Command, why: &str) -> String {
        let (name, at) = (name(command), Instant::now());
        let mut known = self.known();
        let entry = known.entry(name.clone()).or_insert_with(|| {
            tracing::warn!(name, why, "cannot be decided now: waits aside");
            Known { address: None, at }
        });
        entry.at = at;
        name
    }

    /// Notes that commands were decided: what they are about is no suspect.
    pub fn decided<'a>(&self, commands: impl Iterator<Item = &'a Command>) {
        let mut known = self.known();
        if known.values().all(|known| known.address.is_some()) {
            return;
        }
        for name in commands.map(name) {
            if known.get(&name).is_some_and(|known| known.address.is_none()) {
                known.remove(&name);
            }
        }
    }

    /// Forgets what is free.
    ///
    /// # Errors
    /// Where that cannot be asked now.
    async fn look(&self, postgres: &PgPool) -> sqlx::Result<()> {
        let began = Instant::now();
        let asked: BTreeSet<Address> =
            self.known().values().filter_map(|known| known.address.clone()).collect();
        let locked = locked(postgres, &asked).await?;
        self.known().retain(|_, known| match &known.address {
            Some(address) => locked.contains(address) || known.at > began,
            None => known.at.elapsed() < SUSPECTED,
        });
        for address in asked.difference(&locked) {
            tracing::info!(%address, "free again");
        }
        Ok(())
    }
}

/// Keeps what is known up to date until the drain.
pub async fn keep(cx: Context, held_up: std::sync::Arc<HeldUp>) {
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = cx.drain.cancelled() => return,
        }
        if !held_up.is_empty()
            && let Err(error) = held_up.look(&cx.postgres).await
        {
            tracing::debug!(%error, "cannot ask what is locked");
        }
        cx.metrics.held_up.set(i64::try_from(held_up.known().len()).unwrap_or(i64::MAX));
    }
}

/// What a command is about; one that is about nothing is its own.
fn name(command: &Command) -> String {
    match &command.request {
        Ok(request) => request.address.to_string(),
        Err(_) => format!("{}.{}", command.tenant, command.command_id),
    }
}

/// Returns those of some aggregates that somebody else has locked.
///
/// # Errors
/// Where Postgres refuses, or where a whole table is locked.
pub async fn locked(
    postgres: &PgPool,
    asked: &BTreeSet<Address>,
) -> sqlx::Result<BTreeSet<Address>> {
    if asked.is_empty() {
        return Ok(BTreeSet::new());
    }
    let column = |f: fn(&Address) -> &str| asked.iter().map(f).collect::<Vec<_>>();
    let rows = bounded(postgres, async |connection| {
        sqlx::query_file!(
            "src/workers/command_handler/held_up.sql",
            &column(|a| a.tenant.as_str()) as _,
            &column(|a| a.aggregate.as_str()) as _,
            &column(|a| a.id.as_str()) as _,
        )
        .fetch_all(&mut **connection)
        .await
    });
    let address = |tenant: &str, aggregate: &str, id: &str| {
        let aggregate = Aggregate::parse_noted(aggregate)
            .ok_or_else(|| sqlx::Error::Decode(format!("an aggregate {aggregate:?}").into()))?;
        let token = |text| Token::new(text).map_err(refused);
        Ok(Address { tenant: token(tenant)?, aggregate, id: token(id)? })
    };
    rows.await?.iter().map(|row| address(&row.tenant, &row.aggregate, &row.id)).collect()
}

#[cfg(test)]
mod tests {
    use anyhow::Result;
    use brigade_servers as stack;
    use brigade_servers::{Binaries, config::StackConfig};
    use sqlx::AssertSqlSafe;

    use super::*;
    use crate::{infra::postgres::pool, operations::migrate};

    fn command(subject: &str) -> Command {
        let headers = [("Command-Id", "k1")];
        Command::decode(subject, headers.into_iter(), br#"{"user":"bob"}"#).unwrap()
    }

    #[test]
    fn a_command_waits_for_what_it_names_and_for_nothing_else() {
        let held_up = HeldUp::default();
        let (c1, c2) = (command("req.t1.cart.c1.join"), command("req.t1.cart.c2.join"));
        let other = command("req.t2.cart.c1.join");
        assert!(held_up.by(&c1).is_none() && held_up.is_empty());
        let address = Address::new("t1", Aggregate::Cart, "c1").unwrap();
        held_up.add(&BTreeSet::from([address]));
        assert_eq!(held_up.by(&c1), Some(By::Locked("t1.cart.c1".to_owned())));
        assert_eq!((held_up.by(&c2), held_up.by(&other)), (None, None));
        assert!(held_up.is_locked("t1.cart.c1"));
    }

    #[test]
    fn a_suspect_is_one_until_a_command_about_it_is_decided() {
        let held_up = HeldUp::default();
        let c1 = command("req.t1.cart.c1.join");
        assert_eq!(held_up.suspect(&c1, "why"), "t1.cart.c1");
        assert_eq!(held_up.by(&c1), Some(By::Suspect("t1.cart.c1".to_owned())));
        assert!(!held_up.is_locked("t1.cart.c1"), "it is tried");
        // What can be asked for is not forgotten because of an outcome.
        let address = Address::new("t1", Aggregate::Cart, "c2").unwrap();
        held_up.add(&BTreeSet::from([address]));
        let c2 = command("req.t1.cart.c2.join");
        held_up.decided([&c1, &c2].into_iter());
        assert_eq!(held_up.by(&c1), None);
        assert!(held_up.is_locked("t1.cart.c2"));
    }

    /// Rows that hold nothing but their keys and what the lock of one asks of others.
    const ROWS: &str = "
        do $$ declare c record; begin
            for c in select a.attrelid::regclass as relation, a.attname from pg_attribute a
                     join pg_class t on t.oid = a.attrelid
                     where t.relnamespace = 'brigade'::regnamespace and t.relkind = 'r'
                       and a.attnum > 0 and a.attnotnull and a.attgenerated = ''
                       and a.attnum not in (select unnest(i.indkey) from pg_index i
                           where i.indrelid = a.attrelid and i.indisprimary) loop
                execute format('alter table %s alter column %I drop not null', c.relation, c.attname);
            end loop;
        end $$;
        insert into brigade.carts (tenant, id, owner) values ('t1', 'c1', 'ada'), ('t1', 'c2', 'bob');
        insert into brigade.orders (tenant, id, status) values ('t1', 'o1', 'placed');
        insert into brigade.tables (tenant, id) values ('t1', 'd1');
        insert into brigade.users (tenant, id) values ('t1', 'u1');
        insert into brigade.payments (tenant, id, target_kind, target_id, order_id) values
            ('t1', 'p1', 'cart', 'c1', 'o1'), ('t1', 'p2', 'order', 'o1', null),
            ('t1', 'p3', 'cart', 'c2', null);";

    #[tokio::test]
    async fn what_is_locked_is_found_with_all_that_needs_it() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let binaries = Binaries::find(&StackConfig::from_env()).await?;
        let server = stack::Postgres::start(&binaries.postgres_bin, dir.path(), 0).await?;
        let url = server.superuser_url("postgres");
        migrate::run(&url, |_| None).await?;
        let pool = pool(&url, "test", 3)?;
        sqlx::raw_sql(ROWS).execute(&pool).await?;
        let all = [
            "cart.c1",
            "cart.c2",
            "order.o1",
            "table.d1",
            "user.u1",
            "payment.p1",
            "payment.p2",
            "payment.p3",
            "cart.none",
            "payment.none",
        ];
        let address = |text: &&str| {
            let (aggregate, id) = text.split_once('.').unwrap();
            Address::new("t1", Aggregate::parse(aggregate).unwrap(), id).unwrap()
        };
        let owner = Address::new("t1", Aggregate::Cart, "ada").unwrap();
        let owner = Address { aggregate: Aggregate::Lock, ..owner };
        let asked: BTreeSet<_> = all.iter().map(address).chain([owner]).collect();
        assert!(locked(&pool, &asked).await?.is_empty());
        for (lock, expected) in [
            ("select from brigade.carts where id = 'c1' for update", vec!["cart.c1", "payment.p1"]),
            (
                "update brigade.orders set id = id where id = 'o1'",
                vec!["order.o1", "payment.p1", "payment.p2"],
            ),
            ("select from brigade.tables for update", vec!["table.d1"]),
            ("select from brigade.users for no key update", vec!["user.u1"]),
            ("select from brigade.payments where id = 'p3' for update", vec!["payment.p3"]),
            (
                "select pg_advisory_xact_lock(hashtextextended('t1.ada', 0))",
                vec!["cart.c1", "lock.ada", "payment.p1"],
            ),
            // Shared by all who change a cart of this owner.
            ("select pg_advisory_xact_lock_shared(hashtextextended('t1.ada', 0))", vec![]),
        ] {
            let mut by_hand = pool.begin().await?;
            sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut *by_hand).await?;
            let found = locked(&pool, &asked).await?;
            let mut found: Vec<_> = found.iter().map(ToString::to_string).collect();
            found.sort();
            let expected: Vec<_> = expected.iter().map(|name| format!("t1.{name}")).collect();
            assert_eq!(found, expected, "{lock}");
            by_hand.rollback().await?;
            assert!(locked(&pool, &asked).await?.is_empty(), "{lock}");
        }
        // A whole table: that is another answer than a list.
        let mut by_hand = pool.begin().await?;
        let lock = "lock table brigade.users in access exclusive mode";
        sqlx::raw_sql(lock).execute(&mut *by_hand).await?;
        assert!(locked(&pool, &asked).await.is_err());
        Ok(())
    }
}
