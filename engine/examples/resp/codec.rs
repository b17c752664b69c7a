//! RESP2: requests, and what answers are made of.

use kariz_engine::batch::Record;
use std::error::Error;
use std::str::from_utf8;

pub(super) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Its arguments, and its length.
type Request<'a> = (Vec<&'a [u8]>, usize);

/// The first request in `input`, an array of strings, and its length.
pub(super) fn parse(input: &[u8]) -> Result<Option<Request<'_>>> {
    let (mut rest, mut args, mut left) = (input, Vec::new(), None);
    while left != Some(0) {
        let Some(end) = rest.iter().position(|b| *b == b'\n') else { return Ok(None) };
        let (line, after) = rest.split_at(end + 1);
        let n = usize::try_from(number(line[1..].trim_ascii())?)?;
        match (left, line[0]) {
            (None, b'*') if n > 0 => (left, rest) = (Some(n), after),
            (Some(more), b'$') if after.len() >= n.saturating_add(2) => {
                args.push(&after[..n]);
                (left, rest) = (Some(more - 1), &after[n + 2..]);
            }
            (Some(_), b'$') => return Ok(None),
            _ => return Err("this is not RESP".into()),
        }
    }
    Ok(Some((args, input.len() - rest.len())))
}

/// A string.
pub(super) fn bulk(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    [format!("${}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// An array of `items`, each in RESP.
pub(super) fn array(items: impl AsRef<[Vec<u8>]>) -> Vec<u8> {
    let items = items.as_ref();
    [format!("*{}\r\n", items.len()).into_bytes(), items.concat()].concat()
}

/// A record as an entry: its id and its fields.
pub(super) fn entry(record: &Record<'_>) -> Vec<u8> {
    let mut fields = vec![bulk(record.key.unwrap_or(b"value")), bulk(record.value.unwrap_or(b""))];
    fields.extend(record.headers.flat_map(|(n, v)| [bulk(n), bulk(v.unwrap_or(b""))]));
    array([bulk(format!("{}-0", record.offset.plus(1))), array(fields)])
}

/// An integer.
pub(super) fn int(n: i64) -> Vec<u8> {
    format!(":{n}\r\n").into()
}

/// An error.
pub(super) fn error(why: Box<dyn Error>) -> Vec<u8> {
    let why = why.to_string();
    let code = if why.starts_with("MOVED ") { "" } else { "ERR " };
    format!("-{code}{why}\r\n").into()
}

/// What follows `name` in `args`, behind `=` or `~`.
pub(super) fn option<'a>(args: &[&'a [u8]], name: &[u8]) -> Option<&'a [u8]> {
    let at = args.iter().position(|arg| arg.eq_ignore_ascii_case(name))?;
    args[at + 1..].iter().find(|arg| !matches!(**arg, b"=" | b"~")).copied()
}

/// A number, or an id's.
pub(super) fn number(text: &[u8]) -> Result<i64> {
    match from_utf8(text)?.trim_end_matches("-0") {
        "-" => Ok(0),
        "+" => Ok(i64::MAX),
        digits => digits.parse().map_err(|_| "a number or an id is expected".into()),
    }
}
