//! `kariz serve` where io_uring is not allowed: one line that says why, and exit status 1.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
use std::process::{Command, Output};

/// Where the texts are explained.
const PAGE: &str = include_str!("../../engine/docs/without-io-uring.md");
/// The system call's number, the same on every architecture. Source: Linux, `asm-generic/unistd.h`.
const IO_URING_SETUP: i64 = 425;
/// Source: Linux, `asm-generic/errno-base.h` and `errno.h`.
const ERRNOS: [(&str, u32); 3] = [("EPERM", 1), ("ENOSYS", 38), ("ENOMEM", 12)];

/// Runs `kariz` under a filter that answers `io_uring_setup` with `errno`: on a thread of its own,
/// for a filter is inherited and cannot be taken off.
fn kariz_without(errno: u32, args: Vec<String>) -> Output {
    let run = move || {
        let filter = SeccompFilter::new(
            [(IO_URING_SETUP, Vec::new())].into(),
            SeccompAction::Allow,
            SeccompAction::Errno(errno),
            std::env::consts::ARCH.try_into().unwrap(),
        );
        let filter: BpfProgram = filter.unwrap().try_into().unwrap();
        apply_filter(&filter).unwrap();
        Command::new(env!("CARGO_BIN_EXE_kariz")).args(args).output().unwrap()
    };
    std::thread::spawn(run).join().unwrap()
}

#[test]
fn it_is_refused_in_one_line_and_nothing_is_written() {
    let name = format!("kariz-without-io-uring-{}", std::process::id());
    let data = std::env::temp_dir().join(name);
    for (name, errno) in ERRNOS {
        let args = ["serve", "--cores", "0", "--listen", "127.0.0.1:0", "--data"];
        let mut args = args.map(str::to_owned).to_vec();
        args.push(data.to_str().unwrap().to_owned());
        let refused = kariz_without(errno, args);
        assert_eq!((refused.status.code(), &*refused.stdout), (Some(1), &b""[..]));
        let text = String::from_utf8(refused.stderr).unwrap();
        assert!(text.starts_with("kariz: io_uring ") && text.lines().count() == 1, "{text}");
        assert!(text.contains(&format!("(io_uring_setup: {name}): ")), "{text}");
        let has_reason = match name {
            "ENOMEM" => text.contains("RLIMIT_MEMLOCK") || text.contains("of the cgroup"),
            _ => text.contains("seccomp filter"),
        };
        assert!(has_reason, "{text}");
        let system = rustix::system::uname();
        let release = system.release().to_str().unwrap();
        let shown = text.trim_end().replace(release, "RELEASE");
        // How much memory may be locked depends on who runs this, and the sysctl on where.
        let is_local = name == "ENOMEM" || text.contains("kernel.io_uring_disabled is 1");
        assert!(is_local || PAGE.contains(&shown), "the page has another text: {shown}");
        assert!(!data.exists(), "{text}");
    }
}

#[test]
fn what_needs_no_ring_runs_without_one() {
    let (_, errno) = ERRNOS[0];
    let settings = kariz_without(errno, vec!["settings".to_owned()]);
    assert!(settings.status.success() && !settings.stdout.is_empty());
    let data = std::env::temp_dir().join(format!("kariz-check-{}", std::process::id()));
    std::fs::create_dir_all(data.join("broker-256")).unwrap();
    let checked = kariz_without(errno, vec!["check".to_owned(), data.display().to_string()]);
    std::fs::remove_dir_all(&data).unwrap();
    let text = String::from_utf8(checked.stdout).unwrap();
    assert!(checked.status.success() && text.starts_with("1 brokers, 0 partitions"), "{text}");
}
