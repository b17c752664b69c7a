//! Protobuf's zigzag varints, in which the fields of a record are written.

/// Takes a zigzag varint of at most 32 bits off `bytes`. `None`: it is cut or too large.
pub(super) fn take_i32(bytes: &mut &[u8]) -> Option<i32> {
    // Most fields of most records are below 64: one byte.
    if let Some((&byte, rest)) = bytes.split_first()
        && byte < 0x80
    {
        *bytes = rest;
        let raw = i32::from(byte);
        return Some((raw >> 1) ^ -(raw & 1));
    }
    i32::try_from(take(bytes, 5)?).ok()
}

/// Takes a zigzag varint of at most 64 bits off `bytes`. `None`: it is cut or too large.
pub(super) fn take_i64(bytes: &mut &[u8]) -> Option<i64> {
    take(bytes, 10)
}

fn take(bytes: &mut &[u8], at_most: usize) -> Option<i64> {
    let mut raw: u64 = 0;
    for (i, &byte) in bytes.iter().take(at_most).enumerate() {
        let low = u64::from(byte & 0x7f);
        let shift = 7 * i;
        // The tenth byte has room for one bit only.
        if shift == 63 && low > 1 {
            return None;
        }
        raw |= low << shift;
        if byte & 0x80 == 0 {
            *bytes = bytes.get(i + 1..)?;
            return Some((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed());
        }
    }
    None
}

/// Appends `value` as a zigzag varint.
pub(super) fn put(out: &mut Vec<u8>, value: i64) {
    let mut raw = ((value << 1) ^ (value >> 63)).cast_unsigned();
    loop {
        let low = u8::try_from(raw & 0x7f).unwrap_or_default();
        raw >>= 7;
        if raw == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_put_is_taken(value: i64, small: i32, tail: Vec<u8>) {
            let mut out = Vec::new();
            put(&mut out, value);
            put(&mut out, i64::from(small));
            out.extend(&tail);
            let mut rest = &out[..];
            prop_assert_eq!(take_i64(&mut rest), Some(value));
            prop_assert_eq!(take_i32(&mut rest), Some(small));
            prop_assert_eq!(rest, &tail[..]);
        }

        #[test]
        fn any_bytes_are_taken_or_refused(bytes: Vec<u8>) {
            let (mut a, mut b) = (&bytes[..], &bytes[..]);
            let (small, large) = (take_i32(&mut a), take_i64(&mut b));
            if let Some(small) = small {
                prop_assert_eq!(large, Some(i64::from(small)));
                prop_assert_eq!(a.len(), b.len());
            }
            if large.is_none() {
                prop_assert_eq!(b.len(), bytes.len());
            }
        }
    }

    #[test]
    fn cut_and_oversized_varints_are_refused() {
        for bad in [&[][..], &[0x80], &[0xff; 10], &[0x80; 11]] {
            assert_eq!(take_i64(&mut &bad[..]), None, "{bad:x?}");
        }
        let most = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(take_i64(&mut &most[..]), Some(i64::MIN));
        assert_eq!(take_i32(&mut &[0xff, 0xff, 0xff, 0xff, 0x0f][..]), Some(i32::MIN));
        assert_eq!(take_i32(&mut &[0xff, 0xff, 0xff, 0xff, 0x1f][..]), None);
    }
}
