//! The bounded queue before a version: fair between flows, two priorities, bounded by count and by expected wait.
//!
//! Called by the scheduler (push) and the version's threads (take). Knows nothing of tensors.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::average::Average;
use super::fair::FairLine;
use super::permits::{Gate, Permit};
use super::{EngineError, Flow, Job, Priority, RunPermits};

/// A job and when it came.
pub(super) struct Waiting {
    pub(super) job: Job,
    pub(super) since: Instant,
    /// What its flow was charged when it left the queue.
    charged: Duration,
}

/// Whom a job was charged to, for when its real cost is known.
pub(super) struct Charge {
    flow: Flow,
    priority: Priority,
    charged: Duration,
}

impl Waiting {
    /// What remains to be settled once the job is done.
    pub(super) fn charge(&self) -> Charge {
        Charge {
            flow: self.job.flow.clone(),
            priority: self.job.priority,
            charged: self.charged,
        }
    }

    /// Whether nobody waits for the outcome any more, or the time is over.
    pub(super) fn is_dead(&self, now: Instant) -> bool {
        self.job.deadline <= now || self.job.reply.is_closed()
    }

    /// Answers in place of a run. The receiver may have gone in this very moment; then nobody is owed an answer.
    pub(super) fn refuse(self, error: EngineError) {
        let _ = self.job.reply.send(Err(error));
    }
}

/// Bounds of a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// The most jobs that wait.
    pub(super) jobs: usize,
    /// The longest expected wait.
    pub(super) wait: Duration,
    /// Threads that pull from it.
    pub(super) threads: usize,
}

struct State {
    normal: FairLine<Waiting>,
    background: FairLine<Waiting>,
    /// What one job costs a thread, from the start of its preparation to its answer.
    job_time: Average,
    /// From one job's leaving to the next one's, while others waited behind it: it counts whatever else shares the cores.
    pace: Average,
    /// When a job last left with others behind it.
    left_at: Option<Instant>,
    closed: bool,
}

impl State {
    fn waiting(&self) -> usize {
        self.normal.len() + self.background.len()
    }

    fn line(&mut self, priority: Priority) -> &mut FairLine<Waiting> {
        match priority {
            Priority::Normal => &mut self.normal,
            Priority::Background => &mut self.background,
        }
    }

    /// The jobs that nobody waits for any more.
    fn take_dead(&mut self) -> Vec<Waiting> {
        let now = Instant::now();
        let mut dead = self.normal.take_dead(|waiting| waiting.is_dead(now));
        dead.append(&mut self.background.take_dead(|waiting| waiting.is_dead(now)));
        dead
    }

    /// The job that makes room for a new one of `flow`: the newest background job, else the newest job of the
    /// longest flow. `None` where that is the new job itself.
    fn give_way(&mut self, flow: &Flow, priority: Priority) -> Option<Waiting> {
        if priority == Priority::Normal && !self.background.is_empty() {
            let (longest, _) = self.background.longest()?;
            let longest = longest.clone();
            return self.background.pop_newest(&longest);
        }
        let line = self.line(priority);
        let own = line.len_of(flow) + 1;
        let longest = line
            .longest()
            .filter(|&(_, length)| length > own)?
            .0
            .clone();
        line.pop_newest(&longest)
    }

    /// The next job, those dropped that are dead.
    fn pop(&mut self, dead: &mut Vec<Waiting>) -> Option<Waiting> {
        let now = Instant::now();
        let cost = self.job_time.get().unwrap_or(UNKNOWN_COST);
        loop {
            let next = self.normal.pop(cost);
            let mut next = next.or_else(|| self.background.pop(cost))?;
            next.charged = cost;
            if next.is_dead(now) {
                self.settle(&next.charge(), Duration::ZERO);
                dead.push(next);
                continue;
            }
            // Background work waits for a quiet moment: how long that took says nothing of how fast jobs leave.
            if let Some(before) = self.left_at
                && next.job.priority == Priority::Normal
            {
                self.pace.add(now - before);
            }
            self.left_at = (!self.normal.is_empty()).then_some(now);
            return Some(next);
        }
    }

    fn settle(&mut self, charge: &Charge, cost: Duration) {
        let line = self.line(charge.priority);
        line.settle(&charge.flow, charge.charged, cost);
    }
}

/// What a job is expected to cost before any was done; only its being the same for all matters.
const UNKNOWN_COST: Duration = Duration::from_millis(10);

/// The queue itself, shared by the scheduler and its threads.
pub(super) struct Queue {
    state: Mutex<State>,
    arrived: Condvar,
    bounds: Bounds,
    permits: Arc<RunPermits>,
    /// What the permits know the gate by.
    gate_id: u64,
    /// Who holds it waits for a job and for the permits to run it; the version's other threads wait behind.
    gate: Mutex<Gate>,
}

impl Queue {
    /// A queue whose jobs use `weight` cores each.
    pub(super) fn new(bounds: Bounds, permits: &Arc<RunPermits>, weight: usize) -> Self {
        let gate = permits.gate(weight);
        let state = State {
            normal: FairLine::default(),
            background: FairLine::default(),
            job_time: Average::over(8),
            pace: Average::over(32),
            left_at: None,
            closed: false,
        };
        Self {
            state: Mutex::new(state),
            arrived: Condvar::new(),
            bounds,
            permits: Arc::clone(permits),
            gate_id: gate.id(),
            gate: Mutex::new(gate),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the job in, or refuses it at once. Where the queue is full, the newest job of the longest flow makes
    /// room: it is answered with [`EngineError::Overloaded`] then.
    pub(super) fn push(&self, job: Job) -> Result<(), EngineError> {
        let mut dead = Vec::new();
        let mut refused = None;
        let is_first;
        {
            let mut state = self.state();
            if state.closed {
                return Err(EngineError::Stopped);
            }
            if self.is_full(&state, job.priority) {
                // Callers who left and jobs that expired hold no place against those who still wait.
                dead = state.take_dead();
            }
            if self.is_full(&state, job.priority) {
                let overloaded = EngineError::Overloaded {
                    waiting: state.waiting(),
                    retry_after: self.wait_of(&state, state.waiting()),
                };
                match state.give_way(&job.flow, job.priority) {
                    Some(other) => refused = Some((other, overloaded)),
                    None => return Err(overloaded),
                }
            }
            let (flow, priority) = (job.flow.clone(), job.priority);
            let waiting = Waiting {
                job,
                since: Instant::now(),
                charged: Duration::ZERO,
            };
            state.line(priority).push(&flow, waiting);
            is_first = priority == Priority::Normal && state.normal.len() == 1;
        }
        if is_first {
            self.permits.promote(self.gate_id);
        }
        self.arrived.notify_one();
        // Outside the lock: what a job holds (a body, a share of the budget) is let go here.
        bury(dead);
        if let Some((other, overloaded)) = refused {
            other.refuse(overloaded);
        }
        Ok(())
    }

    /// How long a job would wait behind so many.
    fn wait_of(&self, state: &State, waiting: usize) -> Duration {
        let threads = u32::try_from(self.bounds.threads.max(1)).unwrap_or(u32::MAX);
        let alone = || state.job_time.settled().map(|time| time / threads);
        let each = state.pace.settled().or_else(alone).unwrap_or_default();
        each.saturating_mul(u32::try_from(waiting).unwrap_or(u32::MAX))
    }

    fn is_full(&self, state: &State, priority: Priority) -> bool {
        // Nobody waits behind background work but background work.
        let ahead = match priority {
            Priority::Normal => state.normal.len(),
            Priority::Background => state.waiting(),
        };
        // What is expected is the middle of what comes: measured, one wait in a hundred is up to a tenth longer. The
        // bound is to hold for that one, too.
        // A queue of one round and one more is always allowed: a model slower than the bound must still serve, and only
        // jobs that leave others behind say how fast they leave.
        let crowded =
            ahead > self.bounds.threads && self.wait_of(state, ahead) > self.bounds.wait * 17 / 20;
        state.waiting() >= self.bounds.jobs || crowded
    }

    /// Waits for a job and for the permits to work on it; `None` once the queue is closed and empty. The permits come
    /// before the job, so that it stays in the queue, where it can expire, be left or give way, while cores are taken.
    pub(super) fn take(&self) -> Option<(Permit, Waiting)> {
        let mut gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if !self.wait() {
                return None;
            }
            let permit = gate.acquire(|| self.priority());
            let mut dead = Vec::new();
            let next = self.state().pop(&mut dead);
            bury(dead);
            if let Some(waiting) = next {
                return Some((permit, waiting));
            }
        }
    }

    /// Waits until a job is there; `false` once the queue is closed and empty.
    fn wait(&self) -> bool {
        let state = self
            .arrived
            .wait_while(self.state(), |state| state.waiting() == 0 && !state.closed)
            .unwrap_or_else(PoisonError::into_inner);
        state.waiting() > 0
    }

    /// What the version's turn among the others is worth now.
    fn priority(&self) -> Priority {
        if self.state().normal.is_empty() {
            Priority::Background
        } else {
            Priority::Normal
        }
    }

    /// Tells the queue what a job that left it cost its thread.
    pub(super) fn settle(&self, charge: &Charge, cost: Duration) {
        let mut state = self.state();
        state.settle(charge, cost);
        state.job_time.add(cost);
    }

    /// No more jobs; those that wait are still done.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.arrived.notify_all();
    }

    /// How many jobs may wait.
    pub(super) fn room(&self) -> usize {
        self.bounds.jobs
    }

    /// How many jobs wait.
    pub(super) fn len(&self) -> usize {
        self.state().waiting()
    }

    /// How many jobs wait that somebody waits for.
    pub(super) fn normal(&self) -> usize {
        self.state().normal.len()
    }
}

/// Tells those whose time is over; the others have left.
fn bury(dead: Vec<Waiting>) {
    for waiting in dead {
        waiting.refuse(EngineError::DeadlineExceeded);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::super::Done;
    use super::*;

    type Reply = oneshot::Receiver<Result<Done, EngineError>>;

    fn job(priority: Priority, flow: &str) -> (Job, Reply) {
        let (reply, receiver) = oneshot::channel();
        let job = Job {
            prepare: Box::new(|| Err("unused".into())),
            flow: Flow(Arc::from(flow)),
            priority,
            deadline: Instant::now() + Duration::from_mins(1),
            reply,
            trace: None,
        };
        (job, receiver)
    }

    /// Pushes jobs that must be taken in, and keeps their receivers.
    fn push(queue: &Queue, priority: Priority, flows: &[&str]) -> Vec<Reply> {
        let push = |flow: &&str| {
            let (job, reply) = job(priority, flow);
            queue.push(job).expect("room");
            reply
        };
        flows.iter().map(push).collect()
    }

    fn queue(jobs: usize) -> Queue {
        let bounds = Bounds {
            jobs,
            wait: Duration::from_secs(2),
            threads: 2,
        };
        Queue::new(bounds, &RunPermits::new(2), 1)
    }

    /// The flows of all that waits, in the order in which it is taken.
    fn drain(queue: &Queue) -> Vec<String> {
        queue.close();
        let taken = std::iter::from_fn(|| queue.take());
        taken.map(|(_, w)| w.job.flow.0.to_string()).collect()
    }

    fn is_overloaded(reply: Reply) -> bool {
        let outcome = reply.blocking_recv();
        matches!(outcome, Ok(Err(EngineError::Overloaded { waiting: 4, .. })))
    }

    #[test]
    fn background_work_waits_for_everything_else() {
        let queue = queue(10);
        let _background = push(&queue, Priority::Background, &["c"]);
        let _normal = push(&queue, Priority::Normal, &["a", "a", "b"]);
        assert_eq!(drain(&queue), ["a", "b", "a", "c"]);
    }

    #[test]
    fn a_full_queue_refuses_the_loud_and_takes_the_quiet() {
        let queue = queue(4);
        let mut loud = push(&queue, Priority::Normal, &["loud"; 4]);
        let (more, _reply) = job(Priority::Normal, "loud");
        let refused = queue.push(more);
        assert!(matches!(
            refused,
            Err(EngineError::Overloaded { waiting: 4, .. })
        ));
        let _quiet = push(&queue, Priority::Normal, &["quiet"]);
        assert!(is_overloaded(loud.pop().expect("the newest")));
        for reply in &mut loud {
            assert!(reply.try_recv().is_err(), "an older one was refused");
        }
        let _also = push(&queue, Priority::Normal, &["quiet"]);
        assert!(is_overloaded(loud.pop().expect("the newest")));
        // Now both have two: who comes is refused.
        let (more, _reply) = job(Priority::Normal, "quiet");
        assert!(queue.push(more).is_err());
        assert_eq!(drain(&queue), ["loud", "quiet", "loud", "quiet"]);
    }

    #[test]
    fn background_work_gives_way_and_takes_no_place() {
        let queue = queue(4);
        let mut background = push(&queue, Priority::Background, &["b", "b"]);
        let _normal = push(&queue, Priority::Normal, &["a", "a", "a"]);
        assert!(is_overloaded(background.pop().expect("the newest")));
        let (more, _reply) = job(Priority::Background, "c");
        assert!(queue.push(more).is_err());
        assert_eq!(drain(&queue), ["a", "a", "a", "b"]);
    }

    #[test]
    fn the_dead_hold_no_place() {
        let queue = queue(1);
        let (left, receiver) = job(Priority::Normal, "left");
        queue.push(left).expect("room");
        drop(receiver);
        let (mut expired, outcome) = job(Priority::Normal, "expired");
        expired.deadline = Instant::now();
        queue.push(expired).expect("the one who left makes room");
        let _alive = push(&queue, Priority::Normal, &["alive"]);
        assert!(matches!(
            outcome.blocking_recv(),
            Ok(Err(EngineError::DeadlineExceeded))
        ));
        assert_eq!(drain(&queue), ["alive"]);
    }

    #[test]
    fn the_bound_is_the_expected_wait() {
        let queue = queue(1000);
        let (one, _reply) = job(Priority::Normal, "a");
        let waiting = Waiting {
            job: one,
            since: Instant::now(),
            charged: Duration::ZERO,
        };
        for _ in 0..4 {
            queue.settle(&waiting.charge(), Duration::from_millis(500));
        }
        let fill = || {
            (0..100)
                .map(|_| job(Priority::Normal, "a"))
                .map_while(|(job, reply)| queue.push(job).is_ok().then_some(reply))
                .collect::<Vec<Reply>>()
        };
        // Two threads, half a second a job: seven waiting jobs are more than 1.7 s of work, and the bound is 2 s.
        let _first = fill();
        assert_eq!(queue.len(), 7);
        // What counts is how fast they leave, once that is known.
        for _ in 0..4 {
            queue.state().pace.add(Duration::from_millis(100));
        }
        let _more = fill();
        assert_eq!(queue.len(), 18);
    }

    #[test]
    fn background_work_keeps_nobody_out() {
        let queue = queue(1000);
        let mut state = queue.state();
        for _ in 0..8 {
            state.job_time.add(Duration::from_secs(1));
            state.pace.add(Duration::from_secs(1));
        }
        drop(state);
        // Three seconds of work each, for nobody.
        let _waiting = push(&queue, Priority::Background, &["shadow"; 3]);
        let (more, _reply) = job(Priority::Background, "shadow");
        assert!(queue.push(more).is_err(), "the bound is two seconds");
        // Who is waited for waits for none of it, and pushes none of it out.
        let _normal = push(&queue, Priority::Normal, &["a"; 2]);
        assert_eq!((queue.len(), queue.normal()), (5, 2));
        // Nor do pauses between such work say how fast jobs leave.
        let before = queue.state().pace.get();
        drain(&queue);
        assert!(queue.state().pace.get() < before, "two jobs left at once");
    }

    #[test]
    fn a_closed_queue_gives_what_it_has_and_takes_nothing() {
        let queue = queue(10);
        let _replies = push(&queue, Priority::Normal, &["a"]);
        queue.close();
        let (late, _reply) = job(Priority::Normal, "b");
        assert!(matches!(queue.push(late), Err(EngineError::Stopped)));
        assert!(queue.take().is_some());
        assert!(queue.take().is_none());
    }
}
