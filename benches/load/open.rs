//! The open loop: requests are sent when they are due, whatever became of those before them.
//!
//! Arrivals are a Poisson process, the same in each run. A request's time counts from the moment it was due, so that
//! a gateway (or a load) that falls behind cannot hide it by asking less.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Semaphore;

use super::callers::{Chance, call, name_of};
use super::connection::Connection;
use super::figures::Outcome;

/// Requests at a rate.
pub(crate) struct Open<'a> {
    pub(crate) address: &'a str,
    pub(crate) request: &'a [u8],
    /// Requests a second.
    pub(crate) rate: f64,
    pub(crate) time: Duration,
    /// Connections at the same time. Below what the gateway takes: its refusals there are another thing.
    pub(crate) connections: usize,
    /// Requests under way or waiting for a connection; those beyond are never sent.
    pub(crate) under_way: usize,
}

/// What came of it.
pub(crate) struct Sent {
    pub(crate) outcomes: Vec<Outcome>,
    /// Left out, because too many were under way.
    pub(crate) left_out: u32,
    /// Connections opened.
    pub(crate) opened: usize,
}

/// Connections without a request on them, and how many there may be in all.
struct Pool {
    free: RefCell<Vec<Connection>>,
    places: Semaphore,
    opened: RefCell<usize>,
}

impl Open<'_> {
    /// Sends for `time`, and waits for all answers.
    pub(crate) async fn send(&self) -> Sent {
        let pool = Pool {
            free: RefCell::default(),
            places: Semaphore::new(self.connections),
            opened: RefCell::default(),
        };
        let mut chance = Chance::of(0);
        let start = Instant::now();
        let end = start + self.time;
        let (mut due, mut left_out) = (start, 0);
        let (mut outcomes, mut calls) = (Vec::new(), FuturesUnordered::new());
        while due < end {
            tokio::select! {
                () = tokio::time::sleep_until(due.into()) => {
                    if calls.len() < self.under_way {
                        calls.push(self.one(&pool, due));
                    } else {
                        left_out += 1;
                    }
                    // Exponential pauses.
                    due += Duration::from_secs_f64(-(1.0 - chance.share()).ln() / self.rate);
                }
                Some(outcome) = calls.next() => outcomes.push(outcome),
            }
        }
        outcomes.extend(calls.collect::<Vec<_>>().await);
        let opened = *pool.opened.borrow();
        Sent {
            outcomes,
            left_out,
            opened,
        }
    }

    async fn one(&self, pool: &Pool, due: Instant) -> Outcome {
        let _place = pool.places.acquire().await.expect("never closed");
        let mut connection = pool.free.borrow_mut().pop();
        *pool.opened.borrow_mut() += usize::from(connection.is_none());
        let behind = due.elapsed();
        let answer = call(&mut connection, self.address, self.request).await;
        let done = Instant::now();
        pool.free.borrow_mut().extend(connection);
        Outcome {
            due,
            behind,
            done,
            name: name_of(&answer),
        }
    }
}
