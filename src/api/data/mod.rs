//! The data plane: what applications call.

mod answer;
mod body;
mod classify;
mod documented;
mod headers;
mod health;
mod json;
mod models;
mod multipart;

pub use classify::ClassifyApi;
pub use documented::Documented;
pub use health::HealthApi;
pub use models::ModelsApi;
