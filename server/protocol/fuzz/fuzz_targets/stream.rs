//! A stream cut into frames: in pieces it gives what it gives whole.
//!
//! Input: size of the pieces, then the stream.
#![no_main]

use bytes::Bytes;
use kariz_protocol::frame::{FrameCutter, FrameError};
use libfuzzer_sys::fuzz_target;

fn frames(chunks: impl Iterator<Item = Bytes>) -> (Vec<Bytes>, Option<FrameError>) {
    let mut cutter = FrameCutter::new(1 << 20);
    let mut frames = Vec::new();
    for mut chunk in chunks {
        loop {
            match cutter.cut(&mut chunk) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

fuzz_target!(|data: &[u8]| {
    let Some((&size, stream)) = data.split_first() else { return };
    let pieces = stream.chunks(usize::from(size).max(1)).map(Bytes::copy_from_slice);
    assert_eq!(frames(pieces), frames(std::iter::once(Bytes::copy_from_slice(stream))));
});
