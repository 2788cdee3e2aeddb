//! `classify` and `batch-classify`: the wire's forms into pictures, the use case, its answers onto the wire.

use std::sync::Arc;
use std::time::Instant;

use base64::Engine as _;
use bytes::Bytes;
use futures_util::StreamExt as _;
use poem::Request;
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::{Json, Response};
use poem_openapi::{Object, OpenApi, Union};
use serde::Deserialize;

use super::body::{BodyLimits, CountedBody, Form, PictureBody};
use super::multipart;
use crate::api::DataPlane;
use crate::api::listener::RequestId;
use crate::api::problem::{ApiError, Problem};
use crate::classify::{
    Classification, Classifier, EncodedPicture, Options, Route, ScoredClass, Target,
};
use crate::config::LimitsConfig;
use crate::domain::error::ErrorKind;
use crate::domain::rollout::Rollout;

/// Pictures in, labels out.
pub struct ClassifyApi {
    classifier: Arc<Classifier>,
    limits: LimitsConfig,
}

/// The answer for one picture.
#[derive(Clone, Debug, Object)]
struct ClassifyResponse {
    /// The request's id (`UUIDv7`), also in the header `X-Request-Id`.
    request_id: String,
    /// The model.
    model: String,
    /// The version that answered.
    version: u64,
    /// SHA-256 of that version's model file.
    digest: String,
    /// The first class.
    class: String,
    /// Its confidence, not rounded.
    confidence: f32,
    /// The first classes, best first.
    classes: Vec<ClassView>,
    /// Why this version answered.
    rollout: RolloutView,
    /// Whether the scores came from the result cache.
    cached: bool,
    /// Where the time went, in milliseconds.
    timing_ms: TimingView,
}

/// A class and its confidence.
#[derive(Clone, Debug, Object)]
struct ClassView {
    /// The label, or the decimal index where the model has none.
    class: String,
    /// The output's index.
    index: usize,
    /// The confidence, not rounded.
    confidence: f32,
}

/// How a model's traffic is shared.
#[derive(Clone, Debug, Object)]
#[oai(skip_serializing_if_is_none)]
pub(super) struct RolloutView {
    /// `latest`.
    mode: String,
}

/// Where the time went, in milliseconds.
#[derive(Clone, Debug, Object)]
struct TimingView {
    /// Decoding and preprocessing.
    decode: f64,
    /// Waiting for a core.
    queue: f64,
    /// The model.
    inference: f64,
    /// From the request's head to the answer.
    total: f64,
}

/// The answer for several pictures.
#[derive(Object)]
struct BatchResponse {
    /// The request's id (`UUIDv7`), also in the header `X-Request-Id`.
    request_id: String,
    /// The model.
    model: String,
    /// One result or one error a picture, in order.
    results: Vec<BatchResult>,
}

/// One result or one error.
#[derive(Union)]
enum BatchResult {
    Classified(BatchItem),
    Refused(BatchRefusal),
}

/// One picture's answer.
#[derive(Object)]
struct BatchItem {
    /// The picture's place in the request, from 0.
    index: usize,
    /// The file's name, where the request has one.
    filename: Option<String>,
    #[oai(flatten)]
    answer: ClassifyResponse,
}

/// Why one picture has no answer.
#[derive(Object)]
struct BatchRefusal {
    /// The picture's place in the request, from 0.
    index: usize,
    /// The file's name, where the request has one.
    filename: Option<String>,
    /// What was wrong with this picture.
    error: Problem,
}

/// A picture as it came out of a body, or why it was refused there.
pub(super) struct Received {
    pub(super) filename: Option<String>,
    pub(super) bytes: Result<Bytes, ApiError>,
}

/// The JSON form of a request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonPictures {
    image: Option<String>,
    images: Option<Vec<String>>,
    top_k: Option<usize>,
    min_confidence: Option<f32>,
}

/// A request on its way: what every step needs.
struct Call<'r> {
    request: &'r Request,
    id: RequestId,
    started: Instant,
}

impl<'r> Call<'r> {
    fn of(request: &'r Request) -> Self {
        Self {
            request,
            id: RequestId::of(request),
            started: Instant::now(),
        }
    }

    /// Until API keys exist, callers are told apart by their address.
    fn caller(&self) -> Arc<str> {
        let address = self
            .request
            .remote_addr()
            .as_socket_addr()
            .map(|addr| addr.ip().to_string());
        Arc::from(address.unwrap_or_default())
    }
}

impl ClassifyApi {
    pub(in crate::api) fn new(plane: &DataPlane) -> Self {
        Self {
            classifier: Arc::clone(&plane.classifier),
            limits: plane.limits.clone(),
        }
    }

    async fn one(
        &self,
        call: Call<'_>,
        target: Target,
        mut options: Options,
        body: PictureBody<false>,
    ) -> Result<Response<Json<ClassifyResponse>>, ApiError> {
        let route = self.classifier.route(&target)?;
        self.classifier.check_options(&route, &options)?;
        let limits = BodyLimits {
            image: self.limits.max_image_bytes,
            images: 1,
        };
        let (form, body) = body.open(limits, self.classifier.budget())?;
        let reservation = body.reservation();
        let mut pictures = self
            .pictures(form, body, limits, &["file"], &mut options)
            .await?;
        self.classifier.check_options(&route, &options)?;
        let received = pictures.pop().ok_or_else(missing)?;
        let picture = EncodedPicture {
            bytes: received.bytes?,
            reservation,
        };
        let answer = self
            .classifier
            .classify(&route, picture, options, call.caller())
            .await?;
        let response = ClassifyResponse::of(answer, &route, &call);
        let timing = response.timing_ms.header();
        Ok(Response::new(Json(response)).header("Server-Timing", timing))
    }

    async fn batch(
        &self,
        call: Call<'_>,
        target: Target,
        mut options: Options,
        body: PictureBody<true>,
    ) -> Result<Response<Json<BatchResponse>>, ApiError> {
        let route = self.classifier.route(&target)?;
        self.classifier.check_options(&route, &options)?;
        let images = u64::try_from(self.limits.max_batch_images).unwrap_or(u64::MAX);
        let limits = BodyLimits {
            image: self.limits.max_image_bytes,
            images,
        };
        let (form, body) = body.open(limits, self.classifier.budget())?;
        let reservation = body.reservation();
        let fields = ["files", "file"];
        let pictures = self
            .pictures(form, body, limits, &fields, &mut options)
            .await?;
        self.classifier.check_options(&route, &options)?;
        let answers = pictures.into_iter().enumerate().map(|(index, received)| {
            let (route, call, reservation) = (&route, &call, Arc::clone(&reservation));
            async move {
                let Received { filename, bytes } = received;
                let outcome = match bytes {
                    Ok(bytes) => {
                        let picture = EncodedPicture { bytes, reservation };
                        let answer =
                            self.classifier
                                .classify(route, picture, options, call.caller());
                        answer.await.map_err(ApiError::from)
                    }
                    Err(refused) => Err(refused),
                };
                match outcome {
                    Ok(answer) => {
                        let answer = ClassifyResponse::of(answer, route, call);
                        BatchResult::Classified(BatchItem {
                            index,
                            filename,
                            answer,
                        })
                    }
                    Err(error) => {
                        let error = error.problem(call.id);
                        BatchResult::Refused(BatchRefusal {
                            index,
                            filename,
                            error,
                        })
                    }
                }
            }
        });
        // A few at a time: a batch must not fill the queue that it shares with everybody.
        let side_by_side = self.classifier.batch_width();
        let results = futures_util::stream::iter(answers)
            .buffered(side_by_side)
            .collect()
            .await;
        let total = millis(call.started.elapsed());
        let (request_id, model) = (call.id.to_string(), route.model().to_string());
        Ok(Response::new(Json(BatchResponse {
            request_id,
            model,
            results,
        }))
        .header("Server-Timing", format!("total;dur={total}")))
    }

    /// The pictures of a body, whatever its form; options inside a JSON body yield to the query's.
    async fn pictures(
        &self,
        form: Form,
        body: CountedBody,
        limits: BodyLimits,
        fields: &[&str],
        options: &mut Options,
    ) -> Result<Vec<Received>, ApiError> {
        match form {
            Form::Raw => Ok(vec![Received {
                filename: None,
                bytes: not_empty(body.read().await?),
            }]),
            Form::Multipart(boundary) => {
                let received = multipart::read(body, &boundary, fields, limits).await?;
                Ok(received
                    .into_iter()
                    .map(|Received { filename, bytes }| Received {
                        filename,
                        bytes: bytes.and_then(not_empty),
                    })
                    .collect())
            }
            Form::Json => {
                let text = body.read().await?;
                // Parsing and base64 take milliseconds for megabytes: not on the runtime's threads.
                let parse = move || json_pictures(&text, limits);
                let (pictures, inside) = tokio::task::spawn_blocking(parse)
                    .await
                    .map_err(|_| ApiError::new(ErrorKind::Internal, "the body was not read"))??;
                options.top_k = options.top_k.or(inside.top_k);
                options.min_confidence = options.min_confidence.or(inside.min_confidence);
                Ok(pictures)
            }
        }
    }
}

fn missing() -> ApiError {
    ApiError::new(ErrorKind::MissingImage, "the request holds no picture")
}

fn not_empty(bytes: Bytes) -> Result<Bytes, ApiError> {
    if bytes.is_empty() {
        Err(missing())
    } else {
        Ok(bytes)
    }
}

fn json_pictures(text: &[u8], limits: BodyLimits) -> Result<(Vec<Received>, Options), ApiError> {
    let parsed: JsonPictures = serde_json::from_slice(text).map_err(|error| {
        ApiError::new(
            ErrorKind::BadRequest,
            format!("the JSON body is malformed: {error}"),
        )
    })?;
    let encoded = match (parsed.image, parsed.images) {
        (Some(image), None) => vec![image],
        (None, Some(images)) => images,
        (None, None) => vec![],
        (Some(_), Some(_)) => {
            let detail = "the JSON body has both `image` and `images`";
            return Err(ApiError::new(ErrorKind::BadRequest, detail));
        }
    };
    if encoded.is_empty() {
        let detail = "the JSON body has no `image` (or, for a batch, `images`)";
        return Err(ApiError::new(ErrorKind::MissingImage, detail));
    }
    if u64::try_from(encoded.len()).unwrap_or(u64::MAX) > limits.images {
        return Err(multipart::too_many(limits.images));
    }
    let pictures = encoded
        .iter()
        .map(|text| Received {
            filename: None,
            bytes: from_base64(text, limits.image).and_then(not_empty),
        })
        .collect();
    let options = Options {
        top_k: parsed.top_k,
        min_confidence: parsed.min_confidence,
    };
    Ok((pictures, options))
}

/// Base64, padded or not; a `data:` URL is taken too, as browsers make them.
fn from_base64(text: &str, limit: u64) -> Result<Bytes, ApiError> {
    use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
    const ENGINE: GeneralPurpose = GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
    );
    let text = match text
        .strip_prefix("data:")
        .and_then(|url| url.split_once(";base64,"))
    {
        Some((_, encoded)) => encoded,
        None => text,
    };
    let decoded = ENGINE.decode(text).map_err(|error| {
        ApiError::new(
            ErrorKind::BadRequest,
            format!("the picture is no base64: {error}"),
        )
    })?;
    let length = u64::try_from(decoded.len()).unwrap_or(u64::MAX);
    if length > limit {
        return Err(ApiError::new(
            ErrorKind::PayloadTooLarge,
            format!("the picture has {length} bytes; allowed are {limit}"),
        ));
    }
    Ok(decoded.into())
}

#[OpenApi]
impl ClassifyApi {
    /// Classify one picture; the rollout chooses the version
    #[oai(path = "/v1/models/:model/classify", method = "post")]
    async fn classify(
        &self,
        request: &Request,
        /// The model's id.
        model: Path<String>,
        /// How many classes, 1 to the number of labels; 5 where it is left out.
        top_k: Query<Option<usize>>,
        /// Classes below it are left out of `classes`.
        min_confidence: Query<Option<f32>>,
        body: PictureBody<false>,
    ) -> Result<Response<Json<ClassifyResponse>>, ApiError> {
        let target = Target {
            model: Some(model.0),
            version: None,
        };
        let options = Options {
            top_k: top_k.0,
            min_confidence: min_confidence.0,
        };
        self.one(Call::of(request), target, options, body).await
    }

    /// Classify one picture on a version or an alias
    #[oai(path = "/v1/models/:model/versions/:version/classify", method = "post")]
    async fn classify_version(
        &self,
        request: &Request,
        /// The model's id.
        model: Path<String>,
        /// A version's number or an alias.
        version: Path<String>,
        /// How many classes, 1 to the number of labels; 5 where it is left out.
        top_k: Query<Option<usize>>,
        /// Classes below it are left out of `classes`.
        min_confidence: Query<Option<f32>>,
        body: PictureBody<false>,
    ) -> Result<Response<Json<ClassifyResponse>>, ApiError> {
        let target = Target {
            model: Some(model.0),
            version: Some(version.0),
        };
        let options = Options {
            top_k: top_k.0,
            min_confidence: min_confidence.0,
        };
        self.one(Call::of(request), target, options, body).await
    }

    /// Classify one picture with the default model
    #[oai(path = "/v1/classify", method = "post")]
    async fn classify_default(
        &self,
        request: &Request,
        /// How many classes, 1 to the number of labels; 5 where it is left out.
        top_k: Query<Option<usize>>,
        /// Classes below it are left out of `classes`.
        min_confidence: Query<Option<f32>>,
        body: PictureBody<false>,
    ) -> Result<Response<Json<ClassifyResponse>>, ApiError> {
        let target = Target {
            model: None,
            version: None,
        };
        let options = Options {
            top_k: top_k.0,
            min_confidence: min_confidence.0,
        };
        self.one(Call::of(request), target, options, body).await
    }

    /// Classify several pictures; one result or one error each, in order
    #[oai(path = "/v1/models/:model/batch-classify", method = "post")]
    async fn batch_classify(
        &self,
        request: &Request,
        /// The model's id.
        model: Path<String>,
        /// How many classes, 1 to the number of labels; 5 where it is left out.
        top_k: Query<Option<usize>>,
        /// Classes below it are left out of `classes`.
        min_confidence: Query<Option<f32>>,
        body: PictureBody<true>,
    ) -> Result<Response<Json<BatchResponse>>, ApiError> {
        let target = Target {
            model: Some(model.0),
            version: None,
        };
        let options = Options {
            top_k: top_k.0,
            min_confidence: min_confidence.0,
        };
        self.batch(Call::of(request), target, options, body).await
    }

    /// Classify several pictures with the default model
    #[oai(path = "/v1/batch-classify", method = "post")]
    async fn batch_classify_default(
        &self,
        request: &Request,
        /// How many classes, 1 to the number of labels; 5 where it is left out.
        top_k: Query<Option<usize>>,
        /// Classes below it are left out of `classes`.
        min_confidence: Query<Option<f32>>,
        body: PictureBody<true>,
    ) -> Result<Response<Json<BatchResponse>>, ApiError> {
        let target = Target {
            model: None,
            version: None,
        };
        let options = Options {
            top_k: top_k.0,
            min_confidence: min_confidence.0,
        };
        self.batch(Call::of(request), target, options, body).await
    }
}

impl ClassifyResponse {
    fn of(answer: Classification, route: &Route, call: &Call<'_>) -> Self {
        let timings = answer.timings;
        Self {
            request_id: call.id.to_string(),
            model: answer.model.to_string(),
            version: answer.version.get(),
            digest: answer.digest.to_string(),
            confidence: answer.best.confidence,
            class: answer.best.class,
            classes: answer.classes.into_iter().map(ClassView::of).collect(),
            rollout: RolloutView::of(route.rollout()),
            cached: false,
            timing_ms: TimingView {
                decode: millis(timings.prepare),
                queue: millis(timings.queue),
                inference: millis(timings.run),
                total: millis(call.started.elapsed()),
            },
        }
    }
}

impl ClassView {
    fn of(class: ScoredClass) -> Self {
        Self {
            class: class.class,
            index: class.index,
            confidence: class.confidence,
        }
    }
}

impl RolloutView {
    pub(super) fn of(rollout: &Rollout) -> Self {
        Self {
            mode: rollout.mode().to_owned(),
        }
    }
}

impl TimingView {
    /// The `Server-Timing` header.
    fn header(&self) -> String {
        format!(
            "decode;dur={}, queue;dur={}, inference;dur={}, total;dur={}",
            self.decode, self.queue, self.inference, self.total
        )
    }
}

/// Milliseconds with three decimals: microseconds are what the clock is good for.
fn millis(duration: std::time::Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
