//! ApiVersions and FindCoordinator.

use kafka_protocol::messages as peer;
use kariz_protocol::messages::{api_versions, find_coordinator};

use crate::*;

fn translate_versions_request(ours: &api_versions::Request, _: i16) -> peer::ApiVersionsRequest {
    peer::ApiVersionsRequest::default()
        .with_client_software_name(theirs(&ours.client_software_name))
        .with_client_software_version(theirs(&ours.client_software_version))
}

#[test]
fn api_versions_request() {
    let values = |version| {
        let text = || since(version >= 3, text(), String::new());
        (text(), text()).prop_map(|(client_software_name, client_software_version)| {
            api_versions::Request { client_software_name, client_software_version }
        })
    };
    compare(values, translate_versions_request);
}

fn versions_response(version: i16) -> impl Strategy<Value = api_versions::Response> {
    let api = any::<(i16, i16, i16)>().prop_map(|(api_key, min_version, max_version)| {
        api_versions::ApiVersion { api_key, min_version, max_version }
    });
    // Below version 4 a feature from 0 is left out; the other crate has no such rule.
    let least = if version >= 4 { 0 } else { 1 };
    let supported =
        (text(), least..9_i16, any::<i16>()).prop_map(|(name, min_version, max_version)| {
            api_versions::SupportedFeature { name, min_version, max_version }
        });
    let finalized = (text(), any::<i16>(), any::<i16>()).prop_map(
        |(name, max_version_level, min_version_level)| api_versions::FinalizedFeature {
            name,
            max_version_level,
            min_version_level,
        },
    );
    let has_features = version >= 3;
    (
        error(),
        list(api),
        since(version >= 1, any::<i32>(), 0),
        since(has_features, list(supported), Vec::new()),
        since(has_features, prop::option::of(0..=i64::MAX), None),
        since(has_features, list(finalized), Vec::new()),
    )
        .prop_map(|(error, api_keys, throttle_time_ms, supported, epoch, finalized)| {
            api_versions::Response {
                error,
                api_keys,
                throttle_time_ms,
                supported_features: supported,
                finalized_features_epoch: epoch,
                finalized_features: finalized,
            }
        })
}

fn translate_versions_response(ours: &api_versions::Response, _: i16) -> peer::ApiVersionsResponse {
    use peer::api_versions_response::{ApiVersion, FinalizedFeatureKey, SupportedFeatureKey};
    let api = |api: &api_versions::ApiVersion| {
        ApiVersion::default()
            .with_api_key(api.api_key)
            .with_min_version(api.min_version)
            .with_max_version(api.max_version)
    };
    let supported = |feature: &api_versions::SupportedFeature| {
        SupportedFeatureKey::default()
            .with_name(theirs(&feature.name))
            .with_min_version(feature.min_version)
            .with_max_version(feature.max_version)
    };
    let finalized = |feature: &api_versions::FinalizedFeature| {
        FinalizedFeatureKey::default()
            .with_name(theirs(&feature.name))
            .with_max_version_level(feature.max_version_level)
            .with_min_version_level(feature.min_version_level)
    };
    peer::ApiVersionsResponse::default()
        .with_error_code(ours.error.code())
        .with_api_keys(ours.api_keys.iter().map(api).collect())
        .with_throttle_time_ms(ours.throttle_time_ms)
        .with_supported_features(ours.supported_features.iter().map(supported).collect())
        .with_finalized_features_epoch(ours.finalized_features_epoch.unwrap_or(-1))
        .with_finalized_features(ours.finalized_features.iter().map(finalized).collect())
}

#[test]
fn api_versions_response() {
    compare(versions_response, translate_versions_response);
}

#[test]
fn old_clients_see_no_feature_from_level_0() {
    let feature = |name: &str, min_version| api_versions::SupportedFeature {
        name: name.to_owned(),
        min_version,
        max_version: 1,
    };
    let supported_features = vec![feature("group.version", 0), feature("metadata.version", 1)];
    let answer =
        api_versions::Response { supported_features, ..api_versions::Response::advertise() };
    let shown = |version| {
        let answer: api_versions::Response =
            read(&body(&answer, version).unwrap(), version).unwrap();
        answer.supported_features.into_iter().map(|feature| feature.name).collect::<Vec<_>>()
    };
    assert!(shown(2).is_empty());
    assert_eq!(shown(3), ["metadata.version"]);
    assert_eq!(shown(4), ["group.version", "metadata.version"]);
}

#[test]
fn find_coordinator_request() {
    use find_coordinator::Request;
    let values = |version| {
        let keys = if version >= 4 {
            list(text()).boxed()
        } else {
            text().prop_map(|key| vec![key]).boxed()
        };
        (since(version >= 1, any::<i8>(), 0), keys)
            .prop_map(|(key_type, keys)| Request { key_type, keys })
    };
    compare(values, |ours: &Request, version| {
        let request = peer::FindCoordinatorRequest::default().with_key_type(ours.key_type);
        if version >= 4 {
            request.with_coordinator_keys(ours.keys.iter().map(|key| theirs(key)).collect())
        } else {
            request.with_key(theirs(&ours.keys[0]))
        }
    });
}

#[test]
fn find_coordinator_response() {
    use find_coordinator::{Coordinator, Response};
    let values = |version| {
        let coordinator =
            (
                since(version >= 4, text(), String::new()),
                any::<i32>(),
                text(),
                any::<i32>(),
                error(),
                since(version >= 1, maybe_text(), None),
            )
                .prop_map(|(key, node_id, host, port, error, error_message)| {
                    Coordinator { key, node_id, host, port, error, error_message }
                });
        let count = if version >= 4 { 0..4 } else { 1..2 };
        let coordinators = prop::collection::vec(coordinator, count);
        (since(version >= 1, any::<i32>(), 0), coordinators).prop_map(
            |(throttle_time_ms, coordinators)| Response { throttle_time_ms, coordinators },
        )
    };
    compare(values, |ours: &Response, version| {
        let response =
            peer::FindCoordinatorResponse::default().with_throttle_time_ms(ours.throttle_time_ms);
        if version < 4 {
            let one = &ours.coordinators[0];
            return response
                .with_node_id(one.node_id.into())
                .with_host(theirs(&one.host))
                .with_port(one.port)
                .with_error_code(one.error.code())
                .with_error_message(match version {
                    0 => Some(theirs("")), // The other crate's value for a missing field.
                    _ => maybe_theirs(one.error_message.as_ref()),
                });
        }
        let coordinator = |one: &Coordinator| {
            peer::find_coordinator_response::Coordinator::default()
                .with_key(theirs(&one.key))
                .with_node_id(one.node_id.into())
                .with_host(theirs(&one.host))
                .with_port(one.port)
                .with_error_code(one.error.code())
                .with_error_message(maybe_theirs(one.error_message.as_ref()))
        };
        response.with_coordinators(ours.coordinators.iter().map(coordinator).collect())
    });
}

#[test]
fn old_versions_ask_for_exactly_one_group() {
    use find_coordinator::{KEY_TYPE_TRANSACTION, Request};
    let none = Request { key_type: 0, keys: vec![] };
    assert_eq!(body(&none, 3), Err(EncodeError::NotInVersion { field: "keys", version: 3 }));
    assert!(body(&none, 4).is_ok());
    let transaction = Request { key_type: KEY_TYPE_TRANSACTION, keys: vec!["t".into()] };
    assert_eq!(
        body(&transaction, 0),
        Err(EncodeError::NotInVersion { field: "key_type", version: 0 })
    );
}
