use anyhow::Result;
use sqlx::AssertSqlSafe;

use super::*;
use crate::testing::TestDatabase;

fn command(subject: &str) -> Command {
    let headers = [("Command-Id", "k1")];
    Command::decode(subject, headers.into_iter(), br#"{"user":"bob"}"#).unwrap()
}

#[test]
fn a_command_waits_for_the_aggregates_that_it_names_and_for_no_other() {
    let held_up = HeldAggregates::default();
    let (c1, c2) = (command("req.t1.cart.c1.join"), command("req.t1.cart.c2.join"));
    let other = command("req.t2.cart.c1.join");
    assert!(held_up.by(&c1).is_none() && held_up.is_empty());
    let address = Address::new("t1", Aggregate::Cart, "c1").unwrap();
    held_up.add(&BTreeSet::from([address]));
    assert_eq!(held_up.by(&c1), Some(HeldBy::Locked("t1.cart.c1".to_owned())));
    assert_eq!((held_up.by(&c2), held_up.by(&other)), (None, None));
    assert!(held_up.is_locked("t1.cart.c1"));
}

#[test]
fn a_suspect_is_one_until_a_command_about_it_is_decided() {
    let held_up = HeldAggregates::default();
    let c1 = command("req.t1.cart.c1.join");
    assert_eq!(held_up.suspect(&c1, "why"), "t1.cart.c1");
    assert_eq!(held_up.by(&c1), Some(HeldBy::Suspect("t1.cart.c1".to_owned())));
    assert!(!held_up.is_locked("t1.cart.c1"), "it is tried");
    // A lock that can be queried is not forgotten because of an outcome.
    let address = Address::new("t1", Aggregate::Cart, "c2").unwrap();
    held_up.add(&BTreeSet::from([address]));
    let c2 = command("req.t1.cart.c2.join");
    held_up.decided([&c1, &c2].into_iter());
    assert_eq!(held_up.by(&c1), None);
    assert!(held_up.is_locked("t1.cart.c2"));
}

/// Rows that hold nothing but their keys and the references by which they are locked together.
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
    insert into brigade.products (tenant, id) values ('t1', 's1');
    insert into brigade.payments (tenant, id, target_kind, target_id, order_id) values
        ('t1', 'p1', 'cart', 'c1', 'o1'), ('t1', 'p2', 'order', 'o1', null),
        ('t1', 'p3', 'cart', 'c2', null);";

#[tokio::test]
async fn locked_aggregates_are_found_with_all_that_need_them() -> Result<()> {
    let TestDatabase { sql: pool, .. } = TestDatabase::start().await?;
    sqlx::raw_sql(ROWS).execute(&pool).await?;
    let all = [
        "cart.c1",
        "cart.c2",
        "order.o1",
        "table.d1",
        "user.u1",
        "product.s1",
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
    let queried: BTreeSet<_> = all.iter().map(address).chain([owner]).collect();
    assert!(locked(&pool, &queried).await?.is_empty());
    for (lock, expected) in [
        ("select from brigade.carts where id = 'c1' for update", vec!["cart.c1", "payment.p1"]),
        (
            "update brigade.orders set id = id where id = 'o1'",
            vec!["order.o1", "payment.p1", "payment.p2"],
        ),
        ("select from brigade.tables for update", vec!["table.d1"]),
        ("select from brigade.users for no key update", vec!["user.u1"]),
        ("select from brigade.products for update", vec!["product.s1"]),
        ("select pg_advisory_xact_lock(hashtextextended('t1..products', 0))", vec!["product.s1"]),
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
        let found = locked(&pool, &queried).await?;
        let mut found: Vec<_> = found.iter().map(ToString::to_string).collect();
        found.sort();
        let expected: Vec<_> = expected.iter().map(|name| format!("t1.{name}")).collect();
        assert_eq!(found, expected, "{lock}");
        by_hand.rollback().await?;
        assert!(locked(&pool, &queried).await?.is_empty(), "{lock}");
    }
    // A whole table: that is an error and not a list.
    let mut by_hand = pool.begin().await?;
    let lock = "lock table brigade.users in access exclusive mode";
    sqlx::raw_sql(lock).execute(&mut *by_hand).await?;
    assert!(locked(&pool, &queried).await.is_err());
    Ok(())
}
