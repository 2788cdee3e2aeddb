//! Run permits: as many as there are cores, for the whole process, so that versions share the cores.
//!
//! Called by the threads of every version through a [`Gate`] each. Knows no job: only how many cores one wants.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::Priority;

/// The process's cores, shared by all versions: first come, first served, normal work before background work.
#[derive(Debug)]
pub struct RunPermits {
    total: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    total: usize,
    free: usize,
    /// Gates made so far.
    gates: u64,
    normal: VecDeque<Ticket>,
    background: VecDeque<Ticket>,
}

/// Somebody who waits. Out of the line means: it has its permits.
#[derive(Debug)]
struct Ticket {
    gate: u64,
    weight: usize,
    called: Arc<Condvar>,
}

/// A place in the line. Who holds it may wait for permits; a version has one, so that its turn comes as often as any
/// other version's, however many threads it has.
#[derive(Debug)]
pub(super) struct Gate {
    permits: Arc<RunPermits>,
    id: u64,
    weight: usize,
    called: Arc<Condvar>,
}

/// The right to use some cores; given back when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    permits: Arc<RunPermits>,
    weight: usize,
}

impl State {
    /// Hands free permits out in the line's order. The first is waited for even where a later one asks for less:
    /// else who wants many cores would never get them.
    /// Background work leaves one permit free, or takes all when nothing runs: whoever comes next need not wait for it.
    fn hand_out(&mut self) {
        loop {
            let (line, free) = if self.normal.is_empty() {
                let is_idle = self.free == self.total;
                let free = self.free - usize::from(!is_idle && self.free > 0);
                (&mut self.background, free)
            } else {
                (&mut self.normal, self.free)
            };
            match line.front() {
                Some(first) if first.weight <= free => {}
                _ => return,
            }
            if let Some(first) = line.pop_front() {
                self.free -= first.weight;
                first.called.notify_one();
            }
        }
    }

    fn waits(&self, gate: u64) -> bool {
        let mut tickets = self.normal.iter().chain(&self.background);
        tickets.any(|ticket| ticket.gate == gate)
    }
}

impl RunPermits {
    /// `count` permits, at least one.
    #[must_use]
    pub fn new(count: usize) -> Arc<Self> {
        let total = count.max(1);
        Arc::new(Self {
            total,
            state: Mutex::new(State {
                total,
                free: total,
                gates: 0,
                normal: VecDeque::new(),
                background: VecDeque::new(),
            }),
        })
    }

    /// A place in the line for jobs that use `weight` cores each; 0 for work that uses none of them.
    pub(super) fn gate(self: &Arc<Self>, weight: usize) -> Gate {
        let mut state = self.state();
        state.gates += 1;
        Gate {
            permits: Arc::clone(self),
            id: state.gates,
            weight: weight.min(self.total),
            called: Arc::default(),
        }
    }

    /// Normal work came to a gate: if it waits as background work, it now waits as normal work.
    pub(super) fn promote(&self, gate: u64) {
        let mut state = self.state();
        let place = state.background.iter().position(|t| t.gate == gate);
        if let Some(ticket) = place.and_then(|place| state.background.remove(place)) {
            state.normal.push_back(ticket);
            state.hand_out();
        }
    }

    /// Cores that runs share.
    #[must_use]
    pub fn total(&self) -> usize {
        self.total
    }

    /// Of these, given to runs now.
    #[must_use]
    pub fn given(&self) -> usize {
        self.total - self.state().free.min(self.total)
    }

    /// How many wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        let state = self.state();
        state.normal.len() + state.background.len()
    }

    /// Whether nobody has a permit.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.state().free == self.total
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate {
    /// What [`RunPermits::promote`] knows it by.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Waits for this gate's permits. `priority` is asked while nobody else can join the line, so that a
    /// [`RunPermits::promote`] after it finds the gate waiting.
    pub(super) fn acquire(&mut self, priority: impl FnOnce() -> Priority) -> Permit {
        let permit = Permit {
            permits: Arc::clone(&self.permits),
            weight: self.weight,
        };
        if self.weight == 0 {
            return permit;
        }
        let mut state = self.permits.state();
        let ticket = Ticket {
            gate: self.id,
            weight: self.weight,
            called: Arc::clone(&self.called),
        };
        match priority() {
            Priority::Normal => state.normal.push_back(ticket),
            Priority::Background => state.background.push_back(ticket),
        }
        state.hand_out();
        let state = self
            .called
            .wait_while(state, |state| state.waits(self.id))
            .unwrap_or_else(PoisonError::into_inner);
        drop(state);
        permit
    }
}

impl Permit {
    /// Whether nothing else in the process runs, and nobody waits for a core.
    pub(super) fn is_alone(&self) -> bool {
        self.leaves_free(&self.permits.state())
    }

    /// Takes all the cores if nothing else runs or waits for one. Never waits.
    pub(super) fn widen(&mut self) -> bool {
        let mut state = self.permits.state();
        let alone = self.leaves_free(&state);
        if alone {
            state.free = 0;
            drop(state);
            self.weight = self.permits.total;
        }
        alone
    }

    fn leaves_free(&self, state: &State) -> bool {
        // Background work waits for longer.
        state.normal.is_empty() && state.free + self.weight == self.permits.total
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.weight > 0 {
            let mut state = self.permits.state();
            state.free += self.weight;
            state.hand_out();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::super::testing::until;
    use super::*;

    /// Waits at a gate of its own on a thread of its own and tells its name when it has its turn.
    fn stand(
        permits: &Arc<RunPermits>,
        weight: usize,
        priority: Priority,
        name: &'static str,
        tell: &mpsc::Sender<&'static str>,
    ) -> u64 {
        let mut gate = permits.gate(weight);
        let (id, tell) = (gate.id(), tell.clone());
        std::thread::Builder::new()
            .spawn(move || {
                let permit = gate.acquire(|| priority);
                tell.send(name).expect("a listener");
                drop(permit);
            })
            .expect("a thread");
        until("somebody is in the line", || permits.state().waits(id));
        id
    }

    fn heard(told: &mpsc::Receiver<&'static str>, count: usize) -> Vec<&'static str> {
        (0..count)
            .map(|_| told.recv_timeout(Duration::from_secs(20)).expect("a turn"))
            .collect()
    }

    #[test]
    fn turns_come_in_order_and_background_work_comes_last() {
        let permits = RunPermits::new(1);
        let (tell, told) = mpsc::channel();
        let held = permits.gate(1).acquire(|| Priority::Normal);
        stand(&permits, 1, Priority::Background, "background", &tell);
        let late = stand(&permits, 1, Priority::Background, "promoted", &tell);
        stand(&permits, 1, Priority::Normal, "first", &tell);
        stand(&permits, 1, Priority::Normal, "second", &tell);
        permits.promote(late);
        drop(held);
        let order = heard(&told, 4);
        assert_eq!(order, ["first", "second", "promoted", "background"]);
        // The last one says its name before it gives its permit back.
        until("the permit is back", || permits.state().free == 1);
    }

    #[test]
    fn background_work_never_takes_the_last_core() {
        let permits = RunPermits::new(2);
        let (tell, told) = mpsc::channel();
        let held = permits.gate(1).acquire(|| Priority::Normal);
        stand(&permits, 1, Priority::Background, "background", &tell);
        // Who somebody waits for has the core that is left, at once.
        drop(permits.gate(1).acquire(|| Priority::Normal));
        assert!(told.try_recv().is_err());
        drop(held);
        assert_eq!(heard(&told, 1), ["background"]);
        until("the permit is back", || permits.state().free == 2);
        // Where all are free, it may have all that it needs.
        drop(permits.gate(9).acquire(|| Priority::Background));
    }

    #[test]
    fn who_wants_all_cores_is_not_overtaken() {
        let permits = RunPermits::new(2);
        let (tell, told) = mpsc::channel();
        let mut gate = permits.gate(1);
        let one = gate.acquire(|| Priority::Normal);
        stand(&permits, 9, Priority::Normal, "all", &tell);
        // A core is free, but who came first wants both.
        stand(&permits, 1, Priority::Normal, "one", &tell);
        assert!(told.try_recv().is_err());
        drop(one);
        assert_eq!(heard(&told, 2), ["all", "one"]);
    }

    #[test]
    fn only_who_is_alone_gets_all_cores() {
        let permits = RunPermits::new(2);
        let (mut first, mut second) = (permits.gate(1), permits.gate(1));
        let mut one = first.acquire(|| Priority::Normal);
        let two = second.acquire(|| Priority::Normal);
        assert!(!one.is_alone() && !one.widen());
        drop(two);
        assert!(one.is_alone() && one.widen());
        assert_eq!(permits.state().free, 0);
        drop(one);
        assert_eq!(permits.state().free, 2);
    }

    #[test]
    fn work_beside_the_cores_waits_for_none() {
        let permits = RunPermits::new(1);
        let _all = permits.gate(1).acquire(|| Priority::Normal);
        drop(permits.gate(0).acquire(|| Priority::Normal));
        assert_eq!(permits.state().free, 0);
    }
}
