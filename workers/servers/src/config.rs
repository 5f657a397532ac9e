use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

/// Every variable of a local stack, for `--help`.
pub const VARIABLES: &str = "\
Environment, all optional:
  BRIGADE_NATS_SERVER              the nats-server to use (2.14.3 or newer)
  BRIGADE_POSTGRES_BIN             the folder with postgres and initdb to use (15 or newer)
  BRIGADE_CACHE_DIR                where downloaded servers are kept (default: ~/.cache/brigade)
  GOGC, GOMEMLIMIT                 when nats-server collects garbage (default: GOGC=400
                                   and GOMEMLIMIT of half the memory)";

/// The places in which the two servers of a local stack are looked for, and the folder of
/// downloads.
#[derive(Clone, Debug)]
pub struct StackConfig {
    /// `BRIGADE_NATS_SERVER`: the `nats-server` to use, and no other.
    pub nats_server: Option<PathBuf>,
    /// `BRIGADE_POSTGRES_BIN`: the folder with `postgres` and `initdb` to use, and no other.
    pub postgres_bin: Option<PathBuf>,
    /// `BRIGADE_PGBOUNCER`: the `pgbouncer` of tests, and no other.
    pub pgbouncer: Option<PathBuf>,
    /// `PATH`: searched first, and by it the download client is found.
    pub path: OsString,
    /// Folders searched after `PATH`. A `*` in a folder's name stands for a version; the newest
    /// comes first.
    pub places: Vec<PathBuf>,
    /// `BRIGADE_CACHE_DIR`, else `brigade` in `XDG_CACHE_HOME`, else in `~/.cache`.
    pub cache_dir: PathBuf,
}

impl StackConfig {
    pub fn from_env() -> Self {
        let home = env::home_dir().filter(|home| home.is_absolute());
        Self {
            nats_server: set("BRIGADE_NATS_SERVER").map(PathBuf::from),
            postgres_bin: set("BRIGADE_POSTGRES_BIN").map(PathBuf::from),
            pgbouncer: set("BRIGADE_PGBOUNCER").map(PathBuf::from),
            path: set("PATH").unwrap_or_default(),
            places: places(home.as_deref()),
            cache_dir: cache_dir(set("BRIGADE_CACHE_DIR"), set("XDG_CACHE_HOME"), home.as_deref()),
        }
    }
}

/// An empty variable counts as absent: that is how a shell unsets one for a single command.
#[expect(clippy::disallowed_methods, reason = "the only place that reads the environment")]
pub fn set(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

fn cache_dir(own: Option<OsString>, xdg: Option<OsString>, home: Option<&Path>) -> PathBuf {
    match (own, xdg, home) {
        (Some(own), _, _) => own.into(),
        (None, Some(xdg), _) => PathBuf::from(xdg).join("brigade"),
        (None, None, Some(home)) => home.join(".cache/brigade"),
        (None, None, None) => "/var/cache/brigade".into(),
    }
}

/// Returns the folders into which packages install servers without putting them on the PATH
/// (Debian's Postgres), or that a service's short PATH lacks (Homebrew, `go install`).
fn places(home: Option<&Path>) -> Vec<PathBuf> {
    let fixed = [
        "/usr/lib/postgresql/*/bin",
        "/usr/pgsql-*/bin",
        "/opt/homebrew/bin",
        "/opt/homebrew/opt/postgresql@*/bin",
        "/usr/local/bin",
        "/usr/local/sbin",
        "/usr/local/opt/postgresql@*/bin",
        "/usr/local/pgsql/bin",
        "/usr/bin",
        "/usr/sbin",
        "/Applications/Postgres.app/Contents/Versions/*/bin",
    ];
    let own = home.into_iter().map(|home| home.join("go/bin"));
    fixed.into_iter().map(PathBuf::from).chain(own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_folder_is_the_first_one_that_is_named() {
        let (own, xdg, home) = ("/own", "/xdg", Path::new("/home/ada"));
        let cases = [
            ((Some(own), Some(xdg), Some(home)), "/own"),
            ((None, Some(xdg), Some(home)), "/xdg/brigade"),
            ((None, None, Some(home)), "/home/ada/.cache/brigade"),
            ((None, None, None), "/var/cache/brigade"),
        ];
        for ((own, xdg, home), expected) in cases {
            let found = cache_dir(own.map(Into::into), xdg.map(Into::into), home);
            assert_eq!(found, Path::new(expected));
        }
    }
}
