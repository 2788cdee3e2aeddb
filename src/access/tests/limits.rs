//! How often, how much, and what goes to the store of it.

use super::*;

#[test]
fn a_rate_is_kept_and_a_changed_one_finds_what_is_owed() {
    let house = House::with(&[rated(1, 5.0, 10)]);
    let who = house.who("secret 1");
    for left in (0..10).rev() {
        assert_eq!(house.access.admit(&who, 1), Ok(()));
        let burst = house.access.standing(&who).burst.expect("a rate");
        assert_eq!((burst.quota, burst.remaining), (10, left));
    }
    let refused = house.access.admit(&who, 1).expect_err("refused");
    assert_eq!(refused.kind(), ErrorKind::RateLimited);
    assert_eq!(refused.retry_after(), Some(Duration::from_millis(200)));
    let burst = house.access.standing(&who).burst.expect("a rate");
    assert_eq!(burst.window, Duration::from_secs(2));
    assert_eq!(burst.resets_in, Duration::from_secs(2));
    // Raised: two seconds are still owed, of four that the new burst stands for.
    house.put(&[rated(1, 5.0, 20)]);
    let who = house.who("secret 1");
    let burst = house.access.standing(&who).burst.expect("a rate");
    assert_eq!((burst.quota, burst.remaining), (20, 10));
    assert_eq!(house.access.admit(&who, 10), Ok(()));
    assert_eq!(
        kind(house.access.admit(&who, 1)),
        Some(ErrorKind::RateLimited)
    );
    // Another name, another secret, no rate and a rate again: nobody starts anew.
    house.put(&[ApiKey {
        name: "other".to_owned(),
        hash: SecretHash::of("other"),
        ..key(1)
    }]);
    assert_eq!(house.access.admit(&house.who("other"), 1), Ok(()));
    assert_eq!(
        house.access.standing(&house.who("other")),
        Standing::default()
    );
    house.put(&[rated(1, 5.0, 20)]);
    let who = house.who("secret 1");
    assert_eq!(
        kind(house.access.admit(&who, 1)),
        Some(ErrorKind::RateLimited)
    );
    house.pass(TimeDelta::milliseconds(200));
    assert_eq!(house.access.admit(&who, 1), Ok(()));
    assert_eq!(house.access.counts().refused_for_limit, 3);
    assert_eq!(house.access.use_of(key(1).id).over_limit, 3);
}

#[test]
fn a_batch_costs_its_pictures_and_waits_for_all_of_them() {
    let house = House::with(&[rated(1, 1.0, 4)]);
    let who = house.who("secret 1");
    assert_eq!(house.access.admit(&who, 1), Ok(()));
    assert_eq!(
        house.access.admit_rest(&who, 1),
        Ok(()),
        "a single picture has no rest"
    );
    assert_eq!(house.access.admit_rest(&who, 4), Ok(()));
    house.pass(TimeDelta::seconds(1));
    assert_eq!(house.access.admit(&who, 1), Ok(()));
    let refused = house.access.admit_rest(&who, 3).expect_err("refused");
    // Two for the rest and one to be admitted again.
    assert_eq!(refused.retry_after(), Some(Duration::from_secs(3)));
    house.pass(TimeDelta::seconds(3));
    assert_eq!(house.access.admit(&who, 1), Ok(()));
    assert_eq!(house.access.admit_rest(&who, 3), Ok(()));
    for pictures in [5, 1000, u64::MAX] {
        let never = house
            .access
            .admit_rest(&who, pictures)
            .expect_err("refused");
        assert_eq!(never.kind(), ErrorKind::BatchTooLarge);
        assert_eq!(never.retry_after(), None);
    }
}

#[test]
fn a_limit_that_observes_lets_all_through_and_counts() {
    let mut key = rated(1, 1.0, 2);
    key.limits.images_per_day = Some(3);
    key.limits.mode = LimitMode::Observe;
    let house = House::with(&[key]);
    let who = house.who("secret 1");
    for _ in 0..5 {
        assert_eq!(house.access.admit(&who, 1), Ok(()));
    }
    assert_eq!(
        house.access.admit_rest(&who, 9),
        Ok(()),
        "more than the burst"
    );
    assert_eq!(house.access.counts().observed_over_limit, 4);
    for _ in 0..2 {
        assert!(house.access.spend(&who, 2).is_ok());
    }
    let counts = house.access.counts();
    assert_eq!(
        (counts.observed_over_limit, counts.refused_for_limit),
        (5, 0)
    );
    let standing = house.access.standing(&who);
    assert_eq!(standing.burst.map(|share| share.remaining), Some(0));
    assert_eq!(standing.day.map(|share| share.remaining), Some(0));
    assert_eq!(
        house.access.use_of(who.key()).images_today,
        4,
        "all are counted"
    );
}

#[test]
fn a_day_has_its_pictures_and_ends_at_midnight() {
    let house = House::with(&[daily(1, 5)]);
    let who = house.who("secret 1");
    assert!(house.access.spend(&who, 3).is_ok());
    let refused = house.access.spend(&who, 3).err().expect("refused");
    assert_eq!(refused.kind(), ErrorKind::QuotaExceeded);
    assert_eq!(refused.retry_after(), Some(Duration::from_hours(12)));
    assert!(refused.to_string().contains("but for 2"), "{refused}");
    let mut taken = house.access.spend(&who, 2).expect("enough");
    let day = house.access.standing(&who).day.expect("a quota");
    assert_eq!((day.quota, day.remaining), (5, 0));
    assert_eq!(
        (day.window, day.resets_in),
        (Duration::from_hours(24), Duration::from_hours(12))
    );
    taken.give_back(1);
    assert_eq!(house.access.use_of(who.key()).images_today, 4);
    house.pass(TimeDelta::hours(12));
    assert_eq!(house.access.use_of(who.key()).images_today, 0);
    assert!(house.access.spend(&who, 5).is_ok());
    // Given back late, it is given back to its own day; and never more than there was.
    taken.give_back(7);
    drop(taken);
    let today = noon().date_naive();
    let tomorrow = today.succ_opt().expect("a day");
    let used = house.access.take_usage();
    assert_eq!(used, [(who.key(), today, 3), (who.key(), tomorrow, 5)]);
}

#[test]
fn a_request_that_panics_gives_its_pictures_back() {
    let house = House::with(&[daily(1, 5)]);
    let who = house.who("secret 1");
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _taken = house.access.spend(&who, 2).expect("enough");
        panic!("as a handler might");
    }));
    assert!(panicked.is_err());
    assert_eq!(house.access.use_of(who.key()).images_today, 0);
}

#[test]
fn what_was_used_goes_to_the_store_once() {
    let house = House::with(&[key(1), key(2)]);
    let (one, two) = (house.who("secret 1"), house.who("secret 2"));
    let today = noon().date_naive();
    assert!(house.access.spend(&one, 2).is_ok());
    assert!(house.access.spend(&two, 1).is_ok());
    assert!(house.access.spend(&one, 1).is_ok());
    let mut used = house.access.take_usage();
    used.sort_unstable();
    assert_eq!(used, [(one.key(), today, 3), (two.key(), today, 1)]);
    assert_eq!(house.access.take_usage(), []);
    assert!(house.access.spend(&one, 1).is_ok());
    house.access.put_back_usage(&used);
    let mut used = house.access.take_usage();
    used.sort_unstable();
    assert_eq!(used, [(one.key(), today, 4), (two.key(), today, 1)]);
    house
        .access
        .set_usage(&[(one.key(), today, 10), (two.key(), today, 1)]);
    assert_eq!(house.access.use_of(one.key()).images_today, 10);
    assert_eq!(house.access.take_usage(), []);
    // A key that went meanwhile: what it used is told, and the store leaves it out.
    assert!(house.access.spend(&two, 1).is_ok());
    let used = house.access.take_usage();
    house.access.apply(&Changes {
        keys_gone: vec![two.key()],
        ..Changes::default()
    });
    house.access.put_back_usage(&used);
    assert_eq!(house.access.take_usage(), used);
    house.access.set_usage(&[(two.key(), today, 7)]);
    assert_eq!(house.access.take_usage(), []);
}

#[test]
fn too_many_failures_of_an_address_are_told_so_and_a_key_still_opens() {
    let house = House::with(&[key(1)]);
    let address: IpAddr = "192.0.2.1".parse().expect("an address");
    for _ in 0..60 {
        assert_eq!(house.access.failed(address), Ok(()));
    }
    let refused = house.access.failed(address).expect_err("too many");
    assert_eq!(refused.kind(), ErrorKind::RateLimited);
    assert_eq!(refused.retry_after(), Some(Duration::from_secs(1)));
    house.who("secret 1");
    house.pass(TimeDelta::seconds(1));
    assert_eq!(house.access.failed(address), Ok(()));
    assert_eq!(house.access.counts().unauthenticated, 62);
    let peer = "10.0.0.1".parse().expect("an address");
    let line: &[u8] = b"for=192.0.2.1";
    let client = house
        .access
        .client(peer, [line].into_iter(), [].into_iter());
    assert_eq!(client, address);
}

#[test]
fn threads_that_change_and_ask_see_whole_keys() {
    let house = House::with(&[rated(1, 1.0, 500)]);
    let asked = std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..500 {
                house.put(&[rated(1, 1.0, 500), key(2 + round)]);
            }
        });
        let ask = || {
            let who = house.who("secret 1");
            usize::from(house.access.admit(&who, 1).is_ok())
        };
        let asking: Vec<_> = (0..2)
            .map(|_| scope.spawn(move || (0..1000).map(|_| ask()).sum::<usize>()))
            .collect();
        asking
            .into_iter()
            .map(|thread| thread.join().expect("it ends"))
            .sum::<usize>()
    });
    assert_eq!(asked, 500, "the burst, whoever changed what meanwhile");
    assert_eq!(house.access.counts().keys, 501);
}
