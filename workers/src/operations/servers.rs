use crate::infra::NatsOptions;

/// The servers as an operator reaches them.
#[derive(Clone, Debug)]
pub struct OperatorServers {
    pub nats_url: String,
    pub nats: NatsOptions,
    pub database_url: String,
    /// The number of replicas of each stream that there should be.
    pub replicas: u8,
}
