//! The ceiling.
fn main() {}
