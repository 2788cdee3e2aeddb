//! The prediction log: what was answered to whom, one record a picture. Nothing is lost, and nobody waits for a database.
//!
//! `classify` hands records to [`PredictionLog`], which has them in a file (the spool) before the answer leaves; the
//! [`PredictionWriter`] takes them to the store; [`Predictions`] reads both, counts for reports, and takes true labels, which the
//! [`FeedbackJoiner`] joins where they came first. Pictures go to the [`Archive`], where there is one. Knows no HTTP and no model.

mod archive;
mod feedback;
mod joining;
mod log;
mod reading;
mod record;
mod report;
mod retention;
mod spool;
mod subjects;
mod tally;
mod writer;

pub use archive::{Archive, ArchiveError, ArchiveStatus};
pub use feedback::{FeedbackError, Told};
pub use joining::FeedbackJoiner;
pub use log::{LogError, LogStatus, PredictionLog};
pub use reading::{Page, Predictions, ReadError};
pub use report::{
    Agreement, ArmReport, ClassCount, Drifts, Percentiles, Report, ReportQuery, Times,
    VersusBaseline,
};
pub use retention::Retention;
pub use tally::{ArmOutcome, Heard, Tally};
pub use writer::PredictionWriter;

pub use crate::store::{Disagreement, PredictionFilter, PredictionMark, Window};
