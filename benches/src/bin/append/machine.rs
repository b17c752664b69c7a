//! Where and with what a run was made.

use kariz_loadgen::probe::{Machine, Probe, file_system};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

/// The environment of a run whose files are in `data`: program, machine, disk.
pub(crate) fn environment(data: &Path) -> Value {
    let disk = |what: &str| disk(data, what);
    let vm = |what: &str| read(format!("/proc/sys/vm/{what}"));
    json!({
        "commit": output("git", &["rev-parse", "HEAD"]),
        "clean": output("git", &["status", "--porcelain", "--untracked-files=no"]).as_deref() == Some(""),
        "rustc": output("rustc", &["--version"]),
        "machine": Machine::read(),
        "file_system": file_system(data),
        "write_cache": disk("write_cache"),
        "scheduler": disk("scheduler"),
        "dirty_ratio": vm("dirty_ratio"),
        "dirty_background_ratio": vm("dirty_background_ratio"),
        "loadavg": read("/proc/loadavg"),
    })
}

/// What basic operations cost between the CPU that is measured on and another one.
pub(crate) fn probe(cpu: usize) -> Probe {
    let other = u32::from(cpu == 0);
    Probe::measure(u32::try_from(cpu).unwrap_or(0), other)
}

fn output(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok().filter(|o| o.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

/// A setting of the disk below `data`; a partition has its disk's.
fn disk(data: &Path, what: &str) -> Option<String> {
    let device = fs::metadata(data).ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let block = Path::new("/sys/dev/block").join(format!("{major}:{minor}"));
    let queue = |dir: &Path| read(dir.join("queue").join(what));
    queue(&block).or_else(|| queue(fs::canonicalize(&block).ok()?.parent()?))
}
