//! Bytes that nobody wrote as a message, given to every reader in every version.

use kariz_protocol::ApiKey;
use kariz_protocol::header::RequestHeader;
use kariz_protocol::messages::{
    Request, api_versions, create_topics, delete_topics, fetch, find_coordinator, init_producer_id,
    list_offsets, metadata, produce,
};

use crate::*;

/// What became of reading bytes as a request and as a response.
type Both = [Result<(), DecodeError>; 2];

/// Reads `bytes` as the API's request and response. `read` checks what that allocates.
fn read_both(api: ApiKey, version: i16, bytes: &Bytes) -> Both {
    fn one<M: Message + Debug>(version: i16, bytes: &Bytes) -> Result<(), DecodeError> {
        read::<M>(bytes, version).map(|message| check_rewritten(&message, version))
    }
    fn both<R>(version: i16, bytes: &Bytes) -> Both
    where
        R: Request + Debug,
        R::Response: Debug,
    {
        [one::<R>(version, bytes), one::<R::Response>(version, bytes)]
    }
    match api {
        ApiKey::Produce => both::<produce::Request>(version, bytes),
        ApiKey::Fetch => both::<fetch::Request>(version, bytes),
        ApiKey::ListOffsets => both::<list_offsets::Request>(version, bytes),
        ApiKey::Metadata => both::<metadata::Request>(version, bytes),
        ApiKey::FindCoordinator => both::<find_coordinator::Request>(version, bytes),
        ApiKey::ApiVersions => both::<api_versions::Request>(version, bytes),
        ApiKey::CreateTopics => both::<create_topics::Request>(version, bytes),
        ApiKey::DeleteTopics => both::<delete_topics::Request>(version, bytes),
        ApiKey::InitProducerId => both::<init_producer_id::Request>(version, bytes),
    }
}

/// Bytes as messages have them: mostly small numbers, some that are large or negative.
fn bytes() -> impl Strategy<Value = Bytes> {
    let byte = prop_oneof![4 => 0..4_u8, 1 => Just(0xff_u8), 1 => Just(0x7f_u8), 1 => any::<u8>()];
    prop::collection::vec(byte, 0..300).prop_map(Bytes::from)
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_read_or_refused(bytes in bytes()) {
        for api in ApiKey::ALL {
            for version in api.spec().served {
                // Read or refused: `read` fails if that takes more memory than it may.
                drop(read_both(api, version, &bytes));
            }
        }
        RequestHeader::read(&mut Cursor::new(&bytes)).ok();
    }
}

#[test]
fn a_count_is_not_believed() {
    // Kafka's own array length, and the compact one, of 2^31 - 1 and of 2^32 - 2 elements.
    let counts: [&[u8]; 2] = [&[0x7f, 0xff, 0xff, 0xff], &[0xff, 0xff, 0xff, 0xff, 0x0f]];
    for count in counts {
        for lead in 0..12 {
            let bytes = [&vec![0; lead][..], count, &[0; 100]].concat();
            let bytes = Bytes::from(bytes);
            for api in ApiKey::ALL {
                for version in api.spec().served {
                    drop(read_both(api, version, &bytes));
                }
            }
        }
    }
    let topics = Bytes::from_static(&[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    assert_eq!(
        metadata::Request::decode(&mut Cursor::new(&topics), 1),
        Err(DecodeError::ArrayTooLong { at: 0, count: 0x7fff_ffff, room: 2 })
    );
}

#[test]
fn a_version_that_is_not_served_is_refused() {
    for api in ApiKey::ALL {
        let served = api.spec().served;
        for version in [*served.start() - 1, *served.end() + 1, i16::MIN, i16::MAX] {
            let refused = Err(DecodeError::UnsupportedVersion { api, version });
            assert_eq!(read_both(api, version, &Bytes::new()), [refused.clone(), refused]);
        }
    }
}
