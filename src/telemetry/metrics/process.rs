//! The process itself, as the system tells of it: `/proc/self` (proc(5)). Where there is none, nothing is told.

use std::fs;
use std::time::Duration;

use super::page::{Page, real, real_size};

/// What `/proc/self/stat` and its neighbours say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Process {
    /// Of all threads, in user and kernel mode, in clock ticks.
    cpu_ticks: u64,
    threads: u64,
    /// Clock ticks after the system's start.
    began_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

/// The fields of `/proc/self/stat` after the name, which may hold anything between its brackets.
fn parse(stat: &str) -> Option<Process> {
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    // proc(5) counts from 1, and the first field here is its third.
    let field = |number: usize| fields.get(number - 3)?.trim().parse::<u64>().ok();
    Some(Process {
        cpu_ticks: field(14)? + field(15)?,
        threads: field(20)?,
        began_ticks: field(22)?,
        virtual_bytes: field(23)?,
        resident_pages: field(24)?,
    })
}

/// When the system started, in seconds since 1970.
fn system_start(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

fn open_files() -> Option<usize> {
    Some(fs::read_dir("/proc/self/fd").ok()?.count())
}

/// Adds the process's metrics, by the names that Prometheus's own client libraries give them.
pub(super) fn tell(page: &mut Page) {
    let Some(process) = fs::read_to_string("/proc/self/stat")
        .ok()
        .and_then(|stat| parse(&stat))
    else {
        return;
    };
    let ticks = real(rustix::param::clock_ticks_per_second().max(1));
    let page_size = real_size(rustix::param::page_size());
    page.sum(
        "process_cpu_seconds_total",
        "Time that the process had on cores, in user and kernel mode.",
        &[],
        real(process.cpu_ticks) / ticks,
    );
    page.gauge("process_threads", "Threads.", &[], real(process.threads));
    page.gauge(
        "process_virtual_memory_bytes",
        "Virtual memory.",
        &[],
        real(process.virtual_bytes),
    );
    page.gauge(
        "process_resident_memory_bytes",
        "Resident memory.",
        &[],
        real(process.resident_pages) * page_size,
    );
    if let Some(open) = open_files() {
        page.gauge("process_open_fds", "Open files.", &[], real_size(open));
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    if let Some(most) = limit.current {
        page.gauge(
            "process_max_fds",
            "Files that may be open.",
            &[],
            real(most),
        );
    }
    let start = fs::read_to_string("/proc/stat").ok();
    if let Some(start) = start.and_then(|stat| system_start(&stat)) {
        let after = Duration::from_secs(start).as_secs_f64() + real(process.began_ticks) / ticks;
        page.gauge(
            "process_start_time_seconds",
            "When the process started, in seconds since 1970.",
            &[],
            after,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 7 0 1000 4096000 300 18446744073709551615 1\n";
        let wanted = Process {
            cpu_ticks: 300,
            threads: 7,
            began_ticks: 1000,
            virtual_bytes: 4_096_000,
            resident_pages: 300,
        };
        assert_eq!(parse(stat), Some(wanted));
        for broken in ["", "42 (a", "42 (a) S 1 2", "42 (a) S x"] {
            assert_eq!(parse(broken), None, "{broken:?}");
        }
        assert_eq!(
            system_start("cpu 1 2\nbtime 1790000000\nx 1\n"),
            Some(1_790_000_000)
        );
    }

    #[test]
    fn this_process_tells_of_itself() {
        let mut page = Page::default();
        tell(&mut page);
        let text = page.text().expect("text");
        for name in [
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_virtual_memory_bytes",
            "process_open_fds",
            "process_max_fds",
            "process_threads",
            "process_start_time_seconds",
        ] {
            let line = text.lines().find(|line| line.starts_with(name));
            let value = line.and_then(|line| line.split(' ').nth(1)?.parse::<f64>().ok());
            assert!(value.is_some_and(|value| value >= 0.0), "{name}: {line:?}");
        }
    }
}
