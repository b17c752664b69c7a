//! The pages beside the crate: how it works, what it promises, and for whom that is new.
//!
//! They are the files in `docs/`, and `FORMAT.md`.

/// The way of one append, and of one read, by files.
///
/// [map]: crate
/// [format]: crate::guide::format
#[doc = include_str!("../docs/architecture.md")]
pub mod architecture {}

/// What is left after what went wrong.
///
/// [format]: crate::guide::format
#[doc = include_str!("../docs/durability.md")]
pub mod durability {}

/// For those who know RocksDB, Kafka's log, or a file with `O_APPEND`.
///
/// [format]: crate::guide::format
#[doc = include_str!("../docs/coming-from.md")]
pub mod coming_from {}

/// Every byte on disk, and what each crash leaves.
#[doc = include_str!("../FORMAT.md")]
pub mod format {}

/// Who forbids io_uring, and what helps.
#[doc = include_str!("../docs/without-io-uring.md")]
pub mod without_io_uring {}

/// What the engine depends on, and why.
#[doc = include_str!("../docs/dependencies.md")]
pub mod dependencies {}
