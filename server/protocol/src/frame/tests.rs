use bytes::BufMut;
use proptest::prelude::*;

use super::*;

/// The frames' bytes on the wire.
fn stream(frames: &[Vec<u8>]) -> Bytes {
    let mut stream = BytesMut::new();
    for frame in frames {
        stream.put_i32(i32::try_from(frame.len()).unwrap());
        stream.put_slice(frame);
    }
    stream.freeze()
}

fn cut_all(cutter: &mut FrameCutter, mut chunk: Bytes) -> Result<Vec<Bytes>, FrameError> {
    let mut frames = Vec::new();
    while let Some(frame) = cutter.cut(&mut chunk)? {
        frames.push(frame);
    }
    assert!(chunk.is_empty(), "a chunk is used up, so that it can be dropped");
    Ok(frames)
}

#[test]
fn a_frame_within_a_chunk_is_a_slice_of_it() {
    let chunk = stream(&[vec![1; 10], vec![], vec![2; 5]]);
    let frames = cut_all(&mut FrameCutter::new(10), chunk.clone()).unwrap();
    assert_eq!(frames, [vec![1; 10], vec![], vec![2; 5]]);
    assert_eq!(frames[0].as_ptr(), chunk[4..].as_ptr());
    assert_eq!(frames[2].as_ptr(), chunk[22..].as_ptr());
}

#[test]
fn a_frame_whose_prefix_came_before_is_still_a_slice() {
    let bytes = stream(&[vec![1; 10]]);
    let mut cutter = FrameCutter::new(10);
    assert_eq!(cut_all(&mut cutter, bytes.slice(..4)), Ok(vec![]));
    let frames = cut_all(&mut cutter, bytes.slice(4..)).unwrap();
    assert_eq!(frames[0].as_ptr(), bytes[4..].as_ptr());
}

#[test]
fn lengths_out_of_bounds_are_refused_again_and_again() {
    for (prefix, error) in [
        ([0xff, 0xff, 0xff, 0xff], FrameError::Negative { length: -1 }),
        ([0, 0, 0, 11], FrameError::TooLarge { length: 11, limit: 10 }),
        ([0x7f, 0xff, 0xff, 0xff], FrameError::TooLarge { length: 0x7fff_ffff, limit: 10 }),
    ] {
        // Whole, and byte by byte.
        let mut cutter = FrameCutter::new(10);
        let mut chunk = Bytes::copy_from_slice(&prefix);
        assert_eq!(cutter.cut(&mut chunk), Err(error));
        assert_eq!(cutter.cut(&mut chunk), Err(error));
        let mut cutter = FrameCutter::new(10);
        for byte in &prefix[..3] {
            assert_eq!(cut_all(&mut cutter, Bytes::copy_from_slice(&[*byte])), Ok(vec![]));
        }
        assert_eq!(cut_all(&mut cutter, Bytes::copy_from_slice(&prefix[3..])), Err(error));
    }
    assert_eq!(cut_all(&mut FrameCutter::new(10), stream(&[vec![7; 10]])).unwrap().len(), 1);
}

#[test]
fn an_announced_length_alone_takes_no_memory() {
    let mut cutter = FrameCutter::new(FRAME_BYTES_MAX_DEFAULT);
    let prefix = Bytes::from_static(&[0x05, 0xf5, 0xe1, 0x00]);
    let body = Bytes::from_static(&[0; 1000]);
    let allocated = allocation_counter::measure(|| {
        assert_eq!(cut_all(&mut cutter, prefix), Ok(vec![]));
        assert_eq!(cut_all(&mut cutter, body), Ok(vec![]));
    });
    assert_eq!(cutter.buffered(), 1000);
    let max = u64::try_from(super::RESERVED_BYTES).unwrap();
    assert!(allocated.bytes_max <= max, "{allocated:?}");
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same_frames(
        frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..8),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..24),
    ) {
        let stream = stream(&frames);
        let mut cuts: Vec<usize> =
            cuts.iter().map(|cut| cut.index(stream.len() + 1)).chain([0, stream.len()]).collect();
        cuts.sort_unstable();
        let mut cutter = FrameCutter::new(200);
        let mut cut = Vec::new();
        let allocated = allocation_counter::measure(|| {
            for ends in cuts.windows(2) {
                let chunk = stream.slice(ends[0]..ends[1]);
                cut.extend(cut_all(&mut cutter, chunk).unwrap());
            }
        });
        prop_assert_eq!(&cut, &frames);
        prop_assert_eq!(cutter.buffered(), 0);
        // What is joined is held twice at most while its buffer grows, four times as it doubles.
        let bytes = u64::try_from(stream.len()).unwrap();
        prop_assert!(allocated.bytes_max <= 4 * bytes + 1024, "{allocated:?} for {bytes}");
    }
}
