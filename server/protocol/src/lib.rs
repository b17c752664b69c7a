//! Kafka's wire protocol: bytes to requests and responses, and back. No I/O, no engine.
//!
//! Server and load generator share it, so every message is written and read here. In the order
//! of a request's life:
//!
//! | Module | What it knows |
//! |---|---|
//! | [`error_code`] | Kafka's error codes |
//! | [`api`] | the APIs, their versions: the one table |
//! | [`cursor`] | reading primitives from a frame, bounded |
//! | [`view`] | arrays read where they lie |
//! | [`writer`] | writing primitives and frames, with holes for bytes sent from elsewhere |
//! | [`messages`] | one module an API, with its `Request` and `Response` |
//! | [`header`] | request and response headers; whole frames |
//! | [`frame`] | cutting a stream of chunks into frames |
//! | [`metadata_log`] | the values of the records of `__cluster_metadata` |
//!
//! A server cuts a frame, reads its [`RequestHeader`](header::RequestHeader) and then the body:
//!
//! ```
//! use kariz_protocol::{api::ApiKey, cursor::Cursor, header, messages::{Message, metadata}};
//! # let mut buf = bytes::BytesMut::new();
//! # header::encode_request(&mut buf, 12, 7, Some("me"), &metadata::Request::default()).unwrap();
//! # let frame = buf.freeze().slice(4..);
//! let mut cursor = Cursor::new(&frame);
//! let header = header::RequestHeader::read(&mut cursor).unwrap();
//! assert_eq!(header.api, ApiKey::Metadata);
//! let request = metadata::Request::decode(&mut cursor, header.version).unwrap();
//! assert!(request.topics.is_none());
//! ```
//!
//! *Invariants:* no input makes this crate panic, nor allocate more than a constant times the
//! bytes it was given. What is announced (a length, a count) is checked against what is there.
//! A view takes nothing; an owned message at most 48 times its bytes (a list of empty names, held
//! in structs), so a server should refuse what is large and neither Produce nor Fetch unread.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

pub mod api;
pub mod cursor;
pub mod error_code;
pub mod frame;
pub mod header;
pub mod messages;
pub mod metadata_log;
pub mod view;
pub mod writer;

pub use api::ApiKey;
pub use cursor::{Cursor, DecodeError};
pub use error_code::ErrorCode;
pub use writer::{EncodeError, Writer};
