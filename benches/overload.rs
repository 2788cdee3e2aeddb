//! What overload does: the best throughput (8 callers), then three times as many requests as that on schedule whatever
//! the answers, then 256 callers that honour `Retry-After`; and how soon the gateway is itself again.
//!
//! The gateway is the real binary as a process of its own; the load shares its machine and says what it took of it.
//! Exit code 1 where a guarantee is missed.
//!
//! `make bench`, or `cargo bench --bench overload -- [seconds of overload] [model] [rounds of the best]`, with `LENSGATE_FIXTURES`.

#![expect(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "what fails in a benchmark ends it"
)]

#[path = "../tests/it/fixture/mod.rs"]
#[expect(dead_code, reason = "the tests use more of it than a benchmark does")]
mod fixture;
#[expect(dead_code, reason = "loading uses more of it")]
mod load;
#[expect(dead_code, reason = "the other benches use more of it")]
mod photo;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use load::callers::{Callers, Manners};
use load::figures::{self, ACCEPTED, Guarantees, Outcome, REFUSED, median, millis, quantile};
use load::gateway::{Gateway, Memory};
use load::machine::{self, Clock, Cores};
use load::open::Open;

/// As many callers as give the best throughput, see the README's table.
const BEST_CALLERS: usize = 8;
const PATIENT_CALLERS: usize = 256;
const TIMES_THE_BEST: f64 = 3.0;
/// A round that measures the best; there are some before and again after each overload.
const ROUND: Duration = Duration::from_secs(3);
/// How long a lone caller is looked at.
const PROBE: Duration = Duration::from_secs(2);
/// Below the gateway's `server.max_connections`.
const CONNECTIONS: usize = 960;
const UNDER_WAY: usize = 8192;

/// `limits.max_queue_ms` and `limits.max_inflight_bytes` as they are unless set.
const MAX_QUEUE_MS: f64 = 2000.0;
const MAX_INFLIGHT_MIB: f64 = 256.0;
const LEAST_GOODPUT: f64 = 0.9;
/// A lone caller may wait so much longer than before the overload.
const NORMAL: f64 = 2.0;

fn main() -> ExitCode {
    let given = load::Given::read();
    let seconds = given.at(0, 20.0);
    let model = given.at(1, "squeezenet1.1".to_owned());
    let Some(fixtures) = fixture::fixtures() else {
        return ExitCode::SUCCESS;
    };
    let store = fixture::real::store(&fixtures, &[&model], "ort");
    let picture = fixture::read(fixtures.join("images/cat_meow.jpg"));
    let request = load::connection::classify(&model, &photo::jpeg(&picture, 375, 500));
    load::runtime().block_on(async {
        let bench = Bench {
            gateway: Gateway::start(store.path()).await,
            request,
            rounds: given.at(2, 3),
        };
        let time = Duration::from_secs_f64(seconds);
        println!(
            "{model}, a JPEG of 500x375 ({} bytes), {} cores for gateway and load",
            bench.request.len(),
            machine::cores()
        );
        bench.measure(time).await
    })
}

struct Bench {
    gateway: Gateway,
    request: Arc<[u8]>,
    rounds: usize,
}

/// What was asked of the gateway for a while, and what came of it.
struct Phase {
    name: String,
    outcomes: Vec<Outcome>,
    /// How long requests were begun.
    time: Duration,
    /// When the last one was begun.
    end: Instant,
    left_out: u32,
    connections: usize,
    cores: Cores,
    before: Memory,
    after: Memory,
}

/// A lone caller's milliseconds, in rising order, and what else it got.
struct Probe {
    millis: Vec<f64>,
    failed: usize,
}

/// The median of the rounds around an overload: 200s a second, and of each core that others left.
#[derive(Clone, Copy)]
struct Best {
    whole: f64,
    per_core: f64,
}

/// An overload with all that is compared with it.
struct Trouble {
    phase: Phase,
    best: Best,
    quiet: Probe,
    /// From the last request that was begun to the last answer.
    drained: Duration,
    /// A lone caller from the last answer on, and one second later.
    first_second: Probe,
    later: Probe,
}

impl Bench {
    async fn measure(&self, time: Duration) -> ExitCode {
        self.best().await; // warms up
        let quiet = self.probe(PROBE).await;
        let first = self.best_rounds().await;
        let rate = TIMES_THE_BEST * median(first.iter().map(Phase::goodput));
        let open = self.open(rate, time).await;
        let (open, between) = self.aftermath(open, &first, quiet).await;
        let quiet = self.probe(PROBE).await;
        let patient = self.patient(time).await;
        let (patient, last) = self.aftermath(patient, &between, quiet).await;

        print_head();
        for best in first.iter().chain(&between).chain(&last) {
            best.print(None);
        }
        for trouble in [&open, &patient] {
            trouble.phase.print(Some(trouble.best));
        }
        let mut guarantees = Guarantees::default();
        for trouble in [&open, &patient] {
            trouble.conclude(&mut guarantees);
        }
        guarantees.conclude()
    }

    /// What follows an overload: an empty queue, a lone caller, and the best again.
    async fn aftermath(
        &self,
        mut phase: Phase,
        before: &[Phase],
        quiet: Probe,
    ) -> (Trouble, Vec<Phase>) {
        let drained = phase.end.elapsed();
        let first_second = self.probe(Duration::from_secs(1)).await;
        let later = self.probe(PROBE).await;
        phase.after = self.gateway.memory();
        let after = self.best_rounds().await;
        let both = || before.iter().chain(&after);
        let trouble = Trouble {
            phase,
            best: Best {
                whole: median(both().map(Phase::goodput)),
                per_core: median(both().map(Phase::goodput_per_core)),
            },
            quiet,
            drained,
            first_second,
            later,
        };
        (trouble, after)
    }

    async fn best_rounds(&self) -> Vec<Phase> {
        let mut rounds = Vec::new();
        for _ in 0..self.rounds {
            rounds.push(self.best().await);
        }
        rounds
    }

    async fn best(&self) -> Phase {
        let callers = self.callers(BEST_CALLERS, Manners::Pushing);
        let name = format!("best, {BEST_CALLERS} callers");
        self.phase(name, ROUND, self.closed(callers, ROUND)).await
    }

    async fn patient(&self, time: Duration) -> Phase {
        let callers = self.callers(PATIENT_CALLERS, Manners::Patient);
        let name = format!("{PATIENT_CALLERS} patient callers");
        self.phase(name, time, self.closed(callers, time)).await
    }

    async fn open(&self, rate: f64, time: Duration) -> Phase {
        let open = Open {
            address: &self.gateway.address,
            request: &self.request,
            rate,
            time,
            connections: CONNECTIONS,
            under_way: UNDER_WAY,
        };
        let name = format!("open loop, {rate:.0}/s");
        let sending = async {
            let sent = open.send().await;
            (sent.outcomes, sent.left_out, sent.opened)
        };
        self.phase(name, time, sending).await
    }

    fn callers(&self, count: usize, manners: Manners) -> Callers<'_> {
        Callers {
            address: &self.gateway.address,
            request: &self.request,
            count,
            manners,
        }
    }

    async fn closed(&self, callers: Callers<'_>, time: Duration) -> (Vec<Outcome>, u32, usize) {
        (callers.ask_for(time).await, 0, callers.count)
    }

    /// Watches processes and memory while `asking` goes on. The cores are those of `time`: what is still answered
    /// after it is no part of the load.
    async fn phase(
        &self,
        name: String,
        time: Duration,
        asking: impl Future<Output = (Vec<Outcome>, u32, usize)>,
    ) -> Phase {
        self.gateway.forget_peak();
        let before = self.gateway.memory();
        let clock = Clock::read(&self.gateway);
        let end = Instant::now() + time;
        let watching = async {
            tokio::time::sleep_until(end.into()).await;
            clock.until_now(&self.gateway)
        };
        let ((outcomes, left_out, connections), cores) =
            futures_util::future::join(asking, watching).await;
        Phase {
            name,
            outcomes,
            time,
            end,
            left_out,
            connections,
            cores,
            before,
            after: self.gateway.memory(),
        }
    }

    /// A lone caller.
    async fn probe(&self, time: Duration) -> Probe {
        let outcomes = self.callers(1, Manners::Pushing).ask_for(time).await;
        let millis = millis(&outcomes, ACCEPTED);
        Probe {
            failed: outcomes.len() - millis.len(),
            millis,
        }
    }
}

fn print_head() {
    let columns = [
        "phase",
        "sent/s",
        "200/s",
        "of the best",
        "of the best, per core that others left",
        "200 p50, p99 ms",
        "503/s",
        "503 p50, p99 ms",
        "anything else",
        "load behind p50, p99, max ms",
        "cores: gateway, load, others",
        "gateway's CPU ms a 200",
        "RSS before, peak, after MiB",
        "connections",
    ];
    println!(
        "| {} |\n|{}",
        columns.join(" | "),
        " --- |".repeat(columns.len())
    );
}

impl Phase {
    /// 200s a second, of those that came while requests were begun.
    fn goodput(&self) -> f64 {
        self.in_time(ACCEPTED) / self.time.as_secs_f64()
    }

    /// The same for each core that others left to gateway and load: what the load takes counts against the gateway.
    fn goodput_per_core(&self) -> f64 {
        self.goodput() / (machine::cores() - self.cores.others).max(0.1)
    }

    fn in_time(&self, name: &str) -> f64 {
        let outcomes = self.outcomes.iter();
        let named = outcomes.filter(|outcome| outcome.name == name && outcome.done <= self.end);
        f64::from(u32::try_from(named.count()).expect("a count"))
    }

    /// What is neither an answer nor a refusal.
    fn others(&self) -> String {
        let counts = figures::counts(&self.outcomes);
        let others = counts
            .iter()
            .filter(|(name, _)| ![ACCEPTED, REFUSED].contains(*name));
        let mut others: Vec<String> = others
            .map(|(name, count)| format!("{count} {name}"))
            .collect();
        if self.left_out > 0 {
            others.push(format!("{} never sent", self.left_out));
        }
        others.join(", ")
    }

    fn print(&self, best: Option<Best>) {
        let seconds = self.time.as_secs_f64();
        let sent = f64::from(u32::try_from(self.outcomes.len()).expect("a count"));
        let [accepted, refused] = [ACCEPTED, REFUSED].map(|name| millis(&self.outcomes, name));
        let behind = self
            .outcomes
            .iter()
            .map(|outcome| outcome.behind.as_secs_f64() * 1e3);
        let behind = figures::sorted(behind);
        let shares = best.map(|best| {
            let whole = self.goodput() / best.whole;
            let per_core = self.goodput_per_core() / best.per_core;
            format!("{whole:.3} | {per_core:.3}")
        });
        let Cores {
            gateway,
            load,
            others,
            ..
        } = self.cores;
        println!(
            "| {} | {:.1} | {:.1} | {} | {} | {:.1} | {} | {} | {} | {gateway:.2}, {load:.2}, {others:.2} | {:.2} \
             | {:.0}, {:.0}, {:.0} | {} |",
            self.name,
            sent / seconds,
            self.goodput(),
            shares.as_deref().unwrap_or(" | "),
            ends(&accepted),
            self.in_time(REFUSED) / seconds,
            ends(&refused),
            self.others(),
            [0.5, 0.99, 1.0]
                .map(|share| format!("{:.1}", quantile(&behind, share)))
                .join(", "),
            gateway * 1e3 / self.goodput(),
            self.before.now,
            self.after.peak,
            self.after.now,
            self.connections,
        );
    }
}

fn ends(millis: &[f64]) -> String {
    if millis.is_empty() {
        return String::new();
    }
    format!(
        "{:.1}, {:.1}",
        quantile(millis, 0.5),
        quantile(millis, 0.99)
    )
}

impl Trouble {
    fn conclude(&self, guarantees: &mut Guarantees) {
        let Self {
            phase,
            quiet,
            first_second,
            later,
            ..
        } = self;
        guarantees.of(&phase.name);
        let share = phase.goodput_per_core() / self.best.per_core;
        let what = format!(
            "goodput is {share:.3} of the best on the same cores, more than {LEAST_GOODPUT} ({:.1} of {:.1} a second)",
            phase.goodput(),
            self.best.whole
        );
        guarantees.note(share > LEAST_GOODPUT, &what);

        // The run itself: what a lone caller waits, twice, because the load is on the cores too.
        let bound = MAX_QUEUE_MS + 2.0 * quantile(&quiet.millis, 0.99);
        let accepted = millis(&phase.outcomes, ACCEPTED);
        let p99 = quantile(&accepted, 0.99);
        let what = format!(
            "accepted p99 is {p99:.0} ms, under the queue's bound and a run, {bound:.0} ms"
        );
        guarantees.note(p99 <= bound, &what);

        let others = phase.others();
        let what = format!("everything else is 503 overloaded with Retry-After {others}");
        guarantees.note(others.is_empty(), what.trim_end());

        let grown = phase.after.peak - phase.before.now;
        let what = format!(
            "memory grew by {grown:.0} MiB, less than max_inflight_bytes, {MAX_INFLIGHT_MIB} MiB"
        );
        guarantees.note(grown < MAX_INFLIGHT_MIB, &what);

        let [before, now] = [quiet, later].map(|probe| quantile(&probe.millis, 0.5));
        let what = format!(
            "back to normal: the last answer {:.2} s after the last request, a lone caller's p50, p99 then {} ms, one \
             second later {} ms (before: {} ms)",
            self.drained.as_secs_f64(),
            ends(&first_second.millis),
            ends(&later.millis),
            ends(&quiet.millis),
        );
        let failed = first_second.failed + later.failed;
        guarantees.note(failed == 0 && now <= NORMAL * before, &what);
    }
}
