//! What the Postgres role of each worker may do.

use crate::WorkerName;

/// Privileges on objects of the schema `brigade`: (`TABLE x`, `SEQUENCE x` or `FUNCTION x(types)`,
/// privileges). Functions are nobody's otherwise.
pub type Grants = &'static [(&'static str, &'static str)];

/// Grants edge a function that gives pages of lists: all of them take the same.
macro_rules! pages {
    ($function:literal) => {
        (
            concat!(
                "FUNCTION ",
                $function,
                "(bigint, text[], text[], timestamp with time zone[], timestamp with time zone[], \
                 text[], bigint[])"
            ),
            "EXECUTE",
        )
    };
}

/// Returns the grants of a worker's Postgres role; none: it does not use Postgres.
#[must_use]
pub fn grants(name: WorkerName) -> Grants {
    match name {
        WorkerName::CommandHandler => &[
            ("TABLE carts", "SELECT, INSERT, UPDATE"),
            ("TABLE secret_key", "SELECT"),
            ("TABLE named_people", "SELECT, INSERT"),
            ("TABLE orders", "SELECT, INSERT, UPDATE"),
            ("TABLE order_people", "SELECT, INSERT"),
            ("TABLE payments", "SELECT, INSERT, UPDATE"),
            ("TABLE refund_tasks", "SELECT, INSERT, UPDATE"),
            ("TABLE money_ledger", "INSERT"),
            ("TABLE tables", "SELECT, INSERT, UPDATE"),
            ("TABLE turns", "SELECT, INSERT, UPDATE"),
            ("TABLE products", "SELECT, INSERT, UPDATE"),
            ("TABLE cart_locks", "SELECT, INSERT, UPDATE, DELETE"),
            ("TABLE lock_floors", "SELECT, INSERT, UPDATE"),
            ("TABLE cart_lock_history", "SELECT, INSERT"),
            ("TABLE users", "SELECT, INSERT, UPDATE"),
            ("TABLE login_failures", "SELECT, INSERT, DELETE"),
            ("TABLE security_log", "SELECT, INSERT, DELETE"),
            ("TABLE command_inbox", "SELECT, INSERT, UPDATE, DELETE"),
            ("TABLE events", "SELECT, INSERT"),
            ("TABLE outbox", "INSERT"),
            ("TABLE projection_backlog", "SELECT, INSERT, UPDATE, DELETE"),
            ("TABLE heal_backlog", "SELECT, UPDATE, DELETE"),
            ("TABLE leases", "SELECT, INSERT, UPDATE, DELETE"),
            ("TABLE tenants", "SELECT"),
            // It does what operators have left to it.
            ("TABLE dead_letter_actions", "SELECT, INSERT, UPDATE, DELETE"),
            ("TABLE dead_letter_jobs", "SELECT, UPDATE, DELETE"),
            ("TABLE dead_letter_job_items", "SELECT, UPDATE, DELETE"),
            ("TABLE user_activity", "SELECT, DELETE"),
            ("TABLE dead_letters", "SELECT, INSERT, DELETE"),
            ("TABLE dead_letter_overflow", "SELECT, INSERT, UPDATE, DELETE"),
            ("SEQUENCE events_seq_seq", "USAGE"),
            ("SEQUENCE cart_lock_history_seq_seq", "USAGE"),
            ("SEQUENCE lock_token", "USAGE"),
            ("FUNCTION load_batch(jsonb)", "EXECUTE"),
            ("FUNCTION erase_users(text[], text[], text[])", "EXECUTE"),
            ("FUNCTION current_era()", "EXECUTE"),
            ("FUNCTION beat(jsonb)", "EXECUTE"),
            ("FUNCTION assert_era(bigint)", "EXECUTE"),
            ("FUNCTION turn_at(text, text)", "EXECUTE"),
        ],
        WorkerName::OutboxRelay => &[
            ("TABLE leases", "SELECT, INSERT, UPDATE, DELETE"),
            ("TABLE events", "SELECT"),
            ("TABLE outbox", "SELECT, DELETE"),
            ("TABLE dead_letters", "SELECT, INSERT"),
            ("TABLE dead_letter_overflow", "SELECT, INSERT, UPDATE"),
            ("SEQUENCE events_seq_seq", "SELECT"),
            ("FUNCTION server_incarnation()", "EXECUTE"),
            ("FUNCTION assert_era(bigint)", "EXECUTE"),
            ("FUNCTION current_era()", "EXECUTE"),
            ("FUNCTION beat(jsonb)", "EXECUTE"),
            ("FUNCTION assert_incarnation(text)", "EXECUTE"),
        ],
        // What the stream of dead letters does not take, whoever consumes puts there, and counts
        // how many of the tenant's are there.
        WorkerName::PaymentProjector | WorkerName::UserStateProjector => &[
            ("FUNCTION current_era()", "EXECUTE"),
            ("FUNCTION beat(jsonb)", "EXECUTE"),
            ("TABLE dead_letters", "SELECT, INSERT"),
            ("TABLE dead_letter_overflow", "SELECT, INSERT, UPDATE"),
        ],
        // It may write nothing but its lease, which only saves work: two that find the same do no
        // harm.
        WorkerName::TableStatusReconciler => &[
            ("FUNCTION current_era()", "EXECUTE"),
            ("FUNCTION beat(jsonb)", "EXECUTE"),
            ("TABLE tables", "SELECT"),
            ("TABLE turns", "SELECT"),
            ("TABLE orders", "SELECT"),
            ("TABLE leases", "SELECT, INSERT, UPDATE, DELETE"),
        ],
        WorkerName::CartLockExpiry => &[
            ("FUNCTION current_era()", "EXECUTE"),
            ("FUNCTION beat(jsonb)", "EXECUTE"),
            ("TABLE carts", "SELECT"),
            ("TABLE cart_locks", "SELECT"),
            ("TABLE leases", "SELECT, INSERT, UPDATE, DELETE"),
            ("TABLE dead_letters", "SELECT, INSERT"),
            ("TABLE dead_letter_overflow", "SELECT, INSERT, UPDATE"),
        ],
        WorkerName::CacheVerifier => &[
            ("FUNCTION current_era()", "EXECUTE"),
            ("FUNCTION beat(jsonb)", "EXECUTE"),
            ("FUNCTION assert_era(bigint)", "EXECUTE"),
            ("FUNCTION era_to_reset(bigint)", "EXECUTE"),
            ("FUNCTION era_was_reset(bigint)", "EXECUTE"),
            ("TABLE carts", "SELECT"),
            ("TABLE orders", "SELECT"),
            ("TABLE payments", "SELECT"),
            ("TABLE refund_tasks", "SELECT"),
            ("TABLE tables", "SELECT"),
            ("TABLE turns", "SELECT"),
            ("TABLE products", "SELECT"),
            ("TABLE cart_locks", "SELECT"),
            // No hash of a password or a token.
            ("TABLE users", "SELECT (tenant, id, version, updated_at, parts)"),
            ("FUNCTION read_users(text[], text[], text[])", "EXECUTE"),
            ("FUNCTION turn_at(text, text)", "EXECUTE"),
            // A conflict on the event's id is looked at.
            ("TABLE user_activity", "SELECT, INSERT"),
            ("TABLE events", "SELECT"),
            ("TABLE outbox", "SELECT, INSERT"),
            // The release before writes there what it heals.
            ("TABLE projection_backlog", "SELECT, INSERT, UPDATE"),
            ("TABLE heal_backlog", "SELECT, INSERT, UPDATE"),
            ("TABLE heals", "SELECT, INSERT, UPDATE, DELETE"),
            ("TABLE audit_rounds", "SELECT, INSERT, UPDATE"),
            ("TABLE instances", "SELECT"),
            ("TABLE stream_checkpoints", "SELECT, INSERT, DELETE"),
            ("TABLE leases", "SELECT, INSERT, UPDATE, DELETE"),
            ("TABLE dead_letters", "SELECT, INSERT"),
            ("TABLE dead_letter_overflow", "SELECT, INSERT, UPDATE"),
            ("SEQUENCE events_seq_seq", "USAGE"),
        ],
        // No table: it faces the internet and serves all tenants. Each of these functions takes the
        // tenants whose rows it gives, so no statement of edge can leave them out.
        WorkerName::Edge => &[
            ("FUNCTION current_era()", "EXECUTE"),
            ("FUNCTION beat(jsonb)", "EXECUTE"),
            ("FUNCTION assert_era(bigint)", "EXECUTE"),
            ("FUNCTION read_versions(bigint, text[], text[], text[])", "EXECUTE"),
            ("FUNCTION read_aggregates(bigint, text[], text[], text[])", "EXECUTE"),
            ("FUNCTION read_owners(bigint, text[], text[], text[])", "EXECUTE"),
            ("FUNCTION read_outcomes(bigint, text[], text[], text[], text[])", "EXECUTE"),
            (
                "FUNCTION read_active_orders(bigint, text[], timestamp with time zone[], text[], \
                 bigint[])",
                "EXECUTE",
            ),
            (
                "FUNCTION read_ended_orders(bigint, text[], bigint[], timestamp with time zone[])",
                "EXECUTE",
            ),
            ("FUNCTION read_product_digests(bigint, text[], text[], bigint[])", "EXECUTE"),
            ("FUNCTION read_product_pages(bigint, text[], text[], bigint[])", "EXECUTE"),
            pages!("read_table_pages"),
            pages!("read_cart_pages"),
            pages!("read_order_pages"),
            pages!("read_ended_order_pages"),
            pages!("read_refund_task_pages"),
            pages!("read_unknown_payment_pages"),
            ("FUNCTION read_live_locks(bigint, text[], text[])", "EXECUTE"),
            ("FUNCTION read_lock_history(bigint, text[], text[], bigint[], bigint[])", "EXECUTE"),
            ("FUNCTION read_tenants(bigint, text[])", "EXECUTE"),
            (
                "FUNCTION read_day_closes(bigint, text[], timestamp with time zone[], \
                 timestamp with time zone[])",
                "EXECUTE",
            ),
            // What a gateway signs its messages with: nobody else reads it.
            ("FUNCTION read_gateways(bigint, text[], text[])", "EXECUTE"),
            // Of users only what this function returns: no hash of a password or a token.
            ("FUNCTION read_users(text[], text[], text[])", "EXECUTE"),
        ],
    }
}

/// Returns what the role of a worker has to have besides, while workers of the release before run
/// beside those of this one.
#[must_use]
pub fn former_grants(name: WorkerName) -> Grants {
    match name {
        // It read the tables itself.
        WorkerName::Edge => &[
            ("TABLE carts", "SELECT"),
            ("TABLE orders", "SELECT"),
            ("TABLE payments", "SELECT"),
            ("TABLE refund_tasks", "SELECT"),
            ("TABLE tables", "SELECT"),
            ("TABLE turns", "SELECT"),
            ("TABLE products", "SELECT"),
            ("TABLE cart_locks", "SELECT"),
            ("TABLE cart_lock_history", "SELECT"),
            ("TABLE tenants", "SELECT"),
            ("TABLE command_inbox", "SELECT"),
            ("FUNCTION turn_at(text, text)", "EXECUTE"),
        ],
        _ => &[],
    }
}
