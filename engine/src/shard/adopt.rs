//! Moving the partitions of a core that is no more to the cores that are.

use crate::checkpoint::{self, Checkpoint};
use crate::io::Io;
use crate::types::TopicPartition;
use std::io;
use std::path::{Path, PathBuf};

/// Renames every partition of the cleanly closed log directory `from` into one of `to`, each with
/// its lines in the checkpoints, and removes `from`. A crash in between is mended by the next call.
pub(crate) async fn adopt<I: Io>(io: &I, from: &Path, to: &[(i32, PathBuf)]) -> io::Result<()> {
    let partitions: Vec<TopicPartition> = io
        .list(from)?
        .iter()
        .filter(|entry| entry.is_dir)
        .filter_map(|entry| TopicPartition::from_dir_name(&entry.name))
        .collect();
    for partition in partitions {
        // By number, so that a topic's partitions spread as they did before.
        let number = usize::try_from(partition.partition).unwrap_or(0);
        let Some((_, dir)) = to.get(number % to.len().max(1)) else {
            return Ok(());
        };
        io.create_dir(dir)?;
        // The lines first: one without its partition says nothing.
        for name in [checkpoint::RECOVERY_POINTS, checkpoint::LOG_STARTS] {
            let read = |dir: &Path| -> Checkpoint {
                checkpoint::read(io, &dir.join(name)).unwrap_or_default()
            };
            if let Some(offset) = read(from).get(&partition) {
                let mut theirs = read(dir);
                theirs.insert(partition.clone(), *offset);
                checkpoint::write(io, dir, name, &theirs).await?;
            }
        }
        let name = partition.to_string();
        io.rename(&from.join(&name), &dir.join(&name))?;
        io.sync_dir(dir).await?;
        io.sync_dir(from).await?;
    }
    io.remove_dir(from)
}
