//! What the simulation promises: it is not believed until it is tested as hard as what it tests.

mod disk;
mod names;
mod net;
mod run;

use super::{Faults, Sim, SimFile, World};
use crate::io::{File, Io, OpenMode};
use std::io::{self, IoSlice};
use std::path::Path;

const LOG: &str = "/log";

/// A world of `seed` on which nothing fails.
fn world(seed: u64) -> World {
    World::new(seed, Faults::none())
}

/// Writes all of `bytes`, as often as it takes.
fn write(file: &SimFile, bytes: &[u8], at: u64) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        done += file.write_at(&[IoSlice::new(&bytes[done..])], at + done as u64)?;
    }
    Ok(())
}

/// A file at `path` that holds `bytes`; both it and its name are durable.
async fn durable_file(io: &Sim, path: &str, bytes: &[u8]) -> io::Result<SimFile> {
    let path = Path::new(path);
    let file = io.open(path, OpenMode::Create)?;
    write(&file, bytes, 0)?;
    file.sync().await?;
    io.sync_dir(path.parent().unwrap()).await?;
    Ok(file)
}

/// All bytes of `file`.
fn read(file: &SimFile) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(file.len()?).unwrap()];
    let n = file.read_at(&mut bytes, 0)?;
    bytes.truncate(n);
    Ok(bytes)
}

/// How many of `seeds` seeds satisfy `holds`.
fn count(seeds: u64, holds: impl Fn(u64) -> bool) -> u64 {
    (0..seeds).filter(|seed| holds(*seed)).count() as u64
}
