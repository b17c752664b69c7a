//! Which names a topic may have.

/// Characters of the longest topic name. Source: Kafka; with `-` and a partition number it still
/// is a file name of at most 255 bytes.
const NAME_BYTES_MAX: usize = 249;

/// Topics that the cluster keeps for itself.
const INTERNAL: [&str; 3] = ["__cluster_metadata", "__consumer_offsets", "__transaction_state"];

/// Why a topic cannot be called so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NameError {
    #[error("a topic's name must not be empty")]
    Empty,
    #[error("a topic cannot be called `.` or `..`: it becomes a directory")]
    Dots,
    #[error("a topic's name has at most {NAME_BYTES_MAX} characters")]
    TooLong,
    #[error("a topic's name has only letters, digits, `.`, `_` and `-`")]
    Character,
    #[error("`__cluster_metadata` is the cluster's own log")]
    Reserved,
}

/// Checks a name from a client. It becomes a directory, so nothing else may ever pass.
pub(crate) fn check(name: &str) -> Result<(), NameError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    match name {
        "" => Err(NameError::Empty),
        "." | ".." => Err(NameError::Dots),
        "__cluster_metadata" => Err(NameError::Reserved),
        name if name.len() > NAME_BYTES_MAX => Err(NameError::TooLong),
        name if !name.bytes().all(allowed) => Err(NameError::Character),
        _ => Ok(()),
    }
}

/// What metrics call the topic: `.` becomes `_`. `None` if no other can be called so. Source: Kafka's
/// `Topic.unifyCollisionChars`; its tools and exporters are why nobody wants two of one name.
pub(crate) fn in_metrics(name: &str) -> Option<String> {
    #[cfg(test)]
    COMPARED.set(COMPARED.get() + 1);
    name.contains(['.', '_']).then(|| name.replace('.', "_"))
}

#[cfg(test)]
thread_local! {
    /// How often this thread has looked at a name to tell whether it collides.
    pub(crate) static COMPARED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Whether clients should leave the topic alone.
pub(crate) fn is_internal(name: &str) -> bool {
    INTERNAL.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_are_safe_as_directories_pass() {
        for good in ["a", "A.b_c-9", "...", &"x".repeat(249)] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "../x", "a b", "\u{e4}", "a\0", &"x".repeat(250)] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_collide_on_dots_and_underscores_alone() {
        for (a, b) in [("a.b", "a_b"), ("a_b", "a.b"), ("..x_", "__x.")] {
            assert!(in_metrics(a).is_some() && in_metrics(a) == in_metrics(b), "{a} {b}");
        }
        for (a, b) in [("a.b", "a-b"), ("a.b", "ab"), ("a.", "a"), ("a.b", "A_b"), ("a.b", "")] {
            assert_ne!(in_metrics(a), in_metrics(b), "{a} {b}");
        }
        assert_eq!(in_metrics("a-b"), None);
    }
}
