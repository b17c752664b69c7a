//! The memory that receives: a ring of buffers lent to the kernel, and from there to the engine.
//!
//! ```text
//!            provide                 a receive completes              last clone dropped
//!   free ──────────────▶ with kernel ───────────────────▶ lent (Chunk) ─────────────────▶ free
//!                             ▲                    │ copied: small, or the pool runs low
//!                             └────────────────────┘
//! ```
//!
//! **Invariant:** at least [`Pool::reserve`] buffers are never lent. So half-received requests,
//! however many connections hold them, cannot starve the receives that would complete them.

use bytes::Bytes;
use io_uring::types::BufRingEntry;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::cell::Cell;
use std::io;
use std::mem;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of a buffer: what one receive brings at most. 64 KiB: fewer, larger chunks do not
/// receive faster on loopback, smaller ones cost a completion each.
pub(super) const BUFFER_BYTES: usize = 64 * 1024;

/// The id under which the kernel knows the pool; a ring has only this one.
pub(super) const GROUP: u16 = 0;

/// Up to this many bytes a chunk is copied out, which is cheaper than to lend and take back a
/// buffer, and keeps a trickle of bytes from holding a buffer of 64 KiB.
const COPY_BYTES: usize = 512;

/// The buffers of one ring. Touched first when a receive first fills them.
pub(super) struct Pool {
    shared: Arc<Shared>,
    /// The ring of entries, shared with the kernel: we write entries and the tail, it reads them.
    entries: Mapping,
    /// Buffers in the pool, a power of two.
    count: u16,
    /// What the kernel sees as tail; counts up and wraps.
    tail: Cell<u16>,
    /// How many buffers the kernel has.
    provided: Cell<u16>,
    /// Swapped with `Shared::returned`, so that neither is ever allocated anew.
    spare: Cell<Vec<u16>>,
}

/// What lent chunks keep alive.
struct Shared {
    memory: Mapping,
    /// Buffers whose chunk was dropped, on whatever thread, since the last [`Pool::reclaim`].
    returned: Mutex<Vec<u16>>,
}

impl Pool {
    /// Maps `count` buffers, all of them for the kernel. Register [`Pool::address`] with a ring.
    ///
    /// # Errors
    /// As `mmap(2)`.
    pub(super) fn new(count: u16) -> io::Result<Self> {
        debug_assert!(count.is_power_of_two() && count <= 1 << 15, "the kernel's rule");
        let pool = Self {
            shared: Arc::new(Shared {
                memory: Mapping::new(usize::from(count) * BUFFER_BYTES)?,
                returned: Mutex::new(Vec::with_capacity(usize::from(count))),
            }),
            entries: Mapping::new(usize::from(count) * size_of::<BufRingEntry>())?,
            count,
            tail: Cell::new(0),
            provided: Cell::new(0),
            spare: Cell::new(Vec::with_capacity(usize::from(count))),
        };
        for id in 0..count {
            pool.provide(id);
        }
        pool.publish();
        Ok(pool)
    }

    /// Where the ring of entries lies.
    pub(super) fn address(&self) -> u64 {
        self.entries.start().expose_provenance() as u64
    }

    /// How many buffers the pool has.
    pub(super) fn count(&self) -> u16 {
        self.count
    }

    /// Whether the kernel has a buffer to receive into.
    pub(super) fn can_receive(&self) -> bool {
        self.provided.get() > 0
    }

    /// The `len` bytes that a receive left in buffer `id`.
    pub(super) fn take(&self, id: u16, len: usize) -> Bytes {
        debug_assert!(id < self.count && len <= BUFFER_BYTES, "the kernel's promise");
        self.provided.set(self.provided.get().saturating_sub(1));
        let len = len.min(BUFFER_BYTES);
        if len > COPY_BYTES && self.provided.get() >= self.reserve() {
            return Bytes::from_owner(Chunk { shared: Arc::clone(&self.shared), id, len });
        }
        // SAFETY: the receive has completed and the buffer is provided again only below.
        let copy = Bytes::copy_from_slice(unsafe { self.shared.received(id, len) });
        self.provide(id);
        self.publish();
        copy
    }

    /// Gives the kernel back a buffer that a receive took and left empty.
    pub(super) fn untake(&self, id: u16) {
        self.provided.set(self.provided.get().saturating_sub(1));
        self.provide(id);
        self.publish();
    }

    /// Gives the kernel the buffers whose chunks were dropped.
    pub(super) fn reclaim(&self) {
        let mut ids = self.spare.take();
        mem::swap(&mut *self.shared.returned(), &mut ids);
        if !ids.is_empty() {
            for id in ids.drain(..) {
                self.provide(id);
            }
            self.publish();
        }
        self.spare.set(ids);
    }

    /// How many buffers are never lent.
    fn reserve(&self) -> u16 {
        (self.count / 4).max(1)
    }

    /// Writes the next entry; the kernel sees it after [`Pool::publish`].
    fn provide(&self, id: u16) {
        let tail = self.tail.get();
        let at = usize::from(tail & (self.count - 1));
        let entry = self.entries.start().cast::<BufRingEntry>().wrapping_add(at);
        // SAFETY: `at < count` entries are mapped, aligned to a page, for as long as `self`; the
        // kernel reads an entry only between head and tail, and this one lies outside, because
        // no more ids exist than entries. Zeroed memory is a valid entry. The `resv` field of
        // entry 0, where the tail lies, is not touched by the setters.
        let entry = unsafe { &mut *entry };
        entry.set_addr(self.shared.buffer(id).expose_provenance() as u64);
        entry.set_len(u32::try_from(BUFFER_BYTES).unwrap_or(0));
        entry.set_bid(id);
        self.tail.set(tail.wrapping_add(1));
        self.provided.set(self.provided.get() + 1);
    }

    /// Shows the kernel all entries written.
    fn publish(&self) {
        // SAFETY: the mapping begins with an entry (zeroed or written) and is page-aligned.
        let tail = unsafe { BufRingEntry::tail(self.entries.start().cast()) };
        // SAFETY: it lies in the mapping, is aligned, lives as long as `self`, and of this side
        // only this atomic ever touches it.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        // Release: the kernel, which reads the tail with acquire, must find the entries written.
        tail.store(self.tail.get(), Ordering::Release);
    }
}

impl Shared {
    fn buffer(&self, id: u16) -> *mut u8 {
        self.memory.start().wrapping_add(usize::from(id) * BUFFER_BYTES)
    }

    /// The first `len` bytes of buffer `id`.
    ///
    /// # Safety
    /// `id` is one of the pool's, `len` at most [`BUFFER_BYTES`], and while the slice lives the
    /// kernel does not have the buffer.
    unsafe fn received(&self, id: u16, len: usize) -> &[u8] {
        // SAFETY: these bytes are mapped while `self` lives, initialised (anonymous memory always
        // is), and by the caller's word nobody writes them.
        unsafe { std::slice::from_raw_parts(self.buffer(id), len) }
    }

    fn returned(&self) -> std::sync::MutexGuard<'_, Vec<u16>> {
        // Nothing can panic under this lock: a `Vec` of `count` ids is never grown.
        self.returned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Received bytes in a buffer of the pool; dropped, on any thread, the buffer goes back to it.
struct Chunk {
    shared: Arc<Shared>,
    id: u16,
    len: usize,
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: made from a completed receive; the id is provided again after `drop` only.
        unsafe { self.shared.received(self.id, self.len) }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.shared.returned().push(self.id);
    }
}

/// Zeroed anonymous memory.
pub(super) struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread, and is unmapped once, by `Drop`. All
// access goes through raw pointers, whose users prove that nobody writes what another reads.
unsafe impl Send for Mapping {}
// SAFETY: as above; `&Mapping` gives no more than the address and the length.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `bytes` bytes.
    ///
    /// # Errors
    /// As `mmap(2)`.
    pub(super) fn new(bytes: usize) -> io::Result<Self> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses an unused range, so no memory of anybody is replaced.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), bytes, prot, MapFlags::PRIVATE) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, bytes })
    }

    /// Its first byte.
    pub(super) fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and nobody holds a pointer into it any more:
        // chunks keep `Shared` alive, and a ring drops its pool when no operation is in flight.
        let unmapped = unsafe { munmap(self.start().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "munmap of our own mapping: {unmapped:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a receive would do: the oldest buffer that the kernel has, filled with `byte`.
    fn receive(pool: &Pool, next: &mut u16, len: usize, byte: u8) -> Bytes {
        let at = usize::from(*next & (pool.count - 1));
        *next = next.wrapping_add(1);
        let entry = pool.entries.start().cast::<BufRingEntry>().wrapping_add(at);
        // SAFETY: within the mapping; written by `provide`.
        let entry = unsafe { &*entry };
        let id = entry.bid();
        // SAFETY: the buffer is provided and not lent, and `len` fits into it.
        unsafe { ptr::write_bytes(pool.shared.buffer(id), byte, len) };
        pool.take(id, len)
    }

    #[test]
    fn lent_buffers_come_back_and_a_reserve_is_never_lent() {
        let pool = Pool::new(8).unwrap();
        let mut next = 0;
        let held: Vec<_> =
            (0..20).map(|i| (i, receive(&pool, &mut next, BUFFER_BYTES, i))).collect();
        assert!(pool.can_receive());
        assert_eq!(pool.provided.get(), pool.reserve());
        for (i, chunk) in &held {
            assert!(chunk.len() == BUFFER_BYTES && chunk.iter().all(|b| b == i));
        }
        std::thread::spawn(move || drop(held)).join().unwrap();
        pool.reclaim();
        assert_eq!(pool.provided.get(), 8);
    }

    #[test]
    fn a_small_chunk_holds_no_buffer() {
        let pool = Pool::new(2).unwrap();
        let mut next = 0;
        let held: Vec<_> = (0..50).map(|i| receive(&pool, &mut next, COPY_BYTES, i)).collect();
        assert_eq!(pool.provided.get(), 2);
        assert!(held.iter().zip(0..).all(|(chunk, i)| chunk[..] == [i; COPY_BYTES]));
    }

    #[test]
    fn chunks_outlive_their_pool() {
        let pool = Pool::new(2).unwrap();
        let chunk = receive(&pool, &mut 0, BUFFER_BYTES, 7);
        drop(pool);
        assert!(chunk.iter().all(|&b| b == 7));
    }
}
