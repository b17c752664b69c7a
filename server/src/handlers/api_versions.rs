//! ApiVersions: what is served, in which versions.

use super::{Asked, Refusal};
use crate::connection::Connection;
use kariz_engine::io::Io;
use kariz_protocol::Cursor;
use kariz_protocol::messages::Message;
use kariz_protocol::messages::api_versions::{
    FinalizedFeature, Request, Response, SupportedFeature,
};

/// Levels of metadata.version that we could run. Source: Kafka 4.1's own range, 3.3 to 4.1.
const METADATA_VERSIONS: (i16, i16) = (7, 27);

/// Answers with the table of APIs and the features of the image.
pub(super) fn handle<I: Io>(
    connection: &Connection<I>,
    cursor: &mut Cursor<'_>,
    asked: Asked,
) -> Result<(), Refusal> {
    let request = Request::decode(cursor, asked.version)?;
    tracing::debug!(
        software = %request.client_software_name,
        version = %request.client_software_version,
        "a client introduced itself"
    );
    let image = connection.core().image.borrow();
    let finalized = image.features().map(|(name, level)| FinalizedFeature {
        name: name.to_owned(),
        max_version_level: level,
        min_version_level: level,
    });
    let (min_version, max_version) = METADATA_VERSIONS;
    let response = Response {
        supported_features: vec![SupportedFeature {
            name: "metadata.version".to_owned(),
            min_version,
            max_version,
        }],
        finalized_features_epoch: Some(image.offset()),
        finalized_features: finalized.collect(),
        ..Response::advertise()
    };
    asked.answer(connection, &response)
}

/// Answers a version that is too new for us in version 0, with the range that is served.
pub(super) fn refuse<I: Io>(connection: &Connection<I>, asked: Asked) -> Result<(), Refusal> {
    Asked { version: 0, ..asked }.answer(connection, &Response::unsupported_version())
}
