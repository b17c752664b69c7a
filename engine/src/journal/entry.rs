//! One entry of the journal: what one group commit makes durable, byte for byte.
//!
//! ```text
//! entry, at a multiple of 512 bytes
//!   0 magic "KZJE"      4 crc32c of what follows, to the end of the payload
//!   8 journal id       16 sequence            24 payload bytes     28 items
//!  32 items, one after the other, then zeros up to the next multiple of 512
//!
//! item
//!   0 topic id (16)    16 partition           20 kind   24 leader epoch
//!  28 base offset      36 end offset          44 segment's base offset
//!  52 file position    56 byte count          60 the bytes
//!
//! kind 0: here are the bytes of base..end
//!      1: the partition's own files were synced up to end
//!      2: the log was cut back to end, which is the segment's byte `file position`
//! ```

use crate::num;
use crate::types::{LeaderEpoch, Offset, TopicId};
use crc_fast::crc32_iscsi;

/// Entries start at multiples of this: the unit that a disk writes whole.
pub(super) const SECTOR_BYTES: u64 = 512;
pub(super) const HEAD_BYTES: usize = 32;
const ITEM_HEAD_BYTES: usize = 60;
const MAGIC: [u8; 4] = *b"KZJE";

/// What an item says of its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Here are the bytes of `base..end`.
    Bytes,
    /// The partition's own file was synced up to `end`.
    Synced,
    /// The log was cut back to `end`.
    Truncated,
}

impl Kind {
    fn id(self) -> u8 {
        match self {
            Self::Bytes => 0,
            Self::Synced => 1,
            Self::Truncated => 2,
        }
    }

    fn from_id(id: u8) -> Option<Self> {
        [Self::Bytes, Self::Synced, Self::Truncated].into_iter().find(|kind| kind.id() == id)
    }
}

/// A statement of one entry on one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item<'a> {
    pub(crate) topic_id: TopicId,
    pub(crate) partition: i32,
    pub(crate) kind: Kind,
    pub(crate) leader_epoch: LeaderEpoch,
    pub(crate) base: Offset,
    pub(crate) end: Offset,
    pub(crate) segment: Offset,
    pub(crate) position: u32,
    pub(crate) bytes: &'a [u8],
}

/// An entry that is being gathered.
#[derive(Debug)]
pub(crate) struct Entry {
    bytes: Vec<u8>,
    items: u32,
}

impl Entry {
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; HEAD_BYTES], items: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Forgets the items and keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.bytes.truncate(HEAD_BYTES);
        self.items = 0;
    }

    /// Adds `item`, whose bytes are `item.bytes` followed by `more`.
    pub(crate) fn push<'a>(&mut self, item: &Item<'_>, more: impl Iterator<Item = &'a [u8]>) {
        let out = &mut self.bytes;
        out.extend_from_slice(&item.topic_id.0);
        out.extend_from_slice(&item.partition.to_be_bytes());
        out.extend_from_slice(&[item.kind.id(), 0, 0, 0]);
        out.extend_from_slice(&item.leader_epoch.0.to_be_bytes());
        out.extend_from_slice(&item.base.0.to_be_bytes());
        out.extend_from_slice(&item.end.0.to_be_bytes());
        out.extend_from_slice(&item.segment.0.to_be_bytes());
        out.extend_from_slice(&item.position.to_be_bytes());
        let count_at = out.len();
        out.extend_from_slice(&[0; 4]);
        let bytes_at = out.len();
        out.extend_from_slice(item.bytes);
        for slice in more {
            out.extend_from_slice(slice);
        }
        let count = num::u32_of(out.len() - bytes_at).to_be_bytes();
        out[count_at..bytes_at].copy_from_slice(&count);
        self.items += 1;
    }

    /// The finished entry, padded to whole sectors.
    pub(super) fn seal(&mut self, journal: u64, sequence: u64) -> &[u8] {
        let payload = num::u32_of(self.bytes.len() - HEAD_BYTES);
        let end = self.bytes.len();
        self.bytes[..4].copy_from_slice(&MAGIC);
        self.bytes[8..16].copy_from_slice(&journal.to_be_bytes());
        self.bytes[16..24].copy_from_slice(&sequence.to_be_bytes());
        self.bytes[24..28].copy_from_slice(&payload.to_be_bytes());
        self.bytes[28..32].copy_from_slice(&self.items.to_be_bytes());
        let crc = crc32_iscsi(&self.bytes[8..end]);
        self.bytes[4..8].copy_from_slice(&crc.to_be_bytes());
        self.bytes.resize(num::index(sectors(end)), 0);
        &self.bytes
    }
}

/// `len` rounded up to whole sectors.
pub(super) fn sectors(len: usize) -> u64 {
    (len as u64).next_multiple_of(SECTOR_BYTES)
}

/// The head of an entry as found on disk; nothing is known of the payload yet.
pub(super) struct Head {
    pub(super) crc: u32,
    pub(super) journal: u64,
    pub(super) sequence: u64,
    pub(super) payload_bytes: u32,
    pub(super) items: u32,
}

/// Reads the head at the start of `bytes`, if its magic is there.
pub(super) fn head(bytes: &[u8]) -> Option<Head> {
    let mut fields = Fields(bytes);
    (fields.take::<4>()? == MAGIC).then_some(())?;
    Some(Head {
        crc: u32::from_be_bytes(fields.take()?),
        journal: u64::from_be_bytes(fields.take()?),
        sequence: u64::from_be_bytes(fields.take()?),
        payload_bytes: u32::from_be_bytes(fields.take()?),
        items: u32::from_be_bytes(fields.take()?),
    })
}

/// The payload of the whole entry in `bytes`, if its CRC holds.
pub(super) fn payload<'a>(head: &Head, bytes: &'a [u8]) -> Option<&'a [u8]> {
    let end = HEAD_BYTES.checked_add(usize::try_from(head.payload_bytes).ok()?)?;
    let whole = bytes.get(..end)?;
    (crc32_iscsi(whole.get(8..)?) == head.crc).then_some(())?;
    whole.get(HEAD_BYTES..)
}

/// The items of a payload. A payload whose CRC holds ends exactly with its last item.
pub(super) fn items(payload: &[u8]) -> impl Iterator<Item = Item<'_>> {
    let mut fields = Fields(payload);
    std::iter::from_fn(move || fields.item())
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn item(&mut self) -> Option<Item<'a>> {
        if self.0.len() < ITEM_HEAD_BYTES {
            return None;
        }
        let topic_id = TopicId(self.take()?);
        let partition = i32::from_be_bytes(self.take()?);
        let [kind, ..] = self.take::<4>()?;
        let leader_epoch = LeaderEpoch(i32::from_be_bytes(self.take()?));
        let base = Offset(i64::from_be_bytes(self.take()?));
        let end = Offset(i64::from_be_bytes(self.take()?));
        let segment = Offset(i64::from_be_bytes(self.take()?));
        let position = u32::from_be_bytes(self.take()?);
        let count = u32::from_be_bytes(self.take()?);
        let (bytes, rest) = self.0.split_at_checked(usize::try_from(count).ok()?)?;
        self.0 = rest;
        let kind = Kind::from_id(kind)?;
        Some(Item { topic_id, partition, kind, leader_epoch, base, end, segment, position, bytes })
    }
}
