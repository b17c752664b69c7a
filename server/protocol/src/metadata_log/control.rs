//! The control record that begins an epoch of the metadata log: who leads it.

use bytes::BytesMut;
use uuid::Uuid;

use super::RecordError;
use crate::cursor::{Cursor, DecodeError};
use crate::writer::{EncodeError, Writer};

/// The control record type of [`LeaderChange`]. Source: Kafka's `ControlRecordType`.
const LEADER_CHANGE: i16 = 2;

/// The key of a [`LeaderChange`]: version 0, type 2.
pub const LEADER_CHANGE_KEY: [u8; 4] = [0, 0, 0, 2];

/// The type that the key of a control record names: 0 abort, 1 commit, 2 leader change,
/// 3 snapshot header, 4 snapshot footer, 5 KRaft version, 6 voters.
///
/// # Errors
/// [`DecodeError::Truncated`].
pub fn control_record_type(key: &[u8]) -> Result<i16, DecodeError> {
    let mut c = Cursor::over(key);
    c.i16()?; // A later version may only append to the key.
    c.i16()
}

/// The first record of an epoch: who leads it, who may vote, who did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaderChange {
    /// The leader.
    pub leader_id: i32,
    /// Those who may vote.
    pub voters: Vec<Voter>,
    /// Those who voted for the leader.
    pub granting_voters: Vec<Voter>,
}

/// A voter of the metadata quorum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Voter {
    /// Its id.
    pub voter_id: i32,
    /// Its log directory, in version 1.
    pub directory_id: Option<Uuid>,
}

impl LeaderChange {
    /// Reads the value of a control record of this type.
    ///
    /// # Errors
    /// [`RecordError::UnknownRecord`] (with the control record type as key) for a version above 1,
    /// [`RecordError::Malformed`].
    pub fn decode(value: &[u8]) -> Result<Self, RecordError> {
        let mut c = Cursor::over(value);
        c.set_flexible(true);
        let version = c.i16()?;
        if !(0..=1).contains(&version) {
            let unsigned = |n: i16| u32::from(n.cast_unsigned());
            let (key, version) = (unsigned(LEADER_CHANGE), unsigned(version));
            return Err(RecordError::UnknownRecord { key, version });
        }
        let voters = |c: &mut Cursor<'_>| c.array(5, |c| Voter::read(c, version));
        let this =
            Self { leader_id: c.i32()?, voters: voters(&mut c)?, granting_voters: voters(&mut c)? };
        c.end_struct()?;
        c.finish()?;
        Ok(this)
    }

    /// Appends the value to `buf`: version 1 if every voter has a directory, else 0.
    ///
    /// # Errors
    /// Any [`EncodeError`]; `buf` is then as it was.
    pub fn encode(&self, buf: &mut BytesMut) -> Result<(), EncodeError> {
        let mut all = self.voters.iter().chain(&self.granting_voters).peekable();
        let version =
            i16::from(all.peek().is_some() && all.all(|voter| voter.directory_id.is_some()));
        let mut w = Writer::plain(buf);
        w.set_flexible(true);
        w.i16(version);
        w.i32(self.leader_id);
        for voters in [&self.voters, &self.granting_voters] {
            w.array(voters, |w, voter| voter.write(w, version));
        }
        w.end_struct();
        w.finish().map(drop)
    }
}

impl Voter {
    fn read(c: &mut Cursor<'_>, version: i16) -> Result<Self, DecodeError> {
        let this = Self {
            voter_id: c.i32()?,
            directory_id: if version >= 1 { Some(c.uuid()?) } else { None },
        };
        c.end_struct()?;
        Ok(this)
    }

    fn write(&self, w: &mut Writer<'_>, version: i16) {
        w.i32(self.voter_id);
        match self.directory_id {
            Some(id) if version >= 1 => w.uuid(id),
            _ => (),
        }
        w.end_struct();
    }
}
