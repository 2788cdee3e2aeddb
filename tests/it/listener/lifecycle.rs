//! Start and stop, and a machine that runs out of descriptors.

use std::{
    fs::File,
    io::{Read, Seek},
    process::Command,
    time::Instant,
};

use lensgate::api::listener::raise_open_file_limit;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpSocket;

use super::*;

#[tokio::test]
async fn stop_finishes_running_requests_and_closes_the_port() {
    let gateway = Gateway::start(ListenerConfig::default()).await;
    let mut idle = gateway.connect().await;
    assert_eq!(ask(&mut idle, &get("/hello")).await.status, 200);
    let mut silent = gateway.connect().await;
    let mut busy = gateway.connect().await;
    busy.write_all(get("/nap").as_bytes()).await.unwrap();
    sleep(millis(100)).await;

    gateway.stop.cancel();
    assert!(is_closed(&mut idle, LONG).await);
    assert!(is_closed(&mut silent, LONG).await);
    assert!(!gateway.serving.is_finished());
    assert!(TcpStream::connect(gateway.addr).await.is_err());
    let answer = answer(&mut busy).await;
    assert_eq!(
        (answer.body.as_str(), answer.header("connection")),
        ("napped", "close")
    );
    assert!(is_closed(&mut busy, LONG).await);
    let summary = gateway.end().await;
    assert_eq!((summary.accepted, summary.aborted), (3, 0));
}

#[tokio::test]
async fn a_request_that_arrived_before_the_stop_is_answered() {
    let gateway = Gateway::start(ListenerConfig::default()).await;
    let mut kept = gateway.connect().await;
    assert_eq!(ask(&mut kept, &get("/hello")).await.status, 200);
    let mut fresh = gateway.connect().await;
    // On a runtime of one thread the listener runs only when this test waits: both requests and the stop lie before
    // it at the same time.
    for client in [&kept, &fresh] {
        assert!(client.try_write(get("/hello").as_bytes()).is_ok());
    }
    gateway.stop.cancel();
    for client in [&mut kept, &mut fresh] {
        let answer = answer(client).await;
        assert_eq!((answer.status, answer.header("connection")), (200, "close"));
    }
    gateway.end().await;
}

#[tokio::test]
async fn stop_with_nothing_to_do_ends_at_once() {
    let gateway = Gateway::start(ListenerConfig::default()).await;
    let began = Instant::now();
    assert_eq!(gateway.end().await, ServeSummary::default());
    assert!(began.elapsed() < millis(500));
}

#[tokio::test]
async fn abort_drops_what_is_left() {
    let mut gateway = Gateway::start(ListenerConfig::default()).await;
    let mut client = gateway.connect().await;
    client.write_all(get("/sleep").as_bytes()).await.unwrap();
    assert_eq!(gateway.next_sleep(LONG).await, Some("begun"));
    gateway.stop.cancel();
    assert_eq!(
        gateway.next_sleep(millis(150)).await,
        None,
        "stop alone drops nothing"
    );
    gateway.abort.cancel();
    assert_eq!(gateway.next_sleep(millis(500)).await, Some("dropped"));
    assert!(is_closed(&mut client, LONG).await);
    assert_eq!(gateway.end().await.aborted, 1);
}

#[test]
fn the_open_file_limit_is_raised_once() {
    let (before, after) = raise_open_file_limit();
    assert!(before <= after);
    assert_eq!(raise_open_file_limit(), (after, after));
}

/// In a process of its own: the limit holds for all tests of a process.
#[test]
fn out_of_descriptors_the_listener_waits_instead_of_spinning() {
    let (_, module) = module_path!().split_once("::").unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            &format!("{module}::out_of_descriptors_child"),
            "--ignored",
            "--nocapture",
        ])
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success() && output.contains("1 passed"),
        "{output}"
    );
}

#[tokio::test]
#[ignore = "changes the limits of its process; run by the test above"]
async fn out_of_descriptors_child() {
    let gateway = Gateway::start(ListenerConfig::default()).await;
    // Opened while files can still be opened.
    let mut stat = File::open("/proc/self/stat").unwrap();
    let sockets: Vec<_> = (0..12).map(|_| TcpSocket::new_v4().unwrap()).collect();
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(open + 3),
            maximum,
        },
    )
    .unwrap();

    let mut clients = Vec::new();
    for socket in sockets {
        clients.push(socket.connect(gateway.addr).await.unwrap());
    }
    let mut last = clients.pop().unwrap();
    last.write_all(get("/hello").as_bytes()).await.unwrap();
    sleep(millis(200)).await;
    let before = cpu_ticks(&mut stat);
    sleep(millis(800)).await;
    let ticks = cpu_ticks(&mut stat) - before;
    assert!(
        ticks <= 5,
        "{ticks} ticks of 10 ms in 800 ms: the accept loop spins"
    );
    let mut byte = [0];
    assert!(
        timeout(millis(1), last.peek(&mut byte)).await.is_err(),
        "the limit was not reached"
    );

    drop(clients);
    assert_eq!(answer(&mut last).await.status, 200, "it accepts again");
}

/// User and system time of this process, in the kernel's ticks.
fn cpu_ticks(file: &mut File) -> u64 {
    let mut stat = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut stat).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    fields
        .split(' ')
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<u64>().unwrap())
        .sum()
}
