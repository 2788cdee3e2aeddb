//! Callbacks: what is told to tenants, signed after the Standard Webhooks scheme and sent until it arrives.
//!
//! An outbox in the store, so that nothing is lost with a process; of several replicas one has a delivery at a time, by a
//! lease. `outbox` takes what is due and has it sent, `places` keeps a slow receiver from harming others, `delivery` sends,
//! `schedule` says when again, `teller` finds out whom an event concerns. Called by `admin` and `jobs`; started by
//! `lifecycle`. Knows neither models nor who asks.

mod delivery;
mod outbox;
mod places;
mod schedule;
mod signature;
mod teller;

pub use delivery::{Targets, check_url};
pub use outbox::Outbox;
pub use signature::{SECRET_BYTES, compose_secret};
pub use teller::News;

/// Why callbacks cannot be sent. The text is for the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallbackError {
    /// The address may not be called.
    #[error("a callback's address {0}")]
    Refused(&'static str),
    /// There is nothing to send them with; the text is for the log.
    #[error("callbacks cannot be sent: {0}")]
    Client(String),
}
