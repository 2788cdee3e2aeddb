//! The rooms of the gateway that read what strangers send, mounted from its source.
//!
//! Not the crate `lensgate` itself: that would instrument and build every runtime and server as well.

// What only other rooms call is unused here.
#![allow(dead_code, unused_imports)]

/// Words and rules.
#[path = "../../src/domain/mod.rs"]
pub mod domain;

/// The folder of models, for its reader of ONNX files.
#[path = "../../src/model_store/mod.rs"]
pub mod model_store;

/// Bytes to pixels to tensors.
#[path = "../../src/vision/mod.rs"]
pub mod vision;
