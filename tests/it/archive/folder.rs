//! Pictures in a folder: put once, found, forgotten, swept; what is not kept is counted.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use chrono::TimeDelta;
use lensgate::config::{ArchiveConfig, Environment, Seconds};
use lensgate::predictions::{Archive, ArchiveError};
use tempfile::TempDir;

use super::{A, B, EACH, Kept, digest, now, picture};
use crate::fixture::store::tree;

pub(super) struct Folder(TempDir);

impl Folder {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    /// It is not there yet.
    pub(super) fn path(&self) -> PathBuf {
        self.0.path().join("data/archive")
    }

    pub(super) fn config(&self) -> ArchiveConfig {
        ArchiveConfig {
            images: Some(self.path().display().to_string()),
            ..ArchiveConfig::default()
        }
    }

    async fn running(&self) -> Kept {
        Kept::running(&self.config(), &Environment::default()).await
    }

    pub(super) fn file(&self, tenant: lensgate::domain::tenant::TenantId, number: u32) -> PathBuf {
        let digest = digest(&picture(number)).to_string();
        let digits = digest.trim_start_matches("sha256:");
        self.path()
            .join(format!("{tenant}/{}/{digits}", &digits[..2]))
    }

    /// The files that are there.
    pub(super) fn files(&self) -> usize {
        let found = tree(&self.path());
        found
            .iter()
            .filter(|(_, content)| content.is_some())
            .count()
    }
}

/// Makes a file older.
fn age(file: &Path, by: Duration) {
    let open = File::options().write(true).open(file).expect("a file");
    open.set_modified(SystemTime::now() - by).expect("its time");
}

const DAY: Duration = Duration::from_hours(24);

#[tokio::test]
async fn a_picture_is_kept_once_for_each_tenant_and_digest() {
    let folder = Folder::new();
    let mut kept = folder.running().await;
    kept.offer(A, 1);
    kept.until_stored(1).await;
    for (tenant, number) in [(A, 1), (A, 1), (A, 2), (B, 1)] {
        kept.offer(tenant, number);
    }
    kept.until_stored(3).await;
    kept.offer(A, 2);
    kept.stop().await;
    assert_eq!(kept.archive.status().stored, 3);
    assert_eq!(folder.files(), 3);
    for (tenant, number) in [(A, 1), (A, 2), (B, 1)] {
        let file = fs::read(folder.file(tenant, number)).expect("a file");
        assert_eq!(file, picture(number));
        assert_eq!(kept.find(tenant, number).await, Some(picture(number)));
    }
    assert_eq!(kept.find(B, 2).await, None, "it is another tenant's");
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    let file = folder.file(A, 1);
    assert_eq!(mode(&file), 0o600);
    for above in file.ancestors().skip(1).take(4) {
        assert_eq!(mode(above), 0o700, "{}", above.display());
    }
}

#[tokio::test]
async fn a_picture_that_waits_is_found_and_is_put_at_the_end() {
    let folder = Folder::new();
    let mut kept = Kept::open(&folder.config(), &Environment::default());
    for number in 0..100 {
        kept.offer(A, number);
    }
    assert_eq!(kept.find(A, 42).await, Some(picture(42)));
    assert_eq!((kept.archive.status().waiting, folder.files()), (100, 0));
    kept.run().await;
    kept.stop().await;
    assert_eq!((kept.archive.status().stored, folder.files()), (100, 100));
}

#[tokio::test]
async fn what_is_not_kept_is_counted() {
    let folder = Folder::new();
    let config = ArchiveConfig {
        max_image_bytes: 10,
        max_waiting_bytes: 25 + 3 * EACH,
        ..folder.config()
    };
    let kept = Kept::open(&config, &Environment::default());
    let offer = |content: &'static [u8]| {
        let archive = &kept.archive;
        archive.offer(A, digest(content), Bytes::from_static(content), now());
    };
    for content in [
        &b"12345678901"[..],
        b"1234567890",
        b"0123456789",
        b"123456",
        b"12345",
    ] {
        offer(content);
    }
    let status = kept.archive.status();
    assert_eq!((status.dropped_too_large, status.dropped_full), (1, 1));
    let bytes = 25 + 3 * EACH;
    assert_eq!((status.waiting, status.waiting_bytes), (3, bytes));
}

#[tokio::test]
async fn every_replica_keeps_the_same_share() {
    let (one, other) = (Folder::new(), Folder::new());
    let share = |folder: &Folder, sample| {
        let config = ArchiveConfig {
            sample,
            ..folder.config()
        };
        let kept = Kept::open(&config, &Environment::default());
        (0..1000).for_each(|number| kept.offer(A, number));
        kept
    };
    let (first, second) = (share(&one, 0.25), share(&other, 0.25));
    let count = first.archive.status().waiting;
    assert!((190..310).contains(&count), "{count} of 1000");
    for number in 0..1000 {
        assert_eq!(first.find(A, number).await, second.find(A, number).await);
    }
    assert_eq!(share(&one, 0.0).archive.status().waiting, 0);
    assert_eq!(share(&one, 1.0).archive.status().waiting, 1000);
}

#[tokio::test]
async fn a_picture_that_is_seen_on_a_later_day_is_as_young_as_a_new_one() {
    let folder = Folder::new();
    let kept = folder.running().await;
    kept.offer(A, 1);
    kept.until_stored(1).await;
    age(&folder.file(A, 1), 2 * DAY);
    kept.clock.advance(TimeDelta::days(1));
    kept.offer(A, 1);
    kept.until_stored(2).await;
    let deleted = kept.archive.sweep(now() - TimeDelta::days(1)).await;
    assert_eq!(deleted.expect("swept"), 0);
    assert_eq!(folder.files(), 1);
}

#[tokio::test]
async fn a_forgotten_tenants_pictures_are_gone_and_others_stay() {
    let folder = Folder::new();
    let mut kept = folder.running().await;
    for number in 0..50 {
        kept.offer(A, number);
        kept.offer(B, number);
    }
    kept.until_stored(100).await;
    // As a kill leaves it in the middle of a write.
    let torn = format!("{}#1", folder.file(A, 1).display());
    fs::write(torn, "pic").expect("a file");
    kept.stop().await;
    kept.offer(A, 50);
    kept.offer(B, 50);
    assert_eq!(kept.forget(A).await.expect("forgotten"), 51);
    assert_eq!(kept.forget(A).await.expect("forgotten"), 0);
    assert_eq!(kept.find(A, 50).await, None, "it does not wait any more");
    kept.run().await;
    kept.until_stored(101).await;
    assert!(!folder.path().join(A.to_string()).exists());
    assert_eq!(folder.files(), 51);
    kept.offer(A, 1);
    kept.until_stored(102).await;
    assert_eq!(kept.find(A, 1).await, Some(picture(1)));
}

#[tokio::test]
async fn old_pictures_are_swept_and_what_was_torn_too() {
    let folder = Folder::new();
    let mut kept = folder.running().await;
    // More than are deleted in one go.
    for number in 0..1100 {
        kept.offer(A, number);
    }
    kept.until_stored(1100).await;
    for number in 1..1100 {
        age(&folder.file(A, number), 3 * DAY);
    }
    let torn = PathBuf::from(format!("{}#7", folder.file(A, 0).display()));
    fs::write(&torn, "pic").expect("a file");
    let before = now() - TimeDelta::days(2);
    assert_eq!(kept.archive.sweep(before).await.expect("swept"), 1099);
    assert_eq!(
        folder.files(),
        2,
        "the young one, and what may be under way"
    );
    age(&torn, 3 * DAY);
    assert_eq!(kept.archive.sweep(before).await.expect("swept"), 0);
    assert_eq!(kept.find(A, 0).await, Some(picture(0)));
    assert_eq!(folder.files(), 1);
    kept.stop().await;
}

#[tokio::test]
async fn the_start_sweeps_what_is_older_than_the_settings_say() {
    let folder = Folder::new();
    let mut kept = folder.running().await;
    kept.offer(A, 1);
    kept.offer(A, 2);
    kept.until_stored(2).await;
    kept.stop().await;
    age(&folder.file(A, 1), 8 * DAY);
    let for_ever = ArchiveConfig {
        retention: Seconds::new(0),
        ..folder.config()
    };
    let week = ArchiveConfig {
        retention: Seconds::parse("7d").expect("a duration"),
        ..folder.config()
    };
    let mut kept = Kept::running(&for_ever, &Environment::default()).await;
    kept.offer(A, 3);
    kept.until_stored(1).await;
    kept.stop().await;
    assert!(folder.file(A, 1).exists());
    let _kept = Kept::running(&week, &Environment::default()).await;
    let since = std::time::Instant::now();
    while folder.file(A, 1).exists() {
        assert!(since.elapsed() < Duration::from_mins(1), "it stays");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(folder.files(), 2);
}

#[tokio::test]
async fn a_folder_that_was_away_gets_what_waited() {
    let folder = Folder::new();
    let kept = folder.running().await;
    let (path, aside) = (folder.path(), folder.path().with_extension("aside"));
    fs::rename(&path, &aside).expect("away");
    fs::write(&path, "no folder").expect("a file");
    for number in 0..20 {
        kept.offer(A, number);
    }
    let status = kept.until(|status| status.away_since.is_some()).await;
    assert_eq!((status.stored, status.waiting), (0, 20));
    assert!(status.trouble.is_some());
    assert!(matches!(
        kept.archive.sweep(now()).await,
        Err(ArchiveError::Away(_))
    ));
    fs::remove_file(&path).expect("gone");
    fs::rename(&aside, &path).expect("back");
    let status = kept.until_stored(20).await;
    assert_eq!((status.away_since, status.trouble), (None, None));
    assert_eq!((status.dropped_failed, folder.files()), (0, 20));
}

#[test]
fn a_folder_that_cannot_be_is_refused_at_the_start() {
    let folder = Folder::new();
    let file = folder.0.path().join("data");
    fs::write(&file, "no folder").expect("a file");
    let clock = std::sync::Arc::new(lensgate::domain::clock::SystemClock);
    let opened = Archive::open(&folder.config(), &Environment::default(), clock.clone());
    let error = opened.err().expect("refused");
    assert!(matches!(error, ArchiveError::Unusable(_)));
    assert!(error.to_string().contains("archive.images"), "{error}");
    let none = Archive::open(&ArchiveConfig::default(), &Environment::default(), clock);
    assert!(none.expect("no mistake").is_none(), "off unless it is set");
}
