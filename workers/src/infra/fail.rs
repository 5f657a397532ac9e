//! Fail points: named places at which a test stops a worker. Compiled to nothing without the
//! feature `fail-points`.
//!
//! In the test's own process [`FailPoints::arm`] makes the next instance that reaches the
//! place wait there until it is released (or its instance is killed). In a process of its own,
//! `BRIGADE_FAIL_POINT=<name>` makes it abort there, as if killed with -9, and
//! `BRIGADE_FAIL_POINT=stop:<name>` stops it there once, as SIGSTOP does, until somebody sends
//! SIGCONT.

#[cfg(not(feature = "fail-points"))]
mod hooks {
    #[derive(Clone, Default)]
    pub struct FailPoints;

    impl FailPoints {
        /// A place where tests can stop a worker.
        #[inline]
        #[allow(clippy::unused_async, reason = "the same signature as with the feature")]
        pub async fn point(&self, _name: &str) {}

        /// A message at which tests can let a worker die.
        #[inline]
        pub fn message(&self, _payload: &[u8]) {}
    }
}

#[cfg(feature = "fail-points")]
mod hooks {
    use std::{
        collections::HashMap,
        sync::{
            Arc, Mutex,
            atomic::{AtomicBool, Ordering},
        },
    };

    use rustix::process::{Signal, getpid, kill_process};
    use tokio::{
        signal::unix::{SignalKind, signal},
        sync::Semaphore,
    };

    /// In a payload: its worker dies.
    pub const KILLS: &str = "fail-point-kills";
    /// In a payload: its worker panics.
    pub const PANICS: &str = "fail-point-panics";

    /// The places that are armed, shared by the instances of one test.
    #[derive(Clone, Default)]
    pub struct FailPoints {
        armed: Arc<Mutex<HashMap<String, Armed>>>,
        abort_at: Option<Arc<str>>,
        stop_at: Option<Arc<str>>,
        stopped: Arc<AtomicBool>,
    }

    /// A place where whoever comes next waits.
    #[derive(Clone)]
    pub struct Armed {
        reached: Arc<Semaphore>,
        released: Arc<Semaphore>,
    }

    impl FailPoints {
        /// Ends or stops the whole process at a place: `<name>` or `stop:<name>`.
        #[must_use]
        pub fn of_process(point: Option<&str>) -> Self {
            let stop_at = point.and_then(|point| point.strip_prefix("stop:"));
            let abort_at = point.filter(|_| stop_at.is_none());
            Self {
                abort_at: abort_at.map(Into::into),
                stop_at: stop_at.map(Into::into),
                ..Self::default()
            }
        }

        /// Whoever reaches `name` from now on waits there.
        ///
        /// # Panics
        /// If a test panicked while it armed.
        #[must_use]
        pub fn arm(&self, name: &str) -> Armed {
            let armed = Armed {
                reached: Arc::new(Semaphore::new(0)),
                released: Arc::new(Semaphore::new(0)),
            };
            self.armed.lock().expect("not poisoned").insert(name.to_owned(), armed.clone());
            armed
        }

        /// Nobody waits at `name` any more; who waits there goes on.
        ///
        /// # Panics
        /// If a test panicked while it armed.
        pub fn disarm(&self, name: &str) {
            if let Some(armed) = self.armed.lock().expect("not poisoned").remove(name) {
                armed.released.close();
            }
        }

        /// A message at which tests can let a worker die: one with [`KILLS`] in its payload ends
        /// the process, one with [`PANICS`] only the handling.
        ///
        /// # Panics
        /// At a message that says so.
        pub fn message(&self, payload: &[u8]) {
            let says = |word: &str| payload.windows(word.len()).any(|w| w == word.as_bytes());
            if says(KILLS) {
                std::process::abort();
            }
            assert!(!says(PANICS), "a message that panics");
        }

        /// A place where tests can stop a worker.
        ///
        /// # Panics
        /// If a test panicked while it armed, or the process cannot stop itself.
        pub async fn point(&self, name: &str) {
            if self.abort_at.as_deref() == Some(name) {
                std::process::abort();
            }
            if self.stop_at.as_deref() == Some(name) && !self.stopped.swap(true, Ordering::SeqCst) {
                stop_process().await;
            }
            let armed = self.armed.lock().expect("not poisoned").get(name).cloned();
            if let Some(armed) = armed {
                armed.reached.add_permits(1);
                // An error says that the place was disarmed: go on.
                let _released = armed.released.acquire().await.map(|permit| permit.forget());
            }
        }
    }

    /// The signal may meet another thread first: this one does not go on before SIGCONT.
    async fn stop_process() {
        let mut goes_on = signal(SignalKind::from_raw(Signal::CONT.as_raw())).expect("a runtime");
        kill_process(getpid(), Signal::STOP).expect("a process may stop itself");
        goes_on.recv().await;
    }

    impl Armed {
        /// Waits until somebody has reached the place.
        ///
        /// # Panics
        /// Never: the semaphore is not closed.
        pub async fn reached(&self) {
            self.reached.acquire().await.expect("open").forget();
        }

        /// Lets one go on.
        pub fn release(&self) {
            self.released.add_permits(1);
        }
    }
}

pub use hooks::*;
