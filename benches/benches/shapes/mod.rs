//! What the benches share: the shapes of batches that the gates are measured with.

use kariz_engine::Batch;
use kariz_engine::types::Timestamp;
use std::fmt;

/// So many records of so many bytes, in one batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// How many.
    pub(crate) records: usize,
    /// The bytes of each one's value.
    pub(crate) value_bytes: usize,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}Bx{}", self.value_bytes, self.records)
    }
}

/// The shapes of the gates: a lone small record, many small ones, a lone larger one, many of it.
pub(crate) const SHAPES: [Shape; 4] = [
    Shape { records: 1, value_bytes: 100 },
    Shape { records: 64, value_bytes: 100 },
    Shape { records: 1, value_bytes: 1 << 10 },
    Shape { records: 16, value_bytes: 1 << 10 },
];

/// A batch of this shape: no keys, values that no codec would shorten.
pub(crate) fn batch(shape: Shape) -> Batch {
    let mut state = 1_u64;
    let mut builder = Batch::build();
    for _ in 0..shape.records {
        let value: Vec<u8> = std::iter::repeat_with(|| {
            // The constants of Knuth's MMIX generator; its upper bits are the random ones.
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        })
        .take(shape.value_bytes)
        .collect();
        builder.add(None, Some(&value), &[], Timestamp(1_700_000_000_000));
    }
    builder.done().unwrap_or_else(|e| panic!("{shape}: {e}"))
}
