use super::*;
use proptest::prelude::*;
use std::cell::Cell;

const MIB: usize = 1024 * 1024;

/// What the reference tools made of the same text: `gzip -9`, `zstd -19 --check` (1.5.4) and
/// `lz4 -9 -BD` (blocks that refer to each other, and a content checksum), in base64.
const REFERENCE: [(Codec, &str); 3] = [
    (
        Codec::Gzip,
        "H4sIAAAAAAACA8tOLMqsUkhOLCrKTC1WKEpNzi9KUTBQyE9TSATy0lKLUvOSUxWKS4pSE3OtFbKxqTYkSbURSaqNSV\
         JtQpJqU5JUm5Gk2hyXagCPgKCIcAEAAA==",
    ),
    (
        Codec::Zstd,
        "KLUv/WRwAC0CAFKDCxGg7RgJ3eRBG1VN9msaIKq+BscUMkQwcrqX0Zveftfe6gUNrA7T3nHZr8mTXVsIIMAzB6BoniazKZ\
         qnybQpHD9SBrryvKo=",
    ),
    (
        Codec::Lz4,
        "BCJNGGRAp1wAAAD/H2thcml6IGNhcnJpZXMgcmVjb3JkIDAgb2YgYSByZWZlcmVuY2Ugc3RyZWFtOyAuAAIfMS4AGh8yLg\
         AaHzMuABofNC4AGh81LgAaHzYuABofNy4AAFBlYW07IAAAAACPtKKP",
    ),
];

fn base64(text: &str) -> Vec<u8> {
    let (mut out, mut bits, mut held) = (Vec::new(), 0_u32, 0);
    for c in text.bytes() {
        let six = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => continue,
        };
        (bits, held) = (bits << 6 | u32::from(six), held + 6);
        if held >= 8 {
            held -= 8;
            out.push(u8::try_from(bits >> held & 0xff).unwrap());
        }
    }
    out
}

fn text() -> Vec<u8> {
    let line = |i| format!("kariz carries record {i} of a reference stream; ").into_bytes();
    (0..8).flat_map(line).collect()
}

#[test]
fn what_the_reference_tools_compress_is_read() {
    for (codec, wire) in REFERENCE {
        let wire = base64(wire);
        assert_eq!(inflate(codec, &wire, MIB).unwrap(), text(), "{codec:?}");
        // Streams one after another are one stream.
        let twice = [&wire[..], &wire].concat();
        if codec != Codec::Lz4 {
            assert_eq!(inflate(codec, &twice, MIB).unwrap(), [text(), text()].concat());
        }
    }
}

#[test]
fn snappy_is_read_with_its_java_framing_and_without() {
    // By hand, from the format: length 12, a literal of 4 bytes, a copy of 8 from 4 before.
    let raw = [12, 3 << 2, b'k', b'a', b'r', b'i', 1 | (8 - 4) << 2, 4];
    assert_eq!(inflate(Codec::Snappy, &raw, 12).unwrap(), &b"karikarikari"[..]);
    let framed =
        [b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01\0\0\0\x08", &raw[..], b"\0\0\0\x08", &raw].concat();
    assert_eq!(inflate(Codec::Snappy, &framed, 24).unwrap(), &b"karikarikarikarikarikari"[..]);
    for cut in [9, 17, 19, framed.len() - 1] {
        assert!(matches!(
            inflate(Codec::Snappy, &framed[..cut], 24),
            Err(InflateError::Damaged { codec: Codec::Snappy, .. })
        ));
    }
}

#[test]
fn zstd_frames_to_skip_are_skipped() {
    let frame = base64(REFERENCE[1].1);
    let skip = b"\x50\x2a\x4d\x18\x03\0\0\0abc";
    let body = [skip, &frame[..], skip].concat();
    assert_eq!(inflate(Codec::Zstd, &body, MIB).unwrap(), text());
    assert!(inflate(Codec::Zstd, &body[..body.len() - 1], MIB).is_err());
}

#[test]
fn a_wrong_checksum_is_found() {
    for (codec, at) in [(Codec::Zstd, 1), (Codec::Lz4, 1), (Codec::Gzip, 5)] {
        let (_, wire) = REFERENCE.iter().find(|(c, _)| *c == codec).unwrap();
        let mut wire = base64(wire);
        let at = wire.len() - at;
        wire[at] ^= 1;
        assert!(inflate(codec, &wire, MIB).is_err(), "{codec:?}");
    }
}

#[test]
fn a_bomb_is_refused_at_the_bound() {
    let zeros = vec![0; 16 * MIB];
    for codec in Codec::ALL {
        let bomb = deflate(codec, &zeros).unwrap();
        let refused = InflateError::TooLarge { codec, max_bytes: MIB };
        assert_eq!(inflate(codec, &bomb, MIB), Err(refused));
        assert_eq!(inflate(codec, &bomb, zeros.len()).unwrap().len(), zeros.len());
        assert!(inflate(codec, &bomb, zeros.len() - 1).is_err());
    }
}

/// Streams that hold as much as their formats allow, by hand, and what they inflate to.
fn densest() -> [(Codec, Vec<u8>, usize); 3] {
    // A length of 64 Ki + 1, a literal, and copies of 64 bytes from the one before.
    let mut snappy = vec![0x81, 0x80, 0x04, 0, b'k'];
    snappy.extend([63 << 2 | 2, 1, 0].repeat(1024));
    // One block that is not the last of 64 KiB: a literal, and a copy whose length goes on and on.
    let copied = [&[0x1f, b'k', 1, 0][..], &[255; 256], &[0, 0x50], b"karik"].concat();
    let mut lz4 = base64(REFERENCE[2].1)[..4].to_vec();
    let length = u8::try_from(copied.len() - 256).unwrap();
    lz4.extend([0x60, 0x50, 0xfb, length, 1, 0, 0]);
    lz4.extend(copied);
    lz4.extend([0; 4]);
    // A window of 128 KiB (exponent 7), and blocks of as much that repeat one byte; the last is empty.
    let mut zstd = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 7 << 3];
    zstd.extend([2, 0, 0x10, b'k'].repeat(64));
    zstd.extend([1, 0, 0]);
    [
        (Codec::Snappy, snappy, 64 * 1024 + 1),
        (Codec::Lz4, lz4, 1 + 19 + 255 * 256 + 5),
        (Codec::Zstd, zstd, 64 * 128 * 1024),
    ]
}

#[test]
fn no_stream_holds_more_than_its_format_allows() {
    for codec in Codec::ALL {
        let zeros = vec![0; 16 * MIB];
        let wire = deflate(codec, &zeros).unwrap();
        assert!(plain_bytes_max(codec, wire.len()) >= zeros.len() as u64, "{codec:?}");
    }
    for (codec, wire, bytes) in densest() {
        assert_eq!(inflate(codec, &wire, 16 * MIB).map(|plain| plain.len()), Ok(bytes));
        let most = plain_bytes_max(codec, wire.len());
        assert!(most >= bytes as u64, "{codec:?}");
        // It says something.
        assert!(most < bytes as u64 * 5 / 4, "{codec:?}: {most} of {bytes}");
    }
}

#[test]
fn a_snappy_block_that_only_claims_to_be_large_costs_no_memory() {
    // A length of 4 GiB - 1, and then of 64 MiB under a bound that would allow it.
    let claims = [&[0xff, 0xff, 0xff, 0xff, 0x0f, 0][..], &[0x80, 0x80, 0x80, 0x20, 0]];
    for claim in claims {
        assert!(inflate(Codec::Snappy, claim, 128 * MIB).is_err());
        let mut out = Vec::new();
        assert!(unsnap_block(claim, &mut out, 128 * MIB).is_err());
        assert_eq!(out.capacity(), 0);
    }
}

#[test]
fn a_zstd_window_larger_than_the_bound_is_refused_before_it_is_allocated() {
    // A frame that asks for a window of 1 GiB (exponent 20), then one empty last block.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 20 << 3, 0x01, 0, 0];
    assert!(inflate(Codec::Zstd, &frame, MIB).is_err());
    // One of 8 MiB (exponent 13) is what any sender may ask for.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 13 << 3, 0x01, 0, 0];
    assert_eq!(inflate(Codec::Zstd, &frame, MIB).unwrap(), &b""[..]);
}

#[test]
fn an_endless_stream_is_read_one_byte_past_the_bound_and_no_further() {
    struct Counted<'a>(&'a Cell<usize>);
    impl Read for Counted<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.0.set(self.0.get() + into.len());
            Ok(into.len())
        }
    }
    for max in [0, 1, FIRST_BYTES - 1, FIRST_BYTES, FIRST_BYTES + 1, MIB] {
        let read = Cell::new(0);
        assert!(matches!(drain(Counted(&read), Vec::new(), max), Err(Stop::TooLarge)));
        assert_eq!(read.get(), max + 1);
    }
}

/// Bytes with repetitions in them, so that a codec has something to find.
fn repetitive() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec((prop::collection::vec(any::<u8>(), 0..64), 0..64_usize), 0..32)
        .prop_map(|parts| parts.iter().flat_map(|(bytes, n)| bytes.repeat(*n)).collect())
}

proptest! {
    #[test]
    fn what_is_deflated_inflates_to_itself(plain in repetitive()) {
        for codec in Codec::ALL {
            let body = deflate(codec, &plain).unwrap();
            prop_assert_eq!(&*inflate(codec, &body, plain.len()).unwrap(), &plain[..]);
        }
    }

    #[test]
    fn damaged_bytes_are_inflated_or_refused_within_the_bound(
        plain in repetitive(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        for codec in Codec::ALL {
            let mut body = deflate(codec, &plain).unwrap();
            body.push(0);
            for (at, value) in &damage {
                let at = at.index(body.len());
                body[at] = *value;
            }
            for body in [&body[..], &body[..cut.index(body.len())]] {
                if let Ok(out) = inflate(codec, body, 64 * 1024) {
                    prop_assert!(out.len() <= 64 * 1024);
                }
            }
        }
    }

    #[test]
    fn any_bytes_are_inflated_or_refused(mut body: Vec<u8>, head in 0..4_usize) {
        let heads = [&[][..], XERIAL_MAGIC, &[0x28, 0xb5, 0x2f, 0xfd], &[0x04, 0x22, 0x4d, 0x18]];
        body.splice(0..0, heads[head].iter().copied());
        for codec in Codec::ALL {
            if let Ok(out) = inflate(codec, &body, 64 * 1024) {
                prop_assert!(out.len() <= 64 * 1024);
            }
        }
    }
}
