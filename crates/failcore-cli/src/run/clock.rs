//! The run's own time, which stands still while it is paused.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Counts from the start of the run.
pub(super) struct Clock {
    since: Instant,
    paused: Mutex<Paused>,
}

#[derive(Default)]
struct Paused {
    /// All earlier pauses together.
    before: Duration,
    /// When the present one began.
    since: Option<Instant>,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { since: Instant::now(), paused: Mutex::default() }
    }

    /// How long the run has had so far.
    pub(super) fn elapsed(&self) -> Duration {
        let paused = self.lock();
        let now = paused.since.unwrap_or_else(Instant::now);
        now.saturating_duration_since(self.since).saturating_sub(paused.before)
    }

    /// Stands still from now on.
    pub(super) fn pause(&self) {
        self.lock().since.get_or_insert_with(Instant::now);
    }

    /// Goes on; how long it stood.
    pub(super) fn resume(&self) -> Duration {
        let mut paused = self.lock();
        let stood = paused.since.take().map(|since| since.elapsed()).unwrap_or_default();
        paused.before += stood;
        stood
    }

    fn lock(&self) -> MutexGuard<'_, Paused> {
        self.paused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_takes_no_time() {
        let clock = Clock::start();
        clock.pause();
        let stopped = clock.elapsed();
        std::thread::sleep(Duration::from_millis(20));
        clock.pause();
        assert_eq!(clock.elapsed(), stopped);
        assert!(clock.resume() >= Duration::from_millis(20));
        assert_eq!(clock.resume(), Duration::ZERO);
        assert!(clock.elapsed() >= stopped);
        assert!(clock.elapsed() + Duration::from_millis(20) <= clock.since.elapsed());
    }
}
