//! The data plane: what applications call.

mod answer;
mod asynchronous;
mod body;
mod classify;
mod documented;
mod feedback;
mod headers;
mod health;
mod json;
mod models;
mod multipart;
mod predictions;

pub(in crate::api) use answer::{ClassView, TimingView};
pub use asynchronous::worded;
pub use classify::ClassifyApi;
pub use documented::{Documented, Limited};
pub use feedback::FeedbackApi;
pub(in crate::api) use health::REQUIRED_MODEL;
pub use health::{HealthApi, Readiness};
pub use models::ModelsApi;
pub(in crate::api) use models::{ModelView, VersionView};
pub(in crate::api) use multipart::refusal as multipart_refusal;
pub use predictions::PredictionsApi;
