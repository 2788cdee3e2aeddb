//! The real binary as a process of its own, and what it takes of the machine.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::connection::{self, Connection};
use super::machine;
use crate::fixture::gateway::{ADMIN_TOKEN, API_KEY};

/// A running gateway, killed when it is dropped.
pub(crate) struct Gateway {
    process: Child,
    pub(crate) address: String,
    /// Its database.
    _data: tempfile::TempDir,
}

/// Resident memory in MiB.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    pub(crate) now: f64,
    pub(crate) peak: f64,
}

impl Gateway {
    /// Starts it over a model store, without cache and without a word in the log but warnings, and waits until its
    /// models are live.
    pub(crate) async fn start(store: &Path) -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_lensgate"));
        Self::start_by(program, store, &[("LENSGATE__CACHE__MAX_BYTES", "0")]).await
    }

    /// The same of this program, with these variables and a cache.
    pub(crate) async fn start_by(program: &Path, store: &Path, variables: &[(&str, &str)]) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let data = tempfile::tempdir().expect("a folder");
        let database = format!("sqlite://{}/lensgate.db", data.path().display());
        let mut process = Command::new(program)
            .arg("serve")
            .arg("--config")
            .arg(root.join("tests/data/empty.toml"))
            .env("LENSGATE__SERVER__LISTEN", "127.0.0.1:0")
            .env("LENSGATE__ADMIN__LISTEN", "127.0.0.1:0")
            .env("LENSGATE__STORE__URL", database)
            .env("LENSGATE__BOOTSTRAP__API_KEY", API_KEY)
            .env("LENSGATE__BOOTSTRAP__ADMIN_TOKEN", ADMIN_TOKEN)
            .env("LENSGATE__MODEL_STORE__URL", store)
            .env("LENSGATE__MODEL_STORE__TRIALS_FILE", "")
            .env("LENSGATE__PREDICTIONS__SPOOL", data.path().join("spool"))
            .env("LENSGATE__TELEMETRY__LOG_FORMAT", "json")
            // The one line that tells the port, and what would be wrong.
            .env(
                "LENSGATE__TELEMETRY__LOG_LEVEL",
                "warn,lensgate::cli::serve=info",
            )
            .envs(variables.iter().copied())
            .current_dir(root)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut log = BufReader::new(process.stderr.take().expect("a log"));
        let address = loop {
            let mut line = String::new();
            let read = log.read_line(&mut line).expect("text");
            assert!(read > 0, "it ended early");
            let entry: Value = serde_json::from_str(&line).expect("a line of JSON");
            if let Some(address) = entry["address"].as_str() {
                break address.to_owned();
            }
        };
        // It must never wait for a reader; its warnings belong on the screen.
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || std::io::copy(&mut log, &mut std::io::stderr()))
            .expect("a thread");
        let gateway = Self {
            process,
            address,
            _data: data,
        };
        gateway.ready().await;
        gateway
    }

    async fn ready(&self) {
        let deadline = Instant::now() + Duration::from_mins(1);
        let mut connection = Connection::open(&self.address).await.expect("connected");
        while self.get(&mut connection, "/health/ready").await.status != 200 {
            assert!(Instant::now() < deadline, "it does not become ready");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn get(&self, connection: &mut Connection, path: &str) -> connection::Answer {
        let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\nX-API-Key: {API_KEY}\r\n\r\n");
        let answer = connection.exchange(request.as_bytes()).await;
        answer.expect("an answer")
    }

    fn proc(&self, file: &str) -> String {
        let path = format!("/proc/{}/{file}", self.process.id());
        std::fs::read_to_string(path).expect("the gateway runs")
    }

    /// Time on the cores: its own, and that of the children it has waited for.
    pub(crate) fn cpu(&self) -> (Duration, Duration) {
        machine::cpu_of(&self.proc("stat"))
    }

    pub(crate) fn memory(&self) -> Memory {
        let status = self.proc("status");
        let mebibytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kibibytes = line.and_then(|line| line.split_whitespace().next());
            let kibibytes = kibibytes.and_then(|number| number.parse::<f64>().ok());
            kibibytes.expect("a size") / 1024.0
        };
        Memory {
            now: mebibytes("VmRSS:"),
            peak: mebibytes("VmHWM:"),
        }
    }

    /// From now on `peak` is the peak since now. Where the system refuses, it stays that of the whole life.
    pub(crate) fn forget_peak(&self) {
        let _ = std::fs::write(format!("/proc/{}/clear_refs", self.process.id()), "5");
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
