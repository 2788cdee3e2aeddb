//! The front of a version's engine: takes jobs in, owns the version's threads.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::batch::{BatchInstance, Prepared, Preparer};
use super::instance::{Graph, Instance};
use super::lone::Wide;
use super::queue::{Bounds, Queue};
use super::{EngineError, Job, RunPermits};
use crate::backend::Session;
use crate::telemetry::metrics::VersionSeries;

/// How a version executes.
#[derive(Clone, Debug)]
pub struct SchedulerConfig {
    /// Names the threads, e.g. `digits/2`.
    pub name: String,
    /// Threads that execute side by side.
    pub instances: usize,
    /// The most jobs that wait.
    pub max_queue: usize,
    /// The longest expected wait of a job that is taken in.
    pub max_wait: Duration,
    /// The graph's input.
    pub input: String,
    /// The graph's output.
    pub output: String,
    /// Cores that one run uses; 0 where it runs beside the processor.
    pub threads: usize,
    /// Set where pictures are prepared apart and run in batches; else each instance does a picture from end to end.
    pub batch: Option<BatchConfig>,
    /// Where its runs are counted.
    pub series: Arc<VersionSeries>,
}

/// How a version's batches are made.
#[derive(Clone, Copy, Debug)]
pub struct BatchConfig {
    /// The most pictures of one run.
    pub most: usize,
    /// How long a batch that is not full waits for more; zero: not at all.
    pub delay: Duration,
    /// Threads that prepare pictures.
    pub preparers: usize,
}

/// A version's queue and threads. Dropped, it takes no more work and its threads end by themselves
/// once the queue is empty; [`Scheduler::stop`] also waits for them. The sessions go with the last thread.
pub struct Scheduler {
    queue: Arc<Queue>,
    instances: usize,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Scheduler {
    /// Starts the threads over one session, and over `wide`, whose runs use all the cores, for a job that has the
    /// process to itself. Batches have no use for `wide`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        session: &Arc<dyn Session>,
        wide: Option<&Arc<dyn Session>>,
        permits: &Arc<RunPermits>,
        config: &SchedulerConfig,
    ) -> std::io::Result<Self> {
        let graph = Arc::new(Graph {
            session: Arc::clone(session),
            input: config.input.clone(),
            output: config.output.clone(),
            series: Arc::clone(&config.series),
            name: config.name.clone(),
        });
        let preparers = config.batch.map(|batch| batch.preparers.max(1));
        let bounds = Bounds {
            jobs: config.max_queue,
            wait: config.max_wait,
            threads: preparers.unwrap_or(config.instances.max(1)),
        };
        // Preparing a picture takes one core, whatever the run takes.
        let weight = preparers.map_or(config.threads.max(1), |_| 1);
        // Dropping `scheduler` on an error below closes the queue: threads already started end.
        let scheduler = Self {
            queue: Arc::new(Queue::new(bounds, permits, weight)),
            instances: config.instances.max(1),
            threads: Mutex::default(),
        };
        match config.batch {
            None => scheduler.start_instances(&graph, wide, config)?,
            Some(batch) => scheduler.start_batches(&graph, batch, permits, config)?,
        }
        Ok(scheduler)
    }

    fn start_instances(
        &self,
        graph: &Arc<Graph>,
        wide: Option<&Arc<dyn Session>>,
        config: &SchedulerConfig,
    ) -> std::io::Result<()> {
        let wide = wide.map(|session| Arc::new(Wide::new(Arc::clone(session))));
        for number in 0..config.instances.max(1) {
            let instance = Instance {
                graph: Arc::clone(graph),
                wide: wide.clone(),
                queue: Arc::clone(&self.queue),
            };
            self.spawn(format!("{}#{number}", config.name), move || instance.work())?;
        }
        Ok(())
    }

    fn start_batches(
        &self,
        graph: &Arc<Graph>,
        batch: BatchConfig,
        permits: &Arc<RunPermits>,
        config: &SchedulerConfig,
    ) -> std::io::Result<()> {
        let (most, preparers) = (batch.most.max(1), batch.preparers.max(1));
        let line = Prepared::new((most, batch.delay), preparers, permits, config.threads);
        // Before the instances, which end where nobody prepares.
        for number in 0..preparers {
            let preparer = Preparer::new(&self.queue, &line);
            self.spawn(format!("{}<{number}", config.name), move || preparer.work())?;
        }
        for number in 0..config.instances.max(1) {
            let instance = BatchInstance {
                graph: Arc::clone(graph),
                line: Arc::clone(&line),
            };
            self.spawn(format!("{}#{number}", config.name), move || instance.work())?;
        }
        Ok(())
    }

    fn spawn(&self, name: String, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        let thread = std::thread::Builder::new().name(name).spawn(work)?;
        self.threads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(thread);
        Ok(())
    }

    /// Hands a job in; its outcome comes through the job's reply.
    ///
    /// # Errors
    /// [`EngineError::Overloaded`] or [`EngineError::Stopped`], at once.
    pub fn submit(&self, job: Job) -> Result<(), EngineError> {
        self.queue.push(job)
    }

    /// How many jobs wait now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// How many jobs may wait.
    #[must_use]
    pub fn max_waiting(&self) -> usize {
        self.queue.room()
    }

    /// Threads that execute side by side.
    #[must_use]
    pub fn instances(&self) -> usize {
        self.instances
    }

    /// Takes no more work; what waits is still done. Returns at once.
    pub fn close(&self) {
        self.queue.close();
    }

    /// Takes no more work, finishes what waits and joins the threads. Blocks: never call it on the async runtime.
    pub fn stop(&self) {
        self.queue.close();
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("an instance's thread panicked");
            }
        }
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.queue.close();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::Priority;
    use super::super::testing::{Echo, POISON, Reply, answer, echo, job, until, value};
    use super::*;

    fn config(instances: usize) -> SchedulerConfig {
        SchedulerConfig {
            name: "test/1".to_owned(),
            instances,
            max_queue: 100,
            max_wait: Duration::from_mins(1),
            input: "x".to_owned(),
            output: "y".to_owned(),
            threads: 1,
            batch: None,
            series: Arc::default(),
        }
    }

    fn batching(most: usize, delay: Duration) -> SchedulerConfig {
        SchedulerConfig {
            batch: Some(BatchConfig {
                most,
                delay,
                preparers: 2,
            }),
            ..config(1)
        }
    }

    fn start_on(
        permits: &Arc<RunPermits>,
        session: &Arc<Echo>,
        wide: Option<&Arc<Echo>>,
        config: &SchedulerConfig,
    ) -> Scheduler {
        let session: Arc<dyn Session> = Arc::<Echo>::clone(session);
        let wide = wide.map(|wide| Arc::<Echo>::clone(wide) as Arc<dyn Session>);
        Scheduler::start(&session, wide.as_ref(), permits, config).expect("threads")
    }

    fn start(session: &Arc<Echo>, config: &SchedulerConfig) -> Scheduler {
        start_on(&RunPermits::new(2), session, None, config)
    }

    fn submit(scheduler: &Scheduler, number: u8) -> Reply {
        let (job, reply) = job(value(number));
        scheduler.submit(job).expect("room");
        reply
    }

    #[test]
    fn a_job_comes_back_with_its_output() {
        let scheduler = start(&echo(Duration::ZERO), &config(2));
        assert!(matches!(answer(submit(&scheduler, 7)), Ok(7)));
    }

    #[test]
    fn what_expired_or_was_left_costs_no_run() {
        for config in [config(1), batching(4, Duration::ZERO)] {
            let session = echo(Duration::ZERO);
            let scheduler = start(&session, &config);
            let (mut expired, outcome) = job(value(1));
            expired.deadline = Instant::now();
            scheduler.submit(expired).expect("room");
            let (left, receiver) = job(value(2));
            drop(receiver);
            scheduler.submit(left).expect("room");
            assert!(matches!(
                answer(outcome),
                Err(EngineError::DeadlineExceeded)
            ));
            scheduler.stop();
            assert_eq!(session.runs(), [0; 0]);
        }
    }

    #[test]
    fn who_leaves_while_the_picture_is_prepared_costs_no_run() {
        for config in [config(1), batching(4, Duration::ZERO)] {
            let session = echo(Duration::ZERO);
            let scheduler = start(&session, &config);
            let (go, wait) = std::sync::mpsc::channel::<()>();
            let (left, receiver) = job(Box::new(move || {
                wait.recv()?;
                value(1)()
            }));
            scheduler.submit(left).expect("room");
            drop(receiver);
            // Whether it was begun by now or not: nobody waits for it.
            let _ = go.send(());
            scheduler.stop();
            assert_eq!(session.runs(), [0; 0]);
        }
    }

    #[test]
    fn a_panic_costs_one_job_and_no_thread() {
        for config in [config(1), batching(4, Duration::ZERO)] {
            let scheduler = start(&echo(Duration::ZERO), &config);
            let (bad, reply) = job(Box::new(|| panic!("a bug in prepare")));
            scheduler.submit(bad).expect("room");
            assert!(matches!(answer(reply), Err(EngineError::Panicked)));
            assert!(matches!(answer(submit(&scheduler, 7)), Ok(7)));
        }
    }

    #[test]
    fn stopping_finishes_what_waits() {
        for config in [config(1), batching(2, Duration::from_mins(1))] {
            let scheduler = start(&echo(Duration::from_millis(5)), &config);
            let replies: Vec<Reply> = (0..5).map(|number| submit(&scheduler, number)).collect();
            scheduler.stop();
            for (number, reply) in (0..5).zip(replies) {
                assert!(matches!(answer(reply), Ok(given) if given == number));
            }
            let (late, _reply) = job(value(1));
            assert!(matches!(scheduler.submit(late), Err(EngineError::Stopped)));
        }
    }

    #[test]
    fn a_lone_job_gets_all_the_cores_and_a_crowd_one_each() {
        let (narrow, wide, busy) = (
            echo(Duration::ZERO),
            echo(Duration::ZERO),
            echo(Duration::ZERO),
        );
        let permits = RunPermits::new(2);
        let scheduler = start_on(&permits, &narrow, Some(&wide), &config(2));
        let other = start_on(&permits, &busy, None, &config(1));
        assert!(answer(submit(&scheduler, 1)).is_ok());
        assert_eq!((narrow.started(), wide.started()), (0, 1));
        // Another version is at work.
        let held = busy.hold();
        let theirs = submit(&other, 1);
        busy.wait_for_start(1);
        assert!(answer(submit(&scheduler, 1)).is_ok());
        assert_eq!((narrow.started(), wide.started()), (1, 1));
        drop(held);
        assert!(answer(theirs).is_ok());
        // While a job has all the cores, the others wait. The first lone job of a version always gets them.
        let scheduler = start_on(&permits, &narrow, Some(&wide), &config(2));
        let held = wide.hold();
        until("the other version's core is free", || permits.is_idle());
        let lone = submit(&scheduler, 1);
        wide.wait_for_start(2);
        let theirs = submit(&other, 1);
        until("the other version waits", || permits.waiting() == 1);
        assert_eq!(busy.started(), 1);
        drop(held);
        assert!(answer(lone).is_ok());
        assert!(answer(theirs).is_ok());
    }

    #[test]
    fn a_batch_takes_all_that_is_ready_and_each_gets_its_own_row() {
        let session = echo(Duration::ZERO);
        let scheduler = start(&session, &batching(4, Duration::ZERO));
        let held = session.hold();
        let first = submit(&scheduler, 0);
        session.wait_for_start(1);
        let others: Vec<Reply> = (1..=5).map(|number| submit(&scheduler, number)).collect();
        until("the preparers have taken them all", || {
            scheduler.waiting() == 0
        });
        drop(held);
        assert!(matches!(answer(first), Ok(0)));
        for (number, reply) in (1..=5).zip(others) {
            assert!(matches!(answer(reply), Ok(given) if given == number));
        }
        scheduler.stop();
        let runs = session.runs();
        // Two of them may still have been in the preparers' hands.
        assert!(matches!(runs[..], [1, 3 | 4, ..]), "{runs:?}");
        assert_eq!(runs.iter().sum::<usize>(), 6);
    }

    #[test]
    fn a_batch_waits_for_more_only_where_it_was_told_to() {
        let session = echo(Duration::ZERO);
        let scheduler = start(&session, &batching(3, Duration::from_mins(1)));
        let replies: Vec<Reply> = (0..3).map(|number| submit(&scheduler, number)).collect();
        for reply in replies {
            let done = reply
                .blocking_recv()
                .expect("an answer")
                .expect("an output");
            assert_eq!(done.output.shape(), [1, 1]);
        }
        assert_eq!(session.runs(), [3]);
        let session = echo(Duration::ZERO);
        let scheduler = start(&session, &batching(3, Duration::from_millis(20)));
        assert!(matches!(answer(submit(&scheduler, 9)), Ok(9)));
        assert_eq!(session.runs(), [1]);
    }

    #[test]
    fn a_batch_that_fails_is_run_one_by_one() {
        let session = echo(Duration::ZERO);
        let scheduler = start(&session, &batching(3, Duration::from_mins(1)));
        let numbers = [1, POISON, 3];
        let replies = numbers.map(|number| submit(&scheduler, number));
        for (number, reply) in numbers.into_iter().zip(replies) {
            assert!(matches!(answer(reply), Ok(given) if given == number));
        }
        assert_eq!(session.runs(), [3, 1, 1, 1]);
    }

    #[test]
    fn background_work_of_one_version_yields_to_normal_work_of_another() {
        let permits = RunPermits::new(1);
        let (shadow, normal) = (echo(Duration::ZERO), echo(Duration::ZERO));
        let background = start_on(&permits, &shadow, None, &config(2));
        let serving = start_on(&permits, &normal, None, &config(1));
        let (held, ours) = (shadow.hold(), normal.hold());
        let replies: Vec<Reply> = (0..2)
            .map(|number| {
                let (mut job, reply) = job(value(number));
                job.priority = Priority::Background;
                background.submit(job).expect("room");
                reply
            })
            .collect();
        shadow.wait_for_start(1);
        until("the second background job waits", || permits.waiting() == 1);
        let reply = submit(&serving, 7);
        until("the normal job waits behind it", || permits.waiting() == 2);
        drop(held);
        normal.wait_for_start(1);
        assert_eq!(shadow.started(), 1);
        drop(ours);
        assert!(matches!(answer(reply), Ok(7)));
        for reply in replies {
            assert!(answer(reply).is_ok());
        }
    }
}
