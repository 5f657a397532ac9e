//! How a connection shows whose it is.

use std::path::Path;

use anyhow::{Context as _, ensure};
use async_nats::{Auth, ServerAddr};
use nkeys::KeyPair;
use percent_encoding::percent_decode_str;

use super::NatsOptions;
use crate::infra::secret;

/// Reads the user and the password of a URL. The client library itself does not.
///
/// # Errors
/// If they are not UTF-8.
pub(super) fn of_url(address: &ServerAddr) -> anyhow::Result<(Option<String>, Option<String>)> {
    let decoded = |text: Option<&str>| {
        text.map(|text| percent_decode_str(text).decode_utf8().map(String::from)).transpose()
    };
    Ok((decoded(address.username())?, decoded(address.password())?))
}

/// Returns what a connection shows to a server that sent this nonce.
///
/// # Errors
/// If a file cannot be read.
pub(super) fn login(
    options: &NatsOptions,
    address: &ServerAddr,
    nonce: &[u8],
) -> anyhow::Result<Auth> {
    let mut auth = Auth::new();
    if let Some(creds) = &options.creds {
        let text = secret::read(creds)?;
        auth.jwt = Some(part(&text, "NATS USER JWT", creds)?.to_owned());
        let key = key(part(&text, "USER NKEY SEED", creds)?, creds)?;
        auth.signature = Some(key.sign(nonce)?);
    } else if let Some(file) = &options.nkey_seed {
        let text = secret::read(file)?;
        let seed = text.lines().map(str::trim).find(|line| line.starts_with("SU"));
        let key = key(seed.with_context(|| no_seed(file))?, file)?;
        auth.nkey = Some(key.public_key());
        auth.signature = Some(key.sign(nonce)?);
    } else {
        let newest = match &options.url_file {
            Some(file) => Some(first_address(&secret::read(file)?)?),
            None => None,
        };
        let (user, password) = of_url(newest.as_ref().unwrap_or(address))?;
        // A user without a password is whoever the client certificate says.
        if password.is_some() {
            (auth.username, auth.password) = (user, password);
        }
    }
    Ok(auth)
}

/// Reads the first address of a URL of several.
pub(super) fn first_address(url: &str) -> anyhow::Result<ServerAddr> {
    let first = url.split(',').next().unwrap_or_default().trim();
    first.parse().context("the NATS URL cannot be read")
}

fn key(seed: &str, file: &Path) -> anyhow::Result<KeyPair> {
    KeyPair::from_seed(seed).map_err(|_| anyhow::anyhow!(no_seed(file)))
}

fn no_seed(file: &Path) -> String {
    format!("{} holds no seed of a user", file.display())
}

/// Returns the line after `-----BEGIN <name>-----`.
fn part<'a>(text: &'a str, name: &str, file: &Path) -> anyhow::Result<&'a str> {
    let begin = format!("BEGIN {name}-");
    let mut lines = text.lines().map(str::trim).skip_while(|line| !line.contains(&begin));
    let part = lines.nth(1).filter(|part| !part.is_empty() && !part.starts_with('-'));
    ensure!(part.is_some(), "{} holds no {name}", file.display());
    Ok(part.unwrap_or_default())
}
