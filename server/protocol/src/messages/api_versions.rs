//! ApiVersions: how client and broker agree on versions.
//!
//! The one API whose request is answered in any version: one that is too new for the broker gets
//! [`Response::unsupported_version`], encoded as version 0, from which the client steps down.

use super::{Message, error_code};
use crate::api::ApiKey;
use crate::cursor::{Cursor, DecodeError};
use crate::error_code::ErrorCode;
use crate::writer::Writer;

/// Asks which APIs are served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The client library; empty below version 3.
    pub client_software_name: String,
    /// Its version; empty below version 3.
    pub client_software_version: String,
}

/// Lists the APIs that are served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// What became of the request.
    pub error: ErrorCode,
    /// The APIs.
    pub api_keys: Vec<ApiVersion>,
    /// How long the request was held back by a quota, in milliseconds (1+).
    pub throttle_time_ms: i32,
    /// The features the broker could run (3+). Below version 4 those from level 0 are left out:
    /// old Java clients cannot read them.
    pub supported_features: Vec<SupportedFeature>,
    /// The metadata offset of `finalized_features` (3+), if known.
    pub finalized_features_epoch: Option<i64>,
    /// The features the cluster runs (3+).
    pub finalized_features: Vec<FinalizedFeature>,
}

/// The versions of one API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiVersion {
    /// The API's number.
    pub api_key: i16,
    /// The least version.
    pub min_version: i16,
    /// The greatest version.
    pub max_version: i16,
}

/// A feature, with the levels that the broker could run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SupportedFeature {
    /// Its name.
    pub name: String,
    /// The least level.
    pub min_version: i16,
    /// The greatest level.
    pub max_version: i16,
}

/// A feature, with the levels that the cluster runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinalizedFeature {
    /// Its name.
    pub name: String,
    /// The greatest level.
    pub max_version_level: i16,
    /// The least level.
    pub min_version_level: i16,
}

impl From<ApiKey> for ApiVersion {
    fn from(api: ApiKey) -> Self {
        let advertised = api.spec().advertised;
        Self {
            api_key: api.code(),
            min_version: *advertised.start(),
            max_version: *advertised.end(),
        }
    }
}

impl Response {
    /// Lists every API of [`ApiKey::ALL`], and no features.
    #[must_use]
    pub fn advertise() -> Self {
        Self {
            api_keys: ApiKey::ALL.into_iter().map(ApiVersion::from).collect(),
            ..Self::default()
        }
    }

    /// The answer to a version that is too new: write it as version 0. It lists the versions of
    /// ApiVersions itself, or the client could not step down.
    #[must_use]
    pub fn unsupported_version() -> Self {
        Self {
            error: ErrorCode::UnsupportedVersion,
            api_keys: vec![ApiKey::ApiVersions.into()],
            ..Self::default()
        }
    }
}

impl super::Request for Request {
    type Response = Response;
}

impl Message for Request {
    const API: ApiKey = ApiKey::ApiVersions;

    fn read(c: &mut Cursor<'_>, version: i16) -> Result<Self, DecodeError> {
        let mut this = Self::default();
        if version >= 3 {
            this.client_software_name = c.string()?.to_owned();
            this.client_software_version = c.string()?.to_owned();
        }
        c.end_struct()?;
        Ok(this)
    }

    fn write(&self, w: &mut Writer<'_>, version: i16) {
        if version >= 3 {
            w.string(&self.client_software_name);
            w.string(&self.client_software_version);
        }
        w.end_struct();
    }
}

impl Message for Response {
    const API: ApiKey = ApiKey::ApiVersions;

    fn read(c: &mut Cursor<'_>, version: i16) -> Result<Self, DecodeError> {
        let mut this = Self { error: error_code(c)?, ..Self::default() };
        this.api_keys = c.array(6, |c| {
            let api =
                ApiVersion { api_key: c.i16()?, min_version: c.i16()?, max_version: c.i16()? };
            c.end_struct()?;
            Ok(api)
        })?;
        if version >= 1 {
            this.throttle_time_ms = c.i32()?;
        }
        c.tags(|tag, c| {
            match tag {
                0 => this.supported_features = c.array(6, SupportedFeature::read)?,
                1 => this.finalized_features_epoch = Some(c.i64()?).filter(|epoch| *epoch >= 0),
                2 => this.finalized_features = c.array(6, FinalizedFeature::read)?,
                _ => (),
            }
            Ok(())
        })?;
        Ok(this)
    }

    fn write(&self, w: &mut Writer<'_>, version: i16) {
        w.i16(self.error.code());
        w.array(&self.api_keys, |w, api| {
            w.i16(api.api_key);
            w.i16(api.min_version);
            w.i16(api.max_version);
            w.end_struct();
        });
        if version >= 1 {
            w.i32(self.throttle_time_ms);
        }
        w.tags(|tags| {
            let shown = |feature: &&SupportedFeature| version >= 4 || feature.min_version != 0;
            let count = self.supported_features.iter().filter(shown).count();
            if count > 0 {
                tags.field(0, |w| {
                    w.array_len(count);
                    for feature in self.supported_features.iter().filter(shown) {
                        feature.write(w);
                    }
                });
            }
            if let Some(epoch) = self.finalized_features_epoch {
                tags.field(1, |w| w.i64(epoch));
            }
            if !self.finalized_features.is_empty() {
                tags.field(2, |w| w.array(&self.finalized_features, |w, feature| feature.write(w)));
            }
        });
    }
}

impl SupportedFeature {
    fn read(c: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        let this =
            Self { name: c.string()?.to_owned(), min_version: c.i16()?, max_version: c.i16()? };
        c.end_struct()?;
        Ok(this)
    }

    fn write(&self, w: &mut Writer<'_>) {
        w.string(&self.name);
        w.i16(self.min_version);
        w.i16(self.max_version);
        w.end_struct();
    }
}

impl FinalizedFeature {
    fn read(c: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        let this = Self {
            name: c.string()?.to_owned(),
            max_version_level: c.i16()?,
            min_version_level: c.i16()?,
        };
        c.end_struct()?;
        Ok(this)
    }

    fn write(&self, w: &mut Writer<'_>) {
        w.string(&self.name);
        w.i16(self.max_version_level);
        w.i16(self.min_version_level);
        w.end_struct();
    }
}
