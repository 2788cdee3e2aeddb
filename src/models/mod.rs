//! Models that are served: found, checked, loaded, published as one immutable catalog.
//!
//! [`ModelManager`] is the only writer; requests read the [`Catalog`]. Knows no request and no HTTP.

mod agenda;
mod catalog;
mod checking;
mod desk;
mod event;
mod examine;
mod loaded;
mod loader;
mod manager;
mod metrics;
mod plan;
mod publisher;
mod room;
mod standing;
mod trial;
pub mod tune;
mod widen;

pub use catalog::{Catalog, CatalogHandle, ModelEntry, Pending, VersionEntry, VersionState};
pub use event::{Happening, ModelEvent, ModelEvents};
pub use examine::{Check, ClassesError, Examination, Opened};
pub use loaded::{InputView, LoadedVersion};
pub use loader::{Backends, LoadError, Loader, LoaderConfig};
pub use manager::{ManagerError, ModelManager, NoticeConfig};
pub use standing::Standing;
pub use trial::{Passed, Trial, TrialConfig};
