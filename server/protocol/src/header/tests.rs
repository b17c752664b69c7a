use proptest::prelude::*;

use super::*;
use crate::error_code::ErrorCode;
use crate::messages::{api_versions, metadata};

#[test]
fn a_request_is_the_bytes_that_kafka_documents() {
    let mut buf = BytesMut::new();
    let request = metadata::Request::default();
    encode_request(&mut buf, 1, 258, Some("me"), &request).unwrap();
    let rigid = [0, 0, 0, 16, 0, 3, 0, 1, 0, 0, 1, 2, 0, 2, b'm', b'e', 0xff, 0xff, 0xff, 0xff];
    assert_eq!(&buf[..], rigid);

    buf.clear();
    encode_request(&mut buf, 9, 258, None, &request).unwrap();
    let flexible = [0, 0, 0, 16, 0, 3, 0, 9, 0, 0, 1, 2, 0xff, 0xff, 0, 0, 1, 0, 0, 0];
    assert_eq!(&buf[..], flexible);
}

#[test]
fn a_too_new_api_versions_request_can_be_answered() {
    // Version 9 of a future client, with a body that nobody here can read.
    let frame = Bytes::from_static(&[0, 18, 0, 9, 0, 0, 0, 5, 0, 1, b'c', 0, 0xff, 0xff]);
    let mut cursor = Cursor::new(&frame);
    let header = RequestHeader::read(&mut cursor).unwrap();
    assert_eq!((header.api, header.version), (ApiKey::ApiVersions, 9));
    assert_eq!((header.correlation_id, header.client_id), (5, Some("c")));
    assert!(!header.api.serves(header.version));

    let mut buf = BytesMut::new();
    let answer = api_versions::Response::unsupported_version();
    encode_response(&mut buf, 0, header.correlation_id, &answer).unwrap();
    assert_eq!(
        &buf[..],
        [0, 0, 0, 16, 0, 0, 0, 5, 0, 35, 0, 0, 0, 1, 0, 18, 0, 0, 0, 4],
        "error 35, and the versions 0 to 4 of API 18"
    );
}

#[test]
fn a_response_to_api_versions_has_the_old_header_always() {
    let answer = api_versions::Response::advertise();
    for version in ApiKey::ApiVersions.spec().served {
        let mut buf = BytesMut::new();
        encode_response(&mut buf, version, 5, &answer).unwrap();
        // The error code stands right behind the correlation id.
        assert_eq!(&buf[4..10], [0, 0, 0, 5, 0, 0]);
        let frame = buf.freeze().slice(4..);
        let (id, read) = decode_response::<api_versions::Response>(&frame, version).unwrap();
        assert_eq!((id, read.error), (5, ErrorCode::None));
        let produce = read.api_keys.iter().find(|api| api.api_key == 0).unwrap();
        assert_eq!((produce.min_version, produce.max_version), (0, 11));
    }
}

#[test]
fn an_unknown_api_is_named() {
    let frame = Bytes::from_static(&[0, 99, 0, 1, 0, 0, 0, 0]);
    assert_eq!(
        RequestHeader::read(&mut Cursor::new(&frame)),
        Err(HeaderError::UnknownApi { api_key: 99, version: 1 })
    );
}

#[test]
fn a_response_with_bytes_left_over_is_refused_but_a_request_is_not() {
    let mut buf = BytesMut::new();
    encode_response(&mut buf, 0, 5, &api_versions::Response::default()).unwrap();
    buf.extend_from_slice(&[0]);
    let frame = buf.freeze().slice(4..);
    assert_eq!(
        decode_response::<api_versions::Response>(&frame, 0),
        Err(DecodeError::TrailingBytes { at: 10, left: 1 })
    );

    let mut cursor = Cursor::over(&[9]);
    let request = api_versions::Request::decode(&mut cursor, 0);
    assert_eq!((request, cursor.remaining()), (Ok(api_versions::Request::default()), 1));
}

#[test]
fn nothing_is_written_in_a_version_that_is_not_served() {
    let mut buf = BytesMut::new();
    let version = 14;
    let refused = EncodeError::UnsupportedVersion { api: ApiKey::Metadata, version };
    let request = metadata::Request::default();
    assert_eq!(encode_request(&mut buf, version, 0, None, &request), Err(refused.clone()));
    let response = metadata::Response::default();
    assert_eq!(encode_response(&mut buf, version, 0, &response), Err(refused));
    assert!(buf.is_empty());
}

proptest! {
    #[test]
    fn a_header_is_read_back_and_not_when_cut_short(
        api in prop::sample::select(&ApiKey::ALL[..]),
        version in any::<prop::sample::Index>(),
        correlation_id in any::<i32>(),
        client_id in any::<Option<String>>(),
    ) {
        let served: Vec<i16> = api.spec().served.collect();
        let version = served[version.index(served.len())];
        let client_id = client_id.as_deref();
        let header = RequestHeader { api, version, correlation_id, client_id };
        let mut buf = BytesMut::new();
        let mut w = Writer::plain(&mut buf);
        header.write(&mut w);
        w.finish().unwrap();
        let frame = buf.freeze();
        let mut cursor = Cursor::new(&frame);
        prop_assert_eq!(RequestHeader::read(&mut cursor), Ok(header));
        prop_assert_eq!(cursor.remaining(), 0);
        prop_assert_eq!(cursor.is_flexible(), api.is_flexible(version));
        for end in 0..frame.len() {
            let cut = frame.slice(..end);
            prop_assert!(RequestHeader::read(&mut Cursor::new(&cut)).is_err());
        }
    }
}
