//! Lensgate, a gateway for image-classification models: the map of the house, from the ground floor up.
//!
//! ARCHITECTURE.md says who may call whom; `tests/it/architecture.rs` holds it.

/// Floor 0: words and rules, no I/O.
pub mod domain;

/// The cellar: settings.
pub mod config;
/// The cellar: logs.
pub mod telemetry;

/// Floor 1: bytes to pixels to tensors, scores to labels.
pub mod vision;

/// Floor 1: what executes a graph.
pub mod backend;

/// Floor 1: the database.
pub mod store;

/// Floor 2: how one loaded version executes.
pub mod engine;
/// Floor 2: the folder of models.
pub mod model_store;

/// Floor 3: what is served, as one immutable catalog.
pub mod models;

/// Floor 4: who may call, and how often.
pub mod access;
/// Floor 4: the operators' use cases.
pub mod admin;
/// Floor 4: what tenants are told.
pub mod callbacks;
/// Floor 4: the use case.
pub mod classify;
/// Floor 4: classifications that nobody waits for.
pub mod jobs;
/// Floor 4: what was answered to whom.
pub mod predictions;

/// Floor 5: HTTP.
pub mod api;

/// The roof: puts everything together.
pub mod app;
/// The roof: the command line.
pub mod cli;
/// The roof: signals and the order in which things end.
pub mod lifecycle;
