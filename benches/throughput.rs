//! What HTTP costs: the bare loop (decode, preprocess, run, top-k; no HTTP; one thread, a thread a core, and one thread
//! whose runs use all the cores) against the gateway at 1, 2, 8 and 32 callers, side by side in one run, round by round,
//! so that a machine that is busy with others harms both alike. A crowd is held against a thread a core, a lone caller's
//! time against the run on all the cores.
//!
//! `make bench`, or `cargo bench --bench throughput -- [rounds] [seconds a measurement] [model] [backend]`.

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
#[expect(dead_code, reason = "the load benches use more of it")]
mod load;
mod photo;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fixture::gateway::TestGateway;
use lensgate::backend::Session;
use lensgate::config::Environment;
use lensgate::model_store::{Content, ModelStore as _};
use lensgate::models::Opened;
use lensgate::{app, vision};
use load::connection::{self, Connection};
use photo::median;

const MODELS: [&str; 2] = ["squeezenet1.1", "mobilenetv2"];
const CALLERS: [usize; 4] = [1, 2, 8, 32];
/// Places of the figures: bare on one thread, on a thread a core, on all the cores in one run; then a place a number of
/// callers.
const ONE: usize = 0;
const CROWD: usize = 1;
const WIDE: usize = 2;
const HTTP: usize = 3;
/// Rows and columns of the JPEGs.
const SIZES: [(u32, u32); 2] = [(375, 500), (960, 1280)];

fn main() {
    // `cargo bench` adds --bench.
    let given: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let rounds = given
        .first()
        .and_then(|text| text.parse().ok())
        .unwrap_or(5);
    let seconds = given
        .get(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(2.0);
    let (only, only_backend) = (given.get(2), given.get(3));
    let Some(fixtures) = fixture::fixtures() else {
        return;
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    println!("{cores} cores, {rounds} rounds of {seconds} s a figure, medians; pictures a second");
    println!(
        "| model | backend | JPEG | bare, 1 thread | bare, {cores} threads | HTTP, 1 caller | 2 callers | 8 callers \
         | 32 callers | 2 / bare | 8 / bare | 32 / bare | p50 bare, 1 thread, ms | p50 bare, all cores in one run, ms \
         | p50 HTTP 1, ms |"
    );
    println!("|{}", " --- |".repeat(15));
    let mut profiles = Vec::new();
    for model in MODELS
        .iter()
        .filter(|model| only.is_none_or(|only| only == *model))
    {
        for backend in ["ort", "tract"] {
            if only_backend.is_some_and(|only| only != backend) {
                continue;
            }
            for size in SIZES {
                let bench = Bench::open(&fixtures, model, backend, size, cores);
                profiles.push(bench.row(rounds, Duration::from_secs_f64(seconds)));
            }
        }
    }
    println!(
        "\nwhere a lone caller's time goes, p50, ms; what is left of it is HTTP, the client's part included"
    );
    println!(
        "| model | backend | JPEG | bare: to the tensor | bare: run on all the cores | HTTP: to the tensor | run | waiting \
         | whole, gateway | whole, client |"
    );
    println!("|{}", " --- |".repeat(10));
    for profile in profiles {
        println!("{profile}");
    }
}

/// One model on one backend with one picture, open both bare and behind HTTP.
struct Bench {
    label: String,
    route: String,
    cores: usize,
    opened: Opened,
    /// The same graph with runs that use all the cores, where the gateway opens one.
    wide: Option<Arc<dyn Session>>,
    picture: Vec<u8>,
    gateway: TestGateway,
    runtime: tokio::runtime::Runtime,
    _store: fixture::store::TestStore,
}

/// Pictures a second, and the median of one picture's milliseconds.
#[derive(Clone, Copy)]
struct Figure {
    per_second: f64,
    p50_ms: f64,
}

impl Bench {
    fn open(
        fixtures: &Path,
        model: &str,
        backend: &str,
        (height, width): (u32, u32),
        cores: usize,
    ) -> Self {
        let store = fixture::real::store(fixtures, &[model], backend);
        let config = fixture::gateway::config(store.path(), &[]);
        let loader = app::loader(&config, app::backends(&config, &Environment::default()));
        let mut found = app::model_store(&config).scan().expect("a store");
        let Content::Candidate(candidate) = found.remove(0).versions.remove(0).content else {
            panic!("{model} is broken")
        };
        let (opened, _) = loader.examine(&candidate).expect("a model");
        let wide = loader.widen(&candidate, &opened);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let gateway = runtime.block_on(TestGateway::start(store.path(), &["cache.max_bytes=0"]));
        let photo = fixture::read(fixtures.join("images/cat_meow.jpg"));
        Self {
            label: format!("| {model} | {backend} | {width}x{height} |"),
            route: format!("/v1/models/{model}/classify"),
            cores,
            opened,
            wide,
            picture: photo::jpeg(&photo, height, width),
            gateway,
            runtime,
            _store: store,
        }
    }

    /// Prints the row; gives the row of the lone caller's table.
    fn row(&self, rounds: usize, time: Duration) -> String {
        let narrow = &*self.opened.session;
        let wide = self.wide.as_deref().unwrap_or(narrow);
        let mut figures: Vec<Vec<Figure>> = vec![Vec::new(); HTTP + CALLERS.len()];
        let mut parts: Vec<Vec<f64>> = Vec::new();
        for _ in 0..rounds {
            parts.push([self.bare_parts(wide, time), self.lone_parts(time)].concat());
            figures[ONE].push(self.bare(narrow, 1, time));
            figures[CROWD].push(self.bare(narrow, self.cores, time));
            figures[WIDE].push(self.bare(wide, 1, time));
            for (place, callers) in CALLERS.into_iter().enumerate() {
                figures[HTTP + place].push(self.http(callers, time));
            }
        }
        let rate = |place: usize| median(figures[place].iter().map(|f| f.per_second));
        // Ratios round by round, then their median: a slow moment of the machine is in both.
        let ratio = |above: usize| {
            let pairs = figures[above].iter().zip(&figures[CROWD]);
            median(pairs.map(|(a, b)| a.per_second / b.per_second))
        };
        let p50 = |place: usize| median(figures[place].iter().map(|f| f.p50_ms));
        print!("{}", self.label);
        for place in [ONE, CROWD, HTTP, HTTP + 1, HTTP + 2, HTTP + 3] {
            print!(" {:.1} |", rate(place));
        }
        for place in [HTTP + 1, HTTP + 2, HTTP + 3] {
            print!(" {:.2} |", ratio(place));
        }
        for place in [ONE, WIDE, HTTP] {
            print!(" {:.2} |", p50(place));
        }
        println!();
        let columns = (0..parts[0].len()).map(|column| {
            let of_rounds = parts.iter().map(|round| round[column]);
            format!(" {:.2} |", median(of_rounds))
        });
        self.label.clone() + &columns.collect::<String>()
    }

    /// p50 of the two halves of a bare call: to the tensor, and the run.
    fn bare_parts(&self, session: &dyn Session, time: Duration) -> Vec<f64> {
        let limits = vision::DecodeLimits {
            max_pixels: 50_000_000,
        };
        let (started, mut halves) = (Instant::now(), [Vec::new(), Vec::new()]);
        while started.elapsed() < time {
            let begun = Instant::now();
            let header = vision::read_header(&self.picture, &limits).expect("a header");
            let preprocessor = &self.opened.preprocessor;
            let decoded = preprocessor.decode_for(&self.picture, &header);
            let tensor = preprocessor.tensor(&decoded.expect("a picture"));
            let prepared = Instant::now();
            let output = session.run(&self.opened.input.name, &tensor, &self.opened.output_name);
            output.expect("a run");
            halves[0].push((prepared - begun).as_secs_f64() * 1e3);
            halves[1].push(prepared.elapsed().as_secs_f64() * 1e3);
        }
        halves
            .into_iter()
            .map(|half| median(half.into_iter()))
            .collect()
    }

    /// p50 of what the gateway says of a lone caller's requests, and of what the client sees.
    fn lone_parts(&self, time: Duration) -> Vec<f64> {
        let address = self.gateway.base.trim_start_matches("http://").to_owned();
        let request = connection::post(&self.route, &self.picture);
        self.runtime.block_on(async {
            let mut connection = Connection::open(&address).await.expect("connected");
            let (started, mut parts) = (Instant::now(), vec![Vec::new(); 5]);
            while started.elapsed() < time {
                let before = Instant::now();
                let body = connection.ok(&request).await;
                let whole = before.elapsed().as_secs_f64() * 1e3;
                let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
                let told = ["decode", "inference", "queue", "total"];
                for (part, name) in parts.iter_mut().zip(told) {
                    part.push(body["timing_ms"][name].as_f64().expect("a time"));
                }
                parts[4].push(whole);
            }
            parts
                .into_iter()
                .map(|part| median(part.into_iter()))
                .collect()
        })
    }

    /// The work itself on `threads` threads, as an instance does it.
    fn bare(&self, session: &dyn Session, threads: usize, time: Duration) -> Figure {
        let stop = AtomicBool::new(false);
        let started = Instant::now();
        let took = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|_| {
                    scope.spawn(|| {
                        let mut took = Vec::new();
                        while !stop.load(Ordering::Relaxed) {
                            let before = Instant::now();
                            self.classify(session);
                            took.push(before.elapsed());
                        }
                        took
                    })
                })
                .collect();
            std::thread::sleep(time);
            stop.store(true, Ordering::Relaxed);
            let done = workers
                .into_iter()
                .flat_map(|worker| worker.join().expect("a worker"));
            done.collect::<Vec<_>>()
        });
        Figure::of(&took, started.elapsed())
    }

    fn classify(&self, session: &dyn Session) {
        let limits = vision::DecodeLimits {
            max_pixels: 50_000_000,
        };
        let classes = self
            .opened
            .top_classes_on(session, &self.picture, &limits, 5)
            .expect("classes");
        assert!(!classes.is_empty());
    }

    /// `callers` connections that each send the picture again as soon as it is answered.
    fn http(&self, callers: usize, time: Duration) -> Figure {
        let address = self.gateway.base.trim_start_matches("http://").to_owned();
        let request = connection::post(&self.route, &self.picture);
        let started = Instant::now();
        let took = self.runtime.block_on(async {
            let calls = (0..callers).map(|_| {
                let (address, request) = (&address, &request);
                async move {
                    let mut connection = Connection::open(address).await.expect("connected");
                    let mut took = Vec::new();
                    while started.elapsed() < time {
                        let before = Instant::now();
                        connection.ok(request).await;
                        took.push(before.elapsed());
                    }
                    took
                }
            });
            futures_util::future::join_all(calls).await.concat()
        });
        Figure::of(&took, started.elapsed())
    }
}

impl Figure {
    fn of(took: &[Duration], elapsed: Duration) -> Self {
        let count = u32::try_from(took.len()).expect("a count");
        Self {
            per_second: f64::from(count) / elapsed.as_secs_f64(),
            p50_ms: median(took.iter().map(|took| took.as_secs_f64() * 1e3)),
        }
    }
}
