//! The ring: one io_uring of one thread, and the buffers it lends to receives.
//!
//! All `unsafe` of the program is in this file. Two kinds of memory are shared with the kernel:
//!
//! - the lent buffers. The kernel owns a buffer from the moment its entry is published until a
//!   completion names it; from then on this side owns it, as a [`Lent`], until it is given back.
//! - what is sent, and the paths of files to remove. The ring keeps them until their completion.
//!
//! **Invariant:** a buffer has one owner. A [`Lent`] is made only from a completion, cannot be
//! copied, and [`Ring::give_back`] consumes it. A ring is never dropped: closing one does not wait
//! for what the kernel still does with this memory.

use io_uring::types::{BufRingEntry, Fd};
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

/// Entries of the submission queue; when it is full, what it holds is submitted.
const SUBMISSIONS: u32 = 512;

/// Entries of the completion queue: every lent buffer and every connection may have one waiting.
const COMPLETIONS: u32 = 8192;

/// The group of the lent buffers; there is only one.
const GROUP: u16 = 0;

/// The most workers of a kind, for files and for the rest.
const WORKERS: u32 = 8;

/// What a completion is the completion of: the upper 32 bits of its user data.
const ACCEPT: u64 = 0;
const RECEIVE: u64 = 1;
const WRITABLE: u64 = 2;
const SYNC: u64 = 3;
const REMOVE: u64 = 4;
const SEND: u64 = 5;

/// Whose completion it is: the lower 32 bits.
const SLOT_MASK: u64 = 0xffff_ffff;

/// What has happened.
pub(crate) enum Event {
    /// A connection came.
    Accepted(io::Result<OwnedFd>),
    /// Bytes came on the connection `slot`; unless `more`, receiving must be asked for again.
    Received { slot: u32, bytes: Lent, more: bool },
    /// Every buffer was lent: receiving on the connection `slot` must be asked for again.
    Starved { slot: u32 },
    /// Nothing more will come on the connection `slot`.
    Ended { slot: u32 },
    /// What was sent on the connection `slot`: all of it, unless the connection is broken.
    Sent { slot: u32, bytes: Vec<u8>, whole: bool },
    /// The connection `slot` can take bytes again, or is broken.
    Writable { slot: u32 },
    /// A file's bytes are on the disk, or cannot be brought there.
    Synced(io::Result<()>),
    /// A file is gone, or cannot be removed.
    Removed(io::Result<()>),
}

/// A received piece of a stream in a lent buffer.
#[derive(Debug)]
pub(crate) struct Lent {
    id: u16,
    len: u32,
}

impl Lent {
    pub(crate) fn len(&self) -> u32 {
        self.len
    }
}

/// The ring and its lent buffers.
pub(crate) struct Ring {
    uring: IoUring,
    pool: Pool,
    completions: Vec<cqueue::Entry>,
    /// By slot, what the kernel sends.
    sending: Vec<Vec<u8>>,
    removing: Vec<Option<CString>>,
}

impl Ring {
    /// Makes the ring of the calling thread, for the rest of the process, with `count` lent buffers
    /// (a power of two) of `size` bytes. Its workers stay on `core`.
    pub(crate) fn leak(core: usize, count: u16, size: u32) -> io::Result<&'static mut Self> {
        if !count.is_power_of_two() {
            return Err(io::Error::other(format!("{count} buffers are no power of two")));
        }
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)?;
        keep_workers_on(&uring, core)?;
        let pool = Pool::leak(count, size)?;
        // SAFETY: the address is that of `count` entries in `pool`'s mapping, which is never undone.
        unsafe {
            uring.submitter().register_buf_ring_with_flags(
                pool.entries.as_ptr().expose_provenance() as u64,
                count,
                GROUP,
                0,
            )?;
        }
        Ok(Box::leak(Box::new(Self {
            uring,
            pool,
            completions: Vec::new(),
            sending: Vec::new(),
            removing: Vec::new(),
        })))
    }

    /// Asks for every connection that comes to `listener`, as [`Event::Accepted`].
    pub(crate) fn accept(&mut self, listener: BorrowedFd<'_>) -> io::Result<()> {
        // Nonblocking for `sendfile`, which has no flag of its own for it; receives of the ring
        // wait all the same.
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let accept = opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).flags(flags).build();
        self.push(ACCEPT, 0, accept)
    }

    /// Asks for everything that comes on `socket`, as [`Event::Received`].
    pub(crate) fn receive(&mut self, slot: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        let receive = opcode::RecvMulti::new(Fd(socket.as_raw_fd()), GROUP).build();
        self.push(RECEIVE, slot, receive)
    }

    /// Sends all of `bytes`: [`Event::Sent`]. One send a connection at a time.
    pub(crate) fn send(
        &mut self,
        slot: u32,
        socket: BorrowedFd<'_>,
        bytes: Vec<u8>,
    ) -> io::Result<()> {
        let index = slot as usize;
        if self.sending.len() <= index {
            self.sending.resize_with(index + 1, Vec::new);
        }
        assert!(self.sending[index].is_empty(), "connection {slot} sends already");
        let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        // All of them: the kernel goes on by itself after a short send.
        let send = opcode::Send::new(Fd(socket.as_raw_fd()), bytes.as_ptr(), len)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build();
        self.sending[index] = bytes;
        self.push(SEND, slot, send)
    }

    /// Asks to hear, once, that `socket` can take bytes: [`Event::Writable`].
    pub(crate) fn writable(&mut self, slot: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        const POLLOUT: u32 = libc::POLLOUT as u32;
        let poll = opcode::PollAdd::new(Fd(socket.as_raw_fd()), POLLOUT).build();
        self.push(WRITABLE, slot, poll)
    }

    /// Makes what `file` holds durable: [`Event::Synced`].
    pub(crate) fn sync(&mut self, file: BorrowedFd<'_>) -> io::Result<()> {
        let sync = opcode::Fsync::new(Fd(file.as_raw_fd()))
            .flags(io_uring::types::FsyncFlags::DATASYNC)
            .build();
        self.push(SYNC, 0, sync)
    }

    /// Removes a file: [`Event::Removed`]. By a worker, for the page cache of a GiB takes its time.
    pub(crate) fn remove(&mut self, path: &Path) -> io::Result<()> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let free = self.removing.iter().position(Option::is_none).unwrap_or_else(|| {
            self.removing.push(None);
            self.removing.len() - 1
        });
        let slot = u32::try_from(free).map_err(io::Error::other)?;
        let unlink = opcode::UnlinkAt::new(Fd(libc::AT_FDCWD), path.as_ptr()).build();
        self.removing[free] = Some(path);
        self.push(REMOVE, slot, unlink)
    }

    /// Submits what was asked for and waits for an event: looks for one `spins` times, then
    /// sleeps.
    pub(crate) fn turn(&mut self, spins: u32) -> io::Result<()> {
        if spins > 0 {
            self.enter(0)?;
        }
        for _ in 0..spins {
            // Two loads, no system call: completions, or work that will become some.
            if !self.uring.completion().is_empty() || self.uring.submission().taskrun() {
                break;
            }
            std::hint::spin_loop();
        }
        self.enter(1)
    }

    fn enter(&mut self, want: usize) -> io::Result<()> {
        match self.uring.submit_and_wait(want) {
            Ok(_) => Ok(()),
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::EBUSY)) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Hands what has happened to `handle`, which may ask the ring for more.
    pub(crate) fn events(
        &mut self,
        mut handle: impl FnMut(&mut Self, Event) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut completions = std::mem::take(&mut self.completions);
        completions.extend(self.uring.completion());
        for completion in completions.drain(..) {
            let event = self.event(&completion)?;
            handle(self, event)?;
        }
        self.completions = completions;
        Ok(())
    }

    /// The bytes of a lent buffer.
    pub(crate) fn bytes(&self, lent: &Lent) -> &[u8] {
        self.pool.bytes(lent)
    }

    /// Gives buffers back to the kernel.
    pub(crate) fn give_back(&mut self, lent: impl Iterator<Item = Lent>) {
        self.pool.give_back(lent);
    }

    fn event(&mut self, completion: &cqueue::Entry) -> io::Result<Event> {
        let [op, slot] = [completion.user_data() >> 32, completion.user_data() & SLOT_MASK];
        let slot = u32::try_from(slot).map_err(io::Error::other)?;
        let more = cqueue::more(completion.flags());
        let result = completion.result();
        let done = if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) };
        Ok(match op {
            ACCEPT if more => Event::Accepted(done.map(|()| {
                // SAFETY: the kernel made this descriptor for us just now; nobody else owns it.
                unsafe { OwnedFd::from_raw_fd(result) }
            })),
            RECEIVE => match (u32::try_from(result), cqueue::buffer_select(completion.flags())) {
                (Ok(len @ 1..), Some(id)) => {
                    Event::Received { slot, bytes: Lent { id, len }, more }
                }
                _ if result == -libc::ENOBUFS => Event::Starved { slot },
                _ => Event::Ended { slot },
            },
            SEND => {
                let bytes = std::mem::take(&mut self.sending[slot as usize]);
                let whole = usize::try_from(result).is_ok_and(|sent| sent == bytes.len());
                Event::Sent { slot, bytes, whole }
            }
            WRITABLE => Event::Writable { slot },
            SYNC => Event::Synced(done),
            REMOVE => {
                self.removing[slot as usize] = None;
                Event::Removed(done)
            }
            _ => return Err(io::Error::other(format!("operation {op} ended: {done:?}"))),
        })
    }

    fn push(&mut self, op: u64, slot: u32, entry: squeue::Entry) -> io::Result<()> {
        let entry = entry.user_data(op << 32 | u64::from(slot));
        loop {
            // SAFETY: the memory that operations name lives until their completions: the lent
            // buffers for ever, bytes in `sending` and paths in `removing` (moving a `Vec` or a
            // `CString` does not move what it holds). A descriptor that is closed early makes the
            // operation fail, no more.
            if unsafe { self.uring.submission().push(&entry) }.is_ok() {
                return Ok(());
            }
            self.uring.submit()?;
        }
    }
}

/// The lent buffers in one mapping: first the entries through which they are given to the kernel,
/// on pages of their own, then `count` buffers of `size` bytes.
struct Pool {
    entries: NonNull<BufRingEntry>,
    buffers: NonNull<u8>,
    count: u16,
    size: u32,
    /// Entries ever published; the kernel takes them in this order.
    tail: u16,
}

impl Pool {
    fn leak(count: u16, size: u32) -> io::Result<Self> {
        let entries_bytes = (usize::from(count) * size_of::<BufRingEntry>())
            .next_multiple_of(rustix::param::page_size());
        let mapped_bytes = entries_bytes + usize::from(count) * size as usize;
        // SAFETY: a new mapping, at an address of the kernel's choice, replaces nothing.
        let base = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                mapped_bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::POPULATE,
            )?
        };
        let base =
            NonNull::new(base.cast::<u8>()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        // SAFETY: `entries_bytes` is within the mapping.
        let buffers = unsafe { base.add(entries_bytes) };
        let mut pool = Self { entries: base.cast(), buffers, count, size, tail: 0 };
        pool.give_back((0..count).map(|id| Lent { id, len: 0 }));
        Ok(pool)
    }

    fn bytes(&self, lent: &Lent) -> &[u8] {
        assert!(lent.id < self.count && lent.len <= self.size, "{lent:?} is none of the pool's");
        // SAFETY: the buffer `id` begins `id * size` bytes into `count * size` bytes.
        let start = unsafe { self.buffers.add(usize::from(lent.id) * self.size as usize) };
        // SAFETY: `len <= size` bytes of the mapping, zeroed at first; the kernel does not write
        // them until the buffer is given back, which consumes the `Lent` this borrows from.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), lent.len as usize) }
    }

    fn give_back(&mut self, lent: impl Iterator<Item = Lent>) {
        for Lent { id, .. } in lent {
            let at = usize::from(self.tail & (self.count - 1));
            // SAFETY: `at < count`, so within the entries.
            let mut entry = unsafe { self.entries.add(at) };
            // SAFETY: entries past the tail are ours alone, the kernel reads them once it moves.
            let entry = unsafe { entry.as_mut() };
            // Not the whole entry: the first one's last field is the tail.
            entry.set_addr(
                (self.buffers.as_ptr().expose_provenance() + usize::from(id) * self.size as usize)
                    as u64,
            );
            entry.set_len(self.size);
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
        }
        // SAFETY: the first entry of the ring, in zeroed or written memory.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: an aligned field of the mapping, which the kernel only reads.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

/// Keeps the kernel's workers (they do the syncs and removals) on the core of their ring: from
/// Linux 6.12 on they no longer inherit its thread's affinity, and would run on the load's core.
fn keep_workers_on(uring: &IoUring, core: usize) -> io::Result<()> {
    // SAFETY: plain integers; a set of no cores is all zeros.
    let mut cores: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: it checks `core` against the set's size.
    unsafe { libc::CPU_SET(core, &mut cores) };
    uring.submitter().register_iowq_aff(&cores)?;
    uring.submitter().register_iowq_max_workers(&mut [WORKERS, WORKERS])
}
