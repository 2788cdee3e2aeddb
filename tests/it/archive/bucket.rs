//! Pictures in a bucket: put, found, forgotten, swept; the server away and back; wrong credentials.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use chrono::TimeDelta;
use lensgate::config::{ArchiveConfig, Environment};
use lensgate::predictions::ArchiveError;

use super::{A, B, EACH, Kept, digest, now, picture};
use crate::fixture::s3::{Bucket, bucket};

#[tokio::test]
async fn pictures_are_put_found_forgotten_and_swept() {
    let bucket = bucket().await;
    let config = bucket.config();
    let mut kept = Kept::running(&config, &bucket.environment()).await;
    let mut beside = Kept::running(&bucket.config(), &bucket.environment()).await;
    for number in 0..30 {
        kept.offer(A, number);
        kept.offer(B, number);
    }
    beside.offer(A, 1);
    kept.until_stored(60).await;
    beside.until_stored(1).await;
    // Another replica, which knows nothing of it yet.
    let other = Kept::open(&config, &bucket.environment());
    assert_eq!(other.find(A, 7).await, Some(picture(7)));
    assert_eq!(other.find(A, 30).await, None);
    assert_eq!(other.forget(A).await.expect("forgotten"), 30);
    assert_eq!(other.forget(A).await.expect("forgotten"), 0);
    assert_eq!(other.find(A, 7).await, None);
    assert_eq!(other.find(B, 7).await, Some(picture(7)));
    let early = now() - TimeDelta::hours(1);
    assert_eq!(other.archive.sweep(early).await.expect("swept"), 0);
    let late = now() + TimeDelta::hours(1);
    assert_eq!(other.archive.sweep(late).await.expect("swept"), 30);
    assert_eq!(other.find(B, 7).await, None);
    assert_eq!(
        beside.find(A, 1).await,
        Some(picture(1)),
        "not below the prefix"
    );
    kept.stop().await;
    beside.stop().await;
}

#[tokio::test]
async fn what_waits_while_the_server_is_away_is_put_when_it_is_back() {
    let mut bucket = tokio::task::spawn_blocking(Bucket::start)
        .await
        .expect("a server");
    let config = ArchiveConfig {
        max_image_bytes: 100,
        max_waiting_bytes: 40 * (10 + EACH),
        ..bucket.config()
    };
    let kept = Kept::running(&config, &bucket.environment()).await;
    kept.offer(A, 10);
    kept.until_stored(1).await;
    bucket.stop();
    // Each has ten bytes.
    for number in 10..60 {
        kept.offer(A, number);
    }
    let status = kept.until(|status| status.away_since.is_some()).await;
    assert_eq!((status.waiting, status.dropped_full), (40, 9));
    let gone = kept.archive.fetch(A, digest(&picture(10))).await;
    assert!(matches!(gone, Err(ArchiveError::Away(_))), "{gone:?}");
    assert_eq!(kept.find(A, 20).await, Some(picture(20)), "it waits here");
    assert!(kept.forget(B).await.is_err(), "nobody knows");
    bucket.start_again();
    let status = kept.until_stored(41).await;
    assert_eq!((status.away_since, status.dropped_failed), (None, 0));
    assert_eq!(kept.find(A, 50).await, Some(picture(50)));
    assert_eq!(kept.find(A, 51).await, None, "it did not fit");
    kept.offer(A, 51);
    kept.until_stored(42).await;
}

#[tokio::test]
async fn a_stop_while_the_server_is_away_ends_soon_and_counts_what_is_lost() {
    let mut bucket = tokio::task::spawn_blocking(Bucket::start)
        .await
        .expect("a server");
    bucket.stop();
    let mut kept = Kept::running(&bucket.config(), &bucket.environment()).await;
    for number in 0..20 {
        kept.offer(A, number);
    }
    kept.until(|status| status.away_since.is_some()).await;
    kept.stop().await;
    let status = kept.archive.status();
    assert_eq!((status.dropped_failed, status.waiting), (20, 0));
    assert_eq!(status.waiting_bytes, 0);
}

/// Lines of the log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("the log").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Logs what this thread says.
fn listen() -> (Log, tracing::subscriber::DefaultGuard) {
    let log = Log::default();
    let writer = log.clone();
    let lines = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    (log, tracing::subscriber::set_default(lines))
}

#[tokio::test]
async fn who_is_not_let_in_hears_no_error_but_the_log_and_the_counts_say_so() {
    let bucket = bucket().await;
    let (log, _listening) = listen();
    let nowhere = ArchiveConfig {
        images: Some("s3://no-such-bucket/here".to_owned()),
        ..bucket.config()
    };
    for (config, environment) in [
        (bucket.config(), bucket.wrong_environment()),
        (nowhere, bucket.environment()),
    ] {
        let config = ArchiveConfig {
            max_image_bytes: 100,
            max_waiting_bytes: 10 * (10 + EACH),
            ..config
        };
        let mut kept = Kept::running(&config, &environment).await;
        for number in 10..30 {
            kept.offer(A, number);
        }
        let status = kept.until(|status| status.away_since.is_some()).await;
        assert_eq!((status.stored, status.dropped_full), (0, 10));
        let trouble = status.trouble.expect("a reason");
        assert!(trouble.contains("refuses"), "{trouble}");
        assert!(kept.forget(B).await.is_err(), "nobody knows");
        kept.stop().await;
        assert_eq!(kept.archive.status().dropped_failed, 10);
    }
    let text = String::from_utf8(log.0.lock().expect("the log").clone()).expect("text");
    let count = |words: &str| text.matches(words).count();
    let shouted = count("ERROR lensgate::predictions::archive: the archive does not take all");
    assert!(
        (2..=4).contains(&shouted),
        "now and then, not for each picture: {text}"
    );
    assert_eq!(
        count("the archive did not take all pictures in time"),
        2,
        "{text}"
    );
    assert!(!text.contains("not the secret"), "{text}");
}

#[test]
fn credentials_never_show() {
    let environment = Environment::from_pairs([("AWS_SECRET_ACCESS_KEY", "a great secret")]);
    assert!(!format!("{environment:?}").contains("great"));
}
