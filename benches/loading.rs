//! What loading costs those who are served: the p99 of `digits` while `mobilenetv2` is swapped again and again against
//! its quiet p99, rounds of both by turns in one run; and how soon a new whole file answers on a gateway without load.
//!
//! The gateway is the real binary as a process of its own; each content is new, and so is tried in a child process.
//! Exit code 1 where a guarantee is missed.
//!
//! `make bench`, or `cargo bench --bench loading -- [pairs of rounds] [seconds a round] [swaps without load]`, with
//! `LENSGATE_FIXTURES`.

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
#[expect(dead_code, reason = "overload uses more of it")]
mod load;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fixture::store::{TestStore, noted};
use lensgate::domain::ids::Digest;
use load::callers::{Callers, Manners};
use load::connection::{Connection, classify};
use load::figures::{self, ACCEPTED, Guarantees, median, millis, quantile, sorted};
use load::gateway::Gateway;
use load::machine::{Clock, Cores};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

const SERVED: &str = "digits";
/// The latest version of the shipped model.
const SERVED_VERSION: &str = "2";
const LOADED: &str = "mobilenetv2";
const CALLERS: [usize; 2] = [1, 4];

/// So many times the quiet p99 are kept to while another model loads.
const MOST_RATIO: f64 = 3.0;
const MOST_SECONDS: f64 = 1.5;
/// A swap that takes longer is none.
const LONGEST_SWAP: Duration = Duration::from_mins(1);

fn main() -> ExitCode {
    let given = load::Given::read();
    let (pairs, seconds, swaps) = (given.at(0, 5), given.at(1, 5.0), given.at(2, 10));
    let Some(fixtures) = fixture::fixtures() else {
        return ExitCode::SUCCESS;
    };
    let store = fixture::real::store(&fixtures, &[LOADED], "ort");
    store.add(&fixture::root().join("model-store/digits"), SERVED);
    let samples = std::fs::read_dir(fixture::root().join("model-store/digits/samples"));
    let sample = samples.expect("samples").next().expect("a sample");
    let request = classify(SERVED, &fixture::read(sample.expect("a sample").path()));
    let runtime = load::runtime();
    let gateway = runtime.block_on(Gateway::start(store.path()));
    let mut guarantees = Guarantees::default();
    let mut models = [SERVED, LOADED].map(|model| Model::of(model, &store, &gateway));

    println!(
        "| a new file's first answer | swaps | median s | worst s |\n| --- | --- | --- | --- |"
    );
    for model in &mut models {
        runtime.block_on(model.first_answers(swaps, &mut guarantees));
    }
    println!();

    let [_, loaded] = &mut models;
    let bench = Bench {
        gateway: &gateway,
        request: &request,
        time: Duration::from_secs_f64(seconds),
    };
    print_head();
    for callers in CALLERS {
        bench.compare(callers, pairs, loaded, &mut guarantees);
    }
    println!();
    guarantees.conclude()
}

/// A model whose file is replaced.
struct Model<'a> {
    name: &'static str,
    file: String,
    /// What lies there now: the graph and a note behind it.
    content: Vec<u8>,
    graph_bytes: usize,
    /// Of the graph alone: to hash it whole for each swap would take the cores from those who are measured.
    hasher: Sha256,
    note: u32,
    store: &'a TestStore,
    gateway: &'a Gateway,
}

impl<'a> Model<'a> {
    fn of(name: &'static str, store: &'a TestStore, gateway: &'a Gateway) -> Self {
        let version = if name == SERVED { SERVED_VERSION } else { "1" };
        let file = format!("{name}/{version}/model.onnx");
        let content = fixture::read(store.path().join(&file));
        Self {
            name,
            graph_bytes: content.len(),
            hasher: Sha256::new_with_prefix(&content),
            content,
            file,
            note: 0,
            store,
            gateway,
        }
    }

    /// Puts a new content in place and waits, looking every so often, until it is live. From the rename to then.
    async fn swap(&mut self, look_every: Duration) -> Duration {
        self.note += 1;
        let note = noted(&[], self.note);
        self.content.truncate(self.graph_bytes);
        self.content.extend_from_slice(&note);
        let hash = self.hasher.clone().chain_update(&note).finalize();
        let expected = Digest::from_bytes(hash.into()).to_string();
        let address = &self.gateway.address;
        let mut connection = Connection::open(address).await.expect("connected");
        self.store.place(&self.file, &self.content);
        let placed = Instant::now();
        let path = format!("/v1/models/{}", self.name);
        loop {
            let answer = self.gateway.get(&mut connection, &path).await;
            let view: Value = serde_json::from_str(&answer.body).expect("a view");
            let versions = view["versions"].as_array().expect("versions");
            let is_live = |version: &Value| {
                version["digest"] == expected.as_str() && version["state"] == "live"
            };
            if versions.iter().any(is_live) {
                return placed.elapsed();
            }
            assert!(placed.elapsed() < LONGEST_SWAP, "it stays {view}");
            tokio::time::sleep(look_every).await;
        }
    }

    /// How soon a new file answers while nothing else is asked.
    async fn first_answers(&mut self, swaps: u32, guarantees: &mut Guarantees) {
        let mut took = Vec::new();
        for _ in 0..swaps {
            took.push(self.swap(Duration::from_millis(5)).await.as_secs_f64());
            // What was replaced is to be gone before the next.
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        let took = sorted(took.into_iter());
        let (half, worst) = (quantile(&took, 0.5), quantile(&took, 1.0));
        println!("| {} | {swaps} | {half:.2} | {worst:.2} |", self.name);
        let what = format!(
            "a new file of {} answers within {MOST_SECONDS} s, at worst after {worst:.2} s",
            self.name
        );
        guarantees.note(worst < MOST_SECONDS, &what);
    }
}

struct Bench<'a> {
    gateway: &'a Gateway,
    request: &'a [u8],
    time: Duration,
}

/// A round of callers, and the swaps made meanwhile.
struct Round {
    millis: Vec<f64>,
    /// What was not answered 200, in words.
    others: Vec<String>,
    cores: Cores,
    swaps: Vec<f64>,
}

fn print_head() {
    let columns = [
        "callers of digits",
        "quiet 200/s",
        "p50, p99 ms",
        "loading 200/s",
        "p50, p99, p99.9 ms",
        "p99 ratio, median (lowest to highest)",
        "swaps",
        "a swap's median, worst s",
        "quiet cores: gateway, load, others",
        "loading cores: gateway, trials, load, others",
    ];
    println!(
        "| {} |\n|{}",
        columns.join(" | "),
        " --- |".repeat(columns.len())
    );
}

impl Bench<'_> {
    /// Quiet rounds and loading ones by turns.
    fn compare(
        &self,
        callers: usize,
        pairs: usize,
        loaded: &mut Model<'_>,
        guarantees: &mut Guarantees,
    ) {
        self.round(callers, None); // warms up
        let rounds: Vec<[Round; 2]> = (0..pairs)
            .map(|_| [self.round(callers, None), self.round(callers, Some(loaded))])
            .collect();
        let p99 = |round: &Round| quantile(&round.millis, 0.99);
        let ratios = rounds
            .iter()
            .map(|[quiet, loading]| p99(loading) / p99(quiet));
        let ratios = sorted(ratios);
        let ratio = quantile(&ratios, 0.5);
        let of = |which: usize, figure: &dyn Fn(&Round) -> f64| {
            median(rounds.iter().map(|pair| figure(&pair[which])))
        };
        let share = |share: f64| move |round: &Round| quantile(&round.millis, share);
        let seconds = self.time.as_secs_f64();
        let rate = |round: &Round| {
            f64::from(u32::try_from(round.millis.len()).expect("a count")) / seconds
        };
        let swaps = sorted(rounds.iter().flat_map(|[_, loading]| loading.swaps.clone()));
        println!(
            "| {callers} | {:.0} | {:.2}, {:.2} | {:.0} | {:.2}, {:.2}, {:.2} | {ratio:.2} ({:.2} to {:.2}) | {} | {:.2}, {:.2} \
             | {:.2}, {:.2}, {:.2} | {:.2}, {:.2}, {:.2}, {:.2} |",
            of(0, &rate),
            of(0, &share(0.5)),
            of(0, &share(0.99)),
            of(1, &rate),
            of(1, &share(0.5)),
            of(1, &share(0.99)),
            of(1, &share(0.999)),
            quantile(&ratios, 0.0),
            quantile(&ratios, 1.0),
            swaps.len(),
            quantile(&swaps, 0.5),
            quantile(&swaps, 1.0),
            of(0, &|round| round.cores.gateway),
            of(0, &|round| round.cores.load),
            of(0, &|round| round.cores.others),
            of(1, &|round| round.cores.gateway),
            of(1, &|round| round.cores.trials),
            of(1, &|round| round.cores.load),
            of(1, &|round| round.cores.others),
        );
        let what = format!(
            "with {callers} callers the p99 of {SERVED} while {LOADED} loads is {ratio:.2} times the quiet one, within {MOST_RATIO}"
        );
        guarantees.note(ratio <= MOST_RATIO, &what);
        let others: Vec<String> = rounds
            .iter()
            .flatten()
            .flat_map(|round| round.others.clone())
            .collect();
        let what = format!("every answer was 200 {}", others.join(", "));
        guarantees.note(others.is_empty(), what.trim_end());
    }

    /// Callers for a while, on this thread; swaps meanwhile, if any, on another.
    fn round(&self, count: usize, loaded: Option<&mut Model<'_>>) -> Round {
        let over = AtomicBool::new(false);
        let callers = Callers {
            address: &self.gateway.address,
            request: self.request,
            count,
            manners: Manners::Pushing,
        };
        std::thread::scope(|scope| {
            let swapping = loaded.map(|model| scope.spawn(|| swap_until(&over, model)));
            let clock = Clock::read(self.gateway);
            let outcomes = load::runtime().block_on(callers.ask_for(self.time));
            let cores = clock.until_now(self.gateway);
            over.store(true, Ordering::Release);
            let swaps = swapping.map(|thread| thread.join().expect("swaps"));
            let counts = figures::counts(&outcomes);
            let others = counts.iter().filter(|(name, _)| **name != ACCEPTED);
            Round {
                millis: millis(&outcomes, ACCEPTED),
                others: others
                    .map(|(name, count)| format!("{count} {name}"))
                    .collect(),
                cores,
                swaps: swaps.unwrap_or_default(),
            }
        })
    }
}

/// One swap after the other; the seconds that each took. The last one is waited for, so that the next round is quiet.
fn swap_until(over: &AtomicBool, model: &mut Model<'_>) -> Vec<f64> {
    load::runtime().block_on(async {
        let mut took = Vec::new();
        while !over.load(Ordering::Acquire) {
            // Looking costs the gateway something too: not as often as when nothing else is asked.
            took.push(model.swap(Duration::from_millis(20)).await.as_secs_f64());
        }
        // What was replaced last ends, too.
        tokio::time::sleep(Duration::from_millis(300)).await;
        took
    })
}
