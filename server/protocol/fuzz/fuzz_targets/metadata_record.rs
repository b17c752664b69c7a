//! A record of the metadata log: what is accepted can be written and read again, the same.
#![no_main]

use bytes::BytesMut;
use kariz_protocol::metadata_log::{LeaderChange, Record};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut buf = BytesMut::new();
    if let Ok(record) = Record::decode(data) {
        record.encode(&mut buf).expect("what was read can be written");
        assert_eq!(Record::decode(&buf), Ok(record));
    }
    buf.clear();
    if let Ok(change) = LeaderChange::decode(data) {
        change.encode(&mut buf).expect("what was read can be written");
        assert_eq!(LeaderChange::decode(&buf).map(|change| change.leader_id), Ok(change.leader_id));
    }
});
