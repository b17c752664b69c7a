//! Walks the batches of a segment file with plain reads, for those who check or print it offline.

use crate::batch::{BatchView, HEADER_BYTES, Header, StoredFault, frame};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

/// What ends a walk before the end of the file.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// The bytes there are no batch; nothing after them can be found.
    #[error("at position {position}: {fault}")]
    Fault {
        /// Where.
        position: u64,
        /// Why.
        fault: StoredFault,
    },
}

/// Calls `visit` with the position of each batch in `file` and the batch itself, framed: its CRC
/// is for `visit` to check. Returns the file's length in bytes.
///
/// # Errors
/// [`WalkError`]; all batches before it have been visited.
pub fn walk(file: &Path, mut visit: impl FnMut(u64, BatchView<'_>)) -> Result<u64, WalkError> {
    let file = File::open(file)?;
    let end = file.metadata()?.len();
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut batch = Vec::new();
    let mut position = 0;
    while position < end {
        let left = usize::try_from(end - position).unwrap_or(usize::MAX);
        // The length is believed only as far as the file reaches.
        batch.resize(HEADER_BYTES.min(left), 0);
        reader.read_exact(&mut batch)?;
        let total = Header::read(&batch).and_then(Header::total_bytes).unwrap_or(HEADER_BYTES);
        batch.resize(total.min(left), 0);
        reader.read_exact(batch.get_mut(HEADER_BYTES..).unwrap_or_default())?;
        let view = frame(&batch).map_err(|fault| WalkError::Fault { position, fault })?;
        visit(position, view);
        position += view.bytes.len() as u64;
    }
    Ok(end)
}
