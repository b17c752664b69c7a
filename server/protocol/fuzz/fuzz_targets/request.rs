//! A request's frame as a server reads it: header, then the views of the hot two.
#![no_main]

use bytes::Bytes;
use kariz_protocol::header::RequestHeader;
use kariz_protocol::messages::{fetch, produce};
use kariz_protocol::{ApiKey, Cursor};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let frame = Bytes::copy_from_slice(data);
    let mut cursor = Cursor::new(&frame);
    let Ok(header) = RequestHeader::read(&mut cursor) else { return };
    match header.api {
        ApiKey::Produce => {
            let Ok(view) = produce::RequestView::decode(&mut cursor, header.version) else {
                return;
            };
            for topic in &view.topics {
                let partitions = topic.partitions.len();
                let read = topic.partitions.iter().filter(|p| {
                    p.share_records().map_or(0, |r| r.len()) == p.records.map_or(0, <[u8]>::len)
                });
                assert_eq!(read.count(), partitions);
            }
        }
        ApiKey::Fetch => {
            let Ok(view) = fetch::RequestView::decode(&mut cursor, header.version) else { return };
            for topic in &view.topics {
                assert_eq!(topic.partitions.iter().count(), topic.partitions.len());
            }
            for topic in &view.forgotten_topics {
                assert_eq!(topic.partitions.iter().count(), topic.partitions.len());
            }
        }
        _ => (),
    }
});
