//! Deficit round robin: jobs of many flows in one line, each flow given the same time by turns.
//!
//! Called by the queue, once for each priority. Knows neither threads nor time: a job's cost is handed in.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::Flow;

/// The jobs of one flow, in their order.
struct Turn<T> {
    jobs: VecDeque<T>,
    /// Nanoseconds that the flow may still use; below zero where its jobs cost more than was expected of them.
    credit: i64,
    /// Whether the flow has had its share of the round that it is in.
    granted: bool,
}

/// A line that flows share. A flow is known for as long as it has a job here.
pub(super) struct FairLine<T> {
    flows: HashMap<Flow, Turn<T>>,
    /// The flows of `flows`, each once; the first has its turn.
    ring: VecDeque<Flow>,
    waiting: usize,
}

impl<T> Default for FairLine<T> {
    fn default() -> Self {
        Self {
            flows: HashMap::new(),
            ring: VecDeque::new(),
            waiting: 0,
        }
    }
}

impl<T> FairLine<T> {
    /// Jobs in the line.
    pub(super) fn len(&self) -> usize {
        self.waiting
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Jobs of one flow.
    pub(super) fn len_of(&self, flow: &Flow) -> usize {
        self.flows.get(flow).map_or(0, |turn| turn.jobs.len())
    }

    /// Puts a job behind those of its flow.
    pub(super) fn push(&mut self, flow: &Flow, job: T) {
        let turn = self.flows.entry(flow.clone()).or_insert_with(|| {
            self.ring.push_back(flow.clone());
            Turn {
                jobs: VecDeque::new(),
                credit: 0,
                granted: false,
            }
        });
        turn.jobs.push_back(job);
        self.waiting += 1;
    }

    /// The next job, charged with `cost`, which is also what each flow is granted a round: a flow that owes nothing
    /// gets one job a round, one that owes sits out until its debt is paid.
    pub(super) fn pop(&mut self, cost: Duration) -> Option<T> {
        let cost = nanos(cost).max(1);
        let mut passed = 0;
        loop {
            let flow = self.ring.front()?;
            let turn = self.flows.get_mut(flow)?;
            if !turn.granted {
                turn.granted = true;
                turn.credit = turn.credit.saturating_add(cost);
            }
            if turn.credit >= cost {
                let job = turn.jobs.pop_front()?;
                self.waiting -= 1;
                turn.credit -= cost;
                let is_over = turn.credit < cost;
                if turn.jobs.is_empty() {
                    self.forget_first();
                } else if is_over {
                    self.pass_on();
                }
                return Some(job);
            }
            self.pass_on();
            passed += 1;
            if passed >= self.ring.len() {
                self.skip_rounds(cost);
                passed = 0;
            }
        }
    }

    /// Corrects what a flow was charged by what its job really cost.
    pub(super) fn settle(&mut self, flow: &Flow, charged: Duration, cost: Duration) {
        if let Some(turn) = self.flows.get_mut(flow) {
            let more = nanos(cost).saturating_sub(nanos(charged));
            turn.credit = turn.credit.saturating_sub(more);
        }
    }

    /// The flow with the most jobs, and how many.
    pub(super) fn longest(&self) -> Option<(&Flow, usize)> {
        let lengths = self
            .flows
            .iter()
            .map(|(flow, turn)| (flow, turn.jobs.len()));
        lengths.max_by_key(|&(_, length)| length)
    }

    /// Takes out the job of `flow` that came last.
    pub(super) fn pop_newest(&mut self, flow: &Flow) -> Option<T> {
        let turn = self.flows.get_mut(flow)?;
        let job = turn.jobs.pop_back()?;
        self.waiting -= 1;
        if turn.jobs.is_empty() {
            self.flows.remove(flow);
            self.ring.retain(|other| other != flow);
        }
        Some(job)
    }

    /// Takes out every job for which `is_dead` holds.
    pub(super) fn take_dead(&mut self, is_dead: impl Fn(&T) -> bool) -> Vec<T> {
        let mut dead = Vec::new();
        for turn in self.flows.values_mut() {
            let jobs = std::mem::take(&mut turn.jobs).into_iter();
            let (gone, kept): (VecDeque<T>, VecDeque<T>) = jobs.partition(&is_dead);
            turn.jobs = kept;
            dead.extend(gone);
        }
        if !dead.is_empty() {
            self.waiting -= dead.len();
            self.flows.retain(|_, turn| !turn.jobs.is_empty());
            self.ring.retain(|flow| self.flows.contains_key(flow));
        }
        dead
    }

    /// Ends the first flow's turn.
    fn pass_on(&mut self) {
        let Some(flow) = self.ring.pop_front() else {
            return;
        };
        if let Some(turn) = self.flows.get_mut(&flow) {
            turn.granted = false;
        }
        self.ring.push_back(flow);
    }

    fn forget_first(&mut self) {
        if let Some(flow) = self.ring.pop_front() {
            self.flows.remove(&flow);
        }
    }

    /// Every flow owes: the rounds in which none could run are granted at once.
    fn skip_rounds(&mut self, cost: i64) {
        let rounds = |turn: &Turn<T>| cost.saturating_sub(turn.credit).div_euclid(cost);
        let idle = self.flows.values().map(rounds).min().unwrap_or(0) - 1;
        for turn in self.flows.values_mut() {
            turn.credit = turn.credit.saturating_add(cost.saturating_mul(idle.max(0)));
        }
    }
}

fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn flow(name: &str) -> Flow {
        Flow(Arc::from(name))
    }

    fn line(jobs: &[(&str, u32)]) -> FairLine<u32> {
        let mut line = FairLine::default();
        for &(name, job) in jobs {
            line.push(&flow(name), job);
        }
        line
    }

    fn drain(line: &mut FairLine<u32>) -> Vec<u32> {
        std::iter::from_fn(|| line.pop(MS)).collect()
    }

    #[test]
    fn flows_take_turns_and_keep_their_order() {
        let mut line = line(&[
            ("a", 1),
            ("a", 2),
            ("a", 3),
            ("b", 10),
            ("b", 11),
            ("c", 20),
        ]);
        assert_eq!((line.len(), line.len_of(&flow("a"))), (6, 3));
        assert_eq!(drain(&mut line), [1, 10, 20, 2, 11, 3]);
    }

    #[test]
    fn a_quiet_flow_is_served_next_however_loud_another_is() {
        let mut line = FairLine::default();
        for job in 0..1000 {
            line.push(&flow("loud"), job);
        }
        for _ in 0..10 {
            line.pop(MS);
        }
        line.push(&flow("quiet"), 5000);
        assert!((0..2).any(|_| line.pop(MS) == Some(5000)));
    }

    #[test]
    fn a_flow_of_costly_jobs_gets_as_much_time_and_not_as_many_jobs() {
        let mut line = FairLine::default();
        for job in 0..100 {
            line.push(&flow("large"), 1000 + job);
            line.push(&flow("small"), job);
        }
        let mut time = [Duration::ZERO; 2];
        for _ in 0..55 {
            let job = line.pop(2 * MS).expect("a job");
            let (place, name, cost) = if job < 1000 {
                (0, "small", MS)
            } else {
                (1, "large", 10 * MS)
            };
            time[place] += cost;
            line.settle(&flow(name), 2 * MS, cost);
        }
        // Ten small ones for a large one, give or take a job.
        assert!(time[0].abs_diff(time[1]) <= 20 * MS, "{time:?}");
    }

    #[test]
    fn a_lone_flow_with_debts_runs_at_once() {
        let mut line = line(&[("a", 1), ("a", 2)]);
        assert_eq!(line.pop(MS), Some(1));
        line.settle(&flow("a"), MS, Duration::from_hours(1));
        assert_eq!(line.pop(MS), Some(2));
        assert_eq!(line.pop(MS), None);
    }

    #[test]
    fn an_empty_flow_is_forgotten() {
        let mut line = FairLine::default();
        for number in 0..1000 {
            let name = flow(&number.to_string());
            line.push(&name, number);
            match number % 3 {
                0 => assert_eq!(line.pop(MS), Some(number)),
                1 => assert_eq!(line.pop_newest(&name), Some(number)),
                _ => assert_eq!(line.take_dead(|&job| job == number), [number]),
            }
        }
        assert!(line.is_empty() && line.flows.is_empty() && line.ring.is_empty());
    }

    #[test]
    fn the_newest_of_the_longest_goes_and_the_dead_are_found() {
        let mut line = line(&[("a", 1), ("b", 2), ("b", 3), ("b", 4), ("c", 5)]);
        let (longest, length) = line.longest().expect("a flow");
        assert_eq!((longest, length), (&flow("b"), 3));
        assert_eq!(line.pop_newest(&flow("b")), Some(4));
        assert_eq!(line.take_dead(|job| job % 2 == 1).len(), 3);
        assert_eq!(drain(&mut line), [2]);
    }
}
