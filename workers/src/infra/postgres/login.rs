//! A login that changes while the program runs.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use percent_encoding::percent_decode_str;
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgSslMode},
};
use tokio::time::{MissedTickBehavior, interval};

use crate::infra::{
    loopback::{ALLOW_PLAINTEXT, is_this_machine},
    secret,
};

/// The pause between two looks at a file.
const LOOK: Duration = Duration::from_secs(1);

/// Gives new connections of a pool the user and the password of the URL in a file, whenever the
/// file has changed. Connections that are there stay. Never ends.
pub async fn follow_file(pool: PgPool, file: PathBuf) {
    let mut last = None;
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        // An error is told once, and so is each change.
        let found = secret::read(&file).map_err(|error| format!("{error:#}"));
        if last.as_ref() == Some(&found) {
            continue;
        }
        let is_first = last.is_none();
        match found.clone().and_then(|url| take_login(&pool, &url, &file)) {
            Ok(()) if is_first => {}
            Ok(()) => tracing::info!(file = %file.display(), "the login to Postgres has changed"),
            Err(error) => {
                tracing::error!(error, "the login to Postgres stays as it was");
            }
        }
        last = Some(found);
    }
}

fn take_login(pool: &PgPool, url: &str, file: &Path) -> Result<(), String> {
    let new = PgConnectOptions::from_str(url)
        .map_err(|_| format!("{} holds no URL of Postgres", file.display()))?;
    let mut options = PgConnectOptions::clone(&pool.connect_options()).username(new.get_username());
    if let Some((_, Some(password))) = login_of(url) {
        options = options.password(&password);
    }
    pool.set_connect_options(options);
    Ok(())
}

/// Returns the user in a URL, and the password. Those of its query (`?user=…&password=…`) come
/// before those in front of the host, as where a session is opened.
#[must_use]
pub fn login_of(url: &str) -> Option<(String, Option<String>)> {
    let decode = |part: &str| percent_decode_str(part).decode_utf8().ok().map(String::from);
    let url = url.split_once("://")?.1;
    let (place, query) = url.split_once('?').unwrap_or((url, ""));
    let login = place.split('/').next()?.rsplit_once('@').map(|(login, _)| login);
    let (user, password) = login
        .map(|login| login.split_once(':').map_or((login, None), |(u, p)| (u, Some(p))))
        .unwrap_or_default();
    let (mut user, mut password) = (decode(user)?, password.and_then(decode));
    for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        let value = || decode(&value.replace('+', " "));
        match name {
            "user" => user = value()?,
            "password" => password = value(),
            _ => {}
        }
    }
    (!user.is_empty()).then_some((user, password))
}

/// Sees when the login of a pool has changed, for another pool that was made like it.
pub struct SeenLogin {
    of: PgPool,
    seen: Mutex<Arc<PgConnectOptions>>,
}

impl SeenLogin {
    #[must_use]
    pub fn new(of: &PgPool) -> Self {
        Self { of: of.clone(), seen: Mutex::new(of.connect_options()) }
    }

    /// Returns the options of the pool if they are others than the last time.
    #[must_use]
    pub fn changed(&self) -> Option<PgConnectOptions> {
        let now = self.of.connect_options();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&seen, &now) {
            return None;
        }
        seen.clone_from(&now);
        Some(PgConnectOptions::clone(&now))
    }
}

/// # Errors
/// If sessions by this URL would leave the machine in clear text.
pub fn stays_private(url: &str, allow_plaintext: bool) -> anyhow::Result<()> {
    let options = PgConnectOptions::from_str(url).context("the Postgres URL cannot be read")?;
    let host = options.get_host();
    if allow_plaintext || options.get_socket().is_some() || is_this_machine(host) {
        return Ok(());
    }
    match options.get_ssl_mode() {
        PgSslMode::Disable | PgSslMode::Allow | PgSslMode::Prefer => anyhow::bail!(
            "sessions with Postgres at {host} might not be encrypted: add ?sslmode=verify-full to \
             its URL (&sslrootcert=FILE names an authority of your own), or let it be with \
             {ALLOW_PLAINTEXT}=1"
        ),
        PgSslMode::Require => {
            tracing::warn!(host, "sslmode=require does not check who answers; verify-full does");
        }
        PgSslMode::VerifyCa | PgSslMode::VerifyFull => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
    use tokio_util::task::AbortOnDropHandle;

    use super::*;
    use crate::{
        infra::postgres::superuser_pool,
        testing::{
            TestDatabase,
            tls::{Authority, Certificate, encrypt_postgres},
            until,
        },
    };

    #[tokio::test]
    async fn a_password_that_was_written_into_the_file_is_used_by_new_sessions()
    -> anyhow::Result<()> {
        let database = TestDatabase::start().await?;
        // Roles belong to the whole server, which others use as well.
        let role = format!("rotated_{}", uuid::Uuid::now_v7().simple());
        let set = async |what: &str, password: &str| {
            let statement = format!("{what} role {role} login password '{password}'");
            database.sql.execute(sqlx::raw_sql(AssertSqlSafe(statement))).await
        };
        set("create", "old").await?;
        let (_, place) = database.url.rsplit_once('@').context("a user")?;
        let url = |password: &str| format!("postgres://{role}:{password}@{place}");
        let in_query = |password: &str| {
            let begins = if place.contains('?') { '&' } else { '?' };
            format!("postgres://{place}{begins}user={role}&password={password}")
        };
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("url");
        fs::write(&file, url("old"))?;
        let pool = superuser_pool(&url("old"), 2)?;
        let derived = SeenLogin::new(&pool);
        let follows = follow_file(pool.clone(), file.clone());
        let _follows = AbortOnDropHandle::new(tokio::spawn(follows));
        let mut in_use = pool.acquire().await?;
        let backend = "select pg_backend_pid()";
        let before: i32 = sqlx::query_scalar(backend).fetch_one(&mut *in_use).await?;
        set("alter", "new").await?;
        fs::write(&file, url("new"))?;
        // Old logins are refused, so what comes is a new one with the new password.
        let mut next = until("a new session", || async { pool.acquire().await.ok() }).await;
        let other: i32 = sqlx::query_scalar(backend).fetch_one(&mut *next).await?;
        let same: i32 = sqlx::query_scalar(backend).fetch_one(&mut *in_use).await?;
        assert!(before == same && other != same, "{before} {same} {other}");
        assert!(PgConnection::connect(&url("old")).await.is_err());
        let options = derived.changed().context("a change")?;
        PgConnection::connect_with(&options).await?.close().await?;
        // What is no URL changes nothing.
        fs::write(&file, "nonsense")?;
        tokio::task::yield_now().await;
        drop(next.detach());
        drop(pool.acquire().await?.detach());
        // Nor does it matter where in the URL they stand.
        set("alter", "newest").await?;
        fs::write(&file, in_query("newest"))?;
        until("a session with the newest", || async { pool.acquire().await.ok() }).await;
        Ok(())
    }

    #[tokio::test]
    async fn only_the_postgres_of_this_name_and_authority_is_believed() -> anyhow::Result<()> {
        let mut database = TestDatabase::with_own_postgres().await?;
        let authority = Authority::new();
        let dir = tempfile::tempdir()?;
        let files = authority.certify_client(dir.path());
        let url = |files: &Certificate| format!("{}{}", database.url, files.postgres_query());
        let (with, plain) = (url(&files), database.url.clone());
        let elsewhere = tempfile::tempdir()?;
        let foreign = Authority::new().certify_client(elsewhere.path());
        let believes_foreign =
            Certificate { authority: foreign.authority.clone(), ..files.clone() };
        let believes_foreign = url(&believes_foreign);
        let shows_foreign = url(&Certificate { authority: files.authority.clone(), ..foreign });
        let connect = async |url: &str| -> Result<bool, String> {
            let pool = superuser_pool(url, 1).map_err(|error| error.to_string())?;
            let encrypted = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
            sqlx::query_scalar(encrypted).fetch_one(&pool).await.map_err(|error| error.to_string())
        };
        let before = connect(&with).await.unwrap_err();
        assert!(before.contains("TLS"), "{before}");
        let postgres = database.postgres.as_mut().context("its own")?;
        encrypt_postgres(postgres, &authority, "127.0.0.1").await?;
        assert_eq!(connect(&with).await, Ok(true));
        let why = connect(&believes_foreign).await.unwrap_err();
        assert!(why.contains("UnknownIssuer"), "{why}");
        // Refused by the server, whatever it says then.
        assert!(connect(&shows_foreign).await.is_err());
        assert!(connect(&format!("{plain}?sslmode=require")).await.is_err());
        encrypt_postgres(postgres, &authority, "db.example").await?;
        let why = connect(&with).await.unwrap_err();
        assert!(why.contains("not valid for name"), "{why}");
        Ok(())
    }

    #[test]
    fn a_session_elsewhere_is_encrypted_unless_somebody_says_so() {
        let ok = |url: &str| stays_private(url, false).is_ok();
        for place in ["127.0.0.1", "localhost", "[::1]:5433", "%2Fvar%2Frun%2Fpostgresql"] {
            for mode in ["", "?sslmode=disable", "?sslmode=prefer", "?sslmode=verify-full"] {
                assert!(ok(&format!("postgres://edge:e@{place}/brigade{mode}")), "{place} {mode}");
            }
        }
        assert!(ok("postgres:///brigade?host=/var/run/postgresql"));
        for place in ["db", "10.0.0.1:5432", "[2001:db8::1]", "db.internal"] {
            let url = |mode: &str| format!("postgres://edge:e@{place}/brigade{mode}");
            for mode in ["", "?sslmode=disable", "?sslmode=allow", "?sslmode=prefer"] {
                let error = stays_private(&url(mode), false).unwrap_err().to_string();
                assert!(error.contains("sslmode=verify-full"), "{error}");
                assert!(!error.contains(":e@"), "{error}");
                assert!(stays_private(&url(mode), true).is_ok(), "{place} {mode}");
            }
            for mode in ["?sslmode=require", "?sslmode=verify-ca", "?sslmode=verify-full"] {
                assert!(ok(&url(mode)), "{place} {mode}");
            }
        }
        assert!(!ok("postgres:///brigade?host=db"));
    }

    #[test]
    fn the_login_of_a_url_is_decoded() {
        let login = |user: &str, password: Option<&str>| {
            Some((user.to_owned(), password.map(ToOwned::to_owned)))
        };
        assert_eq!(login_of("postgres://a:b%40c@h/d"), login("a", Some("b@c")));
        assert_eq!(login_of("postgres://a@h:5/d"), login("a", None));
        assert_eq!(login_of("postgres:///d"), None);
        let query = "sslmode=verify-full&user=b&password=x+y%2Bz";
        for place in ["h/d", "a@h/d", "a:old@h:5/d", "a:old@h"] {
            let found = login_of(&format!("postgres://{place}?{query}"));
            assert_eq!(found, login("b", Some("x y+z")), "{place}");
        }
        assert_eq!(login_of("postgres://a:old@h/d?password=new"), login("a", Some("new")));
        assert_eq!(login_of("postgres:///d?host=/run/postgresql&user=a"), login("a", None));
    }
}
