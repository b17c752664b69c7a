//! Java's `.properties` files, so that a broker's `server.properties` is read as Kafka reads it.
//!
//! `key=value`, `key: value` or `key value` a line; `#` or `!` begins a comment; a backslash at
//! the end of a line joins the next one to it, and elsewhere escapes a character.

/// A `\u` without four hexadecimal digits after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: `\\u` wants four hexadecimal digits")]
pub struct BadEscape {
    /// The line, counted from 1.
    pub line: usize,
}

/// The keys and values in `text`, in order. A key that comes twice is there twice.
///
/// ```
/// let set = kariz_engine::config::parse_properties("# a broker's\nlog.retention.hours = 1\n");
/// assert_eq!(set?, [("log.retention.hours".to_owned(), "1".to_owned())]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`BadEscape`].
pub fn parse_properties(text: &str) -> Result<Vec<(String, String)>, BadEscape> {
    let mut pairs = Vec::new();
    let text = text.replace("\r\n", "\n");
    let mut lines = (1..).zip(text.split(['\n', '\r']));
    while let Some((number, line)) = lines.next() {
        let line = line.trim_start_matches(is_blank);
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        let mut logical = line.to_owned();
        while ends_in_escape(&logical) {
            logical.pop();
            let Some((_, next)) = lines.next() else { break };
            logical.push_str(next.trim_start_matches(is_blank));
        }
        let (key, value) = split(&logical);
        let bad = BadEscape { line: number };
        pairs.push((unescape(key).ok_or(bad)?, unescape(value).ok_or(bad)?));
    }
    Ok(pairs)
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\x0c')
}

/// Whether an odd number of backslashes ends the line.
fn ends_in_escape(line: &str) -> bool {
    line.bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 1
}

/// The key, and the value after its separator.
fn split(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = line.find(|c| {
        let ends = !escaped && (is_blank(c) || c == '=' || c == ':');
        escaped = c == '\\' && !escaped;
        ends
    });
    let (key, rest) = line.split_at(end.unwrap_or(line.len()));
    let rest = rest.trim_start_matches(is_blank);
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (key, rest.trim_start_matches(is_blank))
}

fn unescape(text: &str) -> Option<String> {
    if !text.contains('\\') {
        return Some(text.to_owned());
    }
    // Java's strings are UTF-16, and a character may be written as two escapes.
    let mut out: Vec<u16> = Vec::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let c = match c {
            '\\' => match chars.next() {
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('f') => '\x0c',
                Some('u') => {
                    let digits = chars.as_str().get(..4)?;
                    if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                        return None;
                    }
                    out.push(u16::from_str_radix(digits, 16).ok()?);
                    chars = chars.as_str().get(4..)?.chars();
                    continue;
                }
                Some(other) => other,
                None => break,
            },
            other => other,
        };
        out.extend(c.encode_utf16(&mut [0; 2]).iter());
    }
    Some(String::from_utf16_lossy(&out))
}
