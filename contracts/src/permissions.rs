//! The permissions on both servers: the one table from which the NATS users, the Postgres roles and
//! the files in `nats/permissions/` are made.
//!
//! A tenant's users are in an account of its own ([`Account`]), tied to the fleet's by imports.
//!
//! Leader reads (`$JS.API.STREAM.MSG.GET`) and watches cannot be narrowed by key, so only
//! workers and operators get them; tenants' programs use queries and `live.>`. What each of those
//! may do is the table of their roles ([`Role`]).

mod accounts;
mod grants;
mod roles;

use serde_json::{Value, json};

pub use self::{
    accounts::{
        Account, accounts, check_sender, exports, imports_of_fleet, is_from_tenant, listed_user,
        tenant_account,
    },
    grants::{Grants, former_grants, grants},
    roles::{Role, producer, tenant_users, watcher},
};
use crate::{
    Part, Token, WorkerName,
    key::{Bucket, CANARY},
    subject::{
        ABANDON, DEAD_LETTERS_STORED, EXPIRE_LOCK, LIVE_MONEY, LOCK_TIMERS, OUTBOX_RELAYS,
        OUTBOX_WAKE, QUERY_ACTIVE_ORDERS, QUERY_CARTS, QUERY_DAY_CLOSE, QUERY_ENDED_ORDERS,
        QUERY_LOCK, QUERY_LOCK_HISTORY, QUERY_ORDERS, QUERY_OUTCOME, QUERY_PRODUCTS,
        QUERY_REFUND_TASKS, QUERY_TABLES, QUERY_UNKNOWN_PAYMENTS, QUERY_USER_SESSIONS,
        QUERY_USER_STATE, QUERY_USER_VALIDATE, QUERY_VIEW, REBUILD_USER_CACHE, RECONCILE, REQUESTS,
        SECRET_VERBS_ON_DURABLE_DOOR, TABLES_MAY_CHANGE,
    },
    topology::{OVERTAKING, Topology},
};

/// Verbs that only workers and operators may send; tenants' credentials are denied them.
pub const SYSTEM_VERBS: &[&str] = &["rebuild_cache", "expire_lock", "reconcile"];

/// The time in which a reply may be sent, as nats-server reads it: longer than the fleet waits for
/// one.
const REPLY_WITHIN: &str = "5s";

/// A NATS user and what it may do. Subscribing to its own inbox is always added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsUser {
    pub account: Account,
    pub name: String,
    pub publish: Vec<String>,
    pub publish_deny: Vec<String>,
    pub subscribe: Vec<String>,
    /// Subjects that are left out of a wider subscription.
    pub subscribe_deny: Vec<String>,
    /// To each message that reaches it with a reply subject it may send one reply.
    pub may_reply: bool,
}

impl NatsUser {
    fn new(account: Account, name: impl Into<String>) -> Self {
        Self {
            account,
            name: name.into(),
            publish: Vec::new(),
            publish_deny: Vec::new(),
            subscribe: Vec::new(),
            subscribe_deny: Vec::new(),
            may_reply: false,
        }
    }

    fn publish<S: Into<String>>(mut self, subjects: impl IntoIterator<Item = S>) -> Self {
        self.publish.extend(subjects.into_iter().map(Into::into));
        self
    }

    fn subscribe<S: Into<String>>(mut self, subjects: impl IntoIterator<Item = S>) -> Self {
        self.subscribe.extend(subjects.into_iter().map(Into::into));
        self
    }

    fn publish_denied(mut self, subjects: impl IntoIterator<Item = String>) -> Self {
        self.publish_deny.extend(subjects);
        self
    }

    fn subscribe_denied(mut self, subjects: impl IntoIterator<Item = String>) -> Self {
        self.subscribe_deny.extend(subjects);
        self
    }

    /// Reads whole buckets, from the leader.
    fn reads(self, buckets: &[Bucket]) -> Self {
        self.publish(buckets.iter().map(|b| format!("$JS.API.STREAM.MSG.GET.{}", b.stream())))
    }

    /// Follows the changes of a bucket by consumers without a name, which are gone with it.
    fn watches(self, bucket: Bucket) -> Self {
        let stream = bucket.stream();
        self.publish([
            format!("$JS.API.STREAM.INFO.{stream}"),
            format!("$JS.API.CONSUMER.CREATE.{stream}"),
            format!("$JS.FC.{stream}.>"),
        ])
    }

    /// Uses its own durable consumer of a stream, and can make it again.
    fn consumes(self, stream: &str) -> Self {
        let durable = self.name.clone();
        self.consumes_by(stream, &durable)
    }

    fn consumes_by(self, stream: &str, durable: &str) -> Self {
        self.publish([
            format!("$JS.API.CONSUMER.CREATE.{stream}.{durable}"),
            format!("$JS.API.CONSUMER.INFO.{stream}.{durable}"),
            format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"),
            format!("$JS.ACK.{stream}.{durable}.>"),
        ])
    }

    /// Uses durable consumers of a stream that it makes and deletes itself.
    fn overtakes(self, stream: &str, durables: &[&str]) -> Self {
        durables.iter().fold(self, |user, durable| {
            let delete = format!("$JS.API.CONSUMER.DELETE.{stream}.{durable}");
            user.consumes_by(stream, durable).publish([delete])
        })
    }

    /// Answers requests, in inboxes of the fleet and in what the server puts in the place of a
    /// reply subject of a tenant's account. Not by [`Self::replies`]: of a request within the
    /// fleet's account the reply subject is the sender's choice, and would let it publish with this
    /// user's name wherever it likes; and a query may wait longer than a reply may take. What a
    /// worker sends there without having been asked reaches somebody who waits for an answer of
    /// the fleet, or nobody.
    fn serves<S: Into<String>>(self, subjects: impl IntoIterator<Item = S>) -> Self {
        self.subscribe(subjects).publish(["_INBOX.>", "_R_.>"])
    }

    /// Answers requests once, and publishes on no reply subject of its own choice. For those whom
    /// only the fleet can send something with a reply subject: the server has made that of a
    /// request from another account itself.
    fn replies<S: Into<String>>(self, subjects: impl IntoIterator<Item = S>) -> Self {
        Self { may_reply: true, ..self.subscribe(subjects) }
    }

    /// The inbox prefix that this user, and nobody else, may listen to.
    #[must_use]
    pub fn inbox_prefix(&self) -> String {
        inbox_prefix(&self.name)
    }

    /// The `permissions` block of nats-server's configuration, which reads JSON.
    #[must_use]
    pub fn permissions(&self) -> Value {
        let inbox = format!("{}.>", self.inbox_prefix());
        let subscribe: Vec<_> = self.subscribe.iter().chain([&inbox]).collect();
        let mut permissions = json!({
            "publish": { "allow": self.publish, "deny": self.publish_deny },
            "subscribe": { "allow": subscribe, "deny": self.subscribe_deny },
        });
        if self.may_reply {
            permissions["allow_responses"] = json!({ "max": 1, "expires": REPLY_WITHIN });
        }
        permissions
    }
}

/// `_INBOX.<user>`.
#[must_use]
pub fn inbox_prefix(user: &str) -> String {
    format!("_INBOX.{user}")
}

/// Returns the subject on which an instance of a worker sends messages to itself, to see that its
/// connection carries any.
#[must_use]
pub fn alive(user: &str, instance: &str) -> String {
    format!("{}.alive.{instance}", inbox_prefix(user))
}

/// The consumer of `DLQ` by which cache-verifier counts dead letters.
pub const DEAD_LETTER_COUNT: &str = "cache-verifier-count";

/// The NATS user of a worker.
#[must_use]
pub fn worker(name: WorkerName) -> NatsUser {
    let user = NatsUser::new(Account::Fleet, name.as_str())
        .publish([format!("dlq.{name}.>"), Bucket::Attempts.subject(&format!("{name}.>"))])
        .publish([alive(name.as_str(), "*")])
        .reads(&[Bucket::Attempts]);
    match name {
        WorkerName::CommandHandler => command_handler(user),
        WorkerName::OutboxRelay => {
            user.publish(["evt.>", OUTBOX_RELAYS]).subscribe([OUTBOX_WAKE, OUTBOX_RELAYS])
        }
        WorkerName::PaymentProjector => user
            .consumes("EVENTS")
            .reads(&[Bucket::Versions, Bucket::Views, Bucket::ActiveOrders])
            .publish([views_of(Part::Payments), Bucket::ActiveOrders.subject("*.*.payment")]),
        WorkerName::UserStateProjector => user
            .consumes("EVENTS")
            .reads(&[Bucket::Versions, Bucket::UserState])
            .publish([Part::Subscription, Part::Roles].map(user_state_of)),
        WorkerName::CartLockExpiry => user.consumes("TIMERS").publish([EXPIRE_LOCK, ABANDON]),
        WorkerName::TableStatusReconciler => user.publish([RECONCILE]).subscribe(TABLES_MAY_CHANGE),
        // It writes no key but the canaries, and no event: it enters in SQL what others have to
        // write again, or asks them to.
        WorkerName::CacheVerifier => user
            .consumes("EVENTS")
            .reads(&[Bucket::Versions, Bucket::Views, Bucket::ActiveOrders, Bucket::CartLocks])
            .reads(&[Bucket::UserState])
            .publish(canaries())
            .publish(resets_for_an_era())
            .publish([QUERY_USER_STATE, REBUILD_USER_CACHE])
            .publish(observes_consumers())
            .publish(Topology::compiled_in().streams.keys().flat_map(|stream| {
                ["INFO", "CREATE"].map(|verb| format!("$JS.API.STREAM.{verb}.{stream}"))
            })),
        WorkerName::Edge => user
            .serves([QUERY_VIEW, QUERY_OUTCOME, QUERY_ACTIVE_ORDERS, QUERY_PRODUCTS, "$SRV.>"])
            .subscribe([QUERY_LOCK, QUERY_LOCK_HISTORY, QUERY_DAY_CLOSE])
            .subscribe([QUERY_TABLES, QUERY_CARTS, QUERY_ORDERS, QUERY_ENDED_ORDERS])
            .subscribe([QUERY_REFUND_TASKS, QUERY_UNKNOWN_PAYMENTS])
            .subscribe([QUERY_USER_VALIDATE, QUERY_USER_STATE, QUERY_USER_SESSIONS])
            // What wakes the queries that wait.
            .subscribe([Bucket::Versions.live(">").as_str(), "outcome.>"])
            .reads(&[Bucket::Versions, Bucket::Views])
            // The commands that come over HTTP, for customers and staff: no system verb.
            .publish(["req.*.*.*.*"])
            .publish_denied(SYSTEM_VERBS.iter().map(|verb| format!("req.*.*.*.{verb}")))
            .watches(Bucket::ActiveOrders),
    }
}

fn command_handler(user: NatsUser) -> NatsUser {
    user.serves([REQUESTS])
        .subscribe(SECRET_VERBS_ON_DURABLE_DOOR)
        .consumes("COMMANDS")
        .overtakes("COMMANDS", &OVERTAKING)
        .publish(
            ["INFO", "PURGE", "MSG.GET", "MSG.DELETE"]
                .map(|verb| format!("$JS.API.STREAM.{verb}.COMMANDS")),
        )
        .reads(&[Bucket::Versions, Bucket::Views, Bucket::ActiveOrders, Bucket::CartLocks])
        .reads(&[Bucket::UserState])
        .publish([Bucket::Versions.subject("*.*.*"), views_of(Part::Core)])
        .publish([Bucket::ActiveOrders.subject("*.*.core"), Bucket::CartLocks.subject("*.*")])
        .publish([user_state_of(Part::Auth)])
        .publish([LOCK_TIMERS, OUTBOX_WAKE, "outcome.>", "hooks.>", LIVE_MONEY])
        // Dead letters that an operator has it replay or drop.
        .publish(["INFO", "MSG.GET", "MSG.DELETE"].map(|verb| format!("$JS.API.STREAM.{verb}.DLQ")))
        .publish(["cmd.*.*.*.*"])
        .publish_denied(SECRET_VERBS_ON_DURABLE_DOOR.map(str::to_owned))
}

fn views_of(part: Part) -> String {
    Bucket::Views.subject(&format!("*.*.*.{}", part.as_str()))
}

/// Empties the buckets, and has `COMMANDS` delivered from the beginning.
fn resets_for_an_era() -> impl Iterator<Item = String> {
    let buckets = Bucket::ALL.into_iter().filter(|bucket| bucket.has_canary());
    let purges = buckets.map(|bucket| format!("$JS.API.STREAM.PURGE.{}", bucket.stream()));
    let consumer = WorkerName::CommandHandler;
    purges.chain([format!("$JS.API.CONSUMER.DELETE.COMMANDS.{consumer}")])
}

/// Looks how far every declared consumer is, and at the messages that they wait for; reads the
/// headers of dead letters by a consumer of its own.
fn observes_consumers() -> impl Iterator<Item = String> {
    let consumers = Topology::compiled_in().consumers.into_iter();
    let observed = consumers.flat_map(|(stream, consumers)| {
        let info = |durable: &String| format!("$JS.API.CONSUMER.INFO.{stream}.{durable}");
        let own = WorkerName::CacheVerifier.as_str();
        let infos: Vec<_> = consumers.keys().filter(|name| *name != own).map(info).collect();
        infos.into_iter().chain([format!("$JS.API.STREAM.MSG.GET.{stream}")])
    });
    let letters = DEAD_LETTER_COUNT;
    observed.chain([
        format!("$JS.API.CONSUMER.CREATE.DLQ.{letters}.dlq.>"),
        format!("$JS.API.CONSUMER.DELETE.DLQ.{letters}"),
        format!("$JS.API.CONSUMER.MSG.NEXT.DLQ.{letters}"),
    ])
}

fn canaries() -> impl Iterator<Item = String> {
    let buckets = Bucket::ALL.into_iter().filter(|bucket| bucket.has_canary());
    buckets.map(|bucket| bucket.subject(CANARY))
}

fn user_state_of(part: Part) -> String {
    Bucket::UserState.subject(&format!("*.*.{}", part.as_str()))
}

/// Sees and mends the streams of all tenants, but writes no key, event or outcome by hand.
#[must_use]
pub fn operator() -> NatsUser {
    NatsUser::new(Account::Fleet, "operator")
        .publish(["$JS.API.>", "$JS.ACK.>", "$SRV.>", "cmd.>", "req.>", "q.>"])
        // The parts of a stream, while it is backed up and restored.
        .publish(["$JS.SNAPSHOT.ACK.>", "$JS.SNAPSHOT.RESTORE.>"])
        .subscribe(["cmd.>", "evt.>", "dlq.>", "outcome.>", "live.>", "$JS.EVENT.>"])
        .subscribe([DEAD_LETTERS_STORED])
}

/// Every user of a stack with these tenants.
#[must_use]
pub fn all_users(tenants: &[Token]) -> Vec<NatsUser> {
    let mut users: Vec<_> = WorkerName::ALL.into_iter().map(worker).collect();
    users.push(operator());
    users.extend(tenants.iter().flat_map(tenant_users));
    users
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;

    /// The accounts, and the permissions of each user, of a stack with one tenant.
    fn files() -> Vec<(PathBuf, String)> {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../nats");
        let users = all_users(&[Token::new("TENANT").unwrap()]);
        let permissions = users.iter().map(|user| {
            let text = format!("permissions: {:#}\n", user.permissions());
            (folder.join(format!("permissions/{}.conf", user.name)), text)
        });
        let accounts = (folder.join("accounts.conf"), accounts::template(&users));
        permissions.chain([accounts]).collect()
    }

    #[test]
    #[ignore = "writes nats/permissions and nats/accounts.conf from the table above"]
    fn write_permission_files() {
        for (path, text) in files() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn committed_files_say_what_the_table_says() {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../nats/permissions");
        let users = files().iter().filter(|(path, _)| path.starts_with(&folder)).count();
        assert_eq!(fs::read_dir(folder).unwrap().count(), users);
        for (path, text) in files() {
            let committed = fs::read_to_string(&path).unwrap_or_default();
            assert_eq!(committed, text, "{} is old: run `just permissions`", path.display());
        }
    }

    #[test]
    fn a_key_is_writable_by_one_worker_only() {
        for key in [
            "$KV.views.*.*.*.core",
            "$KV.views.*.*.*.payments",
            "$KV.versions.*.*.*",
            "$KV.versions.canary",
            "$KV.cart_locks.*.*",
            "$KV.cart_locks.canary",
            "$KV.user_state.*.*.auth",
            "$KV.user_state.*.*.subscription",
            "$KV.user_state.*.*.roles",
        ] {
            let writers = WorkerName::ALL
                .into_iter()
                .filter(|name| worker(*name).publish.iter().any(|subject| subject == key));
            assert_eq!(writers.count(), 1, "{key}");
        }
    }
}
