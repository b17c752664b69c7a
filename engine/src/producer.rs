//! Idempotent producers.
