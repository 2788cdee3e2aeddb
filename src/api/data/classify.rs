//! `classify` and `batch-classify`: the wire's forms into pictures, the use case, its answers onto the wire.

use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt as _;
use poem::http::HeaderMap;
use poem::{Request, RequestBody};
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::{Json, Response};
use poem_openapi::registry::Registry;
use poem_openapi::types::ToJSON;
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions, OpenApi};
use sha2::{Digest as _, Sha256};

use super::answer::{BatchItem, BatchRefusal, BatchResponse, BatchResult, ClassifyResponse};
use super::asynchronous::{self, Answer, Later};
use super::body::{BodyLimits, CountedBody, Form, PictureBody, Received, missing, not_empty};
use super::{headers, json, multipart};
use crate::access::Taken;
use crate::api::DataPlane;
use crate::api::listener::RequestId;
use crate::api::problem::ApiError;
use crate::api::security::{Authorized, ToClassify};
use crate::classify::{
    CacheUse, Caller, Classification, Classifier, ClassifyError, EncodedPicture, Options,
    Reservation, Route, Target, check_format,
};
use crate::config::{LimitsConfig, Live};
use crate::domain::error::ErrorKind;
use crate::domain::ids::Digest;
use crate::domain::prediction::{Asked, millis};
use crate::jobs::{Accepted, Jobs, Submission};
use crate::telemetry::trace;

/// Pictures in, labels out.
pub struct ClassifyApi {
    classifier: Arc<Classifier>,
    jobs: Arc<Jobs>,
    limits: Live<LimitsConfig>,
}

/// A request on its way: what every step needs.
struct Call<'a> {
    id: RequestId,
    headers: &'a HeaderMap,
    holder: Authorized<ToClassify>,
    caller: Caller,
    asked: Arc<Asked>,
    /// What is asked for who does not wait.
    later: Option<Later>,
}

impl<'a> Call<'a> {
    /// The request's head, just arrived, from the holder of a key.
    fn of(request: &'a Request, holder: Authorized<ToClassify>) -> Result<Self, ApiError> {
        let (id, started) = (RequestId::of(request), Instant::now());
        let asked = Arc::new(Asked {
            request_id: id.0,
            tenant: holder.tenant_id(),
            key: holder.key(),
            client_request_id: headers::client_request_id(request.headers()),
            trace_id: trace::current().map(|context| context.trace_id()),
        });
        let caller = Caller {
            // Keys of one tenant share their turn and their results: more keys are no more of either.
            name: Arc::clone(holder.tenant()),
            tenant: Some(Arc::clone(holder.tenant())),
            reuse: headers::reuse(request.headers()),
            // A time beyond the clock's end is none.
            deadline: headers::timeout(request.headers())?
                .and_then(|time| started.checked_add(time)),
            since: started,
            asked: Some(Arc::clone(&asked)),
            unit: None,
            series: Some(Arc::clone(holder.series())),
            comes_again: false,
        };
        Ok(Self {
            id,
            headers: request.headers(),
            holder,
            caller,
            asked,
            later: Later::of(request)?,
        })
    }

    fn response(&self, answer: Classification) -> ClassifyResponse {
        ClassifyResponse::of(answer, &self.id.to_string(), self.caller.since.elapsed())
    }

    /// The outcome of `work`, unless the caller's own time is over before.
    async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        match self.caller.deadline {
            None => work.await,
            Some(deadline) => tokio::time::timeout_at(deadline.into(), work)
                .await
                .unwrap_or_else(|_| Err(ClassifyError::DeadlineExceeded.into())),
        }
    }
}

/// A handler that takes a call runs for nobody but the holder of a key that may classify.
impl<'a> ApiExtractor<'a> for Call<'a> {
    const TYPES: &'static [ApiExtractorType] = Authorized::<ToClassify>::TYPES;
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        Authorized::<ToClassify>::register(registry);
    }

    fn security_schemes() -> Vec<&'static str> {
        Authorized::<ToClassify>::security_schemes()
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        options: ExtractParamOptions<Self::ParamType>,
    ) -> poem::Result<Self> {
        let holder = Authorized::from_request(request, body, options).await?;
        Ok(Self::of(request, holder)?)
    }
}

fn target(model: Option<String>, version: Option<String>) -> Target {
    Target { model, version }
}

fn options(top_k: Option<usize>, min_confidence: Option<f32>) -> Options {
    Options {
        top_k,
        min_confidence,
    }
}

impl ClassifyApi {
    pub(in crate::api) fn new(plane: &DataPlane) -> Self {
        Self {
            classifier: Arc::clone(&plane.classifier),
            jobs: Arc::clone(&plane.jobs),
            limits: plane.limits.clone(),
        }
    }

    /// The model that is asked, and the one token that asking costs.
    fn admit(&self, call: &mut Call<'_>, target: &Target) -> Result<Route, ApiError> {
        let step = trace::step("route");
        let route = self
            .classifier
            .route(target, |id| call.holder.may_use(id))?;
        drop(step);
        trace::model(route.model());
        let unit = route.sticky_header();
        let unit = unit.and_then(|name| call.headers.get(name));
        // Its hash: the header may hold a secret, and jobs keep what stays with its version.
        call.caller.unit = unit.map(|unit| {
            let digest = Digest::from_bytes(Sha256::digest(unit.as_bytes()).into());
            digest.to_string().into()
        });
        call.holder.admit()?;
        let later = call.later.as_ref();
        if let Some(url) = later.and_then(|later| later.callback_url.as_deref()) {
            self.jobs.check_callback(url)?;
        }
        Ok(route)
    }

    async fn one(
        &self,
        mut call: Call<'_>,
        target: Target,
        mut options: Options,
        body: PictureBody<false>,
    ) -> Result<Response<Answer<ClassifyResponse>>, ApiError> {
        let route = self.admit(&mut call, &target)?;
        let received = self.receive_one(&call, &route, &mut options, body).await;
        let (picture, mut taken) = match received {
            Ok(received) => received,
            Err(error) => return Err(self.refused(&call, &route, 0, error).await),
        };
        if let Some(later) = &call.later {
            let known = check_format(&picture.bytes).map_err(ApiError::from);
            if let Err(error) = known {
                return Err(self.refused(&call, &route, 0, error).await);
            }
            let received = Received {
                filename: None,
                bytes: Ok(picture.bytes),
            };
            let wanted = (target.version, options);
            return self
                .queue(&call, later, &route, wanted, vec![received], taken)
                .await;
        }
        let answer = self
            .classifier
            .classify(&route, picture, options, &call.caller)
            .await
            .map_err(ApiError::from)
            .inspect_err(|error| taken.give_back(usize::from(error.is_ours())))?;
        let cache = headers::cache_status(answer.cache);
        let response = call.response(answer);
        let timing = response.timing_ms.header();
        Ok(Response::new(Answer::Now(Json(response)))
            .header(headers::SERVER_TIMING, timing)
            .header(headers::CACHE_STATUS, cache))
    }

    /// The picture of a request, and what it takes of the day's.
    async fn receive_one<'a>(
        &self,
        call: &'a Call<'_>,
        route: &Route,
        options: &mut Options,
        body: PictureBody<false>,
    ) -> Result<(EncodedPicture, Taken<'a>), ApiError> {
        self.classifier.check_options(route, options)?;
        let limits = BodyLimits::one(call.holder.image_bytes(self.limits.load().max_image_bytes));
        let step = trace::step("receive");
        let (form, body) = body.open(limits, self.classifier.budget())?;
        let reservation = body.reservation();
        let pictures = self.pictures(form, body, limits, &["file"], options);
        let mut pictures = call.in_time(pictures).await?;
        drop(step);
        self.classifier.check_options(route, options)?;
        let received = pictures.pop().ok_or_else(missing)?;
        let picture = EncodedPicture {
            index: 0,
            bytes: received.bytes?,
            reservation,
        };
        Ok((picture, call.holder.spend(1)?))
    }

    /// The pictures of a request, what holds their bytes, and what they take of the day's.
    async fn receive_batch<'a>(
        &self,
        call: &'a Call<'_>,
        route: &Route,
        options: &mut Options,
        body: PictureBody<true>,
    ) -> Result<(Vec<Received>, Arc<Reservation>, Taken<'a>), ApiError> {
        self.classifier.check_options(route, options)?;
        let limits = BodyLimits::batch(
            call.holder.image_bytes(self.limits.load().max_image_bytes),
            self.limits.load().max_batch_images,
        );
        let step = trace::step("receive");
        let (form, body) = body.open(limits, self.classifier.budget())?;
        let reservation = body.reservation();
        let fields = ["files", "file"];
        let pictures = self.pictures(form, body, limits, &fields, options);
        let pictures = call.in_time(pictures).await?;
        drop(step);
        self.classifier.check_options(route, options)?;
        let taken = call.holder.spend(pictures.len())?;
        Ok((pictures, reservation, taken))
    }

    /// A picture of an admitted request that was refused before it was looked at: it is recorded like any other.
    async fn refused(
        &self,
        call: &Call<'_>,
        route: &Route,
        index: u32,
        error: ApiError,
    ) -> ApiError {
        self.classifier
            .refuse(route, &call.caller, index, error.kind())
            .await;
        error
    }

    /// Hands a request that nobody waits for to the jobs. Where it is not kept, or was before, it takes nothing of the day's.
    async fn queue<T: ToJSON>(
        &self,
        call: &Call<'_>,
        later: &Later,
        route: &Route,
        (version, options): (Option<String>, Options),
        received: Vec<Received>,
        mut taken: Taken<'_>,
    ) -> Result<Response<Answer<T>>, ApiError> {
        let pictures = received.into_iter().enumerate();
        let (pictures, refused): (Vec<_>, Vec<_>) = pictures
            .map(|(index, received)| asynchronous::picture(call.id, index, received))
            .unzip();
        let submission = Submission {
            asked: Asked::clone(&call.asked),
            model: route.model().clone(),
            version,
            options,
            reuse: call.caller.reuse,
            unit: call.caller.unit.as_deref().map(str::to_owned),
            callback_url: later.callback_url.clone(),
            key: later.key.clone(),
            pictures,
        };
        let accepted = match self.jobs.submit(submission).await {
            Ok(accepted) => accepted,
            Err(error) => {
                taken.give_back(usize::MAX);
                return Err(self.refused(call, route, 0, error.into()).await);
            }
        };
        if accepted == Accepted::New {
            for (index, kind) in (0..).zip(refused) {
                if let Some(kind) = kind {
                    let recorded = self.classifier.refuse(route, &call.caller, index, kind);
                    recorded.await;
                }
            }
        } else {
            taken.give_back(usize::MAX);
        }
        Ok(Response::new(later.answer(accepted, call.id)))
    }

    async fn batch(
        &self,
        mut call: Call<'_>,
        target: Target,
        mut options: Options,
        body: PictureBody<true>,
    ) -> Result<Response<Answer<BatchResponse>>, ApiError> {
        let route = self.admit(&mut call, &target)?;
        let received = self.receive_batch(&call, &route, &mut options, body).await;
        let (pictures, reservation, mut taken) = match received {
            Ok(received) => received,
            Err(error) => return Err(self.refused(&call, &route, 0, error).await),
        };
        if let Some(later) = &call.later {
            let wanted = (target.version, options);
            return self
                .queue(&call, later, &route, wanted, pictures, taken)
                .await;
        }
        let answers = pictures.into_iter().enumerate().map(|(index, received)| {
            let reservation = Arc::clone(&reservation);
            let item = self.item(&call, &route, options, index, received, reservation);
            trace::picture(u32::try_from(index).unwrap_or(u32::MAX), item)
        });
        // A few at a time: a batch must not fill the queue that it shares with everybody.
        let side_by_side = self.classifier.batch_width();
        let results = futures_util::stream::iter(answers).buffered(side_by_side);
        let (results, uses): (Vec<_>, Vec<_>) = results.unzip().await;
        taken.give_back(results.iter().filter(|result| result.is_ours()).count());
        let total = millis(call.caller.since.elapsed());
        let (request_id, model) = (call.id.to_string(), route.model().to_string());
        let response = Response::new(Answer::Now(Json(BatchResponse {
            request_id,
            model,
            results,
        })))
        .header(headers::SERVER_TIMING, format!("total;dur={total}"));
        Ok(match headers::of_all(uses) {
            Some(cache) => response.header(headers::CACHE_STATUS, headers::cache_status(cache)),
            None => response,
        })
    }

    /// One picture of a batch, and what the cache had to do with it.
    async fn item(
        &self,
        call: &Call<'_>,
        route: &Route,
        options: Options,
        index: usize,
        Received { filename, bytes }: Received,
        reservation: Arc<Reservation>,
    ) -> (BatchResult, Option<CacheUse>) {
        // A batch has a few pictures.
        let place = u32::try_from(index).unwrap_or(u32::MAX);
        let outcome = match bytes {
            Ok(bytes) => {
                let picture = EncodedPicture {
                    index: place,
                    bytes,
                    reservation,
                };
                let answer = self
                    .classifier
                    .classify(route, picture, options, &call.caller);
                answer.await.map_err(ApiError::from)
            }
            Err(error) => Err(self.refused(call, route, place, error).await),
        };
        match outcome {
            Ok(answer) => {
                let cache = answer.cache;
                let answer = call.response(answer);
                let item = BatchItem {
                    index,
                    filename,
                    answer,
                };
                (BatchResult::Classified(item), Some(cache))
            }
            Err(error) => {
                let refusal = BatchRefusal {
                    index,
                    filename,
                    error: error.problem(call.id),
                };
                (BatchResult::Refused(refusal), None)
            }
        }
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
                let parse = move || json::read(&text, limits);
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

#[OpenApi]
impl ClassifyApi {
    /// Classify one picture; the rollout chooses the version
    #[oai(path = "/v1/models/:model/classify", method = "post")]
    async fn classify(
        &self,
        call: Call<'_>,
        /// The model's id.
        model: Path<String>,
        /// How many classes, 1 to the number of labels; 5 where it is left out.
        top_k: Query<Option<usize>>,
        /// Classes below it are left out of `classes`.
        min_confidence: Query<Option<f32>>,
        body: PictureBody<false>,
    ) -> Result<Response<Answer<ClassifyResponse>>, ApiError> {
        let (target, options) = (
            target(Some(model.0), None),
            options(top_k.0, min_confidence.0),
        );
        self.one(call, target, options, body).await
    }

    /// Classify one picture on a version or an alias
    #[oai(path = "/v1/models/:model/versions/:version/classify", method = "post")]
    async fn classify_version(
        &self,
        call: Call<'_>,
        /// The model's id.
        model: Path<String>,
        /// A version's number or an alias.
        version: Path<String>,
        /// How many classes, 1 to the number of labels; 5 where it is left out.
        top_k: Query<Option<usize>>,
        /// Classes below it are left out of `classes`.
        min_confidence: Query<Option<f32>>,
        body: PictureBody<false>,
    ) -> Result<Response<Answer<ClassifyResponse>>, ApiError> {
        let (target, options) = (
            target(Some(model.0), Some(version.0)),
            options(top_k.0, min_confidence.0),
        );
        self.one(call, target, options, body).await
    }

    /// Classify one picture with the default model
    #[oai(path = "/v1/classify", method = "post")]
    async fn classify_default(
        &self,
        call: Call<'_>,
        /// How many classes, 1 to the number of labels; 5 where it is left out.
        top_k: Query<Option<usize>>,
        /// Classes below it are left out of `classes`.
        min_confidence: Query<Option<f32>>,
        body: PictureBody<false>,
    ) -> Result<Response<Answer<ClassifyResponse>>, ApiError> {
        let (target, options) = (target(None, None), options(top_k.0, min_confidence.0));
        self.one(call, target, options, body).await
    }

    /// Classify several pictures; one result or one error each, in order
    #[oai(path = "/v1/models/:model/batch-classify", method = "post")]
    async fn batch_classify(
        &self,
        call: Call<'_>,
        /// The model's id.
        model: Path<String>,
        /// How many classes, 1 to the number of labels; 5 where it is left out.
        top_k: Query<Option<usize>>,
        /// Classes below it are left out of `classes`.
        min_confidence: Query<Option<f32>>,
        body: PictureBody<true>,
    ) -> Result<Response<Answer<BatchResponse>>, ApiError> {
        let (target, options) = (
            target(Some(model.0), None),
            options(top_k.0, min_confidence.0),
        );
        self.batch(call, target, options, body).await
    }

    /// Classify several pictures with the default model
    #[oai(path = "/v1/batch-classify", method = "post")]
    async fn batch_classify_default(
        &self,
        call: Call<'_>,
        /// How many classes, 1 to the number of labels; 5 where it is left out.
        top_k: Query<Option<usize>>,
        /// Classes below it are left out of `classes`.
        min_confidence: Query<Option<f32>>,
        body: PictureBody<true>,
    ) -> Result<Response<Answer<BatchResponse>>, ApiError> {
        let (target, options) = (target(None, None), options(top_k.0, min_confidence.0));
        self.batch(call, target, options, body).await
    }
}
