//! What each API answers in each case of Kafka's table.

#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)] // a test fails by panicking

#[path = "../common/mod.rs"]
mod common;
mod fetch;
mod produce;
mod repeats;
mod session;
mod topics;

use common::{Client, shared};
use kariz_protocol::ErrorCode;

/// A client of the server that all these tests share.
fn client() -> Client {
    shared().client(0)
}

/// A topic of one test's own, with one partition.
fn topic(client: &mut Client, name: &str) -> String {
    let created = client.create(name, 1);
    assert_eq!(created.error, ErrorCode::None, "{:?}", created.error_message);
    name.to_owned()
}
