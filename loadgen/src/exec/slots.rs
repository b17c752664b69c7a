//! The requests of one connection, prepared before the clock starts: a slot for each that may be
//! in flight. A request is stamped where it lies and sent from there; its slot is free again when
//! it is answered.

use super::ExecError;
use crate::client::FrameShape;
use crate::workload::Workload;
use crate::workload::batch::{self, HEADER_BYTES, ProducerSession, Stamp, Template};
use crate::workload::codec::Codec;
use crate::workload::value::Pool;

/// Prepared requests, one behind the other in memory, so that many leave in one write.
#[derive(Debug)]
pub(super) struct Slots {
    shape: FrameShape,
    codec: Codec,
    batch_records: u32,
    /// Room for each request.
    stride: usize,
    bytes: Vec<u8>,
    /// How many bytes of its room each request takes.
    lens: Vec<usize>,
    /// Where values begin in the uncompressed records: the same in all slots.
    value_at: Vec<usize>,
    /// The uncompressed records of each slot, if they are to be compressed.
    templates: Vec<Vec<u8>>,
    scratch: Vec<u8>,
}

impl Slots {
    /// Prepares `workload.depth` requests for connection number `connection`.
    pub(super) fn new(
        shape: FrameShape,
        workload: &Workload,
        pool: &Pool,
        connection: u32,
    ) -> Self {
        let depth = crate::num::index(u64::from(workload.depth));
        let value_bytes = crate::num::index(u64::from(workload.record_bytes));
        let first_filler = u64::from(connection) << 40;
        let per_batch = u64::from(workload.batch_records);
        let templates = (0..u64::from(workload.depth)).map(|slot| {
            Template::new(
                workload.batch_records,
                value_bytes,
                pool,
                first_filler + slot * per_batch,
            )
        });
        let mut this = Self {
            shape,
            codec: workload.compression,
            batch_records: workload.batch_records,
            stride: 0,
            bytes: Vec::new(),
            lens: vec![0; depth],
            value_at: Vec::new(),
            templates: Vec::new(),
            scratch: Vec::new(),
        };
        for (slot, template) in templates.enumerate() {
            if slot == 0 {
                let records = template.records.len();
                // What does not compress grows, by less than an eighth and a header.
                let room = if this.codec == Codec::None { 0 } else { records / 8 + 1024 };
                this.stride = this.shape.frame_bytes(HEADER_BYTES + records + room);
                this.bytes = vec![0; this.stride * depth];
                this.value_at = template.value_at;
            }
            if this.codec == Codec::None {
                this.place(slot, &template.records);
            } else {
                this.templates.push(template.records);
            }
        }
        this
    }

    /// Puts a frame with these records into a slot; false: it does not fit.
    fn place(&mut self, slot: usize, records: &[u8]) -> bool {
        let batch_bytes = HEADER_BYTES + records.len();
        let frame_bytes = self.shape.frame_bytes(batch_bytes);
        if frame_bytes > self.stride {
            return false;
        }
        let frame = &mut self.bytes[slot * self.stride..][..frame_bytes];
        self.shape.write(frame, batch_bytes);
        let batch = &mut frame[self.shape.batch_at(batch_bytes)..][..batch_bytes];
        batch[HEADER_BYTES..].copy_from_slice(records);
        batch::write_header(batch, self.batch_records, self.codec.id(), ProducerSession::NONE);
        self.lens[slot] = frame_bytes;
        true
    }

    /// Makes the request in a slot the one described.
    ///
    /// # Errors
    /// [`ExecError::Codec`] or [`ExecError::Incompressible`].
    pub(super) fn stamp(
        &mut self,
        slot: usize,
        correlation_id: i32,
        partition: i32,
        stamp: Stamp,
        producer: ProducerSession,
    ) -> Result<(), ExecError> {
        if self.codec != Codec::None {
            let mut scratch = std::mem::take(&mut self.scratch);
            scratch.clear();
            batch::stamp_records(&mut self.templates[slot], &self.value_at, stamp);
            self.codec.compress(&self.templates[slot], &mut scratch)?;
            let fits = self.place(slot, &scratch);
            self.scratch = scratch;
            if !fits {
                return Err(ExecError::Incompressible(self.codec));
            }
        }
        let tags_and_batch = self.lens[slot];
        let frame = &mut self.bytes[slot * self.stride..][..tags_and_batch];
        self.shape.patch(frame, correlation_id, partition);
        let batch = self.shape.batch_in(frame);
        if self.codec == Codec::None {
            batch::stamp_records(&mut batch[HEADER_BYTES..], &self.value_at, stamp);
        }
        batch::set_producer(batch, producer);
        batch::seal(batch, stamp, producer);
        Ok(())
    }

    /// Puts a request that was sent before into a slot again.
    pub(super) fn restore(
        &mut self,
        slot: usize,
        frame: &[u8],
        correlation_id: i32,
        partition: i32,
    ) {
        let room = &mut self.bytes[slot * self.stride..][..frame.len()];
        room.copy_from_slice(frame);
        self.shape.patch(room, correlation_id, partition);
        self.lens[slot] = frame.len();
    }

    /// The bytes of a slot's request.
    pub(super) fn frame(&self, slot: usize) -> &[u8] {
        &self.bytes[slot * self.stride..][..self.lens[slot]]
    }

    /// How many bytes a slot's request has.
    pub(super) fn frame_bytes(&self, slot: usize) -> usize {
        self.lens[slot]
    }

    /// The requests of slots from `first` on, at most `slots` of them, as far as they lie behind
    /// one another without a gap.
    pub(super) fn run(&self, first: usize, slots: usize) -> &[u8] {
        let last = (first + slots).min(self.lens.len());
        let mut end = first * self.stride;
        for slot in first..last {
            end += self.lens[slot];
            if self.lens[slot] != self.stride {
                break;
            }
        }
        &self.bytes[first * self.stride..end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::{Knowledge, PartitionCheck};
    use crate::workload::{Verify, codec::Codec};
    use kariz_protocol::messages::Message;
    use kariz_protocol::messages::produce::Request;

    /// What is sent, decoded by the protocol crate and checked by the checker, is what was meant.
    #[test]
    fn stamped_requests_pass_the_checker() {
        for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let workload = Workload {
                depth: 3,
                batch_records: 70,
                record_bytes: 64,
                compression: codec,
                ..Workload::default()
            };
            let pool = Pool::new(9, 50, 64);
            let shape = FrameShape::new(9, "topic", -1, 1_000).unwrap();
            let mut slots = Slots::new(shape, &workload, &pool, 4);
            let mut check = PartitionCheck::new(Verify::Full, 6, 0, Some(9), &Knowledge::Nothing);
            for n in 0..7_u64 {
                let slot = usize::try_from(n % 3).unwrap();
                let stamp = Stamp {
                    partition: 6,
                    producer: 4,
                    first_sequence: n * 70,
                    intended_unix_ns: 1_000_000 * n,
                };
                slots.stamp(slot, 5, 6, stamp, ProducerSession::NONE).unwrap();
                let frame = bytes::Bytes::copy_from_slice(&slots.frame(slot)[4..]);
                let mut cursor = kariz_protocol::Cursor::new(&frame);
                kariz_protocol::header::RequestHeader::read(&mut cursor).unwrap();
                let request = Request::decode(&mut cursor, 9).unwrap();
                let partition = &request.topics[0].partitions[0];
                assert_eq!(partition.index, 6);
                let mut batch = partition.records.as_deref().unwrap().to_vec();
                batch[..8].copy_from_slice(&(i64::try_from(n).unwrap() * 70).to_be_bytes());
                check.take(&batch);
            }
            let findings = check.finish();
            assert!(findings.is_clean() && findings.read == 490, "{codec:?}: {findings:?}");
        }
    }

    #[test]
    fn requests_of_one_size_leave_together() {
        let workload = Workload { depth: 4, batch_records: 1, ..Workload::default() };
        let shape = FrameShape::new(9, "t", -1, 1_000).unwrap();
        let slots = Slots::new(shape, &workload, &Pool::new(1, 0, 64), 0);
        let one = slots.frame_bytes(0);
        assert_eq!(slots.run(0, 4).len(), 4 * one);
        assert_eq!(slots.run(2, 4).len(), 2 * one);
        assert_eq!(slots.run(3, 1), slots.frame(3));
    }
}
