use std::{future::Future, panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt;
use tokio_util::task::AbortOnDropHandle;

/// Pause before a task that panicked is started again, so that one that always panics costs little.
const PAUSE: Duration = Duration::from_millis(100);

/// Runs a task beside its worker until it ends or the handle is dropped. A task that panics is
/// started again: others wait for its work, and would wait for ever.
pub fn supervise<F>(
    task: &'static str,
    make: impl Fn() -> F + Send + 'static,
) -> AbortOnDropHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    AbortOnDropHandle::new(tokio::spawn(async move {
        while AssertUnwindSafe(make()).catch_unwind().await.is_err() {
            tracing::error!(task, "panicked, and is started again");
            tokio::time::sleep(PAUSE).await;
        }
    }))
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_is_started_again_until_it_ends() {
        let runs = Arc::new(AtomicU32::new(0));
        let counted = runs.clone();
        let task = supervise("a test", move || {
            let run = counted.fetch_add(1, Ordering::SeqCst);
            async move { assert!(run >= 2, "the first two panic") }
        });
        task.await.unwrap();
        assert_eq!(runs.load(Ordering::SeqCst), 3);
    }
}
