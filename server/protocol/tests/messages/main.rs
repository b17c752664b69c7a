//! Every message, in every version, both ways: against the `kafka-protocol` crate, cut short, and
//! damaged.
//!
//! [`compare`] is the whole test of a message: its module here brings a strategy for its values
//! and a translation into the other crate's type. That crate sees only what was written here: it
//! allocates whatever a length says.

// A failed helper fails its test.
#![allow(clippy::unwrap_used)]

mod create_topics;
mod delete_topics;
mod discovery;
mod fetch;
mod hostile;
mod list_offsets;
mod metadata;
mod produce;
mod producer_id;

use std::fmt::Debug;

use bytes::{Bytes, BytesMut};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use kariz_protocol::messages::Message;
use kariz_protocol::{Cursor, DecodeError, EncodeError, ErrorCode, Writer};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};
use uuid::Uuid;

/// Values tried a version.
const CASES: u32 = 64;

/// What a decoded message may take, as a multiple of its bytes. The worst is a list of topic
/// names: one byte each for an empty one, 40 for the struct that holds it.
const ALLOCATED_PER_BYTE: u64 = 48;

/// The body of `message` in `version`.
fn body<M: Message>(message: &M, version: i16) -> Result<Bytes, EncodeError> {
    let mut buf = BytesMut::new();
    let mut w = Writer::plain(&mut buf);
    w.set_flexible(M::API.is_flexible(version));
    message.write(&mut w, version);
    w.finish()?;
    Ok(buf.freeze())
}

/// Reads a body to its last byte, and checks that it allocates no more than it should.
fn read<M: Message>(body: &Bytes, version: i16) -> Result<M, DecodeError> {
    let mut result = None;
    let allocated = allocation_counter::measure(|| {
        let mut cursor = Cursor::new(body);
        result = Some(M::decode(&mut cursor, version).and_then(|message| {
            cursor.finish()?;
            Ok(message)
        }));
    });
    let bytes = u64::try_from(body.len()).unwrap();
    let allowed = bytes * ALLOCATED_PER_BYTE + 256;
    assert!(allocated.bytes_max <= allowed, "{allocated:?} for {bytes} bytes");
    result.unwrap()
}

/// Compares our codec of `M` with that of `T`, in every version that is served.
fn compare<M, T, S>(values: impl Fn(i16) -> S, translate: impl Fn(&M, i16) -> T)
where
    M: Message + Debug + PartialEq,
    T: Encodable + Decodable + Debug + PartialEq,
    S: Strategy<Value = M>,
{
    for version in M::API.spec().served {
        let damage = prop::collection::vec(any::<(Index, u8)>(), 1..4);
        let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
        let checked = TestRunner::new(config).run(&(values(version), damage), |(ours, damage)| {
            compare_one(&ours, &translate(&ours, version), version);
            hurt::<M>(&body(&ours, version).unwrap(), version, &damage);
            Ok(())
        });
        if let Err(failure) = checked {
            panic!("version {version}: {failure}");
        }
    }
}

fn compare_one<M, T>(ours: &M, theirs: &T, version: i16)
where
    M: Message + Debug + PartialEq,
    T: Encodable + Decodable + Debug + PartialEq,
{
    let mut expected = BytesMut::new();
    theirs.encode(&mut expected, version).unwrap();
    let expected = expected.freeze();
    let written = body(ours, version).unwrap();
    assert_eq!(written, expected, "they write otherwise");
    assert_eq!(read::<M>(&expected, version).as_ref(), Ok(ours), "read back");
    let mut reader = written;
    assert_eq!(&T::decode(&mut reader, version).unwrap(), theirs, "they read otherwise");
}

/// Cuts `body` short at every byte (every few of a long one), and writes other bytes over some.
fn hurt<M: Message + Debug>(body: &Bytes, version: i16, damage: &[(Index, u8)]) {
    for end in (0..body.len()).rev().step_by(body.len() / 256 + 1) {
        let cut = read::<M>(&body.slice(..end), version);
        assert!(cut.is_err(), "cut at {end} of {}, read as {cut:?}", body.len());
    }
    let mut damaged = body.to_vec();
    for (index, byte) in damage {
        if !damaged.is_empty() {
            let at = index.index(damaged.len());
            damaged[at] = *byte;
        }
    }
    // Refused, or taken for another message: it is neither a panic nor a large allocation.
    if let Ok(other) = read::<M>(&damaged.into(), version) {
        check_rewritten(&other, version);
    }
}

/// Whatever was read can be written, and read from that once more.
fn check_rewritten<M: Message + Debug>(message: &M, version: i16) {
    let written = body(message, version).unwrap();
    let again = read::<M>(&written, version).unwrap();
    assert_eq!(body(&again, version).unwrap(), written, "{message:?}, then {again:?}");
}

/// `value` where `version` has the field, else its default.
fn since<T: Clone + Debug + 'static>(
    has_field: bool,
    value: impl Strategy<Value = T> + 'static,
    default: T,
) -> BoxedStrategy<T> {
    if has_field { value.boxed() } else { Just(default).boxed() }
}

fn text() -> impl Strategy<Value = String> + Clone {
    prop_oneof![4 => "[a-z0-9._-]{0,9}", 1 => "\\PC{0,5}", 1 => "[a-z]{120,140}"]
}

fn maybe_text() -> impl Strategy<Value = Option<String>> + Clone {
    prop::option::of(text())
}

fn uuid() -> impl Strategy<Value = Uuid> + Clone {
    any::<u128>().prop_map(Uuid::from_u128)
}

fn error() -> impl Strategy<Value = ErrorCode> + Clone {
    prop::sample::select(ErrorCode::ALL)
}

fn list<T: Debug>(element: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    prop::collection::vec(element, 0..4)
}

fn records() -> impl Strategy<Value = Option<Bytes>> + Clone {
    let bytes = prop::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from);
    prop::option::weighted(0.9, bytes)
}

fn theirs(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn maybe_theirs<T: From<StrBytes>>(text: Option<&String>) -> Option<T> {
    text.map(|text| theirs(text).into())
}
