//! `GET /v1/models`: what is served, and what is not and why.

use poem_openapi::param::Path;
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};

use super::answer::RolloutView;
use crate::api::DataPlane;
use crate::api::problem::ApiError;
use crate::api::security::{Authorized, ToLook};
use crate::domain::error::ErrorKind;
use crate::domain::ids::{Alias, ModelId, VersionNumber};
use crate::domain::picture::{Color, Layout};
use crate::models::{CatalogHandle, InputView, ModelEntry, VersionEntry};

/// What is served.
pub struct ModelsApi {
    catalog: CatalogHandle,
}

/// All models that the caller may use.
#[derive(Object)]
struct ModelsView {
    /// In the order of their ids.
    models: Vec<ModelView>,
}

/// One model.
#[derive(Object)]
pub(in crate::api) struct ModelView {
    /// Its id.
    id: String,
    /// Its name for people.
    title: Option<String>,
    /// What it is for.
    description: Option<String>,
    /// How its traffic is shared between its versions.
    rollout: RolloutView,
    /// Its versions in rising order.
    versions: Vec<VersionView>,
    /// The classes of the version that a request gets now, in output order; only for a single model.
    #[oai(skip_serializing_if_is_none)]
    labels: Option<Vec<String>>,
}

/// One version.
#[derive(Object)]
pub(in crate::api) struct VersionView {
    /// Its number.
    version: u64,
    /// `waiting`, `loading`, `testing`, `live`, `failed`, `draining` or `unloaded`.
    state: String,
    /// A replacement of this live version that is checked, or failed.
    #[oai(skip_serializing_if_is_none)]
    pending: Option<PendingView>,
    /// SHA-256 of its model file.
    digest: Option<String>,
    /// What executes it: `ort` or `tract`.
    backend: Option<String>,
    /// The execution providers that were really used, in order.
    providers: Vec<String>,
    /// Why it failed, or what it waits for.
    reason: Option<String>,
    /// What it takes.
    input: Option<InputDescription>,
    /// The number of classes.
    labels_count: Option<usize>,
    /// Whether classes are named by their index alone.
    unlabelled: bool,
    /// Movable names of this version.
    aliases: Vec<String>,
}

/// A replacement that does not serve.
#[derive(Object)]
struct PendingView {
    /// `waiting`, `loading`, `testing` or `failed`.
    state: String,
    /// Why it failed, or what it waits for.
    reason: Option<String>,
}

/// What a version takes.
#[derive(Object)]
struct InputDescription {
    /// The graph's input.
    name: String,
    /// `float32`, `float16`, `uint8` or `int8`.
    element: String,
    /// `NCHW` or `NHWC`.
    layout: String,
    /// The extent of each axis, `null` where it is open.
    shape: Vec<Option<u64>>,
    /// Rows and columns of the picture that the graph sees.
    size: Vec<u32>,
    /// `rgb`, `bgr` or `gray`.
    color: String,
}

impl ModelsApi {
    pub(in crate::api) fn new(plane: &DataPlane) -> Self {
        Self {
            catalog: plane.catalog.clone(),
        }
    }
}

#[OpenApi(prefix_path = "/v1/models")]
impl ModelsApi {
    /// All models that the key may use
    #[oai(path = "/", method = "get")]
    async fn list(&self, caller: Authorized<ToLook>) -> Result<Json<ModelsView>, ApiError> {
        caller.admit()?;
        let catalog = self.catalog.load();
        let models = catalog.models.values();
        let models = models.filter(|model| caller.may_use(&model.id));
        Ok(Json(ModelsView {
            models: models.map(|model| ModelView::of(model)).collect(),
        }))
    }

    /// One model, with its labels
    #[oai(path = "/:model", method = "get")]
    async fn get(
        &self,
        caller: Authorized<ToLook>,
        model: Path<String>,
    ) -> Result<Json<ModelView>, ApiError> {
        let catalog = self.catalog.load();
        let id = model.parse::<ModelId>().ok();
        let id = id.filter(|id| caller.may_use(id));
        let entry = id.and_then(|id| catalog.models.get(&id));
        let entry = entry.ok_or_else(|| {
            ApiError::new(
                ErrorKind::ModelNotFound,
                format!("there is no model {:?}", model.0),
            )
        })?;
        caller.admit()?;
        Ok(Json(ModelView::single(entry)))
    }
}

impl ModelView {
    /// A model by itself, with its labels.
    pub(in crate::api) fn single(entry: &ModelEntry) -> Self {
        let current = entry
            .rollout
            .assign(&[], entry.live().map(|version| version.number));
        let labels = current
            .and_then(|current| entry.versions.get(&current.version)?.loaded.as_ref())
            .map(|version| version.labels.to_vec());
        Self {
            labels,
            ..Self::of(entry)
        }
    }

    /// A model among others.
    pub(in crate::api) fn of(entry: &ModelEntry) -> Self {
        Self {
            id: entry.id.to_string(),
            title: entry.title.clone(),
            description: entry.description.clone(),
            rollout: RolloutView::of(&entry.rollout),
            versions: entry
                .versions
                .iter()
                .map(|(number, version)| VersionView::of(entry, *number, version))
                .collect(),
            labels: None,
        }
    }
}

impl VersionView {
    /// A version of `model`.
    pub(in crate::api) fn of(
        model: &ModelEntry,
        number: VersionNumber,
        entry: &VersionEntry,
    ) -> Self {
        let loaded = entry.loaded.as_ref();
        Self {
            version: number.get(),
            state: entry.state.as_str().to_owned(),
            pending: entry.pending.as_ref().map(|pending| PendingView {
                state: pending.state.as_str().to_owned(),
                reason: pending.reason.clone(),
            }),
            digest: entry.digest.map(|digest| digest.to_string()),
            backend: loaded.map(|version| version.backend.to_owned()),
            providers: loaded
                .map(|version| version.providers.clone())
                .unwrap_or_default(),
            reason: entry.reason.clone(),
            input: loaded.map(|version| InputDescription::of(&version.input)),
            labels_count: loaded.map(|version| version.labels.len()),
            unlabelled: loaded.is_some_and(|version| version.unlabelled),
            aliases: model.aliases_of(number).map(Alias::to_string).collect(),
        }
    }
}

impl InputDescription {
    fn of(input: &InputView) -> Self {
        let spec = &input.spec;
        let layout = match spec.layout {
            Layout::Nchw => "NCHW",
            Layout::Nhwc => "NHWC",
        };
        let color = match spec.color {
            Color::Rgb => "rgb",
            Color::Bgr => "bgr",
            Color::Gray => "gray",
        };
        Self {
            name: input.name.clone(),
            element: spec.element.to_string(),
            layout: layout.to_owned(),
            shape: input
                .shape
                .iter()
                .map(|axis| axis.and_then(|n| n.try_into().ok()))
                .collect(),
            size: vec![spec.height, spec.width],
            color: color.to_owned(),
        }
    }
}
