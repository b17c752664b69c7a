//! InitProducerId.

use kafka_protocol::messages as peer;
use kariz_protocol::messages::init_producer_id::{Request, Response};

use crate::*;

#[test]
fn init_producer_id_request() {
    let values = |version| {
        (
            maybe_text(),
            any::<i32>(),
            since(version >= 3, any::<i64>(), -1),
            since(version >= 3, any::<i16>(), -1),
        )
            .prop_map(
                |(transactional_id, transaction_timeout_ms, producer_id, producer_epoch)| Request {
                    transactional_id,
                    transaction_timeout_ms,
                    producer_id,
                    producer_epoch,
                },
            )
    };
    compare(values, |ours: &Request, _| {
        peer::InitProducerIdRequest::default()
            .with_transactional_id(maybe_theirs(ours.transactional_id.as_ref()))
            .with_transaction_timeout_ms(ours.transaction_timeout_ms)
            .with_producer_id(ours.producer_id.into())
            .with_producer_epoch(ours.producer_epoch)
    });
}

#[test]
fn init_producer_id_response() {
    let values = |_| {
        (any::<i32>(), error(), any::<(i64, i16)>()).prop_map(
            |(throttle_time_ms, error, (producer_id, producer_epoch))| Response {
                throttle_time_ms,
                error,
                producer_id,
                producer_epoch,
            },
        )
    };
    compare(values, |ours: &Response, _| {
        peer::InitProducerIdResponse::default()
            .with_throttle_time_ms(ours.throttle_time_ms)
            .with_error_code(ours.error.code())
            .with_producer_id(ours.producer_id.into())
            .with_producer_epoch(ours.producer_epoch)
    });
}
