//! The data plane: what applications call.

mod body;
mod classify;
mod health;
mod models;
mod multipart;

pub use classify::ClassifyApi;
pub use health::HealthApi;
pub use models::ModelsApi;
