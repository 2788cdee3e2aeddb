//! The prediction log: what is in it, who may read it, and that nothing is lost whatever breaks.

mod faults;
mod reading;
mod recorded;
mod restarts;

pub(crate) use recorded::rows;
