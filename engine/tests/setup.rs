//! Where io_uring is not allowed: what opening an engine says, and that it leaves nothing behind.
//!
//! The refusals are real ones, of a seccomp filter on the thread that opens.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking

use kariz_engine::{Config, Engine, OpenError, SetupError};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

/// One of a core's ring only: `IORING_REGISTER_PBUF_RING`.
const REGISTER_BUFFERS: u64 = 22;

/// Answers `call` with `errno` from here on, on this thread and those that it starts; only where
/// its argument of that index is that value, if one is given.
fn forbid(call: i64, errno: i32, argument: Option<(u8, u64)>) {
    let rule = argument.map(|(index, value)| {
        let condition =
            SeccompCondition::new(index, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value);
        SeccompRule::new(vec![condition.unwrap()]).unwrap()
    });
    let filter = SeccompFilter::new(
        [(call, rule.into_iter().collect())].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(errno.cast_unsigned()),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let filter: BpfProgram = filter.unwrap().try_into().unwrap();
    apply_filter(&filter).unwrap();
}

/// Opens an engine on a thread that is under such a filter: its error, and whether the directory
/// was made.
fn opened_without(call: i64, errno: i32, argument: Option<(u8, u64)>) -> (SetupError, bool) {
    let name = format!("kariz-setup-{}-{call}-{errno}", std::process::id());
    let dir = std::env::temp_dir().join(name);
    let opened = std::thread::spawn({
        let dir = dir.clone();
        move || {
            forbid(call, errno, argument);
            Engine::open(&dir, Config::default()).map(drop)
        }
    });
    let error = opened.join().unwrap().unwrap_err();
    let is_there = dir.exists();
    let _gone = std::fs::remove_dir_all(&dir);
    match error {
        OpenError::Setup(error) => (error, is_there),
        other => panic!("{other}"),
    }
}

#[test]
fn a_filter_that_forbids_is_named_and_nothing_is_written() {
    let calls = [
        (libc::SYS_io_uring_setup, "io_uring_setup"),
        (libc::SYS_io_uring_register, "io_uring_register"),
        (libc::SYS_io_uring_enter, "io_uring_enter"),
    ];
    for (call, name) in calls {
        let (error, is_there) = opened_without(call, libc::EPERM, None);
        assert!(matches!(error, SetupError::Forbidden { step, .. } if step == name), "{error}");
        let text = error.to_string();
        assert!(text.contains("EPERM") && text.contains("seccomp filter"), "{text}");
        assert!(!is_there, "{text}");
    }
}

#[test]
fn a_filter_that_hides_is_named_and_nothing_is_written() {
    let (error, is_there) = opened_without(libc::SYS_io_uring_setup, libc::ENOSYS, None);
    assert!(matches!(error, SetupError::Missing { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("ENOSYS") && text.contains("it is the seccomp filter"), "{text}");
    assert!(!is_there);
}

#[test]
fn a_refusal_for_want_of_memory_is_told_as_such() {
    let (error, is_there) = opened_without(libc::SYS_io_uring_setup, libc::ENOMEM, None);
    assert!(matches!(error, SetupError::Memory { .. }) && !is_there, "{error}");
}

#[test]
fn what_only_a_core_finds_out_is_a_setup_error_too() {
    let argument = Some((1, REGISTER_BUFFERS));
    let (error, _) = opened_without(libc::SYS_io_uring_register, libc::EPERM, argument);
    assert!(matches!(error, SetupError::Forbidden { .. }), "{error}");
    assert!(error.to_string().contains("receive buffers (Linux 5.19)"), "{error}");
}
