//! How models and versions stand, as metrics: read off the catalog when somebody asks.

use std::collections::BTreeMap;

use super::catalog::{ModelEntry, VersionState};
use super::loaded::LoadedVersion;
use super::manager::ModelManager;
use crate::telemetry::metrics::{Page, Source, real_size};

/// Digits of a digest that tell one graph from another.
const SHORT: usize = 12;

impl Source for ModelManager {
    fn tell(&self, page: &mut Page) {
        let catalog = self.catalog().load();
        for model in catalog.models.values() {
            tell_states(page, model);
            for version in model.live() {
                version
                    .series
                    .keep_shadows(|shadow| model.versions.keys().any(|one| one.get() == shadow));
                tell_version(page, version);
                tell_engine(page, version);
                tell_mix(page, version);
            }
        }
        page.gauge(
            "lensgate_build_info",
            "1; this program and the runtimes that it found.",
            &[
                ("version", env!("CARGO_PKG_VERSION")),
                ("runtime", self.loader.runtime()),
            ],
            1.0,
        );
        let permits = self.loader.permits();
        page.gauge(
            "lensgate_cores",
            "Cores that runs share.",
            &[],
            real_size(permits.total()),
        );
        page.gauge(
            "lensgate_cores_busy",
            "Cores that are given to runs.",
            &[],
            real_size(permits.given()),
        );
    }
}

fn tell_states(page: &mut Page, model: &ModelEntry) {
    for (number, entry) in &model.versions {
        let version = number.to_string();
        let mut tell = |state: VersionState| {
            page.gauge(
                "lensgate_model_version_state",
                "1 for the states that a version is in: a live one may have a replacement that failed.",
                &[
                    ("model", model.id.as_str()),
                    ("version", &version),
                    ("state", state.as_str()),
                ],
                1.0,
            );
        };
        tell(entry.state);
        let pending = entry.pending.as_ref().map(|pending| pending.state);
        if let Some(state) = pending.filter(|state| *state != entry.state) {
            tell(state);
        }
    }
}

fn tell_version(page: &mut Page, version: &LoadedVersion) {
    let digest = version.digest.to_string();
    let digest = digest.strip_prefix("sha256:").unwrap_or(&digest);
    page.gauge(
        "lensgate_model_version_info",
        "1 for each live version.",
        &[
            ("model", version.model.as_str()),
            ("version", &version.number.to_string()),
            ("backend", version.backend),
            ("digest", digest.get(..SHORT).unwrap_or(digest)),
        ],
        1.0,
    );
}

fn tell_engine(page: &mut Page, version: &LoadedVersion) {
    let number = version.number.to_string();
    let labels = [("model", version.model.as_str()), ("version", &number)];
    let scheduler = &version.scheduler;
    page.gauge(
        "lensgate_queue_depth",
        "Jobs that wait before a version.",
        &labels,
        real_size(scheduler.waiting()),
    );
    page.gauge(
        "lensgate_queue_limit",
        "Jobs that may wait before a version.",
        &labels,
        real_size(scheduler.max_waiting()),
    );
    page.gauge(
        "lensgate_instances",
        "Threads of a version that execute side by side.",
        &labels,
        real_size(scheduler.instances()),
    );
}

fn tell_mix(page: &mut Page, version: &LoadedVersion) {
    let number = version.number.to_string();
    let (told, others) = version.mix.shares();
    // Two classes may have one label, and one may be empty: a series is told once.
    let mut shares: BTreeMap<&str, f64> = others.map(|share| ("", share)).into_iter().collect();
    for (class, share) in told {
        let label = version.labels.get(class).map_or("", String::as_str);
        *shares.entry(label).or_default() += share;
    }
    for (class, share) in shares {
        page.gauge(
            "lensgate_predicted_class_ratio",
            "The part of the last minutes' answers with this first class; the empty one is all others.",
            &[
                ("model", version.model.as_str()),
                ("version", &number),
                ("class", class),
            ],
            share,
        );
    }
}
