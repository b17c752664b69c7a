//! Why there is no ring: what the kernel refused, who is behind it, and what to do.
//!
//! There is no second, slower way: a core without a ring does not start. So the one line that says
//! why is all that whoever starts it has.

use io_uring::{IoUring, Probe, opcode};
use rustix::process::{Resource, getrlimit};
use std::fs;
use std::io;

/// Submissions of the ring of [`probe`], the fewest: its memory counts as locked, and is given back
/// some time after it is dropped.
const PROBE_SUBMISSIONS: u32 = 1;
/// Who has it may lock all memory. Source: Linux, `linux/capability.h`.
const CAP_IPC_LOCK: u32 = 14;

/// Why io_uring cannot be used, without which an engine does not open.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// There is no such system call (ENOSYS).
    #[error("io_uring is not there ({step}: ENOSYS): {why}")]
    Missing {
        /// What was tried.
        step: &'static str,
        /// Who is behind it, as far as can be seen, and what to do.
        why: String,
    },
    /// The system call is forbidden (EPERM, EACCES).
    #[error("io_uring is forbidden here ({step}: {errno}): {why}")]
    Forbidden {
        /// What was tried.
        step: &'static str,
        /// What the kernel said, by its name in C.
        errno: &'static str,
        /// Who is behind it, as far as can be seen, and what to do.
        why: String,
    },
    /// The memory of a ring could not be had (ENOMEM).
    #[error("io_uring got no memory ({step}: ENOMEM): {why}")]
    Memory {
        /// What was tried.
        step: &'static str,
        /// Which limit it may be, and what to do.
        why: String,
    },
    /// No descriptor was left (EMFILE, ENFILE).
    #[error("too many open files ({step}): raise RLIMIT_NOFILE (`ulimit -n`)")]
    Descriptors {
        /// What was tried.
        step: &'static str,
    },
    /// Something that Kariz needs is not there: Linux before 6.0.
    #[error("this kernel's io_uring is too old ({step}): {release} runs, and Linux 6.0 is needed")]
    TooOld {
        /// What was tried.
        step: &'static str,
        /// What `uname` says.
        release: String,
    },
    /// Something else.
    #[error("io_uring cannot be used ({step}): {source}")]
    Other {
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What of the machine decides about io_uring.
struct Host {
    /// `Linux`, and its version.
    release: String,
    /// The sysctl `kernel.io_uring_disabled`, which is there since Linux 6.6.
    disabled: Option<u8>,
    /// Whether a seccomp filter is on this thread.
    is_filtered: bool,
    /// Bytes that may be locked, and so may belong to rings; none is no limit, or one that does not
    /// bind this process.
    locked_bytes_max: Option<u64>,
}

impl Host {
    fn look() -> Self {
        let disabled = fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
        let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        let of = |key| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        let capabilities = of("CapEff:").and_then(|mask| u64::from_str_radix(mask, 16).ok());
        let may_lock_all = capabilities.is_some_and(|mask| mask & 1 << CAP_IPC_LOCK != 0);
        let system = rustix::system::uname();
        let [name, release] = [system.sysname(), system.release()].map(|s| s.to_string_lossy());
        Self {
            release: format!("{name} {release}"),
            disabled: disabled.ok().and_then(|text| text.trim().parse().ok()),
            // Source: proc_pid_status(5): 2 is a filter.
            is_filtered: of("Seccomp:") == Some("2"),
            locked_bytes_max: getrlimit(Resource::Memlock).current.filter(|_| !may_lock_all),
        }
    }

    /// Whether this is Linux `version` or later, or of a version that says nothing.
    fn is_since(&self, version: (u32, u32)) -> bool {
        let release = self.release.rsplit(' ').next().unwrap_or_default();
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= version,
            _ => true,
        }
    }

    fn why_missing(&self) -> String {
        let release = &self.release;
        // Source: io_uring_setup(2).
        match (self.is_since((5, 1)), self.is_filtered) {
            (false, _) => format!("{release} runs, and Linux 6.0 is needed"),
            (true, true) => format!(
                "{release} runs, so it is the seccomp filter that this process is under: {ALLOW}"
            ),
            (true, false) => format!(
                "{release} runs, so the kernel was built without CONFIG_IO_URING, or a sandbox such \
                 as gVisor is in its place: run it elsewhere"
            ),
        }
    }

    fn why_forbidden(&self) -> String {
        match (self.disabled, self.is_filtered) {
            (Some(2), _) => "the sysctl kernel.io_uring_disabled is 2: set it to 0".to_owned(),
            // One that is privileged is not kept out by it, so it may be the filter.
            (Some(1), true) => format!(
                "the sysctl kernel.io_uring_disabled is 1: set it to 0, or join the group that \
                 kernel.io_uring_group names; and this process is under a seccomp filter: {ALLOW}"
            ),
            (Some(1), false) => {
                "the sysctl kernel.io_uring_disabled is 1: set it to 0, or join the \
                                 group that kernel.io_uring_group names"
                    .to_owned()
            }
            (_, true) => format!("by the seccomp filter that this process is under: {ALLOW}"),
            (_, false) => {
                "by no sysctl and no seccomp filter that can be seen from here: look for \
                           a security module (SELinux, AppArmor, a BPF program)"
                    .to_owned()
            }
        }
    }

    fn why_no_memory(&self) -> String {
        match self.locked_bytes_max {
            Some(bytes) => format!(
                "{bytes} bytes may be locked by this user, and each core needs some 100 KiB: raise \
                 RLIMIT_MEMLOCK (`ulimit -l`; systemd: LimitMEMLOCK=; docker: --ulimit memlock=), \
                 or the memory limit of the cgroup"
            ),
            None => "raise the memory limit of the cgroup".to_owned(),
        }
    }
}

/// What to do about a seccomp filter.
const ALLOW: &str = "let it allow io_uring_setup, io_uring_enter and io_uring_register (Docker's \
                     default one does not: --security-opt seccomp=PROFILE)";

impl SetupError {
    fn of(step: &'static str, source: io::Error, host: &Host) -> Self {
        match source.raw_os_error() {
            Some(libc::ENOSYS) => Self::Missing { step, why: host.why_missing() },
            Some(libc::EPERM) => {
                Self::Forbidden { step, errno: "EPERM", why: host.why_forbidden() }
            }
            Some(libc::EACCES) => {
                Self::Forbidden { step, errno: "EACCES", why: host.why_forbidden() }
            }
            Some(libc::ENOMEM) => Self::Memory { step, why: host.why_no_memory() },
            Some(libc::EMFILE | libc::ENFILE) => Self::Descriptors { step },
            Some(libc::EINVAL) if !host.is_since((6, 0)) => {
                Self::TooOld { step, release: host.release.clone() }
            }
            _ => Self::Other { step, source },
        }
    }

    /// The setup error that `error` carries, or `error`.
    pub(crate) fn from_io(error: io::Error) -> Result<Self, io::Error> {
        error.downcast()
    }
}

impl From<SetupError> for io::Error {
    fn from(error: SetupError) -> Self {
        let kind = match &error {
            SetupError::Missing { .. } | SetupError::TooOld { .. } => io::ErrorKind::Unsupported,
            SetupError::Forbidden { .. } => io::ErrorKind::PermissionDenied,
            SetupError::Memory { .. } => io::ErrorKind::OutOfMemory,
            SetupError::Descriptors { .. } => io::ErrorKind::Other,
            SetupError::Other { source, .. } => source.kind(),
        };
        Self::new(kind, error)
    }
}

/// What the kernel refused at `step`, as a [`SetupError`] in an [`io::Error`].
pub(super) fn refused(step: &'static str, source: io::Error) -> io::Error {
    SetupError::of(step, source, &Host::look()).into()
}

/// What this kernel lacks that no call of the setup would tell, if so: without it every receive
/// fails, and only then.
pub(super) fn lacks(probe: &Probe) -> Option<&'static str> {
    // A receive of several has no code of its own to ask for: it came with sends without a copy, in
    // Linux 6.0. Source: io_uring_enter(2), IORING_RECV_MULTISHOT and IORING_OP_SEND_ZC.
    let needed = [
        (opcode::Fsync::CODE, "IORING_OP_FSYNC"),
        (opcode::Read::CODE, "IORING_OP_READ"),
        (opcode::PollAdd::CODE, "IORING_OP_POLL_ADD"),
        (opcode::AsyncCancel::CODE, "IORING_OP_ASYNC_CANCEL"),
        (opcode::RecvMulti::CODE, "IORING_OP_RECV"),
        (opcode::SendZc::CODE, "IORING_RECV_MULTISHOT"),
    ];
    needed.into_iter().find(|(code, _)| !probe.is_supported(*code)).map(|(_, name)| name)
}

/// Tries what a core does with its ring, on a small one: whether to open anything at all.
///
/// # Errors
/// [`SetupError`].
pub(crate) fn probe() -> Result<(), SetupError> {
    let fail = |step| move |source| SetupError::of(step, source, &Host::look());
    let ring = IoUring::new(PROBE_SUBMISSIONS).map_err(fail("io_uring_setup"))?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(fail("io_uring_register"))?;
    if let Some(step) = lacks(&probe) {
        return Err(SetupError::TooOld { step, release: Host::look().release });
    }
    // Nothing is submitted: a filter may let one of the three calls through and not another.
    ring.submit().map_err(fail("io_uring_enter")).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(release: &str, disabled: Option<u8>, is_filtered: bool) -> Host {
        Host { release: format!("Linux {release}"), disabled, is_filtered, locked_bytes_max: None }
    }

    fn text(errno: i32, host: &Host) -> String {
        let source = io::Error::from_raw_os_error(errno);
        SetupError::of("io_uring_setup", source, host).to_string()
    }

    #[test]
    fn each_refusal_names_who_is_behind_it() {
        let (old, new) = (host("5.0.21-rt", None, false), host("6.18.4", Some(0), false));
        let filtered = host("6.18.4", Some(0), true);
        let [some, none] = [Some(1), Some(2)].map(|n| host("6.6.0", n, false));
        let (unnumbered, mixed) = (host("unknown", None, false), host("6.6.0", Some(1), true));
        for (errno, host, expected) in [
            (libc::ENOSYS, &old, "(io_uring_setup: ENOSYS): Linux 5.0.21-rt runs, and Linux 6.0"),
            (libc::ENOSYS, &new, "Linux 6.18.4 runs, so the kernel was built without"),
            (libc::ENOSYS, &unnumbered, "so the kernel was built without"),
            (libc::ENOSYS, &filtered, "so it is the seccomp filter that this process is under"),
            (libc::EPERM, &none, "the sysctl kernel.io_uring_disabled is 2: set it to 0"),
            (libc::EPERM, &some, "is 1: set it to 0, or join the group"),
            (libc::EPERM, &mixed, "and this process is under a seccomp filter"),
            (libc::EPERM, &filtered, "(io_uring_setup: EPERM): by the seccomp filter"),
            (libc::EACCES, &new, "(io_uring_setup: EACCES): by no sysctl and no seccomp filter"),
            (libc::ENOMEM, &new, "ENOMEM): raise the memory limit of the cgroup"),
            (libc::EMFILE, &new, "RLIMIT_NOFILE"),
            (libc::EINVAL, &old, "too old (io_uring_setup): Linux 5.0.21-rt runs, and Linux 6.0"),
            (libc::EINVAL, &new, "cannot be used (io_uring_setup): Invalid argument"),
            (libc::EIO, &new, "Input/output error"),
        ] {
            let text = text(errno, host);
            assert!(text.contains(expected), "`{expected}` not in `{text}`");
            assert!(!text.contains("  ") && !text.contains('\n'), "{text}");
        }
        let limited = Host { locked_bytes_max: Some(65536), ..new };
        assert!(text(libc::ENOMEM, &limited).contains("65536 bytes may be locked by this user"));
    }

    #[test]
    fn a_kernel_of_which_nothing_is_known_is_too_old() {
        assert_eq!(lacks(&Probe::new()), Some("IORING_OP_FSYNC"));
        probe().unwrap();
    }

    #[test]
    fn an_error_survives_its_way_through_an_io_error() {
        let error = refused("io_uring_setup", io::Error::from_raw_os_error(libc::EPERM));
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(matches!(SetupError::from_io(error), Ok(SetupError::Forbidden { .. })));
        let other = SetupError::from_io(io::Error::other("a disk"));
        assert_eq!(other.unwrap_err().to_string(), "a disk");
    }
}
