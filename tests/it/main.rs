//! Every integration test, in one binary: on two cores, linking is what costs.

#![expect(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "what fails in a test fails the test"
)]

mod fixture;

mod access;
mod admin;
mod architecture;
mod archive;
mod backend;
mod batch;
mod cache;
mod classify;
mod cli;
mod config;
mod errors;
mod fairness;
mod health;
mod listener;
mod model_editor;
mod model_wishes;
mod models;
mod nasty;
mod openapi;
mod ort_library;
mod parity;
mod readme;
mod reload;
mod reload_broken;
mod reload_swaps;
mod settings;
mod store;
mod tune;
mod uploads;
mod vision_fixtures;
mod vision_hostile;
mod vision_pixels;
