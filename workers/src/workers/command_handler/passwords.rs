//! Hashes and verifies passwords by argon2id.
//!
//! Both are slow and take memory on purpose, so they happen before a batch, off the async threads,
//! and only a few at once. A password of a user who does not exist takes as long as any other, so
//! that the time of a response does not show who exists.

use std::{sync::Arc, thread::available_parallelism};

use anyhow::Context as _;
use argon2::{
    Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version,
    password_hash::phc::PasswordHash,
};
use brigade_contracts::Secret;
use tokio::{sync::Semaphore, task::spawn_blocking};

/// The minimum for argon2id in the OWASP Password Storage Cheat Sheet: 19 MiB, 2 passes,
/// 1 lane. <https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html>
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// Hashes and verifies passwords; clones share the bound on how many at once.
#[derive(Clone)]
pub struct Passwords {
    argon2: Argon2<'static>,
    at_once: usize,
    permits: Arc<Semaphore>,
    /// The hash to verify against if there is none.
    dummy: Arc<Secret>,
}

impl Passwords {
    /// Returns a hasher that keeps up to `at_once` threads busy, each with 19 MiB. The default is
    /// one thread less than there are cores, and at least one. Takes as long as one hash.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn new(at_once: Option<usize>) -> anyhow::Result<Self> {
        let spare = || available_parallelism().map_or(1, |cores| cores.get() - 1);
        let at_once = at_once.unwrap_or_else(spare).max(1);
        let params = Params::new(MEMORY_KIB, PASSES, LANES, None);
        let params = params.map_err(|error| anyhow::anyhow!("argon2: {error}"))?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let dummy = Arc::new(hash(&argon2, "nobody's")?);
        Ok(Self { argon2, at_once, permits: Arc::new(Semaphore::new(at_once)), dummy })
    }

    /// Returns how many threads are kept busy.
    #[must_use]
    pub fn at_once(&self) -> usize {
        self.at_once
    }

    /// Returns the hash of a password, in PHC form, with a salt of its own.
    ///
    /// # Errors
    /// If the system has no random numbers or threads.
    pub async fn hash(&self, password: Secret) -> anyhow::Result<Secret> {
        self.work(move |passwords| hash(&passwords.argon2, password.expose())).await?
    }

    /// Returns whether a password is that of the hash. Without a hash it never is, after the same
    /// time.
    ///
    /// # Errors
    /// If the hash is not in PHC form, or the system has no threads.
    pub async fn verify(&self, password: Secret, hash: Option<&Secret>) -> anyhow::Result<bool> {
        let (known, hash) = (hash.is_some(), hash.cloned());
        self.work(move |passwords| {
            let hash = hash.as_ref().unwrap_or(&passwords.dummy);
            // By the parameters in the hash, not those of `self.argon2`.
            let hash = PasswordHash::new(hash.expose()).context("a stored hash")?;
            let right = passwords.argon2.verify_password(password.expose().as_bytes(), &hash);
            Ok(right.is_ok() && known)
        })
        .await?
    }

    /// Returns whether a hash was made with other parameters than those of today.
    #[must_use]
    pub fn is_outdated(&self, hash: &Secret) -> bool {
        let parameters = |hash: &Secret| hash.expose().rsplitn(3, '$').last().map(str::to_owned);
        parameters(hash) != parameters(&self.dummy)
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let permit = self.permits.clone().acquire_owned().await?;
        let this = self.clone();
        // A blocking task goes on when nobody waits for it any more: the permit goes with it.
        let work = move || {
            let done = work(&this);
            drop(permit);
            done
        };
        Ok(spawn_blocking(work).await?)
    }
}

fn hash(argon2: &Argon2<'_>, password: &str) -> anyhow::Result<Secret> {
    let hash = argon2.hash_password(password.as_bytes()).context("hashing a password")?;
    Ok(Secret::new(hash.to_string())?)
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering::SeqCst},
    };

    use futures::future::join_all;

    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned()).unwrap()
    }

    #[tokio::test]
    async fn a_password_is_right_for_its_own_hash_only() {
        let passwords = Passwords::new(None).unwrap();
        let hash = passwords.hash(secret("correct horse")).await.unwrap();
        assert!(hash.expose().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", hash.expose());
        let other = passwords.hash(secret("correct horse")).await.unwrap();
        assert_ne!(hash, other, "each has its own salt");
        for (password, hash, right) in [
            ("correct horse", Some(&hash), true),
            ("correct horse", Some(&other), true),
            ("Correct horse", Some(&hash), false),
            ("correct horse", None, false),
            ("nobody's", None, false),
        ] {
            let verified = passwords.verify(secret(password), hash).await.unwrap();
            assert_eq!(verified, right, "{password}");
        }
        assert!(!passwords.is_outdated(&hash));
        let weaker = hash.expose().replace("t=2", "t=1");
        assert!(passwords.is_outdated(&secret(&weaker)));
        let none = secret("no hash");
        assert!(passwords.verify(secret("p"), Some(&none)).await.is_err());
    }

    #[tokio::test]
    async fn the_hash_to_verify_against_if_there_is_none_has_the_same_parameters() {
        let passwords = Passwords::new(Some(1)).unwrap();
        let hash = passwords.hash(secret("p")).await.unwrap();
        let parameters = |hash: &Secret| hash.expose().rsplitn(3, '$').last().map(str::to_owned);
        assert_eq!(parameters(&passwords.dummy), parameters(&hash));
    }

    #[tokio::test]
    async fn no_more_than_allowed_work_at_once() {
        let passwords = Passwords::new(Some(2)).unwrap();
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        // Nobody goes on alone, so two are always at work together.
        let pair = Arc::new(Barrier::new(2));
        let work = |_| {
            let (now, most, pair) = (now.clone(), most.clone(), pair.clone());
            passwords.work(move |_| {
                most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                pair.wait();
                now.fetch_sub(1, SeqCst);
            })
        };
        let done = join_all((0..8).map(work)).await;
        assert!(done.iter().all(Result::is_ok));
        assert_eq!(most.load(SeqCst), 2);
        assert_eq!(Passwords::new(Some(0)).unwrap().permits.available_permits(), 1);
    }
}
