//! What the load benches share: the gateway as a process of its own, connections that send and take answers, loops of
//! callers, and figures of what came of it. Knows nothing of the gateway's insides: it speaks HTTP and reads `/proc`.

pub(crate) mod callers;
pub(crate) mod connection;
pub(crate) mod figures;
pub(crate) mod gateway;
pub(crate) mod machine;
pub(crate) mod open;

/// What was given behind `--`; a bench names each in its first lines.
pub(crate) struct Given(Vec<String>);

impl Given {
    pub(crate) fn read() -> Self {
        // `cargo bench` adds --bench.
        let given = std::env::args().skip(1).filter(|a| a != "--bench");
        Self(given.collect())
    }

    /// The argument at a place, or what holds without one.
    pub(crate) fn at<T: std::str::FromStr>(&self, place: usize, otherwise: T) -> T {
        let text = self.0.get(place);
        text.and_then(|text| text.parse().ok()).unwrap_or(otherwise)
    }
}

/// A runtime on this thread alone, so that the load takes one core at most.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}
