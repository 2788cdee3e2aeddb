//! Jobs in the store: kept whole or not at all, had by one at a time, fair between tenants, ended together with what is told.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use chrono::TimeDelta;
use lensgate::domain::callback::{EventKind, NewDelivery};
use lensgate::domain::job::{Job, JobPicture, JobState, PictureContent};
use lensgate::domain::prediction::Asked;
use lensgate::domain::tenant::{KeyId, Tenant, TenantId};
use lensgate::store::{
    AuditFilter, DeliveryFilter, EndedJob, GivenBack, JobBounds, JobLease, Kept, NewJob, NewJobKey,
    Store, StoreError, TakenJob,
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{ALL, at, note, tenant};
use crate::fixture::database::TestDatabase;

contract![
    a_job_comes_back_as_it_was_kept,
    one_has_a_job_at_a_time,
    replicas_take_each_job_once,
    tenants_take_turns,
    what_came_out_is_kept_when_a_job_goes_back,
    an_end_tells_and_is_one_transaction,
    a_clients_name_is_known_for_its_time,
    the_same_name_at_the_same_time_is_one_job,
    a_tenant_has_its_bounds,
    so_much_waits_to_be_told,
    a_result_is_erased_by_when_it_was_asked_for,
    what_is_forgotten_is_not_written_any_more,
    a_tenant_goes_with_its_jobs,
    old_jobs_go,
];

const LENGTH: i64 = 30_000_000;
const UNBOUNDED: JobBounds = JobBounds {
    jobs: u64::MAX,
    bytes: u64::MAX,
    callbacks: 1 << 32,
};

async fn with_tenant(database: &TestDatabase) -> (Arc<dyn Store>, Tenant) {
    let store = database.store().await;
    let acme = tenant("acme");
    store.create_tenant(&acme, &note()).await.expect("made");
    (store, acme)
}

fn job(tenant: &Tenant, micros: i64) -> Job {
    Job {
        asked: Asked {
            request_id: Uuid::now_v7(),
            tenant: tenant.id,
            key: KeyId(Uuid::now_v7()),
            client_request_id: Some("order 66".to_owned()),
            trace_id: Some("0af7651916cd43dd8448eb211c80319c".to_owned()),
        },
        model: "digits".parse().expect("an id"),
        terms: json!({"version": "stable", "top_k": null, "min_confidence": 0.1}),
        callback_url: Some("https://example.org/a?b=c".to_owned()),
        created_at: at(micros),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
    }
}

fn picture(index: u32, bytes: &'static [u8]) -> JobPicture {
    JobPicture {
        index,
        filename: Some(format!("{index} \"ä\u{0}\".png")),
        content: PictureContent::Waiting(Bytes::from_static(bytes)),
    }
}

async fn keep(store: &dyn Store, job: &Job, pictures: &[JobPicture]) -> Kept {
    let new = NewJob {
        job,
        pictures,
        key: None,
        bounds: UNBOUNDED,
    };
    store.add_job(&new).await.expect("an answer")
}

/// Keeps a job with one picture; gives its id.
async fn queue(store: &dyn Store, tenant: &Tenant, micros: i64) -> Uuid {
    let job = job(tenant, micros);
    assert_eq!(keep(store, &job, &[picture(0, b"x")]).await, Kept::New);
    job.asked.request_id
}

fn lease(micros: i64) -> JobLease {
    JobLease {
        id: Uuid::now_v7(),
        now: at(micros),
        until: at(micros + LENGTH),
    }
}

async fn take(store: &dyn Store, lease: JobLease) -> Option<TakenJob> {
    store.take_job(lease).await.expect("an answer")
}

async fn end(store: &dyn Store, job: Uuid, lease: Uuid, results: &[Value]) -> bool {
    let end = EndedJob {
        state: JobState::of(results),
        results,
        at: at(9),
        delivery: None,
    };
    store.end_job(job, lease, end).await.expect("an answer")
}

async fn a_job_comes_back_as_it_was_kept(database: &TestDatabase) {
    let (store, acme) = with_tenant(database).await;
    let first = job(&acme, 1);
    let refused = json!({"index": 1, "error": {"code": "missing_image"}});
    let pictures = [
        picture(0, b"\x00\x01\xff"),
        JobPicture {
            filename: None,
            content: PictureContent::Ended(refused.clone()),
            ..picture(1, b"")
        },
        picture(2, b"third"),
    ];
    assert_eq!(keep(&*store, &first, &pictures).await, Kept::New);
    let twice = store
        .add_job(&NewJob {
            job: &first,
            pictures: &[],
            key: None,
            bounds: UNBOUNDED,
        })
        .await;
    assert_eq!(twice, Err(StoreError::Conflict("job")));
    let id = first.asked.request_id;
    let find = async || store.find_job(id, acme.id).await.expect("an answer");
    let queued = find().await.expect("there");
    assert_eq!(
        (&queued.job, queued.state, queued.results),
        (&first, JobState::Queued, vec![])
    );
    let strangers = store.find_job(id, TenantId(Uuid::now_v7())).await;
    assert_eq!(strangers, Ok(None));

    let mine = lease(2);
    let taken = take(&*store, mine).await.expect("taken");
    assert_eq!((&taken.job, taken.attempts), (&first, 1));
    let facts: Vec<_> = taken
        .pictures
        .iter()
        .map(|one| {
            (
                one.index,
                one.filename.clone(),
                one.bytes,
                one.result.clone(),
            )
        })
        .collect();
    let name = |index: u32| Some(format!("{index} \"ä\u{0}\".png"));
    assert_eq!(
        facts,
        [
            (0, name(0), 3, None),
            (1, None, 0, Some(refused)),
            (2, name(2), 5, None)
        ]
    );
    let content = store.job_picture(id, 0).await;
    assert_eq!(content, Ok(Some(vec![0, 1, 255])));
    assert_eq!(store.job_picture(id, 1).await, Ok(None));
    assert_eq!(store.job_picture(id, 7).await, Ok(None));
    assert_eq!(find().await.expect("there").state, JobState::Running);
}

async fn one_has_a_job_at_a_time(database: &TestDatabase) {
    let (store, acme) = with_tenant(database).await;
    let id = queue(&*store, &acme, 5).await;
    assert_eq!(take(&*store, lease(4)).await, None, "it is not due yet");
    let mine = lease(5);
    assert!(take(&*store, mine).await.is_some());
    assert_eq!(take(&*store, lease(LENGTH)).await, None, "it is somebody's");
    // Whoever comes back in time keeps it.
    let longer = store.renew_job(id, mine.id, at(2 * LENGTH)).await;
    assert_eq!(longer, Ok(true));
    assert_eq!(take(&*store, lease(LENGTH + 6)).await, None);
    // Whoever does not has lost it.
    let theirs = lease(2 * LENGTH);
    let again = take(&*store, theirs).await.expect("taken");
    assert_eq!((again.job.asked.request_id, again.attempts), (id, 2));
    let late = store.renew_job(id, mine.id, at(9 * LENGTH)).await;
    assert_eq!(late, Ok(false));
    let back = GivenBack {
        results: &[(0, json!({"class": "late"}))],
        due_at: at(0),
    };
    assert_eq!(store.give_back_job(id, mine.id, back).await, Ok(false));
    assert!(!end(&*store, id, mine.id, &[json!({"class": "late"})]).await);
    assert!(end(&*store, id, theirs.id, &[json!({"class": "7"})]).await);
    assert!(!end(&*store, id, theirs.id, &[]).await, "it ends once");
    let found = store.find_job(id, acme.id).await.expect("an answer");
    assert_eq!(found.expect("there").results, [json!({"class": "7"})]);
    assert_eq!(take(&*store, lease(99 * LENGTH)).await, None);
}

async fn replicas_take_each_job_once(database: &TestDatabase) {
    let (store, acme) = with_tenant(database).await;
    let mut kept = BTreeSet::new();
    for number in 0..20 {
        kept.insert(queue(&*store, &acme, number).await);
    }
    let mut replicas = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let store = database.store().await;
        replicas.spawn(async move {
            let mut taken = Vec::new();
            while let Some(job) = take(&*store, lease(100)).await {
                taken.push(job.job.asked.request_id);
            }
            taken
        });
    }
    let taken: Vec<Uuid> = replicas.join_all().await.into_iter().flatten().collect();
    assert_eq!(taken.len(), kept.len(), "none is taken twice");
    assert_eq!(taken.into_iter().collect::<BTreeSet<_>>(), kept);
}

async fn tenants_take_turns(database: &TestDatabase) {
    let (store, loud) = with_tenant(database).await;
    let quiet = tenant("quiet");
    store.create_tenant(&quiet, &note()).await.expect("made");
    let mut of_loud = Vec::new();
    for number in 1..=4 {
        of_loud.push(queue(&*store, &loud, number).await);
    }
    let of_quiet = [
        queue(&*store, &quiet, 5).await,
        queue(&*store, &quiet, 6).await,
    ];
    let mut order = Vec::new();
    for now in 10..16 {
        let mine = lease(now);
        let taken = take(&*store, mine).await.expect("taken");
        let id = taken.job.asked.request_id;
        order.push(id);
        // One at a time: nobody is favoured for having none under way.
        assert!(end(&*store, id, mine.id, &[]).await);
    }
    let wanted = [
        of_loud[0],
        of_quiet[0],
        of_loud[1],
        of_quiet[1],
        of_loud[2],
        of_loud[3],
    ];
    assert_eq!(order, wanted);
}

async fn what_came_out_is_kept_when_a_job_goes_back(database: &TestDatabase) {
    let (store, acme) = with_tenant(database).await;
    let first = job(&acme, 1);
    let id = first.asked.request_id;
    let pictures = [picture(0, b"aaaa"), picture(1, b"bb")];
    keep(&*store, &first, &pictures).await;
    let mine = lease(2);
    take(&*store, mine).await.expect("taken");
    let back = GivenBack {
        results: &[(1, json!({"class": "1"}))],
        due_at: at(50),
    };
    assert_eq!(store.give_back_job(id, mine.id, back).await, Ok(true));
    let found = store.find_job(id, acme.id).await.expect("an answer");
    assert_eq!(found.expect("there").state, JobState::Queued);
    assert_eq!(take(&*store, lease(49)).await, None);
    let again = take(&*store, lease(50)).await.expect("taken");
    assert_eq!(again.attempts, 1, "it counts as not taken");
    let results: Vec<_> = again
        .pictures
        .iter()
        .map(|one| one.result.clone())
        .collect();
    assert_eq!(results, [None, Some(json!({"class": "1"}))]);
    assert_eq!(store.job_picture(id, 0).await, Ok(Some(b"aaaa".to_vec())));
    assert_eq!(store.job_picture(id, 1).await, Ok(None), "it is not needed");
    // What has a result does not count against the tenant any more.
    let bounds = JobBounds {
        jobs: 2,
        bytes: 5,
        ..UNBOUNDED
    };
    let next = job(&acme, 3);
    let new = NewJob {
        job: &next,
        pictures: &[picture(0, b"x")],
        key: None,
        bounds,
    };
    assert_eq!(store.add_job(&new).await, Ok(Kept::New));
}

async fn an_end_tells_and_is_one_transaction(database: &TestDatabase) {
    let (store, acme) = with_tenant(database).await;
    let id = queue(&*store, &acme, 1).await;
    let mine = lease(2);
    take(&*store, mine).await.expect("taken");
    let url = "https://example.org";
    let event = EventKind::PredictionCompleted;
    let delivery = NewDelivery::of(event, acme.id, url, &json!({"a": 1}), at(3));
    let results = [json!({"index": 0, "error": {"status": 422}})];
    let ending = EndedJob {
        state: JobState::Failed,
        results: &results,
        at: at(3),
        delivery: Some(&delivery),
    };
    let told = async || {
        let listing = store.list_deliveries(DeliveryFilter::default(), ALL).await;
        let items = listing.expect("a page").items;
        items.into_iter().map(|one| one.what).collect::<Vec<_>>()
    };
    let lost = store.end_job(id, Uuid::now_v7(), ending).await;
    assert_eq!((lost, told().await), (Ok(false), vec![]));
    assert_eq!(store.end_job(id, mine.id, ending).await, Ok(true));
    assert_eq!(told().await, std::slice::from_ref(&delivery));
    let found = store.find_job(id, acme.id).await.expect("an answer");
    let found = found.expect("there");
    assert_eq!(
        (found.state, &found.results[..]),
        (JobState::Failed, &results[..])
    );
    assert_eq!(store.job_picture(id, 0).await, Ok(None));
    // What cannot be told does not end.
    let id = queue(&*store, &acme, 4).await;
    let mine = lease(5);
    take(&*store, mine).await.expect("taken");
    let twice = store.end_job(id, mine.id, ending).await;
    assert_eq!(twice, Err(StoreError::Conflict("callback")));
    let found = store.find_job(id, acme.id).await.expect("an answer");
    assert_eq!(found.expect("there").state, JobState::Running);
    assert_eq!(store.job_picture(id, 0).await, Ok(Some(b"x".to_vec())));
}

/// Keeps a job under a client's name.
async fn named(store: &dyn Store, job: &Job, key: &str, fingerprint: &[u8]) -> Kept {
    let new = NewJob {
        job,
        pictures: &[picture(0, b"x")],
        key: Some(NewJobKey {
            key,
            fingerprint,
            forgotten: job.created_at - TimeDelta::hours(24),
        }),
        bounds: UNBOUNDED,
    };
    store.add_job(&new).await.expect("an answer")
}

async fn a_clients_name_is_known_for_its_time(database: &TestDatabase) {
    const DAY: i64 = 24 * 3600 * 1_000_000;
    let (store, acme) = with_tenant(database).await;
    let other = tenant("other");
    store.create_tenant(&other, &note()).await.expect("made");
    let first = job(&acme, 1);
    let id = first.asked.request_id;
    assert_eq!(named(&*store, &first, "k", b"one").await, Kept::New);
    let again = job(&acme, 2);
    let before = named(&*store, &again, "k", b"one").await;
    assert_eq!(before, Kept::Before(id));
    let differs = named(&*store, &again, "k", b"two").await;
    assert_eq!(differs, Kept::Differs);
    let none = store.find_job(again.asked.request_id, acme.id).await;
    assert_eq!(none, Ok(None), "nothing is kept of either");
    assert_eq!(named(&*store, &job(&acme, 2), "K", b"two").await, Kept::New);
    assert_eq!(
        named(&*store, &job(&other, 2), "k", b"two").await,
        Kept::New
    );
    // Also when the job has ended, and after it went.
    let mine = lease(3);
    take(&*store, mine).await.expect("taken");
    end(&*store, id, mine.id, &[]).await;
    store.prune_jobs(at(DAY), at(1)).await.expect("pruned");
    assert_eq!(store.find_job(id, acme.id).await, Ok(None));
    let late = named(&*store, &job(&acme, DAY), "k", b"one").await;
    assert_eq!(late, Kept::Before(id));
    let late = named(&*store, &job(&acme, DAY + 1), "k", b"one").await;
    assert_eq!(late, Kept::New);
}

async fn the_same_name_at_the_same_time_is_one_job(database: &TestDatabase) {
    let (store, acme) = with_tenant(database).await;
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (store, job) = (database.store().await, job(&acme, 1));
        callers.spawn(async move {
            let kept = named(&*store, &job, "k", b"one").await;
            (job.asked.request_id, kept)
        });
    }
    let outcomes = callers.join_all().await;
    let new = outcomes.iter().filter(|(_, kept)| *kept == Kept::New);
    let new: Vec<Uuid> = new.map(|(id, _)| *id).collect();
    assert_eq!(new.len(), 1, "{outcomes:?}");
    let rest = outcomes.iter().filter(|(id, _)| *id != new[0]);
    assert!(rest.clone().all(|(_, kept)| *kept == Kept::Before(new[0])));
    assert!(take(&*store, lease(1)).await.is_some());
    assert_eq!(take(&*store, lease(1)).await, None);
}

async fn a_tenant_has_its_bounds(database: &TestDatabase) {
    let (store, acme) = with_tenant(database).await;
    let other = tenant("other");
    store.create_tenant(&other, &note()).await.expect("made");
    let bounds = JobBounds {
        jobs: 2,
        bytes: 10,
        ..UNBOUNDED
    };
    let add = async |tenant: &Tenant, bytes: &'static [u8]| {
        let job = job(tenant, 1);
        let new = NewJob {
            job: &job,
            pictures: &[picture(0, bytes)],
            key: None,
            bounds,
        };
        (job.asked.request_id, store.add_job(&new).await)
    };
    let (first, kept) = add(&acme, b"12345678").await;
    assert_eq!(kept, Ok(Kept::New));
    let (full, kept) = add(&acme, b"123").await;
    assert_eq!(kept, Ok(Kept::Full), "too many bytes");
    assert_eq!(store.find_job(full, acme.id).await, Ok(None));
    assert_eq!(add(&acme, b"12").await.1, Ok(Kept::New), "exactly as many");
    assert_eq!(add(&acme, b"").await.1, Ok(Kept::Full), "too many jobs");
    assert_eq!(add(&other, b"12345678").await.1, Ok(Kept::New));
    // What is worked on counts, and what has ended does not.
    let mine = lease(2);
    let taken = take(&*store, mine).await.expect("taken");
    assert_eq!(taken.job.asked.request_id, first);
    assert_eq!(add(&acme, b"").await.1, Ok(Kept::Full));
    end(&*store, first, mine.id, &[]).await;
    assert_eq!(add(&acme, b"12345678").await.1, Ok(Kept::New));
}

async fn what_is_forgotten_is_not_written_any_more(database: &TestDatabase) {
    let (store, acme) = with_tenant(database).await;
    let other = tenant("other");
    store.create_tenant(&other, &note()).await.expect("made");
    let (running, done) = (job(&acme, 1), queue(&*store, &acme, 2).await);
    named(&*store, &running, "k", b"one").await;
    let queued = queue(&*store, &acme, 3).await;
    let later = queue(&*store, &acme, 10).await;
    let theirs = queue(&*store, &other, 20).await;
    let leases = [lease(4), lease(5)];
    let running = running.asked.request_id;
    assert_eq!(
        take(&*store, leases[0])
            .await
            .expect("taken")
            .job
            .asked
            .request_id,
        running
    );
    take(&*store, leases[1]).await.expect("taken");
    assert!(end(&*store, done, leases[1].id, &[]).await);

    let mut gone = 0;
    loop {
        match store.forget_jobs(acme.id, at(9)).await.expect("gone") {
            0 => break,
            more => gone += more,
        }
    }
    assert_eq!(gone, 3 + 1, "jobs, and a name for one");
    for id in [running, done, queued] {
        assert_eq!(store.find_job(id, acme.id).await, Ok(None));
    }
    assert_eq!(store.job_picture(running, 0).await, Ok(None));
    let renewed = store.renew_job(running, leases[0].id, at(99)).await;
    assert_eq!(renewed, Ok(false));
    assert!(!end(&*store, running, leases[0].id, &[json!({"class": "7"})]).await);
    assert_eq!(store.find_job(running, acme.id).await, Ok(None));
    let again = named(&*store, &job(&acme, 11), "k", b"two").await;
    assert_eq!(again, Kept::New, "its name is free");
    // What came later, and what is another's, goes on.
    let left = [
        take(&*store, lease(30)).await,
        take(&*store, lease(30)).await,
    ];
    let left = left.map(|job| job.expect("taken").job.asked.request_id);
    assert_eq!(BTreeSet::from(left), BTreeSet::from([later, theirs]));
}

/// Ends a job with a callback.
async fn tell(store: &dyn Store, tenant: &Tenant, job: Uuid, lease: Uuid, micros: i64) -> Uuid {
    let event = EventKind::PredictionCompleted;
    let url = "https://example.org";
    let delivery = NewDelivery::of(event, tenant.id, url, &json!({}), at(micros));
    let ending = EndedJob {
        state: JobState::Done,
        results: &[json!({"class": "7"})],
        at: at(micros),
        delivery: Some(&delivery),
    };
    assert_eq!(store.end_job(job, lease, ending).await, Ok(true));
    delivery.id
}

async fn so_much_waits_to_be_told(database: &TestDatabase) {
    let (store, acme) = with_tenant(database).await;
    let bounds = JobBounds {
        callbacks: 2,
        ..UNBOUNDED
    };
    let add = async |callback_url: Option<String>| {
        let job = Job {
            callback_url,
            ..job(&acme, 1)
        };
        let new = NewJob {
            job: &job,
            pictures: &[picture(0, b"x")],
            key: None,
            bounds,
        };
        store.add_job(&new).await.expect("an answer")
    };
    let url = || Some("https://example.org".to_owned());
    let mut told = Vec::new();
    for number in 0..2 {
        assert_eq!(add(url()).await, Kept::New);
        let mine = lease(2 + number);
        let taken = take(&*store, mine).await.expect("taken");
        let job = taken.job.asked.request_id;
        told.push(tell(&*store, &acme, job, mine.id, 5).await);
    }
    assert_eq!(add(url()).await, Kept::Full, "two wait to be told");
    assert_eq!(add(None).await, Kept::New, "nobody is told of it");
    // One arrives.
    let lease = lensgate::store::Lease {
        owner: Uuid::now_v7(),
        now: at(6),
        until: at(LENGTH),
    };
    let leased = store.lease_deliveries(&told[..1], lease).await;
    assert_eq!(leased.expect("leased").len(), 1);
    let attempt = lensgate::domain::callback::Attempt {
        at: at(7),
        status: Some(204),
        error: None,
        duration_ms: 1,
    };
    let after = lensgate::store::AfterAttempt::Delivered;
    let recorded = store
        .record_attempt(told[0], lease.owner, &attempt, after)
        .await;
    assert_eq!(recorded, Ok(true));
    assert_eq!(add(url()).await, Kept::New);
}

async fn a_result_is_erased_by_when_it_was_asked_for(database: &TestDatabase) {
    let (store, acme) = with_tenant(database).await;
    let mut told = Vec::new();
    for asked in [1, 5] {
        let job = queue(&*store, &acme, asked).await;
        let mine = lease(asked);
        take(&*store, mine).await.expect("taken");
        told.push(tell(&*store, &acme, job, mine.id, 9).await);
    }
    assert_eq!(store.erase_results(acme.id, at(4)).await, Ok(1));
    assert_eq!(store.find_delivery(told[0]).await, Ok(None));
    let left = store.find_delivery(told[1]).await.expect("an answer");
    assert!(left.is_some(), "it was asked for later");
}

async fn a_tenant_goes_with_its_jobs(database: &TestDatabase) {
    let (store, acme) = with_tenant(database).await;
    let first = job(&acme, 1);
    named(&*store, &first, "k", b"one").await;
    queue(&*store, &acme, 2).await;
    let mine = lease(3);
    take(&*store, mine).await.expect("taken");
    // Whoever has read another version deletes nothing of it.
    let stale = store.delete_tenant(acme.id, 7, &note()).await;
    assert_eq!(stale, Err(StoreError::Stale));
    let still = store.find_job(first.asked.request_id, acme.id).await;
    assert!(still.expect("an answer").is_some());
    store
        .delete_tenant(acme.id, 1, &note())
        .await
        .expect("gone");
    let audit = store
        .list_audit(&AuditFilter::default(), ALL)
        .await
        .expect("the audit");
    assert_eq!(audit.items.len(), 2, "made, and deleted once");
    assert_eq!(
        store.find_job(first.asked.request_id, acme.id).await,
        Ok(None)
    );
    assert_eq!(store.job_picture(first.asked.request_id, 0).await, Ok(None));
    assert!(!end(&*store, first.asked.request_id, mine.id, &[]).await);
    assert_eq!(take(&*store, lease(99 * LENGTH)).await, None);
    let late = job(&acme, 4);
    let new = NewJob {
        job: &late,
        pictures: &[],
        key: None,
        bounds: UNBOUNDED,
    };
    let refused = store.add_job(&new).await;
    assert_eq!(refused, Err(StoreError::NotFound("tenant")));
}

async fn old_jobs_go(database: &TestDatabase) {
    let (store, acme) = with_tenant(database).await;
    let ended = queue(&*store, &acme, 1).await;
    let mine = lease(2);
    take(&*store, mine).await.expect("taken");
    assert!(end(&*store, ended, mine.id, &[]).await);
    let waiting = queue(&*store, &acme, 3).await;
    assert_eq!(store.prune_jobs(at(9), at(9)).await, Ok(0), "not before");
    assert_eq!(store.prune_jobs(at(10), at(9)).await, Ok(1));
    assert_eq!(store.find_job(ended, acme.id).await, Ok(None));
    let found = store.find_job(waiting, acme.id).await.expect("an answer");
    assert!(found.is_some(), "what waits stays, however old it is");
}
