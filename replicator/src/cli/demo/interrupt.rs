//! Ctrl-C and SIGTERM interrupt every wait, so that ordinary returns clean up files and processes.

use anyhow::Result;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

/// A signal stopped the demo.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(super) struct Interrupted;

/// A flag that a signal sets, and a way to wait for it.
#[derive(Clone, Default)]
pub(super) struct Interrupt(Arc<(Mutex<bool>, Condvar)>);

impl Interrupt {
    /// Begins to listen to the signals.
    pub(super) fn listen(runtime: &Runtime) -> Result<Self> {
        let interrupt = Self::default();
        for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
            let _inside = runtime.enter();
            let (mut stream, told) = (signal(kind)?, interrupt.clone());
            runtime.spawn(async move {
                while stream.recv().await.is_some() {
                    told.set();
                }
            });
        }
        Ok(interrupt)
    }

    /// Sets the flag and wakes all who wait.
    pub(super) fn set(&self) {
        *self.0.0.lock() = true;
        self.0.1.notify_all();
    }

    pub(super) fn is_set(&self) -> bool {
        *self.0.0.lock()
    }

    /// Waits for a time; fails as soon as the flag is set.
    pub(super) fn pause(&self, time: Duration) -> Result<(), Interrupted> {
        let mut told = self.0.0.lock();
        if !*told {
            self.0.1.wait_for(&mut told, time);
        }
        if *told { Err(Interrupted) } else { Ok(()) }
    }
}
