//! The prediction log: what is in it, who may read it, and that nothing is lost whatever breaks.

mod faults;
mod reading;
mod recorded;
mod restarts;

use std::path::Path;

use crate::fixture::served::Served;
use crate::fixture::store::shipped;

pub(crate) use recorded::rows;

/// The real binary over a database and a spool, with the shipped model and these settings.
fn serve(url: &str, spool: &Path, settings: &[(&str, &str)]) -> Served {
    let store = shipped();
    let usual = [
        (
            "LENSGATE__MODEL_STORE__URL",
            store.to_str().expect("a path"),
        ),
        ("LENSGATE__STORE__URL", url),
        (
            "LENSGATE__PREDICTIONS__SPOOL",
            spool.to_str().expect("a path"),
        ),
        ("LENSGATE__SERVER__DRAIN_DELAY", "0"),
    ];
    Served::start(&[&usual[..], settings].concat())
}
