//! How much the kernel lets files hold that is not on the disk yet.

use std::fs;
use std::path::Path;

/// Where control groups are mounted. Source: systemd, and every container runtime.
const CGROUPS: &str = "/sys/fs/cgroup";
/// The kernel's defaults of `vm.dirty_background_ratio` and `vm.dirty_ratio`, percentages.
const BACKGROUND_RATIO: u64 = 10;
const RATIO: u64 = 20;
/// What a core has at least, whatever the settings: some group writes.
const CORE_BYTES_MIN: u64 = 16 << 20;

/// So many bytes each of `cores` may have that are not on the disk: from there on the kernel writes
/// back by itself, and half-way to its limit it makes writers wait. Of the machine's memory, or of
/// the process's control group if that has less.
pub(super) fn dirty_bytes_max(cores: usize) -> u64 {
    let memory = machine_bytes().min(cgroup_bytes());
    let setting = |name| number(&Path::new("/proc/sys/vm").join(name));
    let limit = |bytes, ratio, default| match setting(bytes) {
        Some(bytes) if bytes > 0 => bytes,
        _ => memory / 100 * setting(ratio).unwrap_or(default),
    };
    let background = limit("dirty_background_bytes", "dirty_background_ratio", BACKGROUND_RATIO);
    // The kernel's, too: a background limit past the limit counts as half of it.
    let all = background.min(limit("dirty_bytes", "dirty_ratio", RATIO) / 2);
    (all / cores.max(1) as u64).max(CORE_BYTES_MIN)
}

fn machine_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    u64::from(info.mem_unit).saturating_mul(info.totalram)
}

/// The least that the process's control group, or one around it, may have; all if none is told.
fn cgroup_bytes() -> u64 {
    fs::read_to_string("/proc/self/cgroup").map_or(u64::MAX, |groups| {
        let limits = groups.lines().filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?.trim_start_matches('/'));
            let root = Path::new(CGROUPS);
            match controllers {
                "" => least(root, path, "memory.max"),
                "memory" => least(&root.join("memory"), path, "memory.limit_in_bytes"),
                _ => None,
            }
        });
        limits.min().unwrap_or(u64::MAX)
    })
}

/// The least number in `file` of the group at `path` below `root` and of those around it. In a
/// container the path may be the host's, and only `root` be there.
fn least(root: &Path, path: &str, file: &str) -> Option<u64> {
    Path::new(path).ancestors().filter_map(|group| number(&root.join(group).join(file))).min()
}

/// What `file` says, unless that is `max` or nothing.
fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_of_the_groups_around_a_process_counts() {
        let root = std::env::temp_dir().join(format!("kariz-cgroup-{}", std::process::id()));
        let inner = root.join("slice/service");
        fs::create_dir_all(&inner).unwrap();
        let set = |dir: &Path, limit: &str| fs::write(dir.join("memory.max"), limit).unwrap();
        let found = |path| least(&root, path, "memory.max");
        assert_eq!(found("slice/service"), None);
        set(&inner, "max\n");
        assert_eq!(found("slice/service"), None);
        set(&root, "3000\n");
        assert_eq!(found("slice/service"), Some(3000));
        set(&root.join("slice"), "1000\n");
        set(&inner, "2000\n");
        assert_eq!(found("slice/service"), Some(1000));
        assert_eq!(found("of/the/host"), Some(3000));
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn the_machine_says_how_much_it_takes() {
        let one = dirty_bytes_max(1);
        assert!(one >= CORE_BYTES_MIN && one < machine_bytes());
        assert_eq!(dirty_bytes_max(usize::MAX), CORE_BYTES_MIN);
    }
}
