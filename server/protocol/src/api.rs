//! The APIs that are served, in which versions: the one table.
//!
//! To add an API: a variant and its number in [`ApiKey`], an entry in [`ApiKey::ALL`], a row in
//! [`ApiKey::spec`], and a module with its messages in [`crate::messages`].

use std::ops::RangeInclusive;

/// An API, by Kafka's number for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(i16)]
pub enum ApiKey {
    /// Appends records.
    Produce = 0,
    /// Reads records.
    Fetch = 1,
    /// Looks offsets up: first, last, by time.
    ListOffsets = 2,
    /// Which brokers and topics there are.
    Metadata = 3,
    /// Which broker coordinates a group or a transactional id.
    FindCoordinator = 10,
    /// Which APIs are served in which versions.
    ApiVersions = 18,
    /// Creates topics.
    CreateTopics = 19,
    /// Deletes topics.
    DeleteTopics = 20,
    /// Hands out a producer id and epoch.
    InitProducerId = 22,
}

/// What is fixed about an API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiSpec {
    /// Its name in Kafka.
    pub name: &'static str,
    /// The versions that ApiVersions lists.
    pub advertised: RangeInclusive<i16>,
    /// The versions that are read and written; a part of `advertised`.
    pub served: RangeInclusive<i16>,
    /// The first version with varint lengths and tagged fields, in headers too; `i16::MAX` where
    /// none has them.
    pub flexible_from: i16,
}

#[inline]
const fn spec(name: &'static str, min: i16, max: i16, flexible_from: i16) -> ApiSpec {
    ApiSpec { name, advertised: min..=max, served: min..=max, flexible_from }
}

impl ApiKey {
    /// Every API, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::Produce,
        Self::Fetch,
        Self::ListOffsets,
        Self::Metadata,
        Self::FindCoordinator,
        Self::ApiVersions,
        Self::CreateTopics,
        Self::DeleteTopics,
        Self::InitProducerId,
    ];

    /// The table: name, least and greatest version, first flexible version.
    /// Source: Kafka 4.1's message schemas; KAFKA-18659 for Produce, which must be advertised
    /// from 0 or librdkafka stops compressing.
    #[inline]
    #[must_use]
    pub const fn spec(self) -> ApiSpec {
        match self {
            Self::Produce => ApiSpec { advertised: 0..=11, ..spec("Produce", 3, 11, 9) },
            Self::Fetch => spec("Fetch", 4, 12, 12),
            Self::ListOffsets => spec("ListOffsets", 1, 10, 6),
            Self::Metadata => spec("Metadata", 0, 13, 9),
            Self::FindCoordinator => spec("FindCoordinator", 0, 6, 3),
            Self::ApiVersions => spec("ApiVersions", 0, 4, 3),
            Self::CreateTopics => spec("CreateTopics", 2, 7, 5),
            Self::DeleteTopics => spec("DeleteTopics", 1, 6, 4),
            Self::InitProducerId => spec("InitProducerId", 0, 5, 2),
        }
    }

    /// The longest request that is decoded, header included; `socket.request.max.bytes` bounds
    /// them all. Made of the smallest elements, a request takes some ten times its bytes until its
    /// answer is sent, which 64 hostile connections may do at once (`server/tests/memory.rs`). As
    /// it is, 1,250 topics of 100 characters can be named; who has more asks for all of them.
    #[must_use]
    pub const fn request_bytes_max(self) -> usize {
        match self {
            Self::Produce => usize::MAX,
            // Names every partition again in each request, and its answer is not held here.
            Self::Fetch => 1 << 20,
            Self::ListOffsets | Self::Metadata | Self::CreateTopics | Self::DeleteTopics => {
                128 << 10
            }
            Self::FindCoordinator | Self::ApiVersions | Self::InitProducerId => 64 << 10,
        }
    }

    /// The API with this number, if it is served.
    #[inline]
    #[must_use]
    pub fn from_code(code: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|api| api.code() == code)
    }

    /// Its number on the wire.
    #[inline]
    #[must_use]
    pub const fn code(self) -> i16 {
        self as i16
    }

    /// Its name in Kafka.
    #[inline]
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.spec().name
    }

    /// Whether this version is read and written.
    #[inline]
    #[must_use]
    pub fn serves(self, version: i16) -> bool {
        self.spec().served.contains(&version)
    }

    /// Whether this version has varint lengths and tagged fields.
    #[inline]
    #[must_use]
    pub const fn is_flexible(self, version: i16) -> bool {
        version >= self.spec().flexible_from
    }

    /// The version of the response's header. ApiVersions answers with 0 whatever was asked, for
    /// the client does not know yet what the broker speaks.
    #[inline]
    #[must_use]
    pub const fn response_header_version(self, version: i16) -> i16 {
        match self {
            Self::ApiVersions => 0,
            _ if self.is_flexible(version) => 1,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_agrees_with_another_codec() {
        use kafka_protocol::messages::ApiKey as Theirs;
        for api in ApiKey::ALL {
            let theirs = Theirs::try_from(api.code()).unwrap();
            assert_eq!(format!("{theirs:?}"), api.name());
            assert_eq!(ApiKey::from_code(api.code()), Some(api));
            let ApiSpec { served, advertised, .. } = api.spec();
            let valid = theirs.valid_versions();
            assert!(valid.min <= *served.start() && *served.end() <= valid.max, "{api:?}");
            assert!(advertised.contains(served.start()) && advertised.end() == served.end());
            for version in served {
                let header = if api.is_flexible(version) { 2 } else { 1 };
                assert_eq!(theirs.request_header_version(version), header, "{api:?} {version}");
                assert_eq!(
                    theirs.response_header_version(version),
                    api.response_header_version(version),
                    "{api:?} {version}"
                );
            }
        }
        assert!(ApiKey::ALL.is_sorted());
        assert_eq!(ApiKey::from_code(-1), None);
    }
}
