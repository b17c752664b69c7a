//! Which names a topic may have.

use kariz_engine::types::check_topic;

/// Topics that the cluster keeps for itself.
const INTERNAL: [&str; 3] = ["__cluster_metadata", "__consumer_offsets", "__transaction_state"];

/// Why a client's topic cannot be called so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NameError {
    #[error(transparent)]
    Name(#[from] kariz_engine::types::NameError),
    #[error("`__cluster_metadata` is the cluster's own log")]
    Reserved,
}

/// Checks a name from a client. It becomes a directory, so nothing else may ever pass.
pub(crate) fn check(name: &str) -> Result<(), NameError> {
    match name {
        "__cluster_metadata" => Err(NameError::Reserved),
        name => Ok(check_topic(name)?),
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
    fn clients_do_not_get_the_cluster_s_own_log_nor_a_path() {
        assert_eq!(check("a"), Ok(()));
        assert_eq!(check("__consumer_offsets"), Ok(()));
        assert_eq!(check("__cluster_metadata"), Err(NameError::Reserved));
        assert!(matches!(check("a/b"), Err(NameError::Name(_))));
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
