//! Decides a batch in sub-batches, and projects what they changed: carries out the policy of
//! [`super::sub_batch`].

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use brigade_contracts::{Address, Command, planted::PlantedBug, subject};
use brigade_domain::{Missing, State, user::Checked};
use tokio::time::sleep;

use super::{
    CommandHandler, Disposition, credentials,
    held_up::{self, HeldBy},
    hooks, lock_plan,
    money_pushes::MoneyPush,
    sub_batch::{Cause, Isolated, Isolation, Next, SubBatch, isolate, next},
    transaction::{self, BEGIN, BEGIN_BRIEF, CommandBatch, Decided},
};
use crate::{infra::postgres::bounded, runtime::BatchPermit};

/// Pause before Postgres is asked again after it could not be reached.
const PAUSE: Duration = Duration::from_millis(50);

/// A batch while it is decided.
struct BatchRun<'a> {
    handler: &'a CommandHandler,
    commands: &'a [Command],
    checked: Vec<Option<Checked>>,
    /// Nobody waits for this batch.
    is_beside: bool,
    /// One a command.
    dispositions: Vec<Disposition>,
    isolation: Isolation,
    /// The newest state of each changed aggregate: a batch that was split may have changed one
    /// several times.
    changed: HashMap<Address, State>,
    to_restore: BTreeSet<Address>,
    shards: u16,
    pushes: Vec<MoneyPush>,
}

impl CommandHandler {
    /// Decides commands and projects the aggregates that they changed. Returns one disposition a
    /// command, in their order. `checked` holds the results of their password checks. The permit is
    /// dropped before the projection.
    ///
    /// Commands that lacked something are decided next, before all later ones. Commands whose
    /// aggregates somebody else has locked are held ([`held_up`]).
    pub(super) async fn decide(
        &self,
        commands: &[Command],
        checked: Vec<Option<Checked>>,
        permit: Option<BatchPermit>,
    ) -> Vec<Disposition> {
        let mut run = BatchRun {
            handler: self,
            commands,
            checked,
            is_beside: permit.as_ref().is_none_or(BatchPermit::is_beside),
            dispositions: vec![Disposition::Unavailable(String::new()); commands.len()],
            isolation: Isolation::default(),
            changed: HashMap::new(),
            to_restore: BTreeSet::new(),
            shards: 0,
            pushes: Vec::new(),
        };
        run.decide().await;
        drop(permit);
        run.project_then_release().await
    }
}

impl BatchRun<'_> {
    async fn decide(&mut self) {
        let mut queue = self.sub_batches();
        while let Some(sub_batch) = queue.pop() {
            if sub_batch.positions.is_empty() {
                continue;
            }
            if sub_batch.is_suspect && self.isolation.is_over() {
                self.suspect(&sub_batch.positions, "not tried yet");
                continue;
            }
            queue.extend(match self.transact(&sub_batch).await {
                Ok(decided) => self.decided(sub_batch, decided).await.into_iter().collect(),
                Err(error) => self.failed(sub_batch, &error).await,
            });
        }
        // Others were decided, so the database does not refuse all commands.
        if let Some(why) = self.isolation.mismatch.take()
            && (self.isolation.has_decided || self.is_beside)
        {
            let mismatched = std::mem::take(&mut self.isolation.mismatched);
            self.suspect(&mismatched, &why);
        }
    }

    /// Returns the sub-batches to begin with, the last one first: all commands that are not known
    /// to be held up and, if nobody waits for this batch, each suspect by itself.
    fn sub_batches(&mut self) -> Vec<SubBatch> {
        let mut unsuspected = Vec::with_capacity(self.commands.len());
        let mut queue = Vec::new();
        for (position, command) in self.commands.iter().enumerate() {
            match self.handler.held_up.by(command) {
                None => unsuspected.push(position),
                Some(HeldBy::Suspect(_)) if self.is_beside => {
                    queue.push(SubBatch::suspect(position))
                }
                Some(HeldBy::Suspect(name) | HeldBy::Locked(name)) => {
                    self.dispositions[position] = Disposition::Held(name);
                }
            }
        }
        queue.reverse();
        queue.push(SubBatch::of(unsuspected));
        queue
    }

    /// Decides a sub-batch in one transaction.
    async fn transact(&self, sub_batch: &SubBatch) -> sqlx::Result<Decided> {
        let handler = self.handler;
        let projected = handler.projected.take();
        let positions = sub_batch.positions.iter();
        let commands: Vec<_> =
            positions.map(|&at| (&self.commands[at], self.checked[at].as_ref())).collect();
        let batch = CommandBatch {
            commands: &commands,
            missing: &sub_batch.missing,
            projected: &projected,
        };
        let begin = if self.waits_briefly() { BEGIN_BRIEF } else { BEGIN };
        let decided = bounded(&handler.cx.postgres, async |postgres| {
            let key = handler.secret_key.get(postgres).await?;
            transaction::decide(&handler.cx, &handler.lock_policy, key, postgres, &batch, begin)
                .await
        });
        decided.await.inspect_err(|_| handler.projected.add(projected))
    }

    /// Returns whether a transaction waits for a lock only briefly, since something is held up.
    fn waits_briefly(&self) -> bool {
        self.isolation.has_begun() || !self.handler.held_up.is_empty()
    }

    /// Takes the answers of a sub-batch. Returns its deferred commands, which lacked something.
    async fn decided(&mut self, sub_batch: SubBatch, decided: Decided) -> Option<SubBatch> {
        let handler = self.handler;
        handler.cx.health.back("postgres");
        if self.waits_briefly() {
            handler.held_up.decided(sub_batch.positions.iter().map(|&at| &self.commands[at]));
        }
        self.isolation.decided();
        handler.metrics.count_locks(&decided.lock_metrics);
        for hook in decided.hooks {
            handler.beside.spawn(hooks::send(handler.cx.clone(), hook));
        }
        let mut deferred = Vec::new();
        for (&position, answer) in sub_batch.positions.iter().zip(decided.answers) {
            match answer {
                Some(answer) => self.dispositions[position] = Disposition::Decided(answer),
                None => deferred.push(position),
            }
        }
        let changed =
            decided.to_project.into_iter().map(|state| (state.head().address.clone(), state));
        self.changed.extend(changed);
        self.to_restore.extend(decided.to_restore);
        self.shards |= decided.shards;
        self.pushes.extend(decided.pushes);
        if decided.missing.iter().any(|missing| matches!(missing, Missing::Password(..))) {
            self.check_again(&deferred).await;
        }
        match sub_batch.with_missing(deferred, decided.missing) {
            Ok(next) => Some(next),
            Err(positions) => {
                for position in positions {
                    let why = "its aggregates keep changing".to_owned();
                    self.dispositions[position] = Disposition::Failed(why);
                }
                None
            }
        }
    }

    /// Returns the sub-batches that are tried after one that failed, the last one first.
    async fn failed(&mut self, sub_batch: SubBatch, error: &sqlx::Error) -> Vec<SubBatch> {
        let cause = Cause::of(error);
        let next = next(cause, &sub_batch);
        tracing::debug!(%error, ?cause, ?next, commands = sub_batch.positions.len(), "a sub-batch was not decided");
        match next {
            Next::Retry => vec![sub_batch.retried()],
            Next::RetryAfterPause => {
                sleep(PAUSE).await;
                vec![sub_batch.retried()]
            }
            Next::Split => sub_batch.split().into(),
            Next::Isolate => self.isolate(sub_batch, cause, error).await,
            Next::GiveUp => {
                self.unavailable(&sub_batch.positions, error);
                Vec::new()
            }
            Next::Fail => {
                for position in sub_batch.positions {
                    let target = &self.commands[position].target;
                    tracing::error!(%error, target, "a command cannot be decided");
                    self.dispositions[position] = Disposition::Failed(error.to_string());
                }
                Vec::new()
            }
        }
    }

    /// Isolates the commands of a sub-batch that are held up. Returns the sub-batches that are
    /// tried next, the last one first.
    async fn isolate(
        &mut self,
        sub_batch: SubBatch,
        cause: Cause,
        error: &sqlx::Error,
    ) -> Vec<SubBatch> {
        self.isolation.failed(cause);
        let mut unlocked = sub_batch.positions.clone();
        if cause.is_lock() {
            match self.locked(&sub_batch).await {
                Ok(locked) => {
                    unlocked.retain(|position| !locked.contains_key(position));
                    for (position, address) in locked {
                        self.dispositions[position] = Disposition::Held(address.to_string());
                    }
                }
                // Whole tables are locked, or Postgres cannot be reached.
                Err(error) => {
                    self.unavailable(&sub_batch.positions, &error);
                    return Vec::new();
                }
            }
        }
        let count = sub_batch.positions.len();
        match isolate(cause, count, unlocked.len(), self.isolation.is_over()) {
            Isolated::Rest => {
                let mut rest = sub_batch;
                rest.positions = unlocked;
                return vec![rest];
            }
            Isolated::Split => {
                // The missing aggregate of one of them may be the locked one.
                let mut halves = sub_batch.split();
                halves.iter_mut().for_each(|half| half.missing.clear());
                return halves.into();
            }
            Isolated::Suspects => self.suspect(&unlocked, &error.to_string()),
            Isolated::Mismatched => {
                self.unavailable(&unlocked, error);
                self.isolation.mismatch = Some(error.to_string());
                self.isolation.mismatched.extend(unlocked);
            }
        }
        Vec::new()
    }

    /// Returns the commands of a sub-batch that need an aggregate that somebody else has locked, by
    /// position, with that aggregate.
    async fn locked(&self, sub_batch: &SubBatch) -> sqlx::Result<HashMap<usize, Address>> {
        let needs = |&position: &usize| {
            let mut needed = lock_plan::addresses_of(&self.commands[position]);
            if sub_batch.positions.len() == 1 {
                needed.extend(lock_plan::addresses_of_missing(&sub_batch.missing));
            }
            (position, needed)
        };
        let needed: Vec<_> = sub_batch.positions.iter().map(needs).collect();
        let queried = needed.iter().flat_map(|(_, needed)| needed).cloned().collect();
        let locked = held_up::locked(&self.handler.cx.postgres, &queried).await?;
        self.handler.held_up.add(&locked);
        let of = |(position, needed): (usize, BTreeSet<Address>)| {
            Some((position, needed.intersection(&locked).next()?.clone()))
        };
        Ok(needed.into_iter().filter_map(of).collect())
    }

    fn suspect(&mut self, positions: &[usize], why: &str) {
        for &position in positions {
            let name = self.handler.held_up.suspect(&self.commands[position], why);
            self.dispositions[position] = Disposition::Held(name);
        }
    }

    fn unavailable(&mut self, positions: &[usize], error: &sqlx::Error) {
        self.handler.cx.health.away("postgres", &error.to_string());
        for &position in positions {
            self.dispositions[position] = Disposition::Unavailable(error.to_string());
        }
    }

    /// Checks passwords again, against the present hashes. If this fails, the next decision lacks
    /// the result again.
    async fn check_again(&mut self, positions: &[usize]) {
        let handler = self.handler;
        for &position in positions {
            let command = &self.commands[position..=position];
            match credentials::check(&handler.passwords, &handler.cx.postgres, command).await {
                Ok(again) => {
                    let again = again.into_iter().next();
                    self.checked[position] = again.and_then(|check| check.checked);
                }
                Err(error) => {
                    tracing::warn!(%error, "a password could not be checked; it will be retried")
                }
            }
        }
    }

    /// Projects the changed aggregates and only then hands out the dispositions. It consumes the
    /// run, so no command can be responded to before its projection was written or given up: a
    /// client that reads KV or gets a push must not know less than the one that got the response.
    ///
    /// Wakes the relay as well.
    async fn project_then_release(self) -> Vec<Disposition> {
        let handler = self.handler;
        handler.cx.fail.point("command-handler.after_commit").await;
        let changed: Vec<_> = self.changed.into_values().collect();
        if !PlantedBug::AnswerBeforeProjection.is_planted() {
            handler.projected.add(handler.writer.project(&changed).await);
        }
        match handler.writer.restore(&self.to_restore).await {
            Ok(restored) => handler.projected.add(restored.projected),
            Err(error) => tracing::warn!(%error, "what is to be rebuilt cannot be read"),
        }
        for MoneyPush { subject, payload } in self.pushes {
            // Nobody may rely on it: a list or the metric tells the same.
            let _lost = handler.cx.nats.client.publish(subject, payload).await;
        }
        // Not before: somebody waits for the projection and the answer.
        if self.shards != 0 {
            // Only a hint: the relay also polls by itself.
            let shards = self.shards.to_string().into();
            let _hint = handler.cx.nats.client.publish(subject::OUTBOX_WAKE, shards).await;
        }
        handler.cx.fail.point("command-handler.after_projection").await;
        let decided = self.commands.iter().zip(&self.dispositions);
        let is_decided =
            |of: &Disposition| matches!(of, Disposition::Decided(answer) if !answer.is_of_tenant);
        let decided = decided.filter(|(_, of)| is_decided(of));
        handler.tenants.remember(decided.map(|(command, _)| command));
        self.dispositions
    }
}
