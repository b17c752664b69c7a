//! The names of files in a partition's directory. All that stay there are Kafka's.

use crate::io::{File, Io, OpenMode};
use crate::types::Offset;
use std::io;
use std::path::{Path, PathBuf};

/// The leader epochs and their first offsets.
pub(crate) const EPOCHS: &str = "leader-epoch-checkpoint";
/// The topic's id.
pub(crate) const METADATA: &str = "partition.metadata";

/// The segment that begins at `base`.
pub(crate) fn log(dir: &Path, base: Offset) -> PathBuf {
    with(dir, base, "log")
}

/// Its offset index.
pub(crate) fn index(dir: &Path, base: Offset) -> PathBuf {
    with(dir, base, "index")
}

/// Its time index.
pub(crate) fn time_index(dir: &Path, base: Offset) -> PathBuf {
    with(dir, base, "timeindex")
}

/// The next segment, before it has a base offset. A start removes what ends so, and Kafka leaves
/// it alone.
pub(crate) fn spare(dir: &Path) -> PathBuf {
    dir.join("next-segment.tmp")
}

/// The producers' state as of `offset`.
pub(crate) fn snapshot(dir: &Path, offset: Offset) -> PathBuf {
    with(dir, offset, "snapshot")
}

/// What recovery cut off a log at `offset`.
pub(crate) fn cut(dir: &Path, offset: Offset) -> PathBuf {
    with(dir, offset, "cut")
}

/// Behind the name of a file that is to be unlinked. Kafka's.
pub(crate) const GONE: &str = ".deleted";

/// What the segment that begins at `base` is called while it waits to be unlinked.
pub(crate) fn gone(dir: &Path, base: Offset) -> PathBuf {
    with(dir, base, "log.deleted")
}

fn with(dir: &Path, offset: Offset, extension: &str) -> PathBuf {
    dir.join(format!("{:020}.{extension}", offset.0))
}

/// Behind a file's name while it is named anew.
const ANEW: &str = ".anew";

/// Gives the file at `path` its name again. After a failed sync of its directory a name can read
/// back and not be on the disk, and no later sync would bring it there.
pub(crate) fn name_anew<I: Io>(io: &I, path: &Path) -> io::Result<()> {
    let aside = anew(path);
    io.rename(path, &aside)?;
    io.rename(&aside, path)
}

fn anew(path: &Path) -> PathBuf {
    let mut aside = path.as_os_str().to_owned();
    aside.push(ANEW);
    aside.into()
}

/// Ends what a crash in the middle of [`name_anew`] left of the directory `path`.
pub(crate) fn end_naming_of<I: Io>(io: &I, path: &Path) -> io::Result<()> {
    let aside = anew(path);
    if io.list(path).is_err() && io.list(&aside).is_ok() {
        return io.rename(&aside, path);
    }
    Ok(())
}

/// Ends what a crash in the middle of [`name_anew`] left, before anybody looks for a file.
pub(crate) fn end_naming<I: Io>(io: &I, dir: &Path) -> io::Result<()> {
    let entries = io.list(dir)?;
    for entry in &entries {
        let Some(name) = entry.name.strip_suffix(ANEW) else { continue };
        let aside = dir.join(&entry.name);
        if !entries.iter().any(|other| other.name == name) {
            io.rename(&aside, &dir.join(name))?;
        } else if entry.is_dir {
            // Somebody else has the name by now: this one had lost it in a failed sync.
            io.remove_dir(&aside)?;
        } else {
            io.remove_file(&aside)?;
        }
    }
    Ok(())
}

/// `error`, which says where.
pub(crate) fn with_path(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Unlinks the segment file at `path`, which a cut took or a crash emptied, such that it holds no
/// batch if its name should come back: see `log::truncate`.
pub(crate) async fn discard<I: Io>(io: &I, path: &Path) -> io::Result<()> {
    let file = io.open(path, OpenMode::Write)?;
    cut_anew(&file, 0)?;
    file.sync().await?;
    io.remove_file(path)
}

/// Cuts `file` to `len`, which may read back from an earlier cut and not be durable: after a failed
/// sync nothing would bring it to the disk but a change.
pub(crate) fn cut_anew<F: File>(file: &F, len: u64) -> io::Result<()> {
    file.set_len(len.saturating_add(1))?;
    file.set_len(len)
}

/// The offset in the name of a file with `extension`.
pub(crate) fn offset_of(name: &str, extension: &str) -> Option<Offset> {
    let digits = name.strip_suffix(extension)?.strip_suffix('.')?;
    let canonical = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| canonical).map(Offset)
}

/// Removes the indexes of the segment that begins at `base`, if they are there.
pub(crate) fn remove_indexes<I: Io>(io: &I, dir: &Path, base: Offset) -> io::Result<()> {
    for path in [index(dir, base), time_index(dir, base)] {
        remove_if_there(io, &path)?;
    }
    Ok(())
}

/// Unlinks `path`; that it is gone already is no error.
pub(crate) fn remove_if_there<I: Io>(io: &I, path: &Path) -> io::Result<()> {
    match io.remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
