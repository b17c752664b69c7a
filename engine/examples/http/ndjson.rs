//! Lines of JSON, and the records that they are.

use super::failure::{Failure, Result};
use kariz_engine::Timestamp;
use kariz_engine::batch::{Batch, Record};
use serde_json::value::RawValue;
use std::fmt::Write;
use std::str::from_utf8;

/// A batch ends before its records pass this, if it has one: less than `max.message.bytes`.
const BATCH_BYTES_MAX: usize = 1_000_000;

/// The lines of `body` as batches of about 1 MiB; each must be JSON, and becomes a record's value as
/// it is.
pub(super) fn batches(body: &[u8], now: Timestamp) -> Result<Vec<Batch>> {
    let (mut batches, mut batch) = (Vec::new(), Batch::build());
    for (n, line) in (1..).zip(body.split(|b| *b == b'\n')) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        if json(line).is_none() {
            return Err(Failure::new(400, format!("line {n} is not JSON; nothing was appended")));
        }
        if batch.plain_bytes() > 0 && batch.plain_bytes() + line.len() > BATCH_BYTES_MAX {
            batches.push(std::mem::replace(&mut batch, Batch::build()).done()?);
        }
        batch.add(None, Some(line), &[], now);
    }
    batches.push(batch.done()?);
    Ok(batches)
}

fn json(text: &[u8]) -> Option<&str> {
    Some(serde_json::from_str::<&RawValue>(from_utf8(text).ok()?).ok()?.get())
}

/// `text` as a string of JSON.
pub(super) fn string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Appends `record` as a line. What is not JSON, and every key, is a string; bytes in it that are
/// not UTF-8 are lost.
pub(super) fn put_line(out: &mut String, record: &Record<'_>) {
    let text = |bytes| string(&String::from_utf8_lossy(bytes));
    let null = || "null".to_owned();
    // Between its tokens JSON may have line ends.
    let value =
        |bytes| json(bytes).map_or_else(|| text(bytes), |json| json.replace(['\n', '\r'], " "));
    let (offset, time) = (record.offset, record.timestamp.0);
    let (key, value) = (record.key.map_or_else(null, text), record.value.map_or_else(null, value));
    // Writing to a string cannot fail.
    let _never =
        writeln!(out, r#"{{"offset":{offset},"timestamp":{time},"key":{key},"value":{value}}}"#);
}
