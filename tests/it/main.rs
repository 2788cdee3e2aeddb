//! Every integration test, in one binary: on two cores, linking is what costs.

#![expect(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "what fails in a test fails the test"
)]

/// Makes a test for SQLite and one for PostgreSQL of each function that takes a `&TestDatabase`.
macro_rules! contract {
    ($($name:ident),+ $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(&crate::fixture::database::TestDatabase::sqlite()).await;
            })+
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(&crate::fixture::database::TestDatabase::postgres().await).await;
            })+
        }
    };
}

mod fixture;

mod access;
mod admin;
mod architecture;
mod archive;
mod backend;
mod batch;
mod cache;
mod callbacks;
mod canary;
mod classify;
mod cli;
mod config;
mod errors;
mod fairness;
mod feedback;
mod health;
mod jobs;
mod listener;
mod metrics;
mod model_bucket;
mod model_editor;
mod model_wishes;
mod models;
mod nasty;
mod observability;
mod openapi;
mod ort_library;
mod parity;
mod predictions;
mod readme;
mod reload;
mod reload_broken;
mod reload_swaps;
mod report;
mod rolling_restart;
mod rollouts;
mod settings;
mod shadow;
mod store;
mod traces;
mod tune;
mod uploads;
mod vision_fixtures;
mod vision_hostile;
mod vision_pixels;
