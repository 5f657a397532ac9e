use std::{fmt, str::FromStr};

/// The name of a worker: its file, its durable consumer, its metric label, its
/// command-line argument, its NATS user and its Postgres role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WorkerName {
    CommandHandler,
    OutboxRelay,
    PaymentProjector,
    UserStateProjector,
    CartLockExpiry,
    TableStatusReconciler,
    CacheVerifier,
    Edge,
}

impl WorkerName {
    pub const ALL: [Self; 8] = [
        Self::CommandHandler,
        Self::OutboxRelay,
        Self::PaymentProjector,
        Self::UserStateProjector,
        Self::CartLockExpiry,
        Self::TableStatusReconciler,
        Self::CacheVerifier,
        Self::Edge,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CommandHandler => "command-handler",
            Self::OutboxRelay => "outbox-relay",
            Self::PaymentProjector => "payment-projector",
            Self::UserStateProjector => "user-state-projector",
            Self::CartLockExpiry => "cart-lock-expiry",
            Self::TableStatusReconciler => "table-status-reconciler",
            Self::CacheVerifier => "cache-verifier",
            Self::Edge => "edge",
        }
    }

    /// The name as it ends an environment variable: `COMMAND_HANDLER`.
    #[must_use]
    pub fn env_suffix(self) -> String {
        self.as_str().to_ascii_uppercase().replace('-', "_")
    }
}

impl FromStr for WorkerName {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::as_str).join(", ");
        Self::ALL
            .into_iter()
            .find(|w| w.as_str() == text)
            .ok_or_else(|| format!("no worker is called {text:?}; there are {}", known()))
    }
}

impl fmt::Display for WorkerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
