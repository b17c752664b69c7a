//! One connection: frames in, answers out.

use crate::answers::Answers;
use std::os::fd::OwnedFd;

/// The largest frame. Source: Kafka's default `socket.request.max.bytes`.
const FRAME_BYTES_MAX: u32 = 100 << 20;

/// What of a frame is looked at: length, API key, version, correlation id.
const HEAD_BYTES: usize = 12;

/// The stream is no row of frames, or the peer does not read what it asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CutOff;

/// A client's connection.
pub(crate) struct Connection {
    pub(crate) socket: OwnedFd,
    pub(crate) frames: Frames,
    pub(crate) answers: Answers,
    /// Whether the ring has a receive of it.
    pub(crate) receiving: bool,
    /// Whether the ring sends, or was asked to say when the socket takes bytes again.
    pub(crate) sending: bool,
    /// Whether it is on the list of those that have answers in this turn, in this group.
    pub(crate) listed: bool,
}

impl Connection {
    /// Ends both directions; the ring then reports the end, and the connection is forgotten.
    pub(crate) fn cut_off(&self) {
        // An error says that the peer was faster.
        rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both).unwrap_or_default();
    }
}

/// Cuts a stream into frames.
#[derive(Default)]
pub(crate) struct Frames {
    /// The first bytes of the frame that is coming, while they are fewer than a head.
    head: Vec<u8>,
    /// Its correlation id, and how many bytes of it are still to come.
    body: Option<([u8; 4], usize)>,
}

impl Frames {
    /// Takes the next `bytes` of the stream; shows the correlation id of every frame they end.
    pub(crate) fn take(
        &mut self,
        mut bytes: &[u8],
        mut frame: impl FnMut([u8; 4]),
    ) -> Result<(), CutOff> {
        while !bytes.is_empty() {
            let (id, missing) = match self.body.take() {
                Some(body) => body,
                None if self.head.is_empty() && bytes.len() >= HEAD_BYTES => {
                    let (head, rest) = bytes.split_at(HEAD_BYTES);
                    bytes = rest;
                    read_head(head)?
                }
                None => {
                    let take = bytes.len().min(HEAD_BYTES - self.head.len());
                    self.head.extend_from_slice(&bytes[..take]);
                    bytes = &bytes[take..];
                    if self.head.len() < HEAD_BYTES {
                        return Ok(());
                    }
                    let head = read_head(&self.head)?;
                    self.head.clear();
                    head
                }
            };
            let take = missing.min(bytes.len());
            bytes = &bytes[take..];
            if take == missing {
                frame(id);
            } else {
                self.body = Some((id, missing - take));
            }
        }
        Ok(())
    }
}

/// Reads a frame's first bytes: its correlation id, and how many bytes of it follow.
fn read_head(head: &[u8]) -> Result<([u8; 4], usize), CutOff> {
    let Some((&[l0, l1, l2, l3, _, _, _, _, c0, c1, c2, c3], _)) = head.split_first_chunk() else {
        return Err(CutOff);
    };
    let len = u32::from_be_bytes([l0, l1, l2, l3]);
    let rest = (len as usize).checked_sub(HEAD_BYTES - 4).filter(|_| len <= FRAME_BYTES_MAX);
    Ok(([c0, c1, c2, c3], rest.ok_or(CutOff)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(id: u8, body: usize) -> Vec<u8> {
        let len = u32::try_from(8 + body).unwrap();
        let mut frame = len.to_be_bytes().to_vec();
        frame.extend_from_slice(&[0, 0, 0, 9, 0, 0, 0, id]);
        frame.resize(12 + body, 0xee);
        frame
    }

    #[test]
    fn frames_are_found_however_the_stream_is_cut() {
        let stream = [frame(1, 0), frame(2, 1), frame(3, 40), frame(4, 0)].concat();
        for piece in 1..=stream.len() {
            let (mut frames, mut ids) = (Frames::default(), Vec::new());
            for (i, bytes) in stream.chunks(piece).enumerate() {
                frames.take(bytes, |id| ids.push(id[3])).unwrap();
                let seen = (i * piece + bytes.len()).min(stream.len());
                let ended = [12, 25, 77, 89].iter().filter(|end| **end <= seen).count();
                assert_eq!(ids.len(), ended, "pieces of {piece}, after {seen} bytes");
            }
            assert_eq!(ids, [1, 2, 3, 4]);
        }
    }

    #[test]
    fn a_length_that_no_frame_has_is_refused() {
        for len in [0, 7, FRAME_BYTES_MAX + 1, u32::MAX] {
            let mut bytes = frame(1, 0);
            bytes[..4].copy_from_slice(&len.to_be_bytes());
            assert_eq!(Frames::default().take(&bytes, |_| panic!("no frame")), Err(CutOff));
        }
    }
}
