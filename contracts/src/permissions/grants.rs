//! What the Postgres role of each worker may do.

use crate::WorkerName;

/// Privileges on objects of the schema `brigade`: (`TABLE x`, `SEQUENCE x` or `FUNCTION x(types)`,
/// privileges). Functions are nobody's otherwise.
pub type Grants = &'static [(&'static str, &'static str)];

/// Returns the grants of a worker's Postgres role; none: it does not use Postgres.
#[must_use]
pub fn grants(name: WorkerName) -> Grants {
    match name {
        WorkerName::CommandHandler => &[
            ("TABLE carts", "SELECT, INSERT, UPDATE"),
            ("TABLE orders", "SELECT, INSERT, UPDATE"),
            ("TABLE order_people", "SELECT, INSERT"),
            ("TABLE payments", "SELECT, INSERT, UPDATE"),
            ("TABLE refund_tasks", "SELECT, INSERT, UPDATE"),
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
            ("TABLE dead_letter_actions", "SELECT, DELETE"),
            ("TABLE user_activity", "SELECT, DELETE"),
            ("TABLE dead_letters", "SELECT, INSERT"),
            ("TABLE dead_letter_overflow", "SELECT, INSERT, UPDATE, DELETE"),
            ("SEQUENCE events_seq_seq", "USAGE"),
            ("SEQUENCE cart_lock_history_seq_seq", "USAGE"),
            ("SEQUENCE lock_token", "USAGE"),
            ("FUNCTION load_batch(jsonb)", "EXECUTE"),
            ("FUNCTION erase_users(text[], text[], text[])", "EXECUTE"),
            ("FUNCTION current_era()", "EXECUTE"),
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
            ("FUNCTION assert_incarnation(text)", "EXECUTE"),
        ],
        // What the stream of dead letters does not take, whoever consumes puts there, and counts
        // how many of the tenant's are there.
        WorkerName::PaymentProjector | WorkerName::UserStateProjector => &[
            ("FUNCTION current_era()", "EXECUTE"),
            ("TABLE dead_letters", "SELECT, INSERT"),
            ("TABLE dead_letter_overflow", "SELECT, INSERT, UPDATE"),
        ],
        // It may write nothing but its lease, which only saves work: two that find the same do no
        // harm.
        WorkerName::TableStatusReconciler => &[
            ("FUNCTION current_era()", "EXECUTE"),
            ("TABLE tables", "SELECT"),
            ("TABLE turns", "SELECT"),
            ("TABLE orders", "SELECT"),
            ("TABLE leases", "SELECT, INSERT, UPDATE, DELETE"),
        ],
        WorkerName::CartLockExpiry => &[
            ("FUNCTION current_era()", "EXECUTE"),
            ("TABLE carts", "SELECT"),
            ("TABLE cart_locks", "SELECT"),
            ("TABLE leases", "SELECT, INSERT, UPDATE, DELETE"),
            ("TABLE dead_letters", "SELECT, INSERT"),
            ("TABLE dead_letter_overflow", "SELECT, INSERT, UPDATE"),
        ],
        WorkerName::CacheVerifier => &[
            ("FUNCTION current_era()", "EXECUTE"),
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
            ("TABLE stream_checkpoints", "SELECT, INSERT, DELETE"),
            ("TABLE leases", "SELECT, INSERT, UPDATE, DELETE"),
            ("TABLE dead_letters", "SELECT, INSERT"),
            ("TABLE dead_letter_overflow", "SELECT, INSERT, UPDATE"),
            ("SEQUENCE events_seq_seq", "USAGE"),
        ],
        WorkerName::Edge => &[
            ("FUNCTION current_era()", "EXECUTE"),
            ("FUNCTION assert_era(bigint)", "EXECUTE"),
            ("TABLE carts", "SELECT"),
            ("TABLE orders", "SELECT"),
            ("TABLE order_people", "SELECT"),
            ("TABLE payments", "SELECT"),
            ("TABLE refund_tasks", "SELECT"),
            ("TABLE tables", "SELECT"),
            ("TABLE turns", "SELECT"),
            ("TABLE products", "SELECT"),
            ("TABLE cart_locks", "SELECT"),
            ("TABLE cart_lock_history", "SELECT"),
            ("TABLE tenants", "SELECT"),
            ("TABLE command_inbox", "SELECT"),
            // Of users only what this function returns: no hash of a password or a token.
            ("FUNCTION read_users(text[], text[], text[])", "EXECUTE"),
            ("FUNCTION turn_at(text, text)", "EXECUTE"),
        ],
    }
}
