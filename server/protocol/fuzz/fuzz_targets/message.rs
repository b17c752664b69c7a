//! The body of any request or response: what is accepted can be written and read again.
//!
//! Input: API, version, 0 (request) or 1 (response), body.
#![no_main]

use bytes::{Bytes, BytesMut};
use kariz_protocol::messages::{
    Message, Request, api_versions, create_topics, delete_topics, fetch, find_coordinator,
    init_producer_id, list_offsets, metadata, produce,
};
use kariz_protocol::{ApiKey, Cursor, Writer};
use libfuzzer_sys::fuzz_target;

fn written<M: Message>(message: &M, version: i16) -> Bytes {
    let mut buf = BytesMut::new();
    let mut w = Writer::plain(&mut buf);
    w.set_flexible(M::API.is_flexible(version));
    message.write(&mut w, version);
    w.finish().expect("what was read can be written");
    buf.freeze()
}

fn one<M: Message>(version: i16, body: &Bytes) {
    if let Ok(message) = M::decode(&mut Cursor::new(body), version) {
        let first = written(&message, version);
        let again = M::decode(&mut Cursor::new(&first), version).expect("and read again");
        assert_eq!(written(&again, version), first);
    }
}

fn either<R: Request>(version: i16, is_response: bool, body: &Bytes) {
    if is_response {
        one::<R::Response>(version, body);
    } else {
        one::<R>(version, body);
    }
}

fuzz_target!(|data: &[u8]| {
    let &[api, version, is_response, ref body @ ..] = data else { return };
    let Some(api) = ApiKey::from_code(api.into()) else { return };
    let (version, is_response) = (version.into(), is_response != 0);
    let body = Bytes::copy_from_slice(body);
    match api {
        ApiKey::Produce => either::<produce::Request>(version, is_response, &body),
        ApiKey::Fetch => either::<fetch::Request>(version, is_response, &body),
        ApiKey::ListOffsets => either::<list_offsets::Request>(version, is_response, &body),
        ApiKey::Metadata => either::<metadata::Request>(version, is_response, &body),
        ApiKey::FindCoordinator => either::<find_coordinator::Request>(version, is_response, &body),
        ApiKey::ApiVersions => either::<api_versions::Request>(version, is_response, &body),
        ApiKey::CreateTopics => either::<create_topics::Request>(version, is_response, &body),
        ApiKey::DeleteTopics => either::<delete_topics::Request>(version, is_response, &body),
        ApiKey::InitProducerId => either::<init_producer_id::Request>(version, is_response, &body),
    }
});
