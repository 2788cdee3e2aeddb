//! Single flight: who asks for what is already being worked out waits for that, each for as long as it wants.
//!
//! Called by `scores`. Knows no picture, no engine and no deadline.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, WeakShared};

/// Work that several wait for. It goes on while somebody holds a seat, and is dropped with the last one.
pub(super) type Seat<T> = Shared<BoxFuture<'static, T>>;

/// Where a caller found itself.
pub(super) enum Boarding<T, C> {
    /// It began the work, which took its cargo.
    Leads(Seat<T>),
    /// The work was under way already; the cargo comes back.
    Follows(Seat<T>, C),
}

/// What is being worked out now, by key.
pub(super) struct Flights<K, T>(Arc<Board<K, T>>)
where
    T: Clone + Send + Sync + 'static;

type UnderWay<T> = (u64, WeakShared<BoxFuture<'static, T>>);

struct Board<K, T>
where
    T: Clone + Send + Sync + 'static,
{
    flights: Mutex<HashMap<K, UnderWay<T>>>,
    next: AtomicU64,
}

impl<K, T> Board<K, T>
where
    K: Hash + Eq,
    T: Clone + Send + Sync + 'static,
{
    fn flights(&self) -> MutexGuard<'_, HashMap<K, UnderWay<T>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the flight off the board when its work is done or dropped, unless another has taken its place.
struct Landing<K, T>
where
    K: Hash + Eq,
    T: Clone + Send + Sync + 'static,
{
    board: Arc<Board<K, T>>,
    key: K,
    number: u64,
}

impl<K, T> Drop for Landing<K, T>
where
    K: Hash + Eq,
    T: Clone + Send + Sync + 'static,
{
    fn drop(&mut self) {
        let mut flights = self.board.flights();
        if flights
            .get(&self.key)
            .is_some_and(|(number, _)| *number == self.number)
        {
            flights.remove(&self.key);
        }
    }
}

impl<K, T> Flights<K, T>
where
    K: Clone + Hash + Eq + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
{
    pub(super) fn new() -> Self {
        Self(Arc::new(Board {
            flights: Mutex::default(),
            next: AtomicU64::new(0),
        }))
    }

    /// A seat on the work for `key`: on the one under way, or on what `begin` makes of `cargo`.
    pub(super) fn board<C, F>(
        &self,
        key: &K,
        cargo: C,
        begin: impl FnOnce(C) -> F,
    ) -> Boarding<T, C>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut flights = self.0.flights();
        if let Some(seat) = flights.get(key).and_then(|(_, flight)| flight.upgrade()) {
            return Boarding::Follows(seat, cargo);
        }
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let landing = Landing {
            board: Arc::clone(&self.0),
            key: key.clone(),
            number,
        };
        let work = begin(cargo);
        let seat = async move {
            let _landing = landing;
            work.await
        };
        let seat = seat.boxed().shared();
        // A seat that was never polled has not landed: there is always one to point at.
        if let Some(flight) = seat.downgrade() {
            flights.insert(key.clone(), (number, flight));
        }
        Boarding::Leads(seat)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    type Test = Flights<&'static str, Result<u32, &'static str>>;

    fn leads<C>(
        boarding: Boarding<Result<u32, &'static str>, C>,
    ) -> Seat<Result<u32, &'static str>> {
        match boarding {
            Boarding::Leads(seat) => seat,
            Boarding::Follows(..) => panic!("it follows"),
        }
    }

    fn follows(
        boarding: Boarding<Result<u32, &'static str>, ()>,
    ) -> Seat<Result<u32, &'static str>> {
        match boarding {
            Boarding::Follows(seat, ()) => seat,
            Boarding::Leads(_) => panic!("it leads"),
        }
    }

    /// Work that ends when the sender says what with; gone with its last seat.
    async fn told(outcome: oneshot::Receiver<u32>) -> Result<u32, &'static str> {
        outcome.await.map_err(|_| "nobody told")
    }

    /// For followers that must not begin anything.
    async fn never((): ()) -> Result<u32, &'static str> {
        panic!("the work was begun twice")
    }

    #[tokio::test]
    async fn one_works_and_all_have_it() {
        let flights = Test::new();
        let (tell, outcome) = oneshot::channel();
        let leader = leads(flights.board(&"a", outcome, told));
        let crowd: Vec<_> = (0..9)
            .map(|_| follows(flights.board(&"a", (), never)))
            .collect();
        let (other, elsewhere) = oneshot::channel();
        let apart = leads(flights.board(&"b", elsewhere, told));
        tell.send(7).expect("it waits");
        other.send(8).expect("it waits");
        assert_eq!((leader.await, apart.await), (Ok(7), Ok(8)));
        for seat in crowd {
            assert_eq!(seat.await, Ok(7));
        }
        assert!(flights.0.flights().is_empty(), "nothing stays on the board");
    }

    #[tokio::test]
    async fn a_leader_that_leaves_ends_nothing_while_a_follower_waits() {
        let flights = Test::new();
        let (tell, outcome) = oneshot::channel();
        let mut leader = leads(flights.board(&"a", outcome, told));
        assert!((&mut leader).now_or_never().is_none(), "it was begun");
        let follower = follows(flights.board(&"a", (), never));
        drop(leader);
        assert!(!tell.is_closed(), "somebody still waits");
        tell.send(7).expect("it waits");
        assert_eq!(follower.await, Ok(7));
    }

    #[tokio::test]
    async fn with_the_last_one_who_waits_the_work_is_dropped() {
        let flights = Test::new();
        let (tell, outcome) = oneshot::channel();
        let mut leader = leads(flights.board(&"a", outcome, told));
        assert!((&mut leader).now_or_never().is_none());
        let follower = follows(flights.board(&"a", (), never));
        drop(leader);
        drop(follower);
        assert!(tell.is_closed(), "nobody waits any more");
        assert!(flights.0.flights().is_empty());
        let again = leads(flights.board(&"a", (), async |()| Ok(8)));
        assert_eq!(again.await, Ok(8), "the next one begins anew");
    }

    #[tokio::test]
    async fn a_follower_waits_no_longer_than_it_wants() {
        let flights = Test::new();
        let (tell, outcome) = oneshot::channel();
        let leader = leads(flights.board(&"a", outcome, told));
        let hasty = follows(flights.board(&"a", (), never));
        let patient = follows(flights.board(&"a", (), never));
        let hasty = tokio::time::timeout(Duration::from_millis(5), hasty).await;
        assert!(hasty.is_err(), "its own time was over");
        tell.send(7).expect("it waits");
        assert_eq!((leader.await, patient.await), (Ok(7), Ok(7)));
    }

    #[tokio::test]
    async fn after_a_failure_one_follower_takes_over() {
        let flights = Arc::new(Test::new());
        let (tell, outcome) = oneshot::channel::<u32>();
        let leader = leads(flights.board(&"a", outcome, told));
        let runs = Arc::new(AtomicUsize::new(0));
        let crowd = (0..5).map(|_| {
            let (flights, runs) = (Arc::clone(&flights), Arc::clone(&runs));
            let first = follows(flights.board(&"a", (), never));
            async move {
                assert_eq!(first.await, Err("nobody told"));
                let again = flights.board(&"a", runs, async |runs: Arc<AtomicUsize>| {
                    runs.fetch_add(1, Ordering::Relaxed);
                    // All five are polled before a timer can fire.
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    Ok(9)
                });
                match again {
                    Boarding::Leads(seat) | Boarding::Follows(seat, _) => seat.await,
                }
            }
        });
        let crowd = futures_util::future::join_all(crowd.collect::<Vec<_>>());
        drop(tell);
        let (leader, crowd) = tokio::join!(leader, crowd);
        assert_eq!(leader, Err("nobody told"));
        assert_eq!(crowd, [Ok(9); 5]);
        assert_eq!(runs.load(Ordering::Relaxed), 1);
    }
}
