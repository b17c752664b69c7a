//! The limit on open files belongs to the process, which is why this test has one of its own.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use kariz_engine::io::Io;
use kariz_engine::io::uring::Uring;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::path::Path;
use std::time::Duration;

#[test]
fn a_directory_is_synced_once_there_is_a_descriptor_for_it() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let limit = getrlimit(Resource::Nofile);
    let synced = Uring::run(None, |io| async move {
        setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..limit }).unwrap();
        assert!(io.list(dir).is_err());
        let later = io.sleep(Duration::from_millis(250));
        io.spawn(async move {
            later.await;
            setrlimit(Resource::Nofile, limit).unwrap();
        });
        io.sync_dir(dir).await
    });
    synced.unwrap().unwrap();
}
