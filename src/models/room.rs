//! What a container leaves of its memory, as its control group says. Called by trials; knows the two versions of the interface.

use std::path::{Path, PathBuf};

/// Where control groups are mounted.
const MOUNT: &str = "/sys/fs/cgroup";

/// Bytes that may still be taken before the container's limit is met, what can be reclaimed counted as free; `None`
/// where there is no limit or nothing is said.
pub(super) fn left() -> Option<u64> {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    // Inside a container its own group is the root of what is mounted.
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
    let own = own.map(|path| Path::new(MOUNT).join(path));
    [
        own,
        Some(PathBuf::from(MOUNT)),
        Some(Path::new(MOUNT).join("memory")),
    ]
    .into_iter()
    .flatten()
    .find_map(|dir| left_in(&dir))
}

fn left_in(dir: &Path) -> Option<u64> {
    let number = |name: &str| {
        let text = std::fs::read_to_string(dir.join(name)).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let limit = number("memory.max").or_else(|| number("memory.limit_in_bytes"))?;
    let used = number("memory.current").or_else(|| number("memory.usage_in_bytes"))?;
    let stat = std::fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
    let reclaimable = stat
        .lines()
        .find_map(|line| line.strip_prefix("inactive_file ")?.parse().ok())
        .unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(reclaimable)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_interfaces_are_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).expect("written");
        };
        assert_eq!(left_in(dir.path()), None);
        write("memory.limit_in_bytes", "1000\n");
        write("memory.usage_in_bytes", "600\n");
        assert_eq!(left_in(dir.path()), Some(400));
        write("memory.stat", "anon 300\ninactive_file 250\n");
        assert_eq!(left_in(dir.path()), Some(650));
        write("memory.max", "2000\n");
        write("memory.current", "100\n");
        assert_eq!(left_in(dir.path()), Some(2000));
        write("memory.max", "max\n");
        std::fs::remove_file(dir.path().join("memory.limit_in_bytes")).expect("removed");
        assert_eq!(left_in(dir.path()), None);
    }
}
