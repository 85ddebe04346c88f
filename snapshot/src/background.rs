//! Threads for the work of a snapshot, behind those of the application.
//!
//! Arrives: work that blocks, or that needs a processor for long. Leaves: its result, or its panic.

use parking_lot::Mutex;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Runs work that blocks on a thread of its own, and passes its panic on.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    joined(tokio::task::spawn_blocking(work)).await
}

/// Makes this thread let every other one go first, for good: the nice value 10, and the scheduler's
/// policy for batch work, with which a thread that wakes up does not interrupt another. Nothing is
/// lost on a machine with a free processor. Elsewhere than on Linux it does nothing, because a
/// priority is that of the whole process there.
pub fn stand_back() {
    #[cfg(target_os = "linux")]
    {
        use thread_priority::ThreadPriority;
        use thread_priority::unix::{
            NormalThreadSchedulePolicy, ThreadSchedulePolicy, set_thread_priority_and_policy,
            thread_native_id,
        };
        // Of 100: the nice value 10.
        const PRIORITY: u8 = 22;
        let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Batch);
        // Without it the work is the same.
        if let Ok(priority) = PRIORITY.try_into() {
            let priority = ThreadPriority::Crossplatform(priority);
            let _ = set_thread_priority_and_policy(thread_native_id(), priority, policy);
        }
    }
}

/// Runs work that needs a processor for long on a thread of its own, which lets every other one go
/// first, and passes its panic on. The threads of the runtime keep their priority: it cannot be
/// raised again.
pub(crate) async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let work = Arc::new(Mutex::new(Some(work)));
    let (to_done, done) = oneshot::channel();
    let mine = Arc::clone(&work);
    let run = move || {
        stand_back();
        if let Some(work) = mine.lock().take() {
            // Nobody waits any more: the save was given up.
            let _ = to_done.send(catch_unwind(AssertUnwindSafe(work)));
        }
    };
    let started = std::thread::Builder::new().name("snapshot".to_owned()).spawn(run);
    if started.is_err()
        && let Some(work) = { work.lock().take() }
    {
        return blocking(work).await;
    }
    match done.await {
        Ok(Ok(done)) => done,
        Ok(Err(panic)) => resume_unwind(panic),
        // A thread that has begun always answers.
        Err(_) => std::future::pending().await,
    }
}

/// Waits for such work.
pub(crate) async fn joined<T>(work: JoinHandle<T>) -> T {
    match work.await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // Only a runtime that ends cancels blocking work, and then nobody waits for it.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> String {
        format!("{:?}", thread_priority::unix::thread_schedule_policy())
    }

    fn nice() -> i32 {
        rustix::process::getpriority_process(None).unwrap()
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn work_in_the_background_returns_and_panics_like_any_other() {
        let before = nice();
        let (policy_of, nice_of, named) =
            in_background(|| (policy(), nice(), std::thread::current().name().map(str::to_owned)))
                .await;
        assert_eq!(named.as_deref(), Some("snapshot"));
        assert_eq!((policy_of.as_str(), nice_of), ("Ok(Normal(Batch))", 10));
        assert_eq!((policy().as_str(), nice()), ("Ok(Normal(Other))", before), "only that thread");
        let panicked = tokio::spawn(in_background(|| panic!("as it should"))).await;
        assert!(panicked.unwrap_err().is_panic());
    }
}
