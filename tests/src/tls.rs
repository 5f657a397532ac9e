//! Certificates for a test.

pub(crate) use brigade::testing::tls::nats_configuration;
pub use brigade::testing::tls::{Authority, BEGIN_TLS, Certificate, own_by_postgres};
