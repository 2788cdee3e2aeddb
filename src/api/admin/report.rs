//! `/admin/v1/models/{model}/report`.

use std::sync::Arc;

use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};

use super::AdminPlane;
use super::call::{Call, Viewer};
use super::models::model_in_path;
use super::wire::{given_time, time};
use crate::admin::{Admin, ReportTimes};
use crate::api::problem::ApiError;
use crate::domain::drift::Drift;
use crate::domain::proportion::Proportion;
use crate::predictions::{
    Agreement, ArmReport, ClassCount, Disagreement, Percentiles, Report, ReportQuery, Times,
    VersusBaseline, Window,
};

/// Reports.
pub(super) struct ReportApi {
    admin: Arc<Admin>,
}

/// How the versions of a model do beside each other, as far as the database has the predictions.
#[derive(Object)]
struct ReportView {
    /// The model.
    model: String,
    /// How its traffic is shared now: `latest`, `pinned` or `split`.
    rollout: String,
    /// Requests that came at this time or later.
    from: String,
    /// Requests that came before this time.
    to: String,
    /// What the window's distributions are compared with.
    reference: ReportWindowView,
    /// The versions that had requests, and those that the rollout names, by their numbers.
    arms: Vec<ReportArmView>,
    /// The 20 pictures on which arms and their shadows disagree most, the strongest first; whenever that was.
    disagreements: Vec<DisagreementView>,
}

/// A time.
#[derive(Object)]
struct ReportWindowView {
    /// From this time on.
    from: String,
    /// Before this time.
    to: String,
}

/// How a version does.
#[derive(Object)]
struct ReportArmView {
    /// The version.
    version: u64,
    /// Its name in the rollout, `null` where it is no arm.
    arm: Option<String>,
    /// Whether the others are compared with it: the rollout's first arm or pinned version, else the lowest version that has
    /// requests.
    is_baseline: bool,
    /// Pictures that it answered, or was to answer.
    requests: u64,
    /// Failures of ours among them: a status of 500 or more.
    errors: u64,
    /// Answers from the result cache.
    cached: u64,
    /// The mean confidence of the first class.
    mean_confidence: Option<f64>,
    /// The 20 classes that were answered most, by falling number.
    classes: Vec<ReportClassView>,
    /// Answers of all other classes.
    other_classes: u64,
    /// Where the time went of answers that were not cached, in milliseconds; `null` without any.
    latency_ms: Option<ReportLatencyView>,
    /// How often its shadows named the same class.
    agreement: Vec<AgreementView>,
    /// Right answers among those with a true label; `null` without a label.
    accuracy: Option<AccuracyView>,
    /// Its accuracy against the baseline's; `null` for the baseline itself.
    difference: Option<DifferenceView>,
    /// How far its answers have moved since the reference.
    drift: DriftView,
}

/// A class.
#[derive(Object)]
struct ReportClassView {
    /// The class.
    class: String,
    /// Answers.
    requests: u64,
    /// Their share of the version's answers, 0 to 1.
    share: f64,
}

/// Where the time went, in milliseconds.
#[derive(Object)]
struct ReportLatencyView {
    /// Waiting.
    queue: PercentilesView,
    /// Decoding and preprocessing.
    decode: PercentilesView,
    /// The model.
    inference: PercentilesView,
    /// From the request's head to the answer.
    total: PercentilesView,
    /// The pictures that were looked at.
    pictures: u64,
    /// Whether they are a sample of all.
    sampled: bool,
}

/// What so many in a hundred stay at or below, in milliseconds.
#[derive(Object)]
struct PercentilesView {
    /// The median.
    p50: f64,
    /// 95 %.
    p95: f64,
    /// 99 %.
    p99: f64,
}

/// How often a shadow named the same class.
#[derive(Object)]
struct AgreementView {
    /// The shadow's version.
    with: u64,
    /// The share of what was compared, 0 to 1; `null` where nothing was.
    value: Option<f64>,
    /// Its 95 % interval (Wilson's score interval).
    low: Option<f64>,
    /// Its 95 % interval.
    high: Option<f64>,
    /// Pictures that were compared.
    compared: u64,
    /// Pictures of the sample that the shadow was not run on.
    dropped: u64,
}

/// Right answers.
#[derive(Object)]
struct AccuracyView {
    /// Their share of the labels, 0 to 1.
    value: f64,
    /// Its 95 % interval (Wilson's score interval).
    low: f64,
    /// Its 95 % interval.
    high: f64,
    /// The labels.
    labels: u64,
}

/// An accuracy against the baseline's.
#[derive(Object)]
struct DifferenceView {
    /// The baseline's version.
    baseline: u64,
    /// The accuracy less the baseline's, -1 to 1; `null` where one of the two has no label.
    value: Option<f64>,
    /// Its 95 % interval (Newcombe's hybrid score interval).
    low: Option<f64>,
    /// Its 95 % interval.
    high: Option<f64>,
    /// How likely at least this difference is where there is none, two-sided: pooled two-proportion z-test, or
    /// Fisher's exact test where fewer than 5 right or wrong ones are expected.
    p_value: Option<f64>,
    /// `better` or `worse` (a p-value below 0.05, and an interval without 0), `no_difference`, or `not_enough_data`: fewer than
    /// 30 labels of one of the two.
    verdict: String,
}

/// How far a version's answers have moved since the reference window.
#[derive(Object)]
struct DriftView {
    /// The classes: the 20 that are the most frequent in both windows, and all others as one.
    classes: PsiView,
    /// The confidences, in ten equal bins.
    confidence: PsiView,
    /// Answers of this version in the reference window.
    reference_requests: u64,
}

/// A population stability index.
#[derive(Object)]
struct PsiView {
    /// The index; `null` with fewer than 100 answers in one of the windows. An empty bin counts as half an answer.
    psi: Option<f64>,
    /// What the index stays below in 19 of 20 windows of this size where nothing has moved.
    noise: Option<f64>,
    /// `stable` (below 0.1, or no more than `noise`), `moderate` (below 0.25), `significant` or `not_enough_data`.
    verdict: String,
}

/// A picture on which a version and its shadow disagree.
#[derive(Object)]
struct DisagreementView {
    /// The version that answered.
    version: u64,
    /// The shadow's version.
    shadow: u64,
    /// The last request with the picture.
    request_id: String,
    /// The picture's place in it.
    index: u32,
    /// SHA-256 of the picture's file.
    picture_digest: String,
    /// What was answered.
    class: String,
    /// How sure the version was.
    confidence: f64,
    /// What the shadow says.
    shadow_class: String,
    /// How sure the shadow was.
    shadow_confidence: f64,
    /// How sure both were of their different classes, 0 to 1.
    strength: f64,
    /// When it was found.
    at: String,
}

impl ReportApi {
    pub(super) fn new(plane: &AdminPlane) -> Self {
        Self {
            admin: Arc::clone(&plane.admin),
        }
    }
}

#[OpenApi(prefix_path = "/admin/v1/models")]
impl ReportApi {
    /// How a model's versions do beside each other: traffic, errors, times, accuracy by the labels, agreement with shadows, drift
    #[oai(path = "/:model/report", method = "get")]
    async fn get(
        &self,
        _call: Call<Viewer>,
        model: Path<String>,
        /// Requests that came at this time or later, RFC 3339; 24 hours before `to` where left out.
        from: Query<Option<String>>,
        /// Requests that came before this time, RFC 3339; now where left out.
        to: Query<Option<String>>,
        /// Where the reference for drift begins; as long before `reference_to` as the window is long where left out.
        reference_from: Query<Option<String>>,
        /// Where the reference for drift ends; `from` where left out.
        reference_to: Query<Option<String>>,
    ) -> Result<Json<ReportView>, ApiError> {
        let read = |field: &str, text: Option<String>| {
            text.map(|text| given_time(field, &text)).transpose()
        };
        let times = ReportTimes {
            from: read("from", from.0)?,
            to: read("to", to.0)?,
            reference_from: read("reference_from", reference_from.0)?,
            reference_to: read("reference_to", reference_to.0)?,
        };
        let id = model_in_path(&model)?;
        let (query, report) = self.admin.report(&id, times).await?;
        Ok(Json(ReportView::of(&query, report)))
    }
}

/// Six digits behind the point: more of them mean nothing.
fn rounded(number: f64) -> f64 {
    (number * 1e6).round() / 1e6
}

impl ReportView {
    fn of(query: &ReportQuery, report: Report) -> Self {
        let disagreements = report.disagreements.into_iter();
        Self {
            model: query.model.to_string(),
            rollout: query.rollout.mode().to_owned(),
            from: time(query.window.from),
            to: time(query.window.to),
            reference: ReportWindowView::of(query.reference),
            arms: report.arms.into_iter().map(ReportArmView::of).collect(),
            disagreements: disagreements.map(DisagreementView::of).collect(),
        }
    }
}

impl ReportWindowView {
    fn of(window: Window) -> Self {
        Self {
            from: time(window.from),
            to: time(window.to),
        }
    }
}

impl ReportArmView {
    fn of(arm: ArmReport) -> Self {
        let answers = arm.answers;
        let classes = arm.classes.into_iter();
        Self {
            version: arm.version.get(),
            arm: arm.arm,
            is_baseline: arm.is_baseline,
            requests: arm.requests,
            errors: arm.errors,
            cached: arm.cached,
            mean_confidence: arm.mean_confidence.map(rounded),
            classes: classes
                .filter_map(|class| ReportClassView::of(class, answers))
                .collect(),
            other_classes: arm.other_classes,
            latency_ms: arm.times.map(ReportLatencyView::of),
            agreement: arm.agreement.into_iter().map(AgreementView::of).collect(),
            accuracy: arm.accuracy.map(AccuracyView::of),
            difference: arm.difference.map(DifferenceView::of),
            drift: DriftView {
                classes: PsiView::of(arm.drifts.classes),
                confidence: PsiView::of(arm.drifts.confidence),
                reference_requests: arm.drifts.reference_answers,
            },
        }
    }
}

impl ReportClassView {
    /// There is no class without an answer.
    fn of(class: ClassCount, answers: u64) -> Option<Self> {
        let share = Proportion::new(class.requests, answers)?;
        Some(Self {
            class: class.class,
            requests: class.requests,
            share: rounded(share.value()),
        })
    }
}

impl ReportLatencyView {
    fn of(times: Times) -> Self {
        Self {
            queue: PercentilesView::of(times.queue),
            decode: PercentilesView::of(times.decode),
            inference: PercentilesView::of(times.inference),
            total: PercentilesView::of(times.total),
            pictures: times.pictures,
            sampled: times.sampled,
        }
    }
}

impl PercentilesView {
    fn of(percentiles: Percentiles) -> Self {
        let Percentiles { p50, p95, p99 } = percentiles;
        Self { p50, p95, p99 }
    }
}

impl AgreementView {
    fn of(agreement: Agreement) -> Self {
        let agreed = agreement.agreed;
        let interval = agreed.map(Proportion::interval);
        Self {
            with: agreement.with.get(),
            value: agreed.map(|agreed| rounded(agreed.value())),
            low: interval.map(|interval| rounded(interval.low)),
            high: interval.map(|interval| rounded(interval.high)),
            compared: agreed.map_or(0, Proportion::of),
            dropped: agreement.dropped,
        }
    }
}

impl AccuracyView {
    fn of(accuracy: Proportion) -> Self {
        let interval = accuracy.interval();
        Self {
            value: rounded(accuracy.value()),
            low: rounded(interval.low),
            high: rounded(interval.high),
            labels: accuracy.of(),
        }
    }
}

impl DifferenceView {
    fn of(versus: VersusBaseline) -> Self {
        let found = versus.difference;
        Self {
            baseline: versus.baseline.get(),
            value: found.map(|found| rounded(found.value)),
            low: found.map(|found| rounded(found.interval.low)),
            high: found.map(|found| rounded(found.interval.high)),
            p_value: found.map(|found| found.p_value),
            verdict: versus.verdict().as_str().to_owned(),
        }
    }
}

impl PsiView {
    fn of(drift: Drift) -> Self {
        Self {
            psi: drift.psi.map(|psi| rounded(psi.value)),
            noise: drift.psi.map(|psi| rounded(psi.noise)),
            verdict: drift.verdict.as_str().to_owned(),
        }
    }
}

impl DisagreementView {
    fn of(one: Disagreement) -> Self {
        Self {
            version: one.version.get(),
            shadow: one.shadow.get(),
            request_id: one.request_id.to_string(),
            index: one.index,
            picture_digest: one.picture_digest.to_string(),
            class: one.class,
            confidence: one.confidence,
            shadow_class: one.shadow_class,
            shadow_confidence: one.shadow_confidence,
            strength: one.strength,
            at: time(one.at),
        }
    }
}
