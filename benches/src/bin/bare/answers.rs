//! What is sent back: canned bytes, or a piece of a file.

use crate::connection::CutOff;
use rustix::io::Errno;
use rustix::net::SendFlags;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;

/// An answer to a Produce of one batch, version 9: topic `bare`, partition 0, no error, offset 0.
/// Its correlation id is to be filled in.
const CANNED: [u8; 55] = *b"\0\0\0\x33\0\0\0\0\0\
    \x02\x05bare\
    \x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0\0\0\0\0\x01\0\0\0\
    \0\0\0\0\0";

/// Where it has its correlation id.
const CORRELATION_ID: std::ops::Range<usize> = 4..8;

/// The most bytes of canned answers, and the most files, that wait for a peer that does not read.
const WAITING_BYTES_MAX: usize = 16 << 20;
const WAITING_FILES_MAX: usize = 64 << 10;

/// The answers of one connection.
pub(crate) enum Answers {
    Canned(Canned),
    File(FromFile),
}

impl Answers {
    /// Adds the answer to the request `id`.
    pub(crate) fn push(&mut self, id: [u8; 4]) {
        match self {
            Self::Canned(canned) => canned.push(id),
            Self::File(file) => file.waiting.push_back(id),
        }
    }

    /// Whether more waits than a peer that reads would let wait.
    pub(crate) fn are_too_many(&self) -> bool {
        match self {
            Self::Canned(canned) => canned.bytes.len() > WAITING_BYTES_MAX,
            Self::File(file) => file.waiting.len() > WAITING_FILES_MAX,
        }
    }
}

/// Canned answers in a row: those before `ready` may leave, those before `committing` wait for
/// the commit that runs, the others for the next one.
#[derive(Default)]
pub(crate) struct Canned {
    bytes: Vec<u8>,
    ready: usize,
    committing: usize,
    /// An empty buffer, used in turns with `bytes`.
    spare: Vec<u8>,
}

impl Canned {
    fn push(&mut self, id: [u8; 4]) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&CANNED);
        self.bytes[at..][CORRELATION_ID].copy_from_slice(&id);
    }

    /// All so far wait for the commit that starts now.
    pub(crate) fn commit(&mut self) {
        self.committing = self.bytes.len();
    }

    /// That commit is done: they may leave.
    pub(crate) fn release(&mut self) {
        self.ready = self.committing;
    }

    /// Takes what may leave.
    pub(crate) fn take(&mut self) -> Option<Vec<u8>> {
        if self.ready == 0 {
            return None;
        }
        let mut taken = std::mem::replace(&mut self.bytes, std::mem::take(&mut self.spare));
        self.bytes.extend_from_slice(&taken[self.ready..]);
        taken.truncate(self.ready);
        self.committing -= self.ready;
        self.ready = 0;
        Some(taken)
    }

    /// Gives a buffer back that was taken and has left.
    pub(crate) fn give_back(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.spare = buffer;
    }
}

/// How far sending from a file came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// All answers have left.
    All,
    /// The socket takes no more.
    Blocked,
}

/// Answers of a head, `[length][correlation id]`, and the next so many bytes of a file.
pub(crate) struct FromFile {
    source: Source,
    waiting: VecDeque<[u8; 4]>,
    /// What is left of the head that is being sent.
    head: Vec<u8>,
    /// What is left of its piece of the file, and where.
    left: usize,
    position: u64,
}

/// The file, and how much of it an answer has.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) file: Rc<OwnedFd>,
    pub(crate) file_bytes: u64,
    pub(crate) answer_bytes: u32,
}

impl FromFile {
    /// Of connection `slot`: each begins at a place of its own, far from the others', or all but one
    /// would find in the CPU's cache what that one has just sent.
    pub(crate) fn new(source: Source, slot: usize) -> Self {
        // Multiples of the golden ratio lie spread, however many they are.
        let share = (slot as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let pieces = source.file_bytes / u64::from(source.answer_bytes.max(1));
        let position = ((pieces * share) >> 32) * u64::from(source.answer_bytes);
        Self { source, waiting: VecDeque::new(), head: Vec::new(), left: 0, position }
    }

    /// Sends as much as the socket takes.
    pub(crate) fn send(&mut self, socket: &OwnedFd) -> Result<Sent, CutOff> {
        loop {
            let sent = if !self.head.is_empty() {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL | SendFlags::MORE;
                rustix::net::send(socket, &self.head, flags).map(|sent| {
                    self.head.drain(..sent);
                })
            } else if self.left > 0 {
                let file = &self.source.file;
                rustix::fs::sendfile(socket, file, Some(&mut self.position), self.left)
                    .and_then(|sent| if sent == 0 { Err(Errno::IO) } else { Ok(sent) })
                    .map(|sent| self.left -= sent)
            } else if let Some(id) = self.waiting.pop_front() {
                let len = self.source.answer_bytes;
                self.head.extend_from_slice(&(len + 4).to_be_bytes());
                self.head.extend_from_slice(&id);
                self.left = len as usize;
                if self.position + u64::from(len) > self.source.file_bytes {
                    self.position = 0;
                }
                Ok(())
            } else {
                return Ok(Sent::All);
            };
            match sent {
                Ok(()) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Sent::Blocked),
                Err(_) => return Err(CutOff),
            }
        }
    }
}
