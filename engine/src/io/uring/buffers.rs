//! The memory that receives: buffers lent to the kernel, and from there to the engine.
//!
//! ```text
//!              refill                  a receive completes             last clone dropped
//!   idle (LIFO) ─────▶ with the kernel ───────────────────▶ lent (Chunk) ────────────────▶ idle
//!                                   └─ copied: small, or the pool runs low ──────────────▶ idle
//! ```
//!
//! The kernel takes buffers in the order it got them, so it is given few: they come round while
//! they are still in the CPU's cache. It gets more when they run out.
//!
//! **Invariant:** [`Pool::reserve`] buffers are never lent. So half-received requests, however
//! many connections hold them, cannot starve the receives that would complete them.

use bytes::Bytes;
use io_uring::types::BufRingEntry;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::cell::{Cell, RefCell};
use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of a buffer: what one receive brings at most. 64 KiB: fewer, larger chunks do not
/// receive faster on loopback, smaller ones cost a completion each.
pub(super) const BUFFER_BYTES: usize = 64 * 1024;

/// The id under which the kernel knows the pool; a ring has only this one.
pub(super) const GROUP: u16 = 0;

/// Up to this many bytes a chunk is copied out: that costs no more than to lend a buffer and take
/// it back, and a trickle of bytes holds no buffer of 64 KiB.
const COPY_BYTES: usize = 4096;

/// Buffers that the kernel has at least, if there are as many.
const PROVIDED_MIN: u16 = 8;

/// Bytes that the buffers with the kernel are expected to receive, at most: what one turn brings
/// is then still in the CPU's cache when it is checked and written. Measured with 64 connections
/// that send batches of 16 KiB: 8 % less CPU a request than without a bound. A receive that finds
/// no buffer, and is started again, costs less.
const PROVIDED_BYTES_MAX: usize = 1024 * 1024;

/// Of the average of bytes received, how much of it is the last receive: one part in so many.
const AVERAGE_OVER: usize = 16;

/// Receives after which the number of buffers that the kernel has is looked at.
const LOOK_EVERY: u16 = 1024;

/// The buffers of one ring. Touched first when a receive first fills them.
pub(super) struct Pool {
    shared: Arc<Shared>,
    /// The ring of entries, shared with the kernel: we write entries and the tail, it reads them.
    entries: Mapping,
    /// Buffers in the pool, a power of two.
    count: u16,
    /// What the kernel sees as tail; counts up and wraps.
    tail: Cell<u16>,
    /// Buffers that nobody has, the one used last on top.
    idle: RefCell<Vec<u16>>,
    /// How many buffers the kernel has, as far as its completions say.
    provided: Cell<u16>,
    /// How many it is to have.
    target: Cell<u16>,
    /// Bytes that a receive brought on average, lately.
    average: Cell<usize>,
    /// The fewest it had since `taken` was 0.
    lowest: Cell<u16>,
    /// Receives since the target was last looked at.
    taken: Cell<u16>,
}

/// What lent chunks keep alive.
struct Shared {
    memory: Mapping,
    /// Buffers whose chunk was dropped, on whatever thread, since the last [`Pool::refill`].
    returned: Mutex<Vec<u16>>,
}

impl Pool {
    /// Maps `count` buffers. Register [`Pool::address`] with a ring.
    ///
    /// # Errors
    /// As `mmap(2)`.
    pub(super) fn new(count: u16) -> io::Result<Self> {
        debug_assert!(count.is_power_of_two() && count <= 1 << 15, "the kernel's rule");
        let target = PROVIDED_MIN.min(count);
        let pool = Self {
            shared: Arc::new(Shared {
                memory: Mapping::new(usize::from(count) * BUFFER_BYTES)?,
                returned: Mutex::new(Vec::with_capacity(usize::from(count))),
            }),
            entries: Mapping::new(usize::from(count) * size_of::<BufRingEntry>())?,
            count,
            tail: Cell::new(0),
            idle: RefCell::new((0..count).rev().collect()),
            provided: Cell::new(0),
            target: Cell::new(target),
            average: Cell::new(0),
            lowest: Cell::new(target),
            taken: Cell::new(0),
        };
        pool.refill();
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

    /// The `len` bytes that a receive left in buffer `id`.
    pub(super) fn take(&self, id: u16, len: usize) -> Bytes {
        debug_assert!(id < self.count && len <= BUFFER_BYTES, "the kernel's promise");
        self.taken_back();
        let len = len.min(BUFFER_BYTES);
        let average = self.average.get();
        self.average.set(average - average / AVERAGE_OVER + len / AVERAGE_OVER);
        let mut idle = self.idle.borrow_mut();
        let left = idle.len() + usize::from(self.provided.get());
        if len > COPY_BYTES && left >= usize::from(self.reserve()) {
            return Bytes::from_owner(Chunk { shared: Arc::clone(&self.shared), id, len });
        }
        // SAFETY: the receive has completed, and the buffer is provided again by `refill` only.
        let copy = Bytes::copy_from_slice(unsafe { self.shared.received(id, len) });
        idle.push(id);
        copy
    }

    /// Has back a buffer that a receive took and left empty.
    pub(super) fn untake(&self, id: u16) {
        self.taken_back();
        self.idle.borrow_mut().push(id);
    }

    /// Notes that a receive found no buffer: the kernel is to have more.
    pub(super) fn ran_out(&self) {
        self.lowest.set(0);
        self.target.set(self.target.get().saturating_mul(2).min(self.count));
    }

    /// Gives the kernel what it is to have, of the buffers whose chunks were dropped first.
    /// Whether it has any.
    pub(super) fn refill(&self) -> bool {
        let mut idle = self.idle.borrow_mut();
        idle.append(&mut self.shared.returned());
        let before = self.tail.get();
        let fit = PROVIDED_BYTES_MAX / self.average.get().max(1);
        let target = self.target.get().min(u16::try_from(fit).unwrap_or(u16::MAX));
        while self.provided.get() < target
            && let Some(id) = idle.pop()
        {
            self.provide(id);
        }
        if self.tail.get() != before {
            self.publish();
        }
        self.provided.get() > 0
    }

    /// Counts a buffer that the kernel no longer has. Halves the target when three quarters of
    /// it were not used for a while.
    fn taken_back(&self) {
        self.provided.set(self.provided.get().saturating_sub(1));
        self.lowest.set(self.lowest.get().min(self.provided.get()));
        self.taken.set(self.taken.get() + 1);
        if self.taken.get() == LOOK_EVERY {
            let target = self.target.get();
            if self.lowest.get() > target - target / 4 {
                self.target.set((target / 2).max(PROVIDED_MIN.min(self.count)));
            }
            self.lowest.set(self.target.get());
            self.taken.set(0);
        }
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
    use std::collections::BTreeSet;

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

    /// Buffers that are not lent.
    fn left(pool: &Pool) -> usize {
        pool.idle.borrow().len() + usize::from(pool.provided.get())
    }

    #[test]
    fn lent_buffers_come_back_and_a_reserve_is_never_lent() {
        for count in [1, 2, 8, 64] {
            let pool = Pool::new(count).unwrap();
            let mut next = 0;
            let held: Vec<_> = (0..100)
                .map(|i| {
                    assert!(pool.refill());
                    (i, receive(&pool, &mut next, BUFFER_BYTES, i))
                })
                .collect();
            assert_eq!(left(&pool), usize::from(pool.reserve()));
            for (i, chunk) in &held {
                assert!(chunk.len() == BUFFER_BYTES && chunk.iter().all(|b| b == i));
            }
            std::thread::spawn(move || drop(held)).join().unwrap();
            pool.refill();
            assert_eq!(left(&pool), usize::from(count));
        }
    }

    #[test]
    fn a_small_chunk_holds_no_buffer() {
        let pool = Pool::new(2).unwrap();
        let mut next = 0;
        let held: Vec<_> = (0..50)
            .map(|i| {
                assert!(pool.refill());
                receive(&pool, &mut next, COPY_BYTES, i)
            })
            .collect();
        assert_eq!(left(&pool), 2);
        assert!(held.iter().zip(0..).all(|(chunk, i)| chunk[..] == [i; COPY_BYTES]));
    }

    #[test]
    fn the_kernel_has_as_many_buffers_as_it_uses() {
        let pool = Pool::new(128).unwrap();
        assert_eq!(pool.provided.get(), PROVIDED_MIN);
        let mut next = 0;
        let mut burst = |receives: u16, len: usize| {
            let places = (0..receives).map(|_| {
                if pool.provided.get() == 0 {
                    pool.ran_out();
                    assert!(pool.refill());
                }
                receive(&pool, &mut next, len, 1).as_ptr()
            });
            let places: BTreeSet<_> = places.collect();
            pool.refill();
            places
        };
        for _ in 0..100 {
            burst(60, 8192);
        }
        assert_eq!(pool.provided.get(), 64, "a burst finds enough, and no more than it needs");
        for _ in 0..100 {
            burst(60, BUFFER_BYTES);
        }
        assert_eq!(pool.provided.get(), 16, "and no more than a cache holds");
        for _ in 0..10 * LOOK_EVERY {
            burst(1, 8192);
        }
        assert_eq!(pool.provided.get(), PROVIDED_MIN);
        let places: BTreeSet<_> = (0..100).flat_map(|_| burst(1, 8192)).collect();
        assert_eq!(places.len(), usize::from(PROVIDED_MIN), "the same few come round");
    }

    #[test]
    fn chunks_outlive_their_pool() {
        let pool = Pool::new(2).unwrap();
        let chunk = receive(&pool, &mut 0, BUFFER_BYTES, 7);
        drop(pool);
        assert!(chunk.iter().all(|&b| b == 7));
    }
}
