use super::*;

#[test]
fn a_frame_says_how_long_it_is() {
    let mut buf = BytesMut::from(&b"queued"[..]);
    let mut w = Writer::frame(&mut buf);
    w.i16(7);
    w.string("ab");
    assert_eq!(w.finish(), Ok(vec![]));
    assert_eq!(&buf[6..], [0, 0, 0, 6, 0, 7, 0, 2, b'a', b'b']);
}

#[test]
fn the_first_error_sticks_and_the_frame_is_taken_back() {
    let long = "a".repeat(STRING_BYTES_MAX + 1);
    for flexible in [false, true] {
        let mut buf = BytesMut::from(&b"queued"[..]);
        let mut w = Writer::frame(&mut buf);
        w.set_flexible(flexible);
        w.string(&long[1..]);
        w.string(&long);
        w.tags(|tags| tags.field(0, |w| w.i32(1)));
        w.refuse(true, "field", 3);
        assert_eq!(w.finish(), Err(EncodeError::StringTooLong { length: STRING_BYTES_MAX + 1 }));
        assert_eq!(&buf[..], b"queued");
    }
}

#[test]
fn a_hole_counts_in_every_length() {
    for (flexible, head) in [(false, &[0, 0, 0x10, 0][..]), (true, &[0x81, 0x20])] {
        let mut buf = BytesMut::new();
        let mut w = Writer::frame(&mut buf);
        w.set_flexible(flexible);
        w.records(Records::Hole(4096));
        w.i8(9);
        let holes = w.finish().unwrap();
        let at = 4 + head.len();
        assert_eq!(holes, [Hole { at, len: 4096 }]);
        assert_eq!(&buf[4..at], head);
        let length = u32::from_be_bytes(buf[..4].try_into().unwrap());
        assert_eq!(usize::try_from(length).unwrap(), head.len() + 4096 + 1);
        let order: Vec<_> = segments(&buf, &holes).collect();
        let hole = Segment::Hole { index: 0, len: 4096 };
        assert_eq!(order, [Segment::Bytes(&buf[..at]), hole, Segment::Bytes(&[9])]);
    }
}

#[test]
fn a_frame_is_no_longer_than_its_length_can_say() {
    let largest = usize::try_from(i32::MAX).unwrap();
    let framed = |len| {
        let mut buf = BytesMut::new();
        let mut w = Writer::frame(&mut buf);
        w.records(Records::Hole(len));
        w.finish()
    };
    assert!(framed(largest - 4).is_ok());
    assert_eq!(framed(largest - 3), Err(EncodeError::TooLong { length: largest + 1 }));
    assert_eq!(framed(largest + 1), Err(EncodeError::TooLong { length: largest + 1 }));
}

#[test]
fn stretches_and_holes_of_nothing_are_not_sent() {
    let hole = |at, len| Hole { at, len };
    let order = |bytes, holes: &[Hole]| {
        segments(bytes, holes)
            .map(|segment| match segment {
                Segment::Bytes(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
                Segment::Hole { index, len } => format!("<{index}:{len}>"),
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(order(b"", &[]), [""; 0]);
    assert_eq!(order(b"ab", &[]), ["ab"]);
    assert_eq!(order(b"ab", &[hole(1, 5)]), ["a", "<0:5>", "b"]);
    assert_eq!(order(b"ab", &[hole(0, 5), hole(0, 0), hole(2, 6)]), ["<0:5>", "ab", "<2:6>"]);
}

#[test]
fn the_size_of_a_tag_moves_its_content_on() {
    let mut buf = BytesMut::new();
    let mut w = Writer::plain(&mut buf);
    w.set_flexible(true);
    w.tags(|tags| {
        tags.field(1, |w| (0..200).for_each(|_| w.i8(5)));
        tags.field(2, |_| ());
    });
    w.finish().unwrap();
    let expected = [&[2, 1, 0xc8, 0x01][..], &[5; 200], &[2, 0]].concat();
    assert_eq!(&buf[..], expected);
}
