//! A non-blocking connection and what has arrived on it.

use super::ExecError;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to a broker for a lane.
pub(super) fn connect(address: SocketAddr) -> Result<TcpStream, ExecError> {
    let connected = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).and_then(|stream| {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    });
    connected.map_err(|source| ExecError::Connect { address, source })
}

/// Writes as much as the socket takes.
///
/// # Errors
/// [`ExecError::Lost`].
pub(super) fn write(mut stream: &TcpStream, bytes: &[u8]) -> Result<usize, ExecError> {
    let mut written = 0;
    while written < bytes.len() {
        match stream.write(&bytes[written..]) {
            Ok(n) => written += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => break,
            Err(source) => return Err(ExecError::Lost { source }),
        }
    }
    Ok(written)
}

/// Bytes that have arrived and are not yet used.
#[derive(Debug)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// The greatest frame that is accepted.
    frame_bytes_max: usize,
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filled {
    /// The buffer is full; more may wait.
    More,
    /// Nothing more waits.
    Drained,
}

impl Inbox {
    /// A buffer of `bytes` that grows for frames of up to `frame_bytes_max`.
    pub(super) fn new(bytes: usize, frame_bytes_max: usize) -> Self {
        Self { bytes: vec![0; bytes], start: 0, end: 0, frame_bytes_max }
    }

    /// Reads once.
    ///
    /// # Errors
    /// [`ExecError::Lost`], also when the peer has closed.
    pub(super) fn fill(&mut self, mut stream: &TcpStream) -> Result<Filled, ExecError> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        let room = &mut self.bytes[self.end..];
        let wanted = room.len();
        match stream.read(room) {
            Ok(0) if wanted > 0 => Err(ExecError::Lost { source: ErrorKind::UnexpectedEof.into() }),
            Ok(n) => {
                self.end += n;
                Ok(if n == wanted { Filled::More } else { Filled::Drained })
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(Filled::Drained),
            Err(e) if e.kind() == ErrorKind::Interrupted => Ok(Filled::More),
            Err(source) => Err(ExecError::Lost { source }),
        }
    }

    /// The next whole frame, without its length.
    ///
    /// # Errors
    /// [`ExecError::Frame`].
    pub(super) fn frame(&mut self) -> Result<Option<&[u8]>, ExecError> {
        let ready = &self.bytes[self.start..self.end];
        let Some((length, rest)) = ready.split_first_chunk::<4>() else {
            self.make_room(4);
            return Ok(None);
        };
        let length = i32::from_be_bytes(*length);
        let len = usize::try_from(length).ok().filter(|len| *len <= self.frame_bytes_max);
        let len = len.ok_or(ExecError::Frame(length))?;
        if rest.len() < len {
            self.make_room(4 + len);
            return Ok(None);
        }
        let from = self.start + 4;
        self.start = from + len;
        Ok(Some(&self.bytes[from..self.start]))
    }

    /// Makes a frame of `bytes`, prefix counted, fit behind `start`.
    fn make_room(&mut self, bytes: usize) {
        if self.bytes.len() - self.start >= bytes {
            return;
        }
        self.bytes.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.bytes.len() < bytes {
            self.bytes.resize(bytes, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::TcpListener;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn frames_come_out_as_they_went_in(
            frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..20),
            buffer in 4_usize..600, piece in 1_usize..400,
        ) {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let stream = connect(listener.local_addr().unwrap()).unwrap();
            let (mut peer, _) = listener.accept().unwrap();
            let mut wire = Vec::new();
            for frame in &frames {
                wire.extend_from_slice(&u32::try_from(frame.len()).unwrap().to_be_bytes());
                wire.extend_from_slice(frame);
            }
            let mut inbox = Inbox::new(buffer, 300);
            let mut got = Vec::new();
            for piece in wire.chunks(piece) {
                peer.write_all(piece).unwrap();
                loop {
                    let filled = inbox.fill(&stream).unwrap();
                    while let Some(frame) = inbox.frame().unwrap() {
                        got.push(frame.to_vec());
                    }
                    if filled == Filled::Drained {
                        break;
                    }
                }
            }
            drop(peer);
            // Loopback delivers in order but not at once: what is missing comes before the end.
            loop {
                match inbox.fill(&stream) {
                    Err(ExecError::Lost { .. }) => break,
                    Err(e) => panic!("{e}"),
                    Ok(_) => while let Some(frame) = inbox.frame().unwrap() {
                        got.push(frame.to_vec());
                    },
                }
            }
            prop_assert_eq!(got, frames);
        }
    }

    #[test]
    fn impossible_frames_are_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = connect(listener.local_addr().unwrap()).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        peer.write_all(&301_u32.to_be_bytes()).unwrap();
        drop(peer);
        let mut inbox = Inbox::new(8, 300);
        while inbox.fill(&stream).is_ok() {}
        assert!(matches!(inbox.frame(), Err(ExecError::Frame(301))));
    }
}
