//! What the secrets of carts are derived from. It never changes, and is read from SQL once.

use brigade_contracts::cart::SecretKey;
use sqlx::PgConnection;
use tokio::sync::OnceCell;

#[derive(Default)]
pub struct KnownSecretKey(OnceCell<SecretKey>);

impl KnownSecretKey {
    /// Returns the key.
    ///
    /// # Errors
    /// If Postgres refuses the statement the first time.
    pub async fn get(&self, postgres: &mut PgConnection) -> sqlx::Result<&SecretKey> {
        self.0.get_or_try_init(|| load(postgres)).await
    }
}

async fn load(postgres: &mut PgConnection) -> sqlx::Result<SecretKey> {
    let key = sqlx::query_scalar!("select key from brigade.secret_key").fetch_one(postgres).await?;
    let key: Result<[u8; SecretKey::LEN], _> = key.try_into();
    key.map(SecretKey::new)
        .map_err(|_| sqlx::Error::Decode("a secret key of another length".into()))
}
