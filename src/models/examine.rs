//! Opening a candidate and trying everything a version must hold before it may serve.
//!
//! Each step is a named check, so that an upload, `models check` and the log say the same.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::loaded::InputView;
use crate::backend::{Backend, BackendError, OpenOptions, Session, Signature, TensorInfo};
use crate::domain::graph::{self, InputFacts};
use crate::domain::scores::{Activation, OutputSpec};
use crate::domain::tensor::{ElementType, TensorData};
use crate::model_store::onnx::Ending;
use crate::model_store::{Candidate, Part};
use crate::telemetry::trace;
use crate::vision::{self, DecodeLimits, Picture, Preprocessor, VisionError};

/// One thing that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// One of [`Self::NAMES`].
    pub name: &'static str,
    /// Whether it held.
    pub ok: bool,
    /// What was found, or why it did not hold.
    pub detail: String,
}

impl Check {
    /// Every name that a check may have, in their order: what is looked at before a backend is, and what it says.
    pub const NAMES: [&str; 10] = [
        "file", "external", "manifest", "graph", "input", "output", "warm_up", "scores", "labels",
        "golden",
    ];

    /// What of a version kept it from being tried at all.
    #[must_use]
    pub fn failed(part: Part, reason: String) -> Self {
        Self {
            name: part.as_str(),
            ok: false,
            detail: reason,
        }
    }
}

/// A version that is open and has been tried.
pub struct Opened {
    /// The backend's name.
    pub backend: &'static str,
    /// The open graph.
    pub session: Arc<dyn Session>,
    /// What it takes.
    pub input: InputView,
    /// The graph's output that holds the scores.
    pub output_name: String,
    /// How the output becomes confidences.
    pub output: OutputSpec,
    /// Pictures to tensors.
    pub preprocessor: Arc<Preprocessor>,
    /// The number of classes.
    pub classes: usize,
    /// The classes in output order.
    pub labels: Arc<[String]>,
    /// Whether the labels are only indices.
    pub unlabelled: bool,
    /// How long the first run took.
    pub warm_up: Duration,
}

/// Why one picture has no classes.
#[derive(Debug, thiserror::Error)]
pub enum ClassesError {
    /// The picture was refused.
    #[error(transparent)]
    Picture(#[from] VisionError),
    /// The graph did not run.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

impl Opened {
    /// The bare line without queue and catalog: decode, preprocess, run, and the first `k` classes by index, best first.
    ///
    /// # Errors
    /// When the picture is refused or the graph does not run.
    pub fn top_classes(
        &self,
        bytes: &[u8],
        limits: &DecodeLimits,
        k: usize,
    ) -> Result<Vec<(usize, f32)>, ClassesError> {
        self.top_classes_on(&*self.session, bytes, limits, k)
    }

    /// [`Self::top_classes`] on another session of the same graph.
    ///
    /// # Errors
    /// As there.
    pub fn top_classes_on(
        &self,
        session: &dyn Session,
        bytes: &[u8],
        limits: &DecodeLimits,
        k: usize,
    ) -> Result<Vec<(usize, f32)>, ClassesError> {
        let header = vision::read_header(bytes, limits)?;
        let picture = self.preprocessor.decode_for(bytes, &header)?;
        let tensor = self.preprocessor.tensor(&picture);
        let raw = session.run(&self.input.name, &tensor, &self.output_name)?;
        let scores = vision::scores(raw.data(), 0..raw.data().len(), &self.output);
        Ok(vision::top_k(&scores, k))
    }
}

/// What came of a candidate on one backend.
pub struct Examination {
    /// Every check that was made, in order; the last one failed if `opened` is not there.
    pub checks: Vec<Check>,
    /// The version, where everything held.
    pub opened: Option<Opened>,
}

impl Examination {
    /// The reason of the check that failed.
    #[must_use]
    pub fn failure(&self) -> Option<&Check> {
        self.checks.iter().find(|check| !check.ok)
    }

    /// Whether the backend could not execute the graph at all, so that another may try.
    #[must_use]
    pub fn is_backends_fault(&self) -> bool {
        self.failure()
            .is_some_and(|check| matches!(check.name, "graph" | "warm_up"))
    }
}

/// How sessions are opened for an examination.
#[derive(Clone, Debug)]
pub(super) struct ExamineOptions {
    pub(super) execution_providers: Vec<String>,
    pub(super) threads: usize,
    pub(super) limits: DecodeLimits,
}

/// Tries `candidate` on `backend`; `is_open` hears when the graph is open and the trying begins.
pub(super) fn examine(
    candidate: &Candidate,
    backend: &dyn Backend,
    options: &ExamineOptions,
    is_open: &dyn Fn(),
) -> Examination {
    let mut checks = Vec::new();
    let opened = Steps {
        candidate,
        backend,
        options,
        checks: &mut checks,
    }
    .all(is_open);
    Examination { checks, opened }
}

/// How the candidate's session is opened.
pub(super) fn open_options(candidate: &Candidate, options: &ExamineOptions) -> OpenOptions {
    let manifest = &candidate.manifest;
    let side = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
    // Where neither the graph nor the manifest has a size, the default of the manifest holds.
    let [height, width] = manifest.input.size.unwrap_or([224, 224]);
    OpenOptions {
        threads: manifest.serving.threads.unwrap_or(options.threads),
        spinning: false,
        picture_size: Some((side(height), side(width))),
        execution_providers: options.execution_providers.clone(),
        external: candidate.external().collect(),
    }
}

/// A step's value and what was found, or why it did not hold.
type Outcome<T> = Result<(T, String), String>;

struct Steps<'a> {
    candidate: &'a Candidate,
    backend: &'a dyn Backend,
    options: &'a ExamineOptions,
    checks: &'a mut Vec<Check>,
}

impl Steps<'_> {
    /// Takes a step and notes its outcome; `None` ends the examination.
    fn step<T>(&mut self, name: &'static str, take: impl FnOnce(&Self) -> Outcome<T>) -> Option<T> {
        let taken = trace::stage(name);
        let outcome = take(self);
        drop(taken);
        let (value, ok, detail) = match outcome {
            Ok((value, detail)) => (Some(value), true, detail),
            Err(reason) => (None, false, reason),
        };
        self.checks.push(Check { name, ok, detail });
        value
    }

    fn all(mut self, is_open: &dyn Fn()) -> Option<Opened> {
        let session = self.step("graph", Self::open)?;
        is_open();
        let signature = session.signature();
        let (input, preprocessor) = self.step("input", |steps| steps.input(signature))?;
        let output_info = self.step("output", |steps| steps.output(signature))?;
        let (raw, warm_up) = self.step("warm_up", |steps| {
            steps.warm_up(&*session, &input, &preprocessor, &output_info)
        })?;
        let output = self.step("scores", |steps| steps.output_spec(&output_info, &raw))?;
        let (labels, unlabelled) = self.step("labels", |steps| steps.labels(raw.len()))?;
        let opened = Opened {
            backend: self.backend.name(),
            session,
            input,
            output_name: output_info.name,
            output,
            preprocessor,
            classes: raw.len(),
            labels,
            unlabelled,
            warm_up,
        };
        self.step("golden", |steps| steps.golden(&opened))?;
        Some(opened)
    }

    fn open(&self) -> Result<(Arc<dyn Session>, String), String> {
        let options = open_options(self.candidate, self.options);
        match self.backend.open(&self.candidate.graph, &options) {
            Ok(session) => {
                let facts = &self.candidate.facts;
                let detail = format!(
                    "opset {}, opened by {} on {}",
                    facts.opset,
                    self.backend.name(),
                    session.providers().join(", ")
                );
                Ok((session, detail))
            }
            Err(error) => Err(error.to_string()),
        }
    }

    fn input(
        &self,
        signature: &Signature,
    ) -> Result<((InputView, Arc<Preprocessor>), String), String> {
        let manifest = &self.candidate.manifest;
        let info = choose("input", &signature.inputs, manifest.input.name.as_deref())?;
        if signature.inputs.len() > 1 {
            let names: Vec<&str> = signature.inputs.iter().map(|i| i.name.as_str()).collect();
            return Err(format!(
                "the graph takes {} inputs ({}); a classifier takes one picture",
                names.len(),
                names.join(", ")
            ));
        }
        let element = element_of("input", info)?;
        let facts = InputFacts {
            element,
            shape: info.shape.clone(),
        };
        let spec = manifest
            .picture_spec(&facts)
            .map_err(|error| error.to_string())?;
        let detail = format!(
            "{} {element} {}, {}x{} pixels",
            info.name,
            graph::display_shape(&info.shape),
            spec.height,
            spec.width
        );
        let preprocessor = Preprocessor::new(&spec).map_err(|error| error.to_string())?;
        let view = InputView {
            name: info.name.clone(),
            shape: info.shape.clone(),
            spec,
        };
        Ok(((view, Arc::new(preprocessor)), detail))
    }

    fn output(&self, signature: &Signature) -> Result<(TensorInfo, String), String> {
        let named = self.candidate.manifest.output.name.as_deref();
        // Several outputs and no name: the first that a classifier could have, a lone open axis last, since
        // that may as well be one number a picture.
        let fits =
            |info: &&TensorInfo| info.element.is_ok() && graph::output_classes(&info.shape).is_ok();
        let mut fitting = signature.outputs.iter().filter(fits);
        let vague = |info: &TensorInfo| info.shape == [None];
        let info = match (
            named,
            fitting.clone().find(|info| !vague(info)),
            fitting.next(),
        ) {
            (None, Some(info), _) | (None, None, Some(info)) => info,
            _ => choose("output", &signature.outputs, named)?,
        };
        let element = element_of("output", info)?;
        graph::output_classes(&info.shape).map_err(|error| error.to_string())?;
        let detail = format!(
            "{} {element} {}",
            info.name,
            graph::display_shape(&info.shape)
        );
        Ok((info.clone(), detail))
    }

    /// Runs once, or as often as the manifest asks, on a gray ramp; gives the first run's raw scores.
    fn warm_up(
        &self,
        session: &dyn Session,
        input: &InputView,
        preprocessor: &Preprocessor,
        output: &TensorInfo,
    ) -> Result<((TensorData, Duration), String), String> {
        let tensor = preprocessor.tensor(&ramp(input.spec.width, input.spec.height)?);
        let started = Instant::now();
        let raw = session
            .run(&input.name, &tensor, &output.name)
            .map_err(|error| error.to_string())?;
        let took = started.elapsed();
        for _ in 1..self
            .candidate
            .manifest
            .serving
            .warm_up
            .unwrap_or(1)
            .min(100)
        {
            session
                .run(&input.name, &tensor, &output.name)
                .map_err(|error| error.to_string())?;
        }
        let shape: Vec<Option<usize>> = raw.shape().iter().map(|&n| Some(n)).collect();
        let classes = graph::output_classes(&shape).map_err(|error| error.to_string())?;
        if classes != Some(raw.data().len()) || raw.data().is_empty() {
            return Err(format!(
                "the run gave an output of shape {}",
                graph::display_shape(&shape)
            ));
        }
        let plain = OutputSpec {
            activation: Activation::None,
            scale: 1.0,
            zero_point: 0,
        };
        if vision::scores(raw.data(), 0..raw.data().len(), &plain)
            .iter()
            .any(|score| !score.is_finite())
        {
            return Err("the run gave numbers that are not finite".to_owned());
        }
        let detail = format!("first run {:.1} ms", took.as_secs_f64() * 1000.0);
        Ok(((raw.into_data(), took), detail))
    }

    /// Decided once: what the manifest says, else what the graph says, else what the warm-up looks like.
    fn output_spec(&self, info: &TensorInfo, raw: &TensorData) -> Outcome<OutputSpec> {
        let Candidate {
            manifest, facts, ..
        } = self.candidate;
        let ending = facts.ending(&info.name);
        let integer = raw.element().is_integer();
        // An integer output behind a softmax that does not say its step has the usual one of 1/256.
        let usual = match (integer && ending != Ending::Other, raw.element()) {
            (true, ElementType::Int8) => (1.0 / 256.0, -128),
            (true, _) => (1.0 / 256.0, 0),
            (false, _) => (1.0, 0),
        };
        let read = facts
            .output_quantisation(&info.name)
            .filter(|_| integer)
            .unwrap_or(usual);
        let mut spec = OutputSpec {
            activation: Activation::None,
            scale: manifest.output.scale.unwrap_or(read.0),
            zero_point: manifest.output.zero_point.unwrap_or(read.1),
        };
        let scores = vision::scores(raw, 0..raw.len(), &spec);
        let sum: f64 = scores.iter().map(|&score| f64::from(score)).sum();
        let looks_like_confidences =
            (sum - 1.0).abs() <= 0.02 && scores.iter().all(|&score| score >= -1e-3);
        spec.activation = manifest.output.activation.unwrap_or(
            if ending != Ending::Other || looks_like_confidences {
                Activation::None
            } else {
                Activation::Softmax
            },
        );
        let scores = vision::scores(raw, 0..raw.len(), &spec);
        if scores.iter().any(|score| !score.is_finite()) {
            return Err("the warm-up's scores are not finite".to_owned());
        }
        Ok((spec, spec.activation.as_str().to_owned()))
    }

    fn labels(&self, classes: usize) -> Outcome<(Arc<[String]>, bool)> {
        match &self.candidate.labels {
            Some(labels) if labels.len() == classes => {
                Ok(((labels.clone().into(), false), format!("{classes} labels")))
            }
            Some(labels) => Err(format!(
                "there are {} labels for {classes} outputs",
                labels.len()
            )),
            None => {
                let indices = (0..classes).map(|index| index.to_string()).collect();
                Ok((
                    (indices, true),
                    format!("none: {classes} classes are named by their index"),
                ))
            }
        }
    }

    fn golden(&self, opened: &Opened) -> Result<((), String), String> {
        for (golden, path) in &self.candidate.golden {
            let name = &golden.image;
            let bytes = std::fs::read(path).map_err(|error| format!("{name}: {error}"))?;
            let best = opened
                .top_classes(&bytes, &self.options.limits, 1)
                .map_err(|error| format!("{name}: {error}"))?;
            let (class, confidence) = best
                .first()
                .and_then(|&(index, score)| Some((opened.labels.get(index)?.as_str(), score)))
                .unwrap_or(("", 0.0));
            if class != golden.label || confidence < golden.min_confidence {
                return Err(format!(
                    "{name} should be {:?} with at least {}, it is {class:?} with {confidence}",
                    golden.label, golden.min_confidence
                ));
            }
        }
        Ok(((), format!("{} pictures", self.candidate.golden.len())))
    }
}

fn choose<'s>(
    what: &str,
    infos: &'s [TensorInfo],
    name: Option<&str>,
) -> Result<&'s TensorInfo, String> {
    let found = match name {
        Some(name) => infos.iter().find(|info| info.name == name),
        None => infos.first(),
    };
    found.ok_or_else(|| {
        let names: Vec<&str> = infos.iter().map(|info| info.name.as_str()).collect();
        match name {
            Some(name) => format!(
                "there is no {what} {name:?}; there are: {}",
                names.join(", ")
            ),
            None => format!("the graph has no {what}"),
        }
    })
}

fn element_of(what: &str, info: &TensorInfo) -> Result<ElementType, String> {
    info.element.clone().map_err(|other| {
        format!(
            "the {what} {} is {other}; float32, float16, uint8 and int8 are served",
            info.name
        )
    })
}

/// A picture of every gray level: unlike a constant one it makes a graph's scores differ.
pub(super) fn ramp(width: u32, height: u32) -> Result<Picture, String> {
    let count = u64::from(width) * u64::from(height);
    let pixels = (0..count)
        .flat_map(|at| [u8::try_from(at * 256 / count.max(1)).unwrap_or(u8::MAX); 3])
        .collect();
    Picture::new(width, height, 3, pixels).ok_or_else(|| "the tensor has no pixels".to_owned())
}
