//! What the cluster's own log says of the directories: each partition is where it should be, and
//! the topic's.

use crate::cluster::image::{Image, TopicImage};
use crate::cluster::log;
use bytes::Bytes;
use kariz_engine::batch::Batch;
use kariz_engine::types::{TopicId, TopicPartition};
use kariz_engine::verify::{Report, segments, walk};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file that says whose a partition's directory is.
const METADATA: &str = "partition.metadata";

/// Says that a core stopped cleanly, and so noted all. Source: the engine's FORMAT.md.
const CLEAN_SHUTDOWN: &str = ".kafka_cleanshutdown";

/// Checks the partitions' directories below `dir` against the cluster's log, if there is one: an
/// engine without a cluster has none.
///
/// # Errors
/// When `dir` cannot be listed.
pub(super) fn check(dir: &Path, report: &mut Report) -> io::Result<()> {
    if let Some(owner) = owner(dir)? {
        check_against(dir, &owner, report);
    }
    Ok(())
}

/// The core's directory that has the cluster's log.
fn owner(dir: &Path) -> io::Result<Option<PathBuf>> {
    let mut found = None;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let is_core = entry.file_name().to_str().is_some_and(|name| name.starts_with("broker-"));
        let core = Some(entry.path()).filter(|path| is_core && of_log(path).is_dir());
        // Of several the last by name, in whatever order they are listed.
        found = found.max(core);
    }
    Ok(found)
}

/// Where the cluster's log is in a core's directory.
fn of_log(core: &Path) -> PathBuf {
    core.join(log::partition_name().to_string())
}

fn check_against(dir: &Path, owner: &Path, report: &mut Report) {
    let of_log = of_log(owner);
    let image = match fold(&of_log) {
        Ok(image) => image,
        Err(why) => return report.fault(&of_log, why),
    };
    let was_clean = owner.join(CLEAN_SHUTDOWN).exists();
    for topic in image.topics() {
        for (index, partition) in topic.partitions() {
            let name = TopicPartition::new(Arc::clone(&topic.name), index).to_string();
            let path = dir.join(format!("broker-{}", partition.leader)).join(name);
            let told = |path: &Path| report.faults.iter().any(|fault| fault.path == path);
            if path.is_dir() {
                check_owner(&path, topic, report);
            } else if was_clean && !told(&path) {
                // After a kill it may not have been made yet, and nothing was promised.
                report.fault(&path, format!("not there, but topic `{}` has it", topic.name));
            }
        }
    }
}

fn check_owner(partition: &Path, topic: &TopicImage, report: &mut Report) {
    let file = partition.join(METADATA);
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) => return report.fault(&file, error),
    };
    let id = text.lines().find_map(|line| line.strip_prefix("topic_id:"));
    match id.and_then(|id| id.trim().parse::<TopicId>().ok()) {
        None => report.fault(&file, "it names no topic id"),
        Some(id) if id != topic.id => {
            let why = format!("of topic id {id}, but topic `{}` has {}", topic.name, topic.id);
            report.fault(&file, why);
        }
        Some(_) => (),
    }
}

/// Folds the cluster's log in the directory `of_log`.
fn fold(of_log: &Path) -> Result<Image, String> {
    let mut image = Image::default();
    for (_, file) in segments(of_log).map_err(|error| error.to_string())? {
        let mut failed = None;
        let walked = walk(&file, |_, batch| {
            let batch = Batch::from_stored(Bytes::copy_from_slice(batch.bytes));
            let folded = match batch {
                Ok(batch) => log::fold_batch(&mut image, &batch).map_err(|e| e.to_string()),
                Err(fault) => Err(fault.to_string()),
            };
            if let Err(why) = folded {
                failed.get_or_insert(why);
            }
        });
        walked.map_err(|error| error.to_string())?;
        failed.map_or(Ok(()), Err)?;
    }
    Ok(image)
}
