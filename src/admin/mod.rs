//! The operators' use cases.
