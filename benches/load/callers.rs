//! Closed loops: callers that wait for each answer before they ask again.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::connection::{Answer, Connection};
use super::figures::Outcome;

/// What a caller does when it was told to come back later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manners {
    /// Asks again at once.
    Pushing,
    /// Waits as long as `Retry-After` says, and up to a quarter longer, so that not all come back together.
    Patient,
}

/// Callers with a connection each.
pub(crate) struct Callers<'a> {
    pub(crate) address: &'a str,
    pub(crate) request: &'a [u8],
    pub(crate) count: usize,
    pub(crate) manners: Manners,
}

impl Callers<'_> {
    /// Nobody begins a request after `time`; what is under way is waited for.
    pub(crate) async fn ask_for(&self, time: Duration) -> Vec<Outcome> {
        let end = Instant::now() + time;
        let calls = (0..self.count).map(|caller| self.one(end, caller));
        join_all(calls).await.concat()
    }

    async fn one(&self, end: Instant, caller: usize) -> Vec<Outcome> {
        let mut chance = Chance::of(caller);
        let mut connection = None;
        let mut outcomes = Vec::new();
        while Instant::now() < end {
            let due = Instant::now();
            let answer = call(&mut connection, self.address, self.request).await;
            let told = answer.as_ref().ok().and_then(|answer| answer.retry_after);
            outcomes.push(Outcome {
                due,
                behind: Duration::ZERO,
                done: Instant::now(),
                name: name_of(&answer),
            });
            if let Some(seconds) = told.filter(|_| self.manners == Manners::Patient) {
                let wait = f64::from(seconds) * (1.0 + chance.share() / 4.0);
                let back = (Instant::now() + Duration::from_secs_f64(wait)).min(end);
                tokio::time::sleep_until(back.into()).await;
            }
        }
        outcomes
    }
}

/// Answers a second of so many connections, each of which asks again as soon as it is answered.
pub(crate) async fn rate(address: &str, request: &[u8], callers: usize, time: Duration) -> f64 {
    let started = Instant::now();
    let calls = (0..callers).map(|_| async {
        let mut connection = Connection::open(address).await.expect("connected");
        let mut answered = 0_u32;
        while started.elapsed() < time {
            connection.ok(request).await;
            answered += 1;
        }
        answered
    });
    let answered: u32 = join_all(calls).await.into_iter().sum();
    f64::from(answered) / started.elapsed().as_secs_f64()
}

/// Asks on the connection that is there, or on a new one; leaves there what may be used again.
pub(super) async fn call(
    kept: &mut Option<Connection>,
    address: &str,
    request: &[u8],
) -> std::io::Result<Answer> {
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => Connection::open(address).await?,
    };
    let answer = connection.exchange(request).await?;
    *kept = Some(connection).filter(Connection::is_kept);
    Ok(answer)
}

pub(super) fn name_of(answer: &std::io::Result<Answer>) -> String {
    match answer {
        Ok(answer) => answer.name(),
        Err(error) => format!("{:?}", error.kind()),
    }
}

/// Numbers that look random and are the same in each run.
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn of(seed: usize) -> Self {
        Self(u64::try_from(seed).expect("a seed"))
    }

    /// From 0 to 1, 1 left out (`SplitMix64`).
    #[expect(clippy::cast_precision_loss, reason = "53 bits are kept")]
    pub(super) fn share(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}
