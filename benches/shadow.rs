//! What a shadow costs those who wait for answers: their p50 and p99 with a shadow on 10 % of the pictures and without one, side by
//! side, round by round; on a server that is busy (a share of its best rate, arrivals on schedule whatever the answers), and on one
//! that has as many callers as it likes.
//!
//! `cargo bench --bench shadow -- [rounds] [seconds a measurement] [model] [share of the best rate] [sample]`, with
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
#[expect(dead_code, reason = "the load benches use more of it")]
mod load;
#[expect(dead_code, reason = "the other benches use more of it")]
mod photo;

use std::sync::Arc;
use std::time::Duration;

use fixture::gateway::TestGateway;
use load::callers::{Callers, Manners};
use load::figures::{ACCEPTED, Outcome, median, millis, quantile};
use load::open::Open;
use reqwest::Method;
use serde_json::{Value, json};

/// As many callers as give the best throughput.
const BEST_CALLERS: usize = 8;

struct Bench {
    gateway: TestGateway,
    model: String,
    request: Arc<[u8]>,
    time: Duration,
    sample: f64,
}

/// How the pictures come.
#[derive(Clone, Copy)]
enum Load {
    /// So many a second.
    Open(f64),
    Closed,
}

/// Milliseconds.
struct Figures {
    p50: f64,
    p99: f64,
    answers: f64,
}

fn main() {
    let given = load::Given::read();
    let rounds: usize = given.at(0, 7);
    let model: String = given.at(2, "squeezenet1.1".to_owned());
    let share: f64 = given.at(3, 0.6);
    let Some(fixtures) = fixture::fixtures() else {
        return;
    };
    let store = fixture::real::store(&fixtures, &[&model], "ort");
    let graph = fixture::read(store.path().join(format!("{model}/1/model.onnx")));
    store.place_version(&model, 2, &graph);
    let picture = fixture::read(fixtures.join("images/cat_meow.jpg"));
    let runtime = load::runtime();
    runtime.block_on(async {
        let bench = Bench {
            gateway: TestGateway::start(store.path(), &["cache.max_bytes=0"]).await,
            request: load::connection::classify(&model, &photo::jpeg(&picture, 375, 500)),
            model,
            time: Duration::from_secs_f64(given.at(1, 6.0)),
            sample: given.at(4, 0.1),
        };
        bench.measure(rounds, share).await;
    });
}

impl Bench {
    async fn measure(&self, rounds: usize, share: f64) {
        self.shadow(false).await;
        self.load(Load::Closed).await; // warms up
        let best = self.load(Load::Closed).await.answers;
        println!(
            "{}, 500x375, a shadow of the same graph on {} of the pictures; ms, medians of {rounds} rounds of {:?}; \
             best rate {best:.0}/s",
            self.model, self.sample, self.time
        );
        println!("| load | shadow | p50 | p99 | answers a second |");
        println!("| --- | --- | --- | --- | --- |");
        let loads = [
            (
                format!("{share} of the best rate"),
                Load::Open(best * share),
            ),
            (format!("{BEST_CALLERS} callers"), Load::Closed),
        ];
        for (name, load) in loads {
            let mut figures = [Vec::new(), Vec::new()];
            let before = self.heard().await;
            for _ in 0..rounds {
                for (shadowed, figures) in [false, true].into_iter().zip(&mut figures) {
                    self.shadow(shadowed).await;
                    figures.push(self.load(load).await);
                }
            }
            for (shadow, rounds) in ["none", "yes"].iter().zip(&figures) {
                let column = |of: fn(&Figures) -> f64| median(rounds.iter().map(of));
                let (p50, p99) = (column(|one| one.p50), column(|one| one.p99));
                let answers = column(|one| one.answers);
                println!("| {name} | {shadow} | {p50:.2} | {p99:.2} | {answers:.0} |");
            }
            let pairs = figures[1].iter().zip(&figures[0]);
            let ratio = median(pairs.map(|(with, without)| with.p99 / without.p99));
            // What was counted comes to the store each second.
            tokio::time::sleep(Duration::from_secs(7)).await;
            let after = self.heard().await;
            println!(
                "{name}: p99 with / without, median of the rounds: {ratio:.3}; {} pictures were shown, {} dropped",
                after[0] - before[0],
                after[1] - before[1]
            );
        }
    }

    async fn shadow(&self, is_there: bool) {
        let shadow = json!({"version": 2, "sample": self.sample});
        let shadow = if is_there { shadow } else { Value::Null };
        let rollout = json!({"mode": "pinned", "version": 1, "shadow": shadow});
        let path = format!("/models/{}/rollout", self.model);
        let put = self.gateway.admin(Method::PUT, &path, Some(rollout)).await;
        put.assert_ok();
    }

    /// Pictures that the shadow has classified, and those that were dropped.
    async fn heard(&self) -> [u64; 2] {
        let path = format!("/models/{}/report", self.model);
        let report = self.gateway.admin(Method::GET, &path, None).await;
        let arms = report.assert_ok()["arms"].as_array().expect("arms");
        let arm = arms.iter().find(|arm| arm["version"] == 1);
        let count = |field: &str| arm.and_then(|arm| arm["agreement"][0][field].as_u64());
        ["compared", "dropped"].map(|field| count(field).unwrap_or_default())
    }

    async fn load(&self, load: Load) -> Figures {
        let address = self.gateway.base.trim_start_matches("http://");
        let outcomes: Vec<Outcome> = match load {
            Load::Open(rate) => {
                let open = Open {
                    address,
                    request: &self.request,
                    rate,
                    time: self.time,
                    connections: 256,
                    under_way: 4096,
                };
                open.send().await.outcomes
            }
            Load::Closed => {
                let callers = Callers {
                    address,
                    request: &self.request,
                    count: BEST_CALLERS,
                    manners: Manners::Pushing,
                };
                callers.ask_for(self.time).await
            }
        };
        let took = millis(&outcomes, ACCEPTED);
        assert_eq!(took.len(), outcomes.len(), "all are answered");
        let answers = u32::try_from(took.len()).expect("a count");
        Figures {
            p50: quantile(&took, 0.5),
            p99: quantile(&took, 0.99),
            answers: f64::from(answers) / self.time.as_secs_f64(),
        }
    }
}
