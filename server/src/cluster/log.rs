//! `__cluster_metadata`: the log whose fold is the image. Kafka's records in Kafka's batches, so
//! that Kafka's own tools read it.

use super::image::Image;
use bytes::BytesMut;
use kariz_engine::batch::{Batch, BuildError, RecordFault};
use kariz_engine::io::Io;
use kariz_engine::types::{LeaderEpoch, TopicId, TopicPartition};
use kariz_engine::{AppendError, CreateError, Mark, Partition, ReachError, ReadError, Span};
use kariz_protocol::EncodeError;
use kariz_protocol::metadata_log::{LEADER_CHANGE_KEY, LeaderChange, Record, RecordError, Voter};

/// The topic's name.
pub(crate) const NAME: &str = "__cluster_metadata";
/// The topic's id. Source: `Uuid.METADATA_TOPIC_ID`.
pub(crate) const ID: TopicId = TopicId(1_u128.to_be_bytes());
/// Bytes read at once when the log is folded.
const READ_BYTES: usize = 1024 * 1024;
/// The largest batch accepted back, inflated. Source: a batch is at most 8 MiB in KRaft.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The log's one partition.
pub(crate) fn partition_name() -> TopicPartition {
    TopicPartition::new(NAME, 0)
}

/// Why the log cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    #[error(transparent)]
    Create(#[from] CreateError),
    #[error("cannot be read: {0}")]
    Read(#[from] ReadError),
    #[error("a batch cannot be read at offset {offset}: {why}")]
    Batch { offset: i64, why: String },
    #[error("the record at offset {offset} cannot be read: {error}")]
    Record { offset: i64, error: RecordError },
    #[error("the records before offset {end} do not fit the image: {error}")]
    Fold { end: i64, error: super::image::FoldError },
    #[error("a record cannot be written: {0}")]
    Encode(#[from] EncodeError),
    #[error("a batch cannot be built: {0}")]
    Build(#[from] BuildError),
    #[error("a batch was not appended: {0}")]
    Append(#[from] AppendError),
    #[error("a batch did not become durable: {0}")]
    Reach(#[from] ReachError),
}

/// Records that are durable: batch by batch, each with the offset at which it ends.
#[derive(Debug, Default)]
pub(crate) struct Delta {
    pub(crate) batches: Vec<(Vec<Record>, i64)>,
}

impl Delta {
    /// All records, in order.
    pub(crate) fn records(&self) -> impl Iterator<Item = &Record> {
        self.batches.iter().flat_map(|(records, _)| records)
    }

    /// Folds the records into `image`.
    pub(crate) fn apply(&self, image: &mut Image) -> Result<(), LogError> {
        for (records, end) in &self.batches {
            let end = *end;
            image.apply(records, end).map_err(|error| LogError::Fold { end, error })?;
        }
        Ok(())
    }
}

/// Folds the whole log; also says in which term its last batch was written, if there is one.
pub(crate) async fn fold<I: Io>(
    log: &Partition<I>,
) -> Result<(Image, Option<LeaderEpoch>), LogError> {
    let (mut image, mut term) = (Image::default(), None);
    let marks = log.marks();
    let mut next = marks.log_start;
    while next < marks.high_watermark {
        let before = next;
        for batch in log.batches(next, READ_BYTES).await? {
            let header = batch.header();
            let end = header.next_offset();
            if end <= next {
                continue; // The slice begins at the batch that holds the offset.
            }
            fold_batch(&mut image, &batch)?;
            term = Some(header.leader_epoch());
            next = end;
        }
        if next == before {
            let why = "it is cut off".to_owned();
            return Err(LogError::Batch { offset: next.0, why });
        }
    }
    Ok((image, term))
}

/// Folds a batch of the log into `image`.
pub(crate) fn fold_batch(image: &mut Image, batch: &Batch) -> Result<(), LogError> {
    let header = batch.header();
    let end = header.next_offset().0;
    if header.is_control() {
        image.skip_to(end);
        return Ok(());
    }
    let records = read_batch(batch, header.base_offset().0)?;
    image.apply(&records, end).map_err(|error| LogError::Fold { end, error })
}

fn read_batch(batch: &Batch, offset: i64) -> Result<Vec<Record>, LogError> {
    let failed = |why: RecordFault| LogError::Batch { offset, why: why.to_string() };
    let records = batch.records(BATCH_BYTES_MAX).map_err(failed)?;
    let mut read = Vec::new();
    for record in records.iter() {
        let record = record.map_err(failed)?;
        let value = record.value.unwrap_or_default();
        let offset = record.offset.0;
        read.push(Record::decode(value).map_err(|error| LogError::Record { offset, error })?);
    }
    Ok(read)
}

/// Appends each of `groups` as one batch, and waits until each is durable, or will not be. Returns
/// those that are, and why the others are not: a disk may have had room for some only.
pub(crate) async fn append<I: Io>(
    log: &Partition<I>,
    io: &I,
    groups: Vec<Vec<Record>>,
) -> (Delta, Result<(), LogError>) {
    let (mut appended, mut done) = (Vec::new(), Ok(()));
    for group in groups {
        match append_batch(log, io, &group) {
            Ok(span) => appended.push((group, span)),
            Err(error) => {
                done = Err(error);
                break;
            }
        }
    }
    let mut delta = Delta::default();
    for (group, span) in appended {
        // Not only the last: one before it may have been given up, and its offsets given away.
        match log.reach(Mark::High, &span).await {
            Ok(_) => delta.batches.push((group, span.end.0)),
            Err(error) => done = Err(error.into()),
        }
    }
    (delta, done)
}

fn append_batch<I: Io>(log: &Partition<I>, io: &I, group: &[Record]) -> Result<Span, LogError> {
    let mut batch = Batch::build();
    for record in group {
        let mut value = BytesMut::new();
        record.encode(&mut value)?;
        batch.add(None, Some(&value), &[], io.timestamp());
    }
    Ok(log.append(&batch.done()?)?)
}

/// Begins a term: the batch that says who leads from here on.
pub(crate) fn begin_term<I: Io>(
    log: &Partition<I>,
    io: &I,
    epoch: LeaderEpoch,
    leader: i32,
) -> Result<Span, LogError> {
    log.lead(epoch);
    let voters = vec![Voter { voter_id: leader, directory_id: None }];
    let granting_voters = voters.clone();
    let mut value = BytesMut::new();
    LeaderChange { leader_id: leader, voters, granting_voters }.encode(&mut value)?;
    let (key, now) = (&LEADER_CHANGE_KEY[..], io.timestamp());
    let batch = Batch::build().control().record(Some(key), Some(&value), &[], now);
    Ok(log.append(&batch.done()?)?)
}
