//! The spool against crashes, full disks, other processes, and a model of itself.

use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::domain::clock::SystemClock;

const SETTINGS: SpoolSettings = SpoolSettings {
    max_bytes: 64 << 20,
    fsync: false,
};

fn open(root: &Path) -> Spool {
    Spool::open(root, SETTINGS, Arc::new(SystemClock)).expect("a spool")
}

async fn put(spool: &Spool, record: &[u8]) -> bool {
    spool.hand_over(record).expect("taken").written().await
}

/// All that is read on, without saying that it is read for good.
fn rest(spool: &Spool) -> Vec<Vec<u8>> {
    spool.read(usize::MAX).expect("records").records
}

fn texts(records: &[Vec<u8>]) -> Vec<&str> {
    let records = records.iter();
    records
        .map(|record| std::str::from_utf8(record).expect("text"))
        .collect()
}

/// The segments that lie in the first place.
fn segments(root: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(root.join("0")).expect("a folder");
    let mut files: Vec<PathBuf> = files.map(|file| file.expect("a file").path()).collect();
    files.retain(|file| file.extension().is_some_and(|ending| ending == "log"));
    files.sort();
    files
}

#[tokio::test]
async fn what_was_written_outlives_the_process_until_the_store_has_it() {
    let root = tempfile::tempdir().expect("a folder");
    let spool = open(root.path());
    assert!(spool.read(10).expect("nothing").end.is_none());
    for record in ["one", "two", "three"] {
        assert!(put(&spool, record.as_bytes()).await);
    }
    drop(spool);
    let spool = open(root.path());
    assert!(put(&spool, b"four").await);
    assert_eq!(texts(&rest(&spool)), ["one", "two", "three", "four"]);
    let first = spool.read(2).expect("records");
    assert_eq!(texts(&first.records), ["one", "two"]);
    spool
        .advance(first.end.expect("an end"))
        .expect("remembered");
    drop(spool);
    let spool = open(root.path());
    assert_eq!(texts(&rest(&spool)), ["three", "four"]);
    assert!(spool.waiting() > 0);
    let all = spool.read(100).expect("records");
    spool.advance(all.end.expect("an end")).expect("remembered");
    assert_eq!(spool.waiting(), 0);
    assert!(spool.read(10).expect("nothing").end.is_none());
    assert!(segments(root.path()).is_empty(), "what is read is deleted");
    assert!(put(&spool, b"five").await);
    assert_eq!(texts(&rest(&spool)), ["five"]);
}

#[tokio::test]
async fn a_torn_end_is_left_out_wherever_it_is_torn() {
    let root = tempfile::tempdir().expect("a folder");
    let spool = open(root.path());
    for record in ["one", "two"] {
        assert!(put(&spool, record.as_bytes()).await);
    }
    drop(spool);
    let file = segments(root.path()).remove(0);
    let whole = std::fs::read(&file).expect("a segment");
    for end in 0..=whole.len() {
        let torn = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(torn.path().join("0")).expect("a place");
        let name = file.file_name().expect("a name");
        std::fs::write(torn.path().join("0").join(name), &whole[..end]).expect("a segment");
        let spool = open(torn.path());
        assert!(put(&spool, b"next").await);
        let wanted: &[&str] = match end {
            22 => &["one", "two", "next"],
            11..22 => &["one", "next"],
            _ => &["next"],
        };
        assert_eq!(texts(&rest(&spool)), wanted, "{end}");
        let damaged = spool.counts().damaged.load(Ordering::Relaxed);
        assert_eq!(damaged, u64::from(![0, 11, 22].contains(&end)), "{end}");
        let all = spool.read(100).expect("records");
        spool.advance(all.end.expect("an end")).expect("remembered");
        assert!(spool.read(100).expect("nothing").end.is_none(), "{end}");
    }
}

#[tokio::test]
async fn a_damaged_record_is_left_out_and_the_next_are_read() {
    let root = tempfile::tempdir().expect("a folder");
    let spool = open(root.path());
    for record in ["one", "two", "three"] {
        assert!(put(&spool, record.as_bytes()).await);
    }
    drop(spool);
    let file = segments(root.path()).remove(0);
    let mut bytes = std::fs::read(&file).expect("a segment");
    bytes[20] ^= 1;
    std::fs::write(&file, &bytes).expect("a segment");
    let spool = open(root.path());
    assert_eq!(texts(&rest(&spool)), ["one", "three"]);
    drop(spool);
    // Zeroes, as a file system leaves them where the power failed.
    bytes.extend_from_slice(&[0; 5000]);
    std::fs::write(&file, &bytes).expect("a segment");
    let spool = open(root.path());
    assert!(put(&spool, b"four").await);
    assert_eq!(texts(&rest(&spool)), ["one", "three", "four"]);
}

#[tokio::test]
async fn the_oldest_go_where_there_is_no_more_room() {
    let root = tempfile::tempdir().expect("a folder");
    let settings = SpoolSettings {
        max_bytes: 1 << 20,
        fsync: true,
    };
    let spool = Spool::open(root.path(), settings, Arc::new(SystemClock)).expect("a spool");
    let record = |number: u32| {
        let mut record = number.to_le_bytes().to_vec();
        record.resize(1000, 0);
        record
    };
    for number in 0..3000 {
        assert!(put(&spool, &record(number)).await);
    }
    let mut left = Vec::new();
    loop {
        let some = spool.read(100).expect("records");
        let Some(end) = some.end else { break };
        left.extend(some.records);
        spool.advance(end).expect("remembered");
    }
    let shed = spool.counts().shed.load(Ordering::Relaxed);
    assert_eq!(shed + length(left.len()), 3000);
    assert!(
        left.len() * 1008 <= 1 << 20 && left.len() > 800,
        "{}",
        left.len()
    );
    let first = u32::try_from(shed).expect("a number");
    let wanted: Vec<Vec<u8>> = (first..3000).map(record).collect();
    assert!(left == wanted, "the newest stay, in order");
}

#[tokio::test]
async fn gateways_that_share_a_folder_have_a_place_each() {
    let root = tempfile::tempdir().expect("a folder");
    let (one, two) = (open(root.path()), open(root.path()));
    assert!(put(&one, b"one").await && put(&two, b"two").await);
    let three = open(root.path());
    assert!(put(&three, b"three").await);
    assert_eq!(texts(&rest(&one)), ["one"]);
    assert_eq!(texts(&rest(&two)), ["two"]);
    // Whoever starts next takes over what nobody owns any more, and nothing else.
    drop((one, two));
    let next = open(root.path());
    let mut found = rest(&next);
    found.sort();
    assert_eq!(texts(&found), ["one", "two"]);
    assert_eq!(texts(&rest(&three)), ["three"]);
    let left = std::fs::read_dir(root.path().join("1")).expect("a place");
    let left = left.filter(|file| file.as_ref().expect("a file").file_name() != "lock");
    let left: Vec<_> = left.map(|file| file.expect("a file").file_name()).collect();
    assert_eq!(left, ["position"], "what was in it was taken over");
    let again = open(root.path());
    assert!(put(&again, b"four").await);
    assert_eq!(texts(&rest(&again)), ["four"], "the place serves again");
}

#[tokio::test]
async fn a_takeover_that_is_cut_short_loses_nothing() {
    let root = tempfile::tempdir().expect("a folder");
    let (one, two) = (open(root.path()), open(root.path()));
    for record in ["one", "two"] {
        assert!(put(&one, record.as_bytes()).await);
    }
    assert!(put(&two, b"three").await);
    let first = one.read(1).expect("records");
    one.advance(first.end.expect("an end")).expect("remembered");
    drop((one, two));
    let (own, away) = (root.path().join("0"), root.path().join("away"));
    let memory = Memory::open(&own).expect("a memory");
    let read = memory.remembered().expect("a position");
    let mut segments = Segments::open(&own, read).expect("segments");
    std::fs::rename(&own, &away).expect("moved");
    let adopted = segments.adopt(&root.path().join("1"), 1);
    assert!(adopted.is_err(), "its files are not where they were");
    std::fs::rename(&away, &own).expect("moved");
    let mut found = rest(&open(root.path()));
    found.sort();
    // One was read already, and is read again: the store has it once.
    assert_eq!(texts(&found), ["one", "three", "two"]);
}

#[tokio::test]
async fn what_is_taken_over_is_not_shed_for_what_comes() {
    let root = tempfile::tempdir().expect("a folder");
    let settings = SpoolSettings {
        max_bytes: 1 << 20,
        fsync: false,
    };
    let open = || Spool::open(root.path(), settings, Arc::new(SystemClock)).expect("a spool");
    let (one, two) = (open(), open());
    let record = [7; 1000];
    for _ in 0..900 {
        assert!(put(&one, &record).await && put(&two, &record).await);
    }
    drop((one, two));
    let next = open();
    for _ in 0..100 {
        assert!(put(&next, &record).await);
    }
    assert_eq!(rest(&next).len(), 1900);
    assert_eq!(next.counts().shed.load(Ordering::Relaxed), 0);
    // The next process but one has room for all of it, and no more.
    drop(next);
    let next = open();
    let shed = || next.counts().shed.load(Ordering::Relaxed);
    for _ in 0..100 {
        assert!(put(&next, &record).await);
    }
    assert_eq!(rest(&next).len() as u64 + shed(), 2000);
    assert!((1..300).contains(&shed()), "{}", shed());
    let some = next.read(1500).expect("records");
    next.advance(some.end.expect("an end")).expect("remembered");
    for _ in 0..900 {
        assert!(put(&next, &record).await);
    }
    assert!(shed() > 0, "what was taken over is read: its room is gone");
    assert!(next.waiting() <= 1 << 20);
}

#[test]
fn a_segment_in_which_nothing_could_be_written_is_given_back() {
    let root = tempfile::tempdir().expect("a folder");
    let mut segments = Segments::open(root.path(), Position::default()).expect("segments");
    let segment = segments.next(1);
    segments.begin(segment);
    let empty = segments.close().expect("the empty one");
    assert_eq!(empty.number, 1);
    assert!(segments.rest().is_empty() && segments.close().is_none());
    let segment = segments.next(2);
    assert_eq!(segment.number, 2);
    segments.begin(segment);
    segments.grow(10);
    assert!(segments.close().is_none(), "there is something in it");
    assert_eq!(segments.rest().len(), 1);
    let segment = segments.next(3);
    segments.begin(segment);
    segments.grow(10);
    segments.advance(Position {
        segment: 3,
        offset: 10,
    });
    let read = segments.close().expect("nothing in it is needed any more");
    assert_eq!(read.number, 3);
}

#[tokio::test]
async fn a_segment_that_somebody_deleted_keeps_nobody_busy() {
    let root = tempfile::tempdir().expect("a folder");
    let spool = open(root.path());
    assert!(put(&spool, b"one").await);
    let all = spool.read(9).expect("records");
    spool.advance(all.end.expect("an end")).expect("remembered");
    for file in segments(root.path()) {
        std::fs::remove_file(file).expect("removed");
    }
    assert!(spool.read(9).expect("nothing").end.is_none());
}

#[test]
fn a_number_that_was_read_for_good_is_not_given_again() {
    let root = tempfile::tempdir().expect("a folder");
    let read = Position {
        segment: 7,
        offset: 3,
    };
    std::fs::write(root.path().join("00000000000000000002-1.log"), "x").expect("a segment");
    let mut segments = Segments::open(root.path(), read).expect("segments");
    assert_eq!(segments.next(1).number, 8);
}

#[tokio::test]
async fn a_disk_that_fails_is_told_and_forgiven() {
    let root = tempfile::tempdir().expect("a folder");
    let spool = open(root.path());
    let place = root.path().join("0");
    std::fs::remove_dir_all(&place).expect("removed");
    assert!(!put(&spool, b"lost").await);
    assert!(spool.trouble().is_some());
    assert_eq!(spool.counts().failed.load(Ordering::Relaxed), 1);
    std::fs::create_dir(&place).expect("a folder");
    assert!(put(&spool, b"kept").await);
    assert_eq!(spool.trouble(), None);
    assert_eq!(texts(&rest(&spool)), ["kept"]);
    assert!(
        spool.hand_over(&vec![0; frame::LARGEST + 1]).is_none(),
        "too large"
    );
}

#[tokio::test]
async fn what_is_not_in_the_store_yet_is_looked_through_from_the_newest_segment() {
    let root = tempfile::tempdir().expect("a folder");
    for record in ["one", "two", "three"] {
        // Each process begins a segment.
        assert!(put(&open(root.path()), record.as_bytes()).await);
    }
    let spool = open(root.path());
    let look = |last: &str| {
        let mut seen = Vec::new();
        let looked = spool.look_back(|records, begun| {
            assert!(begun > 1_700_000_000_000);
            seen.extend(records.map(<[u8]>::to_vec));
            seen.last().is_some_and(|record| record == last.as_bytes())
        });
        looked.expect("looked");
        seen
    };
    assert_eq!(texts(&look("")), ["three", "two", "one"]);
    assert_eq!(texts(&look("two")), ["three", "two"]);
    let first = spool.read(2).expect("records");
    spool
        .advance(first.end.expect("an end"))
        .expect("remembered");
    assert_eq!(texts(&look("")), ["three"]);
}

#[tokio::test]
async fn where_it_is_not_known_how_far_it_was_read_all_is_read() {
    let root = tempfile::tempdir().expect("a folder");
    let spool = open(root.path());
    for record in ["one", "two"] {
        assert!(put(&spool, record.as_bytes()).await);
    }
    let first = spool.read(1).expect("records");
    spool
        .advance(first.end.expect("an end"))
        .expect("remembered");
    drop(spool);
    for nonsense in [&b""[..], b"short", &[7; 20]] {
        std::fs::write(root.path().join("0/position"), nonsense).expect("written");
        assert_eq!(texts(&rest(&open(root.path()))), ["one", "two"]);
    }
}

/// Against a list: whatever is done in whatever order, what is read is what was written and not yet read for good.
#[tokio::test]
async fn it_does_what_a_list_does() {
    for seed in 0..20_u64 {
        let root = tempfile::tempdir().expect("a folder");
        let mut spool = Some(open(root.path()));
        let (mut list, mut number, mut chance) = (Vec::<Vec<u8>>::new(), 0_u32, seed);
        let mut next = |bound: u64| {
            // Knuth's MMIX generator: the same run every time.
            chance = chance
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (chance >> 33) % bound
        };
        for _ in 0..300 {
            let held = spool.as_ref().expect("a spool");
            match next(10) {
                0..=5 => {
                    let mut record = number.to_le_bytes().to_vec();
                    record.resize(4 + usize::try_from(next(3000)).expect("a size"), 7);
                    number += 1;
                    assert!(put(held, &record).await);
                    list.push(record);
                }
                6..=8 => {
                    let most = usize::try_from(1 + next(12)).expect("a number");
                    let some = held.read(most).expect("records");
                    let count = some.records.len();
                    assert_eq!(count, most.min(list.len()), "seed {seed}");
                    assert!(some.records == list[..count], "seed {seed}");
                    if let Some(end) = some.end.filter(|_| next(2) == 0) {
                        held.advance(end).expect("remembered");
                        list.drain(..count);
                    }
                }
                _ => {
                    drop(spool.take());
                    spool = Some(open(root.path()));
                }
            }
        }
        assert!(
            rest(spool.as_ref().expect("a spool")) == list,
            "seed {seed}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_hand_over_at_once_and_none_is_missing() {
    let root = tempfile::tempdir().expect("a folder");
    let spool = Arc::new(open(root.path()));
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..8_u32 {
        let spool = Arc::clone(&spool);
        callers.spawn(async move {
            for number in 0..200_u32 {
                assert!(put(&spool, format!("{caller} {number:03}").as_bytes()).await);
            }
        });
    }
    callers.join_all().await;
    let found = rest(&spool);
    for caller in 0..8 {
        let own = format!("{caller} ");
        let of_it = texts(&found)
            .into_iter()
            .filter(|text| text.starts_with(&own));
        let wanted: Vec<String> = (0..200).map(|number| format!("{own}{number:03}")).collect();
        assert_eq!(of_it.collect::<Vec<_>>(), wanted, "in order");
    }
    assert_eq!(found.len(), 1600);
}

#[tokio::test]
async fn what_is_taken_over_may_be_as_new_as_the_takeover() {
    let root = tempfile::tempdir().expect("a folder");
    let at = |millis| {
        let at = chrono::DateTime::from_timestamp_millis(millis).expect("a time");
        let clock = crate::domain::clock::ManualClock::at(at);
        Spool::open(root.path(), SETTINGS, Arc::new(clock)).expect("a spool")
    };
    let (one, two) = (at(1000), at(2000));
    assert!(put(&one, b"one").await && put(&two, b"two").await);
    // Written after the other's segment was begun, and lies in front of it.
    assert!(put(&one, b"three").await);
    drop((one, two));
    let spool = at(3000);
    let mut begun = Vec::new();
    let looked = spool.look_back(|_, at| {
        begun.push(at);
        false
    });
    looked.expect("looked");
    assert_eq!(begun, [3000, 3000]);
    assert_eq!(texts(&rest(&spool)), ["one", "three", "two"]);
}
