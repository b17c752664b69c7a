//! HTTP/1.1: requests, and what answers are made of. `hyper` would want an adapter to our
//! connections as long as this.

use super::failure::{Failure, Result};
use kariz_engine::{Offset, TopicPartition};
use std::str::{FromStr, from_utf8};

const HEAD_BYTES_MAX: usize = 16 << 10;
const BODY_BYTES_MAX: usize = 16 << 20;
/// The line before a chunk: a size, and an extension that nobody sends.
const CHUNK_LINE_BYTES_MAX: usize = 256;
const HEADERS_MAX: usize = 64;

/// An answer of which all is known.
pub(super) fn answer(status: &str, headers: &str, body: &str) -> String {
    let len = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/x-ndjson\r\nContent-Length: {len}\r\n\
         {headers}\r\n{body}"
    )
}

/// What comes before a tail.
pub(super) const TAIL_HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n\
     Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n";

/// What comes before `bytes` of a segment, behind which `next` is.
pub(super) fn raw_head(bytes: usize, next: Offset, connection: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {bytes}\r\n\
         Kariz-Next-Offset: {next}\r\n{connection}\r\n"
    )
}

/// How a body comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    None,
    Bytes(usize),
    Chunked,
}

impl Framing {
    /// Bytes of the body at most.
    pub(super) fn bytes_max(self) -> Result<u32> {
        let bytes = match self {
            Self::None => return Err(Failure::new(411, "the body's length is missing")),
            Self::Bytes(bytes) if bytes > BODY_BYTES_MAX => return Err(too_large()),
            Self::Bytes(bytes) => bytes,
            Self::Chunked => BODY_BYTES_MAX,
        };
        u32::try_from(bytes).map_err(|_| too_large())
    }
}

/// The head of a request.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) method: String,
    /// Its path and its query, as they came.
    pub(super) target: String,
    pub(super) partition: TopicPartition,
    pub(super) is_raw: bool,
    /// `?from=`
    pub(super) from: Option<Offset>,
    /// `?follow=`
    pub(super) follow: bool,
    pub(super) body: Framing,
    /// The client waits to be told before it sends the body.
    pub(super) expects: bool,
    pub(super) keep_alive: bool,
}

/// Takes the first request's head off `input`, once all of it is there.
pub(super) fn take_head(input: &mut Vec<u8>) -> Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let seen = &input[..input.len().min(HEAD_BYTES_MAX)];
    let bytes = match request.parse(seen) {
        Ok(httparse::Status::Complete(bytes)) => bytes,
        Ok(httparse::Status::Partial) if seen.len() < HEAD_BYTES_MAX => return Ok(None),
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Err(Failure::new(431, "a head has at most 16 KiB and 64 headers"));
        }
        Err(error) => return Err(Failure::new(400, error)),
    };
    if request.version != Some(1) {
        return Err(Failure::new(505, "only HTTP/1.1"));
    }
    let target = request.path.unwrap_or_default().to_owned();
    let (partition, is_raw) = resource(target.split('?').next().unwrap_or_default())?;
    let mut head = Head {
        method: request.method.unwrap_or_default().to_owned(),
        partition,
        is_raw,
        from: None,
        follow: true,
        body: Framing::None,
        expects: false,
        keep_alive: true,
        target,
    };
    for header in request.headers.iter() {
        head.note(header.name, from_utf8(header.value).unwrap_or("?").trim())?;
    }
    let query = head.target.split_once('?').map_or("", |(_, query)| query);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("from", offset)) => head.from = Some(Offset(number(offset)?)),
            Some(("follow", follow)) => head.follow = number(follow)?,
            _ => return Err(Failure::new(400, format!("`{pair}` is not known"))),
        }
    }
    input.drain(..bytes);
    Ok(Some(head))
}

/// The partition that `path` names, and whether its bytes are meant.
fn resource(path: &str) -> Result<(TopicPartition, bool)> {
    let parts: Vec<&str> = path.split('/').collect();
    let (topic, partition, is_raw) = match parts[..] {
        ["", topic, partition] => (topic, partition, false),
        ["", topic, partition, "raw"] => (topic, partition, true),
        _ => return Err(Failure::new(404, "only /TOPIC/PARTITION and /TOPIC/PARTITION/raw")),
    };
    let name = TopicPartition::new(topic, number(partition)?);
    name.check().map_err(|error| Failure::new(400, error))?;
    Ok((name, is_raw))
}

fn number<T: FromStr>(text: &str) -> Result<T> {
    text.parse().map_err(|_| Failure::new(400, format!("`{text}` is not possible there")))
}

impl Head {
    /// The header that says what becomes of the connection.
    pub(super) fn connection(&self) -> &'static str {
        if self.keep_alive { "" } else { "Connection: close\r\n" }
    }

    fn note(&mut self, name: &str, value: &str) -> Result<()> {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        if is("Content-Length") || is("Transfer-Encoding") {
            // Two of them may mean a second request to one reader and a body to another.
            if self.body != Framing::None {
                return Err(Failure::new(400, "a body has one length"));
            }
            let is_number = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
            self.body = match is("Content-Length") {
                true if is_number => Framing::Bytes(value.parse().unwrap_or(usize::MAX)),
                true => return Err(Failure::new(400, "a length is a number")),
                false if value.eq_ignore_ascii_case("chunked") => Framing::Chunked,
                false => return Err(Failure::new(501, "only chunked")),
            };
        }
        self.expects |= is("Expect") && value.eq_ignore_ascii_case("100-continue");
        self.keep_alive &= !(is("Connection") && value.eq_ignore_ascii_case("close"));
        Ok(())
    }
}

/// Moves what is in `input` of a chunked body to `body`, and says whether that was all.
pub(super) fn unchunk(input: &mut Vec<u8>, body: &mut Vec<u8>) -> Result<bool> {
    let bad = || Failure::new(400, "bad chunk");
    let mut rest = input.as_slice();
    let ended = loop {
        // The parser takes no digit for a 0.
        if rest.first().is_some_and(|digit| !digit.is_ascii_hexdigit()) {
            return Err(bad());
        }
        let line = httparse::parse_chunk_size(&rest[..rest.len().min(CHUNK_LINE_BYTES_MAX)]);
        let (at, size) = match line.map_err(|_| bad())? {
            httparse::Status::Complete(line) => line,
            httparse::Status::Partial if rest.len() < CHUNK_LINE_BYTES_MAX => break false,
            httparse::Status::Partial => return Err(bad()),
        };
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if size > BODY_BYTES_MAX - body.len() {
            return Err(too_large());
        }
        if size == 0 {
            // What may follow the last chunk is dropped.
            let mut trailers = [httparse::EMPTY_HEADER; HEADERS_MAX];
            match httparse::parse_headers(&rest[at..], &mut trailers).map_err(|_| bad())? {
                httparse::Status::Complete((bytes, _)) => {
                    rest = &rest[at + bytes..];
                    break true;
                }
                httparse::Status::Partial if rest.len() < HEAD_BYTES_MAX => break false,
                httparse::Status::Partial => return Err(bad()),
            }
        }
        let Some((chunk, after)) = rest[at..].split_at_checked(size + 2) else { break false };
        body.extend(chunk.strip_suffix(b"\r\n").ok_or_else(bad)?);
        rest = after;
    };
    input.drain(..input.len() - rest.len());
    Ok(ended)
}

fn too_large() -> Failure {
    Failure::new(413, "a body has at most 16 MiB: send more of them")
}
