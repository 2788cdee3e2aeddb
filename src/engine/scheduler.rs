//! The front of a version's engine: takes jobs in, owns the instances' threads.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::instance::Instance;
use super::queue::{Bounds, Queue};
use super::{EngineError, Job, RunPermits};
use crate::backend::Session;

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
}

/// A version's queue and instances. Dropped, it takes no more work and its threads end by themselves
/// once the queue is empty; [`Scheduler::stop`] also waits for them.
pub struct Scheduler {
    queue: Arc<Queue>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Scheduler {
    /// Starts the instances over one session.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        session: &Arc<dyn Session>,
        permits: &Arc<RunPermits>,
        config: &SchedulerConfig,
    ) -> std::io::Result<Self> {
        let instances = config.instances.max(1);
        let bounds = Bounds {
            jobs: config.max_queue,
            wait: config.max_wait,
            instances,
        };
        let queue = Arc::new(Queue::new(bounds));
        let scheduler = Self {
            queue: Arc::clone(&queue),
            threads: Mutex::default(),
        };
        for number in 0..instances {
            let instance = Instance {
                session: Arc::clone(session),
                input: config.input.clone(),
                output: config.output.clone(),
                queue: Arc::clone(&queue),
                permits: Arc::clone(permits),
            };
            // Dropping `scheduler` on an error here closes the queue: threads already started end.
            let thread = std::thread::Builder::new()
                .name(format!("{}#{number}", config.name))
                .spawn(move || instance.work())?;
            scheduler
                .threads
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(thread);
        }
        Ok(scheduler)
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
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    use tokio::sync::oneshot;

    use super::super::{Done, Flow, Priority};
    use super::*;
    use crate::backend::{BackendError, Signature};
    use crate::domain::tensor::{Tensor, TensorData};

    /// Gives its input back after a while, and counts its runs.
    struct Echo {
        runs: AtomicUsize,
        signature: Signature,
        takes: Duration,
    }

    impl Session for Echo {
        fn signature(&self) -> &Signature {
            &self.signature
        }
        fn providers(&self) -> &[String] {
            &[]
        }
        fn run(&self, _: &str, input: &Tensor, _: &str) -> Result<Tensor, BackendError> {
            self.runs.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(self.takes);
            Ok(input.clone())
        }
    }

    fn echo(takes: Duration) -> Arc<Echo> {
        let signature = Signature {
            inputs: vec![],
            outputs: vec![],
        };
        Arc::new(Echo {
            runs: AtomicUsize::new(0),
            signature,
            takes,
        })
    }

    fn start(session: &Arc<Echo>, instances: usize) -> Scheduler {
        let session: Arc<dyn Session> = Arc::<Echo>::clone(session);
        let config = SchedulerConfig {
            name: "test/1".to_owned(),
            instances,
            max_queue: 100,
            max_wait: Duration::from_mins(1),
            input: "x".to_owned(),
            output: "y".to_owned(),
        };
        Scheduler::start(&session, &RunPermits::new(instances), &config).expect("threads")
    }

    type Reply = oneshot::Receiver<Result<Done, EngineError>>;

    fn job(deadline: Instant, prepare: super::super::Prepare) -> (Job, Reply) {
        let (reply, receiver) = oneshot::channel();
        let flow = Flow(Arc::from("test"));
        (
            Job {
                prepare,
                flow,
                priority: Priority::Normal,
                deadline,
                reply,
            },
            receiver,
        )
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_mins(1)
    }

    fn one() -> super::super::Prepare {
        Box::new(|| Ok(Tensor::new(vec![1, 1], TensorData::Uint8(vec![7])).map_err(Box::new)?))
    }

    #[test]
    fn a_job_comes_back_with_its_output() {
        let session = echo(Duration::ZERO);
        let scheduler = start(&session, 2);
        let (job, reply) = job(soon(), one());
        scheduler.submit(job).expect("room");
        let done = reply
            .blocking_recv()
            .expect("an answer")
            .expect("an output");
        assert_eq!(done.output.data(), &TensorData::Uint8(vec![7]));
    }

    #[test]
    fn what_expired_or_was_left_costs_no_run() {
        let session = echo(Duration::ZERO);
        let scheduler = start(&session, 1);
        let (expired, answer) = job(Instant::now(), one());
        scheduler.submit(expired).expect("room");
        let (left, receiver) = job(soon(), one());
        drop(receiver);
        scheduler.submit(left).expect("room");
        let outcome = answer.blocking_recv().expect("an answer");
        assert!(matches!(outcome, Err(EngineError::DeadlineExceeded)));
        scheduler.stop();
        assert_eq!(session.runs.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn a_panic_costs_one_job_and_no_instance() {
        let session = echo(Duration::ZERO);
        let scheduler = start(&session, 1);
        let (bad, answer) = job(soon(), Box::new(|| panic!("a bug in prepare")));
        scheduler.submit(bad).expect("room");
        assert!(matches!(
            answer.blocking_recv(),
            Ok(Err(EngineError::Panicked))
        ));
        let (good, answer) = job(soon(), one());
        scheduler.submit(good).expect("room");
        assert!(answer.blocking_recv().expect("an answer").is_ok());
    }

    #[test]
    fn stopping_finishes_what_waits() {
        let session = echo(Duration::from_millis(5));
        let scheduler = start(&session, 1);
        let replies: Vec<Reply> = (0..5)
            .map(|_| {
                let (job, reply) = job(soon(), one());
                scheduler.submit(job).expect("room");
                reply
            })
            .collect();
        scheduler.stop();
        for reply in replies {
            assert!(reply.blocking_recv().expect("an answer").is_ok());
        }
        let (late, _reply) = job(soon(), one());
        assert!(matches!(scheduler.submit(late), Err(EngineError::Stopped)));
    }
}
