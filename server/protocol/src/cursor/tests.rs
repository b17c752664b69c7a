use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::writer::Writer;

fn flexible(bytes: &[u8]) -> Cursor<'_> {
    let mut cursor = Cursor::over(bytes);
    cursor.set_flexible(true);
    cursor
}

#[test]
fn numbers_are_big_endian() {
    let bytes = [0xff, 0xff, 0xfe, 0x80, 0, 0, 0, 0, 1, 0xff, 0xff, 2];
    let mut c = Cursor::over(&bytes);
    assert_eq!((c.i8(), c.i16(), c.i32()), (Ok(-1), Ok(-2), Ok(i32::MIN)));
    assert_eq!((c.at(), c.remaining()), (7, 5));
    assert_eq!((c.i16(), c.u16(), c.bool()), (Ok(1), Ok(u16::MAX), Ok(true)));
    assert_eq!(c.finish(), Ok(()));
    assert_eq!(c.i64(), Err(DecodeError::Truncated { at: 12, needed: 8, left: 0 }));
}

#[test]
fn a_varint_has_at_most_32_bits() {
    for (bytes, value) in [
        (&[0][..], Ok(0)),
        (&[0x7f], Ok(127)),
        (&[0x80, 0x01], Ok(128)),
        (&[0xff, 0xff, 0xff, 0xff, 0x0f], Ok(u32::MAX)),
        (&[0xff, 0xff, 0xff, 0xff, 0x10], Err(DecodeError::BadVarint { at: 0 })),
        (&[0x80, 0x80, 0x80, 0x80, 0x80, 0x01], Err(DecodeError::BadVarint { at: 0 })),
        (&[0x80], Err(DecodeError::Truncated { at: 1, needed: 1, left: 0 })),
    ] {
        assert_eq!(Cursor::over(bytes).uvarint(), value, "{bytes:?}");
    }
}

#[test]
fn null_is_not_empty() {
    assert_eq!(Cursor::over(&[0xff, 0xff]).nullable_string(), Ok(None));
    assert_eq!(Cursor::over(&[0, 0]).nullable_string(), Ok(Some("")));
    assert_eq!(Cursor::over(&[0xff, 0xff]).string(), Err(DecodeError::Null { at: 0 }));
    assert_eq!(flexible(&[0]).nullable_string(), Ok(None));
    assert_eq!(flexible(&[1]).nullable_string(), Ok(Some("")));
    assert_eq!(Cursor::over(&[0xff; 4]).nullable_bytes(), Ok(None));
    assert_eq!(flexible(&[1]).nullable_bytes(), Ok(Some(&[][..])));
    assert_eq!(flexible(&[0]).array_len(1), Err(DecodeError::Null { at: 0 }));
    assert_eq!(flexible(&[1]).array_len(1), Ok(0));
    let minus_two = Err(DecodeError::NegativeLength { at: 0, length: -2 });
    assert_eq!(Cursor::over(&[0xff, 0xfe]).nullable_string(), minus_two);
}

#[test]
fn a_string_is_utf8_and_no_longer_than_kafka_allows() {
    assert_eq!(flexible(&[3, 0xc3, 0xa9]).string(), Ok("é"));
    assert_eq!(flexible(&[2, 0xc3]).string(), Err(DecodeError::BadUtf8 { at: 1 }));
    let mut long = vec![0x81, 0x80, 0x02];
    long.resize(3 + 32_768, b'a');
    let too_long = DecodeError::StringTooLong { at: 0, length: 32_768 };
    assert_eq!(flexible(&long).string(), Err(too_long));
    long[0] = 0x80;
    assert_eq!(flexible(&long).string().map(str::len), Ok(STRING_BYTES_MAX));
    long[..2].copy_from_slice(&[0x7f, 0xff]);
    assert_eq!(Cursor::over(&long).string().map(str::len), Ok(STRING_BYTES_MAX));
}

#[test]
fn an_array_is_no_longer_than_what_follows_it() {
    let bytes = [0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(Cursor::over(&bytes).array_len(2), Ok(3));
    let too_long = DecodeError::ArrayTooLong { at: 0, count: 3, room: 2 };
    assert_eq!(Cursor::over(&bytes).array_len(4), Err(too_long));
}

#[test]
fn unknown_tags_are_skipped_and_known_ones_end_where_they_say() {
    // Tag 5 of two bytes, tag 0 of two bytes, then a byte that is not part of the struct.
    let bytes = [2, 5, 2, 9, 9, 0, 2, 0, 7, 42];
    let mut number = None;
    let mut c = flexible(&bytes);
    c.tags(|tag, c| {
        if tag == 0 {
            number = Some(c.i16()?);
        }
        Ok(())
    })
    .unwrap();
    assert_eq!((number, c.i8()), (Some(7), Ok(42)));

    // A field may not be read beyond its end, though the frame goes on ...
    let beyond = flexible(&bytes).tags(|_, c| c.i32().map(drop));
    assert_eq!(beyond, Err(DecodeError::Truncated { at: 3, needed: 4, left: 2 }));
    // ... nor be longer than what is known of it.
    let short = flexible(&bytes).tags(|_, c| c.i8().map(drop));
    assert_eq!(short, Err(DecodeError::TrailingBytes { at: 4, left: 1 }));
    // A message without varints has no tags.
    let mut rigid = Cursor::over(&bytes);
    rigid.end_struct().unwrap();
    assert_eq!(rigid.at(), 0);
    // More tags than bytes.
    assert!(flexible(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0, 1]).end_struct().is_err());
}

#[test]
fn shared_bytes_are_slices_of_the_frame() {
    let frame = Bytes::from(vec![0, 0, 0, 2, 7, 8, 0, 0, 0, 0]);
    let mut c = Cursor::new(&frame);
    let part = c.nullable_bytes().unwrap().unwrap();
    let shared = c.share(part);
    assert_eq!(shared.as_ptr(), frame[4..].as_ptr());
    let empty = c.nullable_bytes().unwrap().unwrap();
    assert_eq!(c.share(empty), Bytes::new());
    drop(frame);
    assert_eq!(&shared[..], [7, 8]);
}

/// A field of a message without a schema.
#[derive(Clone, Debug, PartialEq)]
enum Field {
    I8(i8),
    I16(i16),
    U16(u16),
    I32(i32),
    I64(i64),
    Bool(bool),
    Id(u128),
    Varint(u32),
    Text(Option<String>),
    Raw(Option<Vec<u8>>),
    Numbers(Option<Vec<i32>>),
    Tags(Vec<(u8, Vec<u8>)>),
}

fn field() -> impl Strategy<Value = Field> {
    let tag = (0..128_u8, prop::collection::vec(any::<u8>(), 0..300));
    prop_oneof![
        any::<i8>().prop_map(Field::I8),
        any::<i16>().prop_map(Field::I16),
        any::<u16>().prop_map(Field::U16),
        any::<i32>().prop_map(Field::I32),
        any::<i64>().prop_map(Field::I64),
        any::<bool>().prop_map(Field::Bool),
        any::<u128>().prop_map(Field::Id),
        (any::<u32>(), 0..32_u32).prop_map(|(n, shift)| Field::Varint(n >> shift)),
        any::<Option<String>>().prop_map(Field::Text),
        any::<Option<Vec<u8>>>().prop_map(Field::Raw),
        any::<Option<Vec<i32>>>().prop_map(Field::Numbers),
        prop::collection::vec(tag, 0..4).prop_map(Field::Tags),
    ]
}

fn write(field: &Field, w: &mut Writer<'_>) {
    match field {
        Field::I8(n) => w.i8(*n),
        Field::I16(n) => w.i16(*n),
        Field::U16(n) => w.u16(*n),
        Field::I32(n) => w.i32(*n),
        Field::I64(n) => w.i64(*n),
        Field::Bool(b) => w.bool(*b),
        Field::Id(id) => w.uuid(Uuid::from_u128(*id)),
        Field::Varint(n) => w.uvarint(*n),
        Field::Text(text) => w.nullable_string(text.as_deref()),
        Field::Raw(bytes) => w.nullable_bytes(bytes.as_deref()),
        Field::Numbers(numbers) => w.nullable_array(numbers.as_deref(), |w, n| w.i32(*n)),
        Field::Tags(fields) => w.tags(|tags| {
            for (tag, bytes) in fields {
                tags.field(*tag, |w| bytes.iter().for_each(|byte| w.i8(byte.cast_signed())));
            }
        }),
    }
}

fn read(like: &Field, c: &mut Cursor<'_>) -> Result<Field, DecodeError> {
    Ok(match like {
        Field::I8(_) => Field::I8(c.i8()?),
        Field::I16(_) => Field::I16(c.i16()?),
        Field::U16(_) => Field::U16(c.u16()?),
        Field::I32(_) => Field::I32(c.i32()?),
        Field::I64(_) => Field::I64(c.i64()?),
        Field::Bool(_) => Field::Bool(c.bool()?),
        Field::Id(_) => Field::Id(c.uuid()?.as_u128()),
        Field::Varint(_) => Field::Varint(c.uvarint()?),
        Field::Text(_) => Field::Text(c.nullable_string()?.map(str::to_owned)),
        Field::Raw(_) => Field::Raw(c.nullable_bytes()?.map(<[u8]>::to_vec)),
        Field::Numbers(_) => Field::Numbers(c.nullable_array(4, Cursor::i32)?),
        Field::Tags(_) => {
            let mut fields = Vec::new();
            c.tags(|tag, c| {
                fields.push((u8::try_from(tag).unwrap(), c.take(c.remaining())?.to_vec()));
                Ok(())
            })?;
            Field::Tags(fields)
        }
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        fields in prop::collection::vec(field(), 0..12),
        is_flexible in any::<bool>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut buf = BytesMut::new();
        buf.put_slice(b"before");
        let mut w = Writer::plain(&mut buf);
        w.set_flexible(is_flexible);
        fields.iter().for_each(|field| write(field, &mut w));
        w.finish().unwrap();
        let bytes = buf.freeze().slice(6..);

        let mut c = Cursor::new(&bytes);
        c.set_flexible(is_flexible);
        for field in &fields {
            let read = read(field, &mut c).unwrap();
            match field {
                Field::Tags(_) if !is_flexible => prop_assert_eq!(read, Field::Tags(vec![])),
                field => prop_assert_eq!(&read, field),
            }
        }
        prop_assert_eq!(c.finish(), Ok(()));

        // One byte less, or many: the last fields are missed, whatever they are.
        if !bytes.is_empty() {
            let short = bytes.slice(..cut.index(bytes.len()));
            let mut c = Cursor::new(&short);
            c.set_flexible(is_flexible);
            prop_assert!(fields.iter().try_for_each(|field| read(field, &mut c).map(drop)).is_err());
        }
    }
}
