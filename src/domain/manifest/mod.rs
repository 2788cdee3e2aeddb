//! `model.toml`: how a picture becomes a tensor, how the output becomes labels, and how a version is served.
//!
//! Parsed by `model_store`, resolved against the graph by `models`. Every key is optional.

use serde::Deserialize;

use super::graph::GraphError;
use super::ids::VersionNumber;
use super::picture::{Color, Filter, Layout};
use super::preset::{Preset, ResizeMode};
use super::scores::Activation;

mod resolve;

/// A parsed `model.toml`. Unknown keys are refused by name.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Manifest {
    /// The model's name for people.
    pub title: Option<String>,
    /// What the model is for.
    pub description: Option<String>,
    /// The classes in output order.
    pub labels: Option<LabelsSource>,
    /// How a picture becomes a tensor.
    pub input: InputSection,
    /// How the output becomes scores.
    pub output: OutputSection,
    /// How versions are served.
    pub serving: ServingSection,
    /// Pictures that a version must get right before it may serve.
    pub golden: Vec<Golden>,
}

/// Where the labels come from.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(
    untagged,
    expecting = "labels must be a file's name or a list of labels"
)]
pub enum LabelsSource {
    /// A file beside the manifest, one label a line.
    File(String),
    /// The labels themselves.
    Inline(Vec<String>),
}

/// `[input]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InputSection {
    /// The graph's input, where it has several.
    pub name: Option<String>,
    /// `NCHW` or `NHWC`.
    #[serde(deserialize_with = "layout_in_any_case")]
    pub layout: Option<Layout>,
    /// `[H, W]` in pixels.
    pub size: Option<[u32; 2]>,
    /// Exactness traded for speed.
    pub fast_decode: bool,
    /// Channels and their order.
    pub color: Option<Color>,
    /// How the picture is brought near the size.
    pub resize: Option<ResizeMode>,
    /// The shorter side, or `[H, W]`, after the resize.
    pub resize_to: Option<ResizeTo>,
    /// What is cut out after the resize.
    pub crop: Option<CropMode>,
    /// The resampling filter.
    pub filter: Option<Filter>,
    /// Factor of the 8-bit pixel.
    pub scale: Option<f64>,
    /// Subtracted, in the tensor's channel order.
    pub mean: Option<PerChannel>,
    /// Divided by, in the tensor's channel order.
    pub std: Option<PerChannel>,
    /// A family whose published values are the defaults.
    pub preset: Option<Preset>,
}

/// `resize_to`: one side or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "resize_to must be a number or [H, W]")]
pub enum ResizeTo {
    /// The shorter side, or both sides of a square.
    Side(u32),
    /// `[H, W]`.
    Both([u32; 2]),
}

/// `crop`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CropMode {
    /// The middle of the picture.
    Center,
    /// Nothing is cut off.
    None,
}

/// `mean` and `std`: one number for all channels or one a channel.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged, expecting = "mean and std must be a number or one a channel")]
pub enum PerChannel {
    /// The same for all.
    One(f64),
    /// In the tensor's own channel order.
    Each(Vec<f64>),
}

/// `[output]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutputSection {
    /// The graph's output, where it has several.
    pub name: Option<String>,
    /// Applied to the scores; decided at load where it is not given.
    pub activation: Option<Activation>,
    /// Scale of a quantised output.
    pub scale: Option<f32>,
    /// Zero point of a quantised output.
    pub zero_point: Option<i32>,
}

/// `[serving]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServingSection {
    /// What executes the graph.
    pub backend: BackendChoice,
    /// Which versions are loaded.
    pub versions: VersionsChoice,
    /// Threads that execute a version side by side.
    pub instances: Option<usize>,
    /// Threads inside one run.
    pub threads: Option<usize>,
    /// The most pictures of one run.
    pub max_batch_size: Option<usize>,
    /// Milliseconds that a batch which is not full waits for more pictures.
    pub max_queue_delay_ms: Option<u64>,
    /// The most jobs that wait.
    pub max_queue: Option<usize>,
    /// Milliseconds from the arrival of a request to its answer.
    pub timeout_ms: Option<u64>,
    /// How many warm-up runs a version does before it serves (at least one is always done).
    pub warm_up: Option<u32>,
    /// Whether results are kept and given again.
    pub cache: Option<bool>,
}

/// `serving.backend`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendChoice {
    /// ONNX Runtime where its library is found and runs the graph, else tract.
    #[default]
    Auto,
    /// ONNX Runtime.
    Ort,
    /// tract.
    Tract,
}

/// `serving.versions`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "VersionsText")]
pub enum VersionsChoice {
    /// Every version in the folder.
    #[default]
    All,
    /// The highest number alone.
    Latest,
    /// These numbers.
    List(Vec<u64>),
}

impl VersionsChoice {
    /// Whether it selects this version, where `highest` is the highest number there is.
    #[must_use]
    pub fn selects(&self, number: VersionNumber, highest: Option<VersionNumber>) -> bool {
        match self {
            Self::All => true,
            Self::Latest => highest == Some(number),
            Self::List(list) => list.contains(&number.get()),
        }
    }
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "versions must be \"all\", \"latest\" or a list of numbers"
)]
enum VersionsText {
    Word(VersionsWord),
    List(Vec<u64>),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum VersionsWord {
    All,
    Latest,
}

impl From<VersionsText> for VersionsChoice {
    fn from(text: VersionsText) -> Self {
        match text {
            VersionsText::Word(VersionsWord::All) => Self::All,
            VersionsText::Word(VersionsWord::Latest) => Self::Latest,
            VersionsText::List(list) => Self::List(list),
        }
    }
}

/// A picture that a version must get right before it may serve.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// The picture, relative to the model's folder.
    pub image: String,
    /// The class that must come first.
    pub label: String,
    /// The least confidence of it.
    #[serde(default)]
    pub min_confidence: f32,
}

/// What is wrong with a manifest, in words its author can act on.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ManifestError {
    /// It is no TOML, or a key is unknown, or a value has the wrong form.
    #[error("model.toml: {0}")]
    Syntax(String),
    /// A key contradicts the graph or another key.
    #[error("model.toml: {key}: {reason}")]
    Key {
        /// The key, e.g. `input.size`.
        key: &'static str,
        /// Why it cannot be.
        reason: String,
    },
    /// The graph's input is no picture.
    #[error(transparent)]
    Graph(#[from] GraphError),
}

fn layout_in_any_case<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Layout>, D::Error> {
    match String::deserialize(deserializer)?
        .to_ascii_uppercase()
        .as_str()
    {
        "NCHW" => Ok(Some(Layout::Nchw)),
        "NHWC" => Ok(Some(Layout::Nhwc)),
        other => Err(serde::de::Error::unknown_variant(other, &["NCHW", "NHWC"])),
    }
}

fn refuse<T>(key: &'static str, reason: impl Into<String>) -> Result<T, ManifestError> {
    Err(ManifestError::Key {
        key,
        reason: reason.into(),
    })
}

/// The largest side of a tensor, in pixels: beyond it a manifest is a mistake, not a model.
const MAX_SIDE: u32 = 8192;

/// The longest that a batch may wait to fill, in milliseconds: every picture of it waits as long.
const MAX_QUEUE_DELAY_MS: u64 = 10_000;

impl Manifest {
    /// All of it that a version's execution depends on, in one canonical form: equal texts mean equal behaviour. What
    /// people read, and which versions are selected, is left out.
    #[must_use]
    pub fn what_matters(&self) -> String {
        let mut matters = self.clone();
        (matters.title, matters.description) = (None, None);
        matters.serving.versions = VersionsChoice::default();
        format!("{matters:?}")
    }

    /// Parses a manifest, `overrides` (a version's own `model.toml`) winning key by key over `base` (the model's).
    ///
    /// # Errors
    /// [`ManifestError::Syntax`] with the key's name and what is allowed.
    pub fn parse(base: Option<&str>, overrides: Option<&str>) -> Result<Self, ManifestError> {
        let mut table = Self::table(base.unwrap_or(""))?;
        merge(&mut table, Self::table(overrides.unwrap_or(""))?);
        let manifest: Self = table.try_into().map_err(|error: toml::de::Error| {
            ManifestError::Syntax(error.to_string().trim().replace('\n', " "))
        })?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The text of a manifest that says of a version by itself what `base` (its model's) and `overrides` (its own) say
    /// together; `None` where that is nothing. What concerns the model alone is left out.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn of_a_version(
        base: Option<&str>,
        overrides: Option<&str>,
    ) -> Result<Option<String>, ManifestError> {
        let mut table = Self::table(base.unwrap_or(""))?;
        merge(&mut table, Self::table(overrides.unwrap_or(""))?);
        table.remove("title");
        table.remove("description");
        if let Some(toml::Value::Table(serving)) = table.get_mut("serving") {
            serving.remove("versions");
        }
        table.retain(|_, value| value.as_table().is_none_or(|table| !table.is_empty()));
        Ok((!table.is_empty()).then(|| table.to_string()))
    }

    fn table(text: &str) -> Result<toml::Table, ManifestError> {
        // `message` alone is one line; the whole display would repeat the file's text.
        toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(0, |span| {
                text.get(..span.start)
                    .map_or(0, |head| head.matches('\n').count() + 1)
            });
            ManifestError::Syntax(format!("line {line}: {}", error.message()))
        })
    }

    /// What can be refused without a graph.
    fn check(&self) -> Result<(), ManifestError> {
        let InputSection {
            size,
            resize_to,
            scale,
            std,
            ..
        } = &self.input;
        let sides = match resize_to {
            Some(ResizeTo::Side(side)) => vec![*side],
            Some(ResizeTo::Both(both)) => both.to_vec(),
            None => vec![],
        };
        if size
            .iter()
            .flatten()
            .chain(&sides)
            .any(|&side| side == 0 || side > MAX_SIDE)
        {
            return refuse(
                "input.size, input.resize_to",
                format!("sides are 1 to {MAX_SIDE}"),
            );
        }
        if scale.is_some_and(|scale| !scale.is_finite() || scale == 0.0) {
            return refuse("input.scale", "must be a finite number other than 0");
        }
        let zero_std = match std {
            Some(PerChannel::One(one)) => *one == 0.0,
            Some(PerChannel::Each(each)) => each.contains(&0.0),
            None => false,
        };
        if zero_std {
            return refuse("input.std", "must not be 0");
        }
        let serving = &self.serving;
        for (key, value, most) in [
            ("serving.instances", serving.instances, 256),
            ("serving.threads", serving.threads, 256),
            ("serving.max_batch_size", serving.max_batch_size, 1024),
            ("serving.max_queue", serving.max_queue, 65_536),
        ] {
            if value.is_some_and(|n| n == 0 || n > most) {
                return refuse(key, format!("must be 1 to {most}"));
            }
        }
        if self
            .output
            .scale
            .is_some_and(|scale| !scale.is_finite() || scale <= 0.0)
        {
            return refuse("output.scale", "must be a finite number above 0");
        }
        if serving
            .max_queue_delay_ms
            .is_some_and(|ms| ms > MAX_QUEUE_DELAY_MS)
        {
            return refuse(
                "serving.max_queue_delay_ms",
                format!("must be 0 to {MAX_QUEUE_DELAY_MS}"),
            );
        }
        if serving.timeout_ms == Some(0) {
            return refuse("serving.timeout_ms", "must be at least 1");
        }
        if self
            .golden
            .iter()
            .any(|golden| !(0.0..=1.0).contains(&golden.min_confidence))
        {
            return refuse("golden.min_confidence", "must be 0 to 1");
        }
        Ok(())
    }
}

/// Lays `over` upon `base`, table by table; anything that is no table replaces what was there.
fn merge(base: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(inner)), toml::Value::Table(value)) => merge(inner, value),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::graph::InputFacts;
    use crate::domain::picture::Resize;
    use crate::domain::tensor::ElementType;

    fn facts(element: ElementType, shape: [Option<usize>; 4]) -> InputFacts {
        InputFacts {
            element,
            shape: shape.to_vec(),
        }
    }

    fn imagenet() -> InputFacts {
        facts(ElementType::Float32, [None, Some(3), Some(224), Some(224)])
    }

    #[test]
    fn a_version_by_itself_says_what_both_manifests_say_together() {
        let base = "title = 'T'\nlabels = ['a', 'b']\n[input]\nsize = [8, 8]\ncolor = 'gray'\n\
                    [serving]\nversions = [1]\n[[golden]]\nimage = 'x.png'\nlabel = 'a'\n";
        let own = "description = 'D'\n[input]\nsize = [4, 4]\n";
        let alone = Manifest::of_a_version(Some(base), Some(own)).expect("a text");
        let alone = Manifest::parse(alone.as_deref(), None).expect("a manifest");
        let both = Manifest::parse(Some(base), Some(own)).expect("a manifest");
        assert_eq!(alone.what_matters(), both.what_matters());
        assert_eq!((alone.title, alone.description), (None, None));
        assert_eq!(alone.serving.versions, VersionsChoice::All);
        let nothing = "title = 'T'\n[serving]\nversions = 'latest'\n";
        assert_eq!(Manifest::of_a_version(Some(nothing), None), Ok(None));
        assert_eq!(Manifest::of_a_version(None, None), Ok(None));
        assert!(Manifest::of_a_version(Some("x = "), None).is_err());
    }

    #[test]
    fn an_empty_manifest_takes_the_graph_and_the_defaults() {
        let spec = Manifest::default()
            .picture_spec(&imagenet())
            .expect("a spec");
        assert_eq!(spec.resize, Resize::ShorterSide { to: 256 });
        assert_eq!((spec.color, spec.center_crop), (Color::Rgb, true));
        assert_eq!(
            (spec.scale, spec.mean, spec.std),
            (1.0 / 255.0, vec![0.0; 3], vec![1.0; 3])
        );
        let bytes = facts(ElementType::Uint8, [Some(1), Some(128), Some(128), Some(3)]);
        let spec = Manifest::default().picture_spec(&bytes).expect("a spec");
        assert_eq!(
            (spec.resize, spec.scale),
            (Resize::ShorterSide { to: 146 }, 1.0)
        );
        let gray = facts(ElementType::Float32, [Some(1), Some(1), Some(28), Some(28)]);
        let spec = Manifest::default().picture_spec(&gray).expect("a spec");
        assert_eq!(
            (spec.color, spec.resize),
            (Color::Gray, Resize::ShorterSide { to: 32 })
        );
    }

    #[test]
    fn a_presets_values_yield_to_explicit_keys() {
        let text = "[input]\npreset = 'keras-caffe'\nfilter = 'bilinear'";
        let spec = Manifest::parse(Some(text), None)
            .and_then(|manifest| manifest.picture_spec(&imagenet()))
            .expect("a spec");
        assert_eq!((spec.color, spec.filter), (Color::Bgr, Filter::Bilinear));
        assert_eq!(
            spec.resize,
            Resize::Stretch {
                height: 224,
                width: 224
            }
        );
        assert_eq!(spec.mean, vec![103.939, 116.779, 123.68]);
    }

    #[test]
    fn a_versions_own_keys_win_one_by_one() {
        let base = "title = 'T'\n[input]\nscale = 1.0\nmean = 2.0";
        let manifest =
            Manifest::parse(Some(base), Some("[input]\nmean = [1, 2, 3]")).expect("a manifest");
        assert_eq!(manifest.title.as_deref(), Some("T"));
        assert_eq!(manifest.input.scale, Some(1.0));
        assert_eq!(
            manifest.input.mean,
            Some(PerChannel::Each(vec![1.0, 2.0, 3.0]))
        );
    }

    #[test]
    fn mistakes_are_named() {
        for (text, word) in [
            ("[input]\nsise = [8, 8]", "sise"),
            ("[input]\nsize = [0, 8]", "input.size"),
            ("[input]\nstd = 0", "input.std"),
            ("[input]\nscale = nan", "input.scale"),
            ("[input]\nlayout = 'CHW'", "NCHW"),
            ("[input]\nfilter = 'area'", "bilinear"),
            ("[serving]\ninstances = 0", "serving.instances"),
            ("[serving]\ninstances = 65536", "serving.instances"),
            (
                "[serving]\nmax_queue_delay_ms = 10001",
                "serving.max_queue_delay_ms",
            ),
            ("[serving]\nmax_queue_delay_ms = -1", "max_queue_delay_ms"),
            ("[output]\nscale = nan", "output.scale"),
            ("[input]\nresize_to = 'large'", "resize_to must be"),
            (
                "[[golden]]\nimage = 'a'\nlabel = 'b'\nmin_confidence = 2",
                "min_confidence",
            ),
            ("title = ", "line 1"),
        ] {
            let error = Manifest::parse(Some(text), None)
                .expect_err(text)
                .to_string();
            assert!(error.contains(word), "{text:?} gave {error:?}");
        }
        for (text, word) in [
            ("[input]\nsize = [64, 64]", "input.size"),
            ("[input]\ncolor = 'gray'", "input.color"),
            ("[input]\ncrop = 'none'", "input.crop"),
            ("[input]\nmean = [1, 2]", "input.mean"),
            (
                "[input]\nresize = 'stretch'\ncrop = 'none'\nresize_to = 256",
                "input.resize_to",
            ),
        ] {
            let error = Manifest::parse(Some(text), None)
                .and_then(|manifest| manifest.picture_spec(&imagenet()))
                .expect_err(text)
                .to_string();
            assert!(error.contains(word), "{text:?} gave {error:?}");
        }
    }

    #[test]
    fn versions_are_words_or_a_list() {
        let versions = |text: &str| {
            Manifest::parse(Some(&format!("[serving]\nversions = {text}")), None)
                .map(|manifest| manifest.serving.versions)
        };
        assert_eq!(versions("'latest'"), Ok(VersionsChoice::Latest));
        assert_eq!(versions("[1, 3]"), Ok(VersionsChoice::List(vec![1, 3])));
        assert!(versions("'newest'").is_err());
    }
}
