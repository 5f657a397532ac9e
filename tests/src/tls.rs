//! Certificates for a test.

pub use brigade::testing::tls::{Authority, Certificate, own_by_postgres};
pub(crate) use brigade::testing::tls::{BEGIN_TLS, nats_configuration};
