//! Production: one pinned thread a core.
