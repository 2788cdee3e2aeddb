//! Words and rules of Lensgate: no I/O, no async, no HTTP. Every room may import it; it imports none.

pub mod api_key;
pub mod callback;
pub mod clock;
pub mod drift;
pub mod error;
pub mod feedback;
pub mod graph;
pub mod ids;
pub mod job;
pub mod manifest;
pub mod operator;
pub mod picture;
pub mod prediction;
pub mod preset;
pub mod proportion;
pub mod rollout;
pub mod scores;
pub mod secret;
pub mod tenant;
pub mod tensor;
