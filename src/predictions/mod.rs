//! What is remembered of predictions.

mod archive;

pub use archive::{Archive, ArchiveError, ArchiveStatus};
