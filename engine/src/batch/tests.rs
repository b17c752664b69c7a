use super::*;

/// The CRC by an independent implementation.
fn sign(mut wire: Vec<u8>) -> Bytes {
    let crc = crc32c::crc32c(&wire[CRC_FROM..]);
    wire[17..21].copy_from_slice(&crc.to_be_bytes());
    Bytes::from(wire)
}

/// One record, no producer: the smallest batch that a client sends.
fn small() -> Vec<u8> {
    let record = [0x10_u8, 0, 0, 0, 1, 4, b'h', b'i', 0];
    let mut wire = vec![0; HEADER_BYTES];
    wire[8..12].copy_from_slice(&(49 + 9_i32).to_be_bytes());
    wire[12..16].copy_from_slice(&(-1_i32).to_be_bytes());
    wire[16] = 2;
    wire[27..35].copy_from_slice(&1_000_i64.to_be_bytes());
    wire[35..43].copy_from_slice(&1_000_i64.to_be_bytes());
    wire[43..57].fill(0xff);
    wire[57..61].copy_from_slice(&1_i32.to_be_bytes());
    wire.extend(record);
    wire
}

#[test]
fn a_batch_is_kept_byte_for_byte_and_stamped_in_a_copy() {
    let wire = sign(small());
    let batch = Batch::parse(wire.clone(), Check::Opaque).unwrap();
    assert_eq!(batch.wire(), &wire);
    let head = batch.stamp(Offset(7), LeaderEpoch(3), None);
    assert_eq!((head.base_offset(), head.next_offset()), (Offset(7), Offset(8)));
    let stored = [&head.to_bytes()[..], batch.body()].concat();
    assert_eq!(validate_stored(&stored).unwrap(), head);
    assert_eq!(batch.wire(), &wire);
}
