//! The bounded queue before a version: two priorities, refused by count and by expected wait.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{EngineError, Job, Priority};

/// A job and when it came.
pub(super) struct Waiting {
    pub(super) job: Job,
    pub(super) since: Instant,
}

/// Bounds of a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// The most jobs that wait.
    pub(super) jobs: usize,
    /// The longest expected wait.
    pub(super) wait: Duration,
    /// Threads that pull from it.
    pub(super) instances: usize,
}

#[derive(Default)]
struct State {
    normal: VecDeque<Waiting>,
    background: VecDeque<Waiting>,
    /// Moving average of one job's time on an instance; zero until one was done.
    job_time: Duration,
    closed: bool,
}

impl State {
    fn waiting(&self) -> usize {
        self.normal.len() + self.background.len()
    }

    /// Forgets the jobs that nobody waits for any more; those that expired are told so.
    fn drop_dead(&mut self) {
        let now = Instant::now();
        for line in [&mut self.normal, &mut self.background] {
            for waiting in std::mem::take(line) {
                if waiting.job.deadline > now && !waiting.job.reply.is_closed() {
                    line.push_back(waiting);
                } else {
                    let _ = waiting.job.reply.send(Err(EngineError::DeadlineExceeded));
                }
            }
        }
    }
}

/// The queue itself, shared by the scheduler and its instances.
pub(super) struct Queue {
    state: Mutex<State>,
    arrived: Condvar,
    bounds: Bounds,
}

impl Queue {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            state: Mutex::default(),
            arrived: Condvar::new(),
            bounds,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the job in, or refuses it at once.
    pub(super) fn push(&self, job: Job) -> Result<(), EngineError> {
        let mut state = self.state();
        if state.closed {
            return Err(EngineError::Stopped);
        }
        if self.is_full(&state) {
            // Callers who left and jobs that expired hold no place against those who still wait.
            state.drop_dead();
        }
        let waiting = state.waiting();
        if self.is_full(&state) {
            return Err(EngineError::Overloaded {
                waiting,
                retry_after: self.wait_of(&state),
            });
        }
        let entry = Waiting {
            job,
            since: Instant::now(),
        };
        match entry.job.priority {
            Priority::Normal => state.normal.push_back(entry),
            Priority::Background => state.background.push_back(entry),
        }
        drop(state);
        self.arrived.notify_one();
        Ok(())
    }

    /// How long a job that came now would wait.
    fn wait_of(&self, state: &State) -> Duration {
        let rounds = state.waiting() / self.bounds.instances.max(1);
        state
            .job_time
            .saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX))
    }

    fn is_full(&self, state: &State) -> bool {
        let waiting = state.waiting();
        // A queue of one round is always allowed: a model slower than the bound must still serve.
        let crowded = waiting >= self.bounds.instances && self.wait_of(state) > self.bounds.wait;
        waiting >= self.bounds.jobs || crowded
    }

    /// Waits until a job is there; `false` once the queue is closed and empty.
    pub(super) fn wait(&self) -> bool {
        let state = self
            .arrived
            .wait_while(self.state(), |state| state.waiting() == 0 && !state.closed)
            .unwrap_or_else(PoisonError::into_inner);
        state.waiting() > 0
    }

    /// The next job, if another instance has not taken it meanwhile.
    pub(super) fn pop(&self) -> Option<Waiting> {
        let mut state = self.state();
        state
            .normal
            .pop_front()
            .or_else(|| state.background.pop_front())
    }

    /// Tells the queue how long a job took on its instance.
    pub(super) fn record(&self, took: Duration) {
        let mut state = self.state();
        state.job_time = if state.job_time.is_zero() {
            took
        } else {
            (state.job_time * 7 + took) / 8
        };
    }

    /// No more jobs; those that wait are still done.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.arrived.notify_all();
    }

    /// How many jobs wait.
    pub(super) fn len(&self) -> usize {
        self.state().waiting()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::oneshot;

    use super::super::Flow;
    use super::*;

    fn job(priority: Priority, flow: &str) -> Job {
        Job {
            prepare: Box::new(|| Err("unused".into())),
            flow: Flow(Arc::from(flow)),
            priority,
            deadline: Instant::now() + Duration::from_mins(1),
            reply: living(),
        }
    }

    /// A reply whose receiver stays, as if somebody waited.
    fn living() -> oneshot::Sender<Result<super::super::Done, EngineError>> {
        let (reply, receiver) = oneshot::channel();
        std::mem::forget(receiver);
        reply
    }

    fn queue(jobs: usize) -> Queue {
        Queue::new(Bounds {
            jobs,
            wait: Duration::from_secs(2),
            instances: 2,
        })
    }

    #[test]
    fn background_work_waits_for_everything_else() {
        let queue = queue(10);
        for (priority, flow) in [
            (Priority::Background, "c"),
            (Priority::Normal, "a"),
            (Priority::Normal, "b"),
        ] {
            queue.push(job(priority, flow)).expect("room");
        }
        let order: Vec<String> = std::iter::from_fn(|| queue.pop())
            .map(|waiting| waiting.job.flow.0.to_string())
            .collect();
        assert_eq!(order, ["a", "b", "c"]);
    }

    #[test]
    fn a_full_queue_refuses_at_once() {
        let queue = queue(1);
        queue.push(job(Priority::Normal, "a")).expect("room");
        let refused = queue.push(job(Priority::Normal, "b"));
        assert!(matches!(
            refused,
            Err(EngineError::Overloaded { waiting: 1, .. })
        ));
    }

    #[test]
    fn the_dead_hold_no_place() {
        let queue = queue(1);
        let (reply, receiver) = oneshot::channel();
        let mut left = job(Priority::Normal, "left");
        left.reply = reply;
        queue.push(left).expect("room");
        drop(receiver);
        let (reply, outcome) = oneshot::channel();
        let mut expired = job(Priority::Normal, "expired");
        (expired.reply, expired.deadline) = (reply, Instant::now());
        queue.push(expired).expect("the one who left makes room");
        let (reply, _waits) = oneshot::channel();
        let mut alive = job(Priority::Normal, "alive");
        alive.reply = reply;
        queue.push(alive).expect("so does the one that expired");
        assert!(matches!(
            outcome.blocking_recv(),
            Ok(Err(EngineError::DeadlineExceeded))
        ));
    }

    #[test]
    fn the_bound_is_the_expected_wait() {
        let queue = queue(1000);
        queue.record(Duration::from_millis(500));
        let taken = (0..100)
            .take_while(|_| queue.push(job(Priority::Normal, "a")).is_ok())
            .count();
        // Two instances, half a second a job: ten waiting jobs are two and a half seconds of work.
        assert_eq!(taken, 10);
    }

    #[test]
    fn a_closed_queue_gives_what_it_has_and_takes_nothing() {
        let queue = queue(10);
        queue.push(job(Priority::Normal, "a")).expect("room");
        queue.close();
        assert!(matches!(
            queue.push(job(Priority::Normal, "b")),
            Err(EngineError::Stopped)
        ));
        assert!(queue.wait());
        assert!(queue.pop().is_some());
        assert!(!queue.wait());
    }
}
