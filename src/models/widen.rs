//! The second session of a version, whose runs use all the cores: for a caller that has the process to itself.
//!
//! Called by the loader once a version is open and has been tried. It holds a second copy of the weights, so it is opened
//! only where that pays, and a version serves without it where it cannot be had.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::examine::{Opened, ramp};
use crate::backend::{Backend, BackendError, OpenOptions, Session};
use crate::domain::tensor::{Tensor, TensorData};
use crate::model_store::Candidate;
use crate::vision;

/// The largest model, with its external data, that is held twice.
const MOST_BYTES: u64 = 128 << 20;

/// A run that is shorter than this gains nothing that a caller would notice.
const SHORTEST_RUN: Duration = Duration::from_millis(2);

/// How far a confidence may be from the first session's: a step of a quantised output, and the order of summation.
const TOLERANCE: f32 = 0.005;

/// Opens the second session; `None` where the version has no use for one.
pub(super) fn open(
    candidate: &Candidate,
    backend: &dyn Backend,
    options: &OpenOptions,
    opened: &Opened,
) -> Option<Arc<dyn Session>> {
    let (model, version) = (candidate.model.as_str(), candidate.number.get());
    if !pays(candidate, opened) {
        return None;
    }
    match try_open(candidate, backend, options, opened) {
        Ok(session) => session,
        Err(reason) => {
            tracing::warn!(
                model,
                version,
                reason,
                "no session on all cores: a lone caller gets one core"
            );
            None
        }
    }
}

/// What can be told without a run.
fn pays(candidate: &Candidate, opened: &Opened) -> bool {
    let providers = opened.session.providers();
    let on_cpu = opened.backend == "ort" && providers.iter().all(|name| name == "cpu");
    let outside = candidate
        .facts
        .external
        .iter()
        .map(|file| file.needed_bytes);
    let bytes = std::fs::metadata(&candidate.graph).map_or(u64::MAX, |file| {
        outside.fold(file.len(), u64::saturating_add)
    });
    on_cpu && bytes <= MOST_BYTES
}

fn try_open(
    candidate: &Candidate,
    backend: &dyn Backend,
    options: &OpenOptions,
    opened: &Opened,
) -> Result<Option<Arc<dyn Session>>, String> {
    let spec = &opened.input.spec;
    let tensor = opened.preprocessor.tensor(&ramp(spec.width, spec.height)?);
    // The warm-up's run was the session's first, which takes longer.
    let started = Instant::now();
    let expected = run(&*opened.session, opened, &tensor)?;
    if started.elapsed().min(opened.warm_up) < SHORTEST_RUN {
        return Ok(None);
    }
    let session = backend
        .open(&candidate.graph, options)
        .map_err(|error| error.to_string())?;
    let given = run(&*session, opened, &tensor)?;
    // The file may have been replaced since it was opened first.
    if !agree(opened, &expected, &given) {
        return Err("it gives other scores than the first session".to_owned());
    }
    Ok(Some(session))
}

fn run(session: &dyn Session, opened: &Opened, tensor: &Tensor) -> Result<TensorData, String> {
    let output = session.run(&opened.input.name, tensor, &opened.output_name);
    let said = |error: BackendError| error.to_string();
    output.map(Tensor::into_data).map_err(said)
}

fn agree(opened: &Opened, expected: &TensorData, given: &TensorData) -> bool {
    let scores = |raw: &TensorData| vision::scores(raw, 0..raw.len(), &opened.output);
    let (expected, given) = (scores(expected), scores(given));
    let mut pairs = expected.iter().zip(&given);
    expected.len() == given.len() && pairs.all(|(a, b)| (a - b).abs() <= TOLERANCE)
}
