//! The steps of a heal, as they stand in SQL.

use brigade_contracts::{Aggregate, Token, key::Bucket};
use serde::{Deserialize, Serialize};

use crate::workers::cache_verifier::heads::KeyCursor;

/// A step of a heal. It goes in batches; [`HealPosition`] says how far it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealStep {
    /// Deletes the keys of a bucket but its canary; of one tenant alone, if it is named.
    DeleteKeys { bucket: Bucket, tenant: Option<Token> },
    /// Puts aggregates into the heal backlog, from which command-handler projects them.
    Project { scope: HealScope },
    /// Waits until the heal backlog is empty.
    AwaitProjections,
    /// Puts events into the outbox once more.
    Replay { events: EventRange, under_new_ids: bool },
    /// Puts the last event of each part that a projector writes into the outbox once more.
    Republish { scope: HealScope },
    /// Waits until everything that was put into the outbox once more is published.
    AwaitPublications,
}

/// A set of aggregates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealScope {
    /// The aggregates of a kind whose keys have not expired.
    Unexpired { kind: Aggregate, tenant: Option<Token> },
    /// The orders whose rows in `active_orders` have not expired.
    ListedOrders { tenant: Option<Token> },
    /// The aggregates of these events, and the locks of the owners of carts among them.
    Changed { events: EventRange },
}

impl HealScope {
    /// Returns true if projectors may write parts of these aggregates.
    pub fn has_projected_parts(&self) -> bool {
        match self {
            Self::Unexpired { kind, .. } => {
                kind.parts().iter().any(|part| part.is_written_by_projector())
            }
            Self::ListedOrders { .. } | Self::Changed { .. } => true,
        }
    }
}

/// Numbers of events: above the first, up to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRange {
    pub after: i64,
    pub until: i64,
}

/// The place of a heal: a step, and in it the last key or event that is done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HealPosition {
    pub step: usize,
    #[serde(default)]
    pub after: KeyCursor,
    #[serde(default)]
    pub seq: i64,
}

impl HealPosition {
    /// Returns the beginning of the step that follows.
    pub fn next_step(&self) -> Self {
        Self { step: self.step + 1, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_str, to_string};

    use super::*;

    /// A heal that a release before has written is gone on with.
    #[test]
    fn steps_are_stored_under_names_that_stay() {
        let tenant = Some(Token::new("t1").unwrap());
        let scope = HealScope::Unexpired { kind: Aggregate::Lock, tenant: tenant.clone() };
        let events = EventRange { after: 1, until: 9 };
        let steps = vec![
            HealStep::DeleteKeys { bucket: Bucket::CartLocks, tenant },
            HealStep::Project { scope },
            HealStep::AwaitProjections,
            HealStep::Replay { events, under_new_ids: true },
            HealStep::Republish { scope: HealScope::ListedOrders { tenant: None } },
            HealStep::Project { scope: HealScope::Changed { events } },
            HealStep::AwaitPublications,
        ];
        let stored = r#"[{"delete_keys":{"bucket":"cart_locks","tenant":"t1"}},
            {"project":{"scope":{"unexpired":{"kind":"lock","tenant":"t1"}}}},
            "await_projections",
            {"replay":{"events":{"after":1,"until":9},"under_new_ids":true}},
            {"republish":{"scope":{"listed_orders":{"tenant":null}}}},
            {"project":{"scope":{"changed":{"events":{"after":1,"until":9}}}}},
            "await_publications"]"#;
        assert_eq!(from_str::<Vec<HealStep>>(stored).unwrap(), steps);
        let text = to_string(&steps).unwrap();
        assert_eq!(text, stored.split_whitespace().collect::<String>());
        let position = HealPosition { step: 2, after: ("t1".into(), "c".into()), seq: 7 };
        let stored = r#"{"step":2,"after":["t1","c"],"seq":7}"#;
        assert_eq!(to_string(&position).unwrap(), stored);
        assert_eq!(from_str::<HealPosition>(stored).unwrap(), position);
        assert_eq!(from_str::<HealPosition>(r#"{"step":0}"#).unwrap(), HealPosition::default());
    }
}
