//! The arguments of `brigade tenants`, and its help.

use std::path::PathBuf;

/// A restaurant is a tenant: a row in SQL, without which nothing of it is taken, and an account on
/// nats-server, without which none of its programs can connect. Both are written here.
///
/// The row counts at once. The account is a file in a folder that nats-server's configuration
/// includes (nats/server.conf of the repository is an example), and counts when the server has read
/// it again: give --reload-pid, or run `nats-server --signal reload=<pid>` twice, on each server.
///
/// Reads SQL by BRIGADE_DATABASE_URL, the database owner's.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct TenantsArgs {
    #[command(subcommand)]
    pub action: TenantsAction,
}

#[derive(clap::Subcommand)]
pub enum TenantsAction {
    /// Begin a folder of accounts, or bring it up to date after an upgrade
    ///
    /// Makes the users of workers and operators that are missing, and prints their passwords. Writes
    /// the permissions of all accounts as this release has them. Needs no database.
    Sync {
        #[command(flatten)]
        folder: RequiredFolder,
        #[command(flatten)]
        output: Output,
    },
    /// Register a tenant; with --accounts also make its account and print its passwords
    ///
    /// The passwords are printed once; they can be read in DIR/tenants/<tenant>.conf as well. May
    /// be repeated after an error; where only the reload failed, `sync` does it.
    Add {
        /// The restaurant's name in all subjects and paths: 1 to 51 of A-Z a-z 0-9 _ -
        tenant: String,
        #[command(flatten)]
        folder: Folder,
        /// Give a tenant that was removed back, with its history
        #[arg(long)]
        restore: bool,
        #[command(flatten)]
        output: Output,
    },
    /// List the tenants
    Ls {
        /// Also those that were removed
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Show one; with --accounts also the NATS users that it has
    Show {
        tenant: String,
        /// The folder of the accounts
        #[arg(long, value_name = "DIR")]
        accounts: Option<PathBuf>,
        #[command(flatten)]
        output: Output,
    },
    /// Make a second credential of each user, beside the present one; then end that with --finish
    ///
    /// The user names get a number (`demo-backend-2`), and so do their inbox prefixes. Both
    /// credentials are good until --finish, so programs are moved one after the other.
    Rotate {
        tenant: String,
        #[command(flatten)]
        folder: RequiredFolder,
        /// End the older credential: who still uses it is disconnected by the reload
        #[arg(long)]
        finish: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Refuse everything of a tenant, at once: `403 tenant_suspended`
    ///
    /// On NATS and over HTTP; its streams over HTTP end. Its connections to NATS stay, to be told
    /// why. Durable commands that are not decided yet, and those that come, become dead letters:
    /// `brigade dlq replay --matching --tenant <t> --reason tenant_suspended` after `resume`. What
    /// the fleet does by itself goes on: locks end, events are published.
    Suspend { tenant: String },
    /// End a suspension
    Resume { tenant: String },
    /// Remove a tenant that is suspended, and its account
    ///
    /// Its history stays in SQL (orders, payments, events), and so does its name: `add` gives both
    /// back with --restore alone.
    Rm {
        tenant: String,
        /// Really
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        folder: Folder,
    },
}

#[derive(clap::Args)]
pub struct Folder {
    /// The folder of the accounts, which nats-server's configuration includes
    #[arg(long, value_name = "DIR")]
    pub accounts: Option<PathBuf>,
    #[command(flatten)]
    pub reload: Reload,
}

#[derive(clap::Args)]
pub struct RequiredFolder {
    /// The folder of the accounts, which nats-server's configuration includes
    #[arg(long, value_name = "DIR")]
    pub accounts: PathBuf,
    #[command(flatten)]
    pub reload: Reload,
}

#[derive(clap::Args)]
pub struct Reload {
    /// Have the nats-server of this machine read its configuration again: its `pid_file`
    #[arg(long, value_name = "FILE")]
    pub reload_pid: Option<PathBuf>,
}

#[derive(clap::Args)]
pub struct Output {
    /// One JSON object a line, for programs
    #[arg(long)]
    pub json: bool,
}
