//! What a request names more than once.

use std::collections::BTreeSet;

/// Those of `all` that come more than once. Sorted, not hashed: a client chooses what is compared,
/// and could choose what collides.
pub(crate) fn repeated<T: Copy + Ord>(all: impl Iterator<Item = T>) -> BTreeSet<T> {
    let mut all: Vec<T> = all.collect();
    all.sort_unstable();
    let pairs = all.iter().zip(all.iter().skip(1));
    pairs.filter(|(a, b)| a == b).map(|(a, _)| *a).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_more_than_once_is_found_wherever_it_comes() {
        let of = |all: &[i32]| Vec::from_iter(repeated(all.iter().copied()));
        assert_eq!(of(&[]), []);
        assert_eq!(of(&[2, 1, 3]), []);
        assert_eq!(of(&[3, 1, 3, 2, 1, 3, 0]), [1, 3]);
    }
}
