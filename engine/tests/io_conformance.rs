//! One body, two arms: what the engine relies on holds on the kernel and in the simulation, or the
//! simulation is not to be believed.
//!
//! The bodies are generic over [`Io`]. The seam accepts connections and dials none, so an [`Arm`]
//! says how to: the simulation through its own network, the kernel through a plain socket of
//! another thread, which shares no code with what is tested.

#![allow(clippy::unwrap_used)] // tests, although the bodies are no `#[test]` functions

#[path = "io_conformance/arms.rs"]
mod arms;
#[path = "io_conformance/files.rs"]
mod files;
#[path = "io_conformance/net.rs"]
mod net;
#[path = "io_conformance/tasks.rs"]
mod tasks;

use arms::{Arm, Peer, Real, Simulated, TempDir};
use kariz_engine::io::sim::{Faults, World};
use kariz_engine::io::uring::Uring;
use kariz_engine::io::{File, Io, OpenMode};
use std::io::{self, ErrorKind, IoSlice};
use std::rc::Rc;
use std::sync::LazyLock;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);

/// Seeds on which the simulation's arm runs each body.
const SEEDS: u64 = 20;

/// A test on both arms for each body.
macro_rules! conform {
    ($($module:ident: [$($body:ident),* $(,)?])*) => {
        mod simulated {
            use super::*;
            $($(#[test] fn $body() {
                for seed in 0..SEEDS {
                    let mut world = World::new(seed, Faults::none());
                    world.boot(|io| $module::$body(Simulated(io))).done();
                }
            })*)*
        }

        mod real {
            use super::*;
            $($(#[test] fn $body() {
                Uring::run(None, |io| $module::$body(Real { io, dir: Rc::new(TempDir::new()) }))
                    .unwrap();
            })*)*
        }
    };
}

conform! {
    files: [
        a_file_reads_back_what_was_written,
        open_modes_are_the_kernels,
        a_short_read_is_the_end_of_the_file,
        a_file_knows_when_it_was_changed,
        slices_are_written_one_after_the_other,
        a_hole_reads_as_zeros,
        set_len_cuts_and_extends,
        preallocation_keeps_the_length,
        a_file_made_on_the_side_is_empty_and_has_room,
        an_unlinked_file_stays_readable,
        clones_share_the_file,
        syncs_and_loads_complete,
        names_are_listed_in_order,
        a_rename_replaces,
        directories_are_made_and_removed_whole,
        errors_have_the_same_kinds,
    ]
    tasks: [
        sleepers_wake_in_the_order_of_their_deadlines,
        tasks_run_in_the_order_in_which_they_were_woken,
        random_numbers_differ,
    ]
    net: [
        a_listener_knows_its_address,
        bytes_arrive_whole_and_in_order,
        the_end_of_the_peer_is_the_end_of_the_stream,
        closing_wakes_who_receives,
        closing_wakes_who_sends,
        a_closed_connection_sends_nothing,
        closing_ends_the_peers_stream,
        dropping_closes,
        a_slow_reader_slows_the_sender,
        files_are_sent_between_bytes,
        a_file_too_short_to_send_is_an_error,
        many_connections_are_served,
    ]
}

// Helpers.

/// `len` bytes, of which no two aligned words are equal within a block, nor two blocks.
fn stream(len: usize) -> Vec<u8> {
    const BLOCK: usize = 8192;
    static WORDS: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let words = (1..=BLOCK as u64 / 8).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        words.flat_map(u64::to_be_bytes).collect()
    });
    let mut bytes = Vec::with_capacity(len + BLOCK);
    while bytes.len() < len {
        let at = bytes.len();
        bytes.extend_from_slice(&WORDS);
        bytes[at..at + 8].copy_from_slice(&(at as u64).to_be_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn write<F: File>(file: &F, bytes: &[u8], at: u64) {
    let mut done = 0;
    while done < bytes.len() {
        done += file.write_at(&[IoSlice::new(&bytes[done..])], at + done as u64).unwrap();
    }
}

fn create<A: Arm>(arm: &A, name: &str) -> <A::Io as Io>::File {
    arm.io().open(&arm.dir().join(name), OpenMode::Create).unwrap()
}

/// The kind of the error, if there is one.
fn kind<T>(result: io::Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}
