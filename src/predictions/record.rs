//! A prediction as the spool keeps it: JSON with short names, so that a later release reads what an earlier one has left.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::prediction::{
    Answer, AnsweredBy, Asked, PictureFacts, PredictedClass, Prediction, Spent,
};
use crate::domain::tenant::{KeyId, TenantId};

/// What every record begins with; the request's id follows.
const BEGINNING: &[u8] = br#"{"r":""#;

/// The names are short as there may be millions; the request's id comes first, where it is looked for.
#[derive(Serialize, Deserialize)]
struct Record<'a> {
    r: Uuid,
    i: u32,
    t: Uuid,
    k: Uuid,
    #[serde(borrow)]
    m: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<By<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    p: Option<Picture<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    a: Option<(Cow<'a, str>, f32)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    cs: Vec<(Cow<'a, str>, usize, f32)>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    h: bool,
    /// Decode, queue, inference, total.
    ms: (f64, f64, f64, f64),
    s: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    c: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tr: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cr: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
struct By<'a> {
    v: u64,
    d: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    arm: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
struct Picture<'a> {
    d: Cow<'a, str>,
    n: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    f: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wh: Option<(u32, u32)>,
}

/// The record of a prediction.
pub(super) fn encode(one: &Prediction) -> Vec<u8> {
    let record = Record {
        r: one.asked.request_id,
        i: one.index,
        t: one.asked.tenant.0,
        k: one.asked.key.0,
        m: one.model.as_str().into(),
        by: one.answered_by.as_ref().map(|by| By {
            v: by.version.get(),
            d: by.digest.to_string().into(),
            arm: borrowed(by.arm.as_ref()),
        }),
        p: one.picture.as_ref().map(|picture| Picture {
            d: picture.digest.to_string().into(),
            n: picture.bytes,
            f: borrowed(picture.format.as_ref()),
            wh: picture.size,
        }),
        a: one
            .answer
            .as_ref()
            .map(|answer| (answer.class.as_str().into(), answer.confidence)),
        cs: one
            .answer
            .iter()
            .flat_map(|answer| &answer.classes)
            .map(|class| (class.class.as_str().into(), class.index, class.confidence))
            .collect(),
        h: one.cached,
        ms: (
            one.timings.decode,
            one.timings.queue,
            one.timings.inference,
            one.timings.total,
        ),
        s: one.status,
        c: borrowed(one.code.as_ref()),
        tr: borrowed(one.asked.trace_id.as_ref()),
        cr: borrowed(one.asked.client_request_id.as_ref()),
    };
    // There is nothing in it that JSON could not say.
    serde_json::to_vec(&record).unwrap_or_default()
}

/// Bytes of the longest text, and the most classes, of what is cut to fit into a record or into the database.
const LONGEST_TEXT: usize = 1000;
const MOST_CLASSES: usize = 100;

/// The same with its long texts and its long list of classes cut.
pub(super) fn shortened(mut one: Prediction) -> Prediction {
    if let Some(answer) = &mut one.answer {
        answer.classes.truncate(MOST_CLASSES);
    }
    for text in texts(&mut one) {
        text.truncate(text.floor_char_boundary(LONGEST_TEXT));
    }
    one
}

/// The texts of a prediction that come from others: from clients, or from a model's labels.
pub(super) fn texts(one: &mut Prediction) -> impl Iterator<Item = &mut String> {
    let asked = &mut one.asked;
    let own = [
        asked.client_request_id.as_mut(),
        asked.trace_id.as_mut(),
        one.code.as_mut(),
    ];
    let answered = one.answer.iter_mut().flat_map(|answer| {
        let classes = answer.classes.iter_mut().map(|class| &mut class.class);
        std::iter::once(&mut answer.class).chain(classes)
    });
    own.into_iter().flatten().chain(answered)
}

fn borrowed(text: Option<&String>) -> Option<Cow<'_, str>> {
    text.map(|text| text.as_str().into())
}

/// The prediction of a record; `None` for what is none.
pub(super) fn decode(record: &[u8]) -> Option<Prediction> {
    let record: Record<'_> = serde_json::from_slice(record).ok()?;
    let text = |text: Option<Cow<'_, str>>| text.map(Cow::into_owned);
    let answered_by = match record.by {
        None => None,
        Some(by) => Some(AnsweredBy {
            version: std::num::NonZeroU64::new(by.v)?.into(),
            digest: by.d.parse().ok()?,
            arm: text(by.arm),
        }),
    };
    let picture = match record.p {
        None => None,
        Some(picture) => Some(PictureFacts {
            digest: picture.d.parse().ok()?,
            bytes: picture.n,
            format: text(picture.f),
            size: picture.wh,
        }),
    };
    let class = |(class, index, confidence): (Cow<'_, str>, usize, f32)| PredictedClass {
        class: class.into_owned(),
        index,
        confidence,
    };
    let classes = record.cs.into_iter().map(class).collect();
    let (decode, queue, inference, total) = record.ms;
    Some(Prediction {
        asked: Asked {
            request_id: record.r,
            tenant: TenantId(record.t),
            key: KeyId(record.k),
            client_request_id: text(record.cr),
            trace_id: text(record.tr),
        },
        index: record.i,
        model: record.m.parse().ok()?,
        answered_by,
        picture,
        answer: record.a.map(|(class, confidence)| Answer {
            class: class.into_owned(),
            confidence,
            classes,
        }),
        cached: record.h,
        timings: Spent {
            decode,
            queue,
            inference,
            total,
        },
        status: record.s,
        code: text(record.c),
    })
}

/// Which request a record is of; reads no more than its beginning.
pub(super) fn request_of(record: &[u8]) -> Option<Uuid> {
    let rest = record.strip_prefix(BEGINNING)?;
    let id = rest.get(..uuid::fmt::Hyphenated::LENGTH)?;
    Uuid::try_parse_ascii(id).ok()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::domain::ids::Digest;

    /// A prediction in which nothing is left out.
    pub(in crate::predictions) fn prediction(request_id: Uuid) -> Prediction {
        Prediction {
            asked: Asked {
                request_id,
                tenant: TenantId(Uuid::from_u128(1)),
                key: KeyId(Uuid::from_u128(2)),
                client_request_id: Some("ä \"quoted\" \\ \u{1}".to_owned()),
                trace_id: Some("0af7651916cd43dd8448eb211c80319c".to_owned()),
            },
            index: 3,
            model: "digits".parse().expect("an id"),
            answered_by: Some(AnsweredBy {
                version: "18446744073709551615".parse().expect("a version"),
                digest: Digest::from_bytes([7; 32]),
                arm: Some("candidate".to_owned()),
            }),
            picture: Some(PictureFacts {
                digest: Digest::from_bytes([9; 32]),
                bytes: u64::MAX,
                format: Some("png".to_owned()),
                size: Some((1, u32::MAX)),
            }),
            answer: Some(Answer {
                class: "7\n".to_owned(),
                confidence: 0.1,
                classes: vec![PredictedClass {
                    class: "7\n".to_owned(),
                    index: 7,
                    confidence: f32::MIN_POSITIVE,
                }],
            }),
            cached: true,
            timings: Spent {
                decode: 0.001,
                queue: 0.0,
                inference: 1e9,
                total: 12.345,
            },
            status: 200,
            code: None,
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let full = prediction(Uuid::now_v7());
        let mut bare = full.clone();
        (bare.answered_by, bare.picture, bare.answer) = (None, None, None);
        (bare.asked.client_request_id, bare.asked.trace_id) = (None, None);
        (bare.cached, bare.status, bare.code) = (false, 413, Some("payload_too_large".to_owned()));
        for one in [full, bare] {
            assert_eq!(decode(&encode(&one)), Some(one));
        }
    }

    #[test]
    fn a_request_is_told_by_the_beginning() {
        let one = Uuid::now_v7();
        let record = encode(&prediction(one));
        assert_eq!(request_of(&record), Some(one));
        for torn in [&record[..41], &record[1..], b"", br#"{"r":""#] {
            assert_eq!(request_of(torn), None);
        }
    }

    #[test]
    fn what_is_shortened_fits_into_a_record() {
        let mut one = prediction(Uuid::now_v7());
        let class = PredictedClass {
            class: "\u{1}".repeat(100_000),
            index: 1,
            confidence: 0.5,
        };
        let answer = Answer {
            class: "ä".repeat(3000) + "x",
            confidence: 0.5,
            classes: vec![class; 3000],
        };
        one.answer = Some(answer);
        one.asked.client_request_id = Some("c".repeat(5000));
        let short = shortened(one);
        let record = encode(&short);
        assert!(record.len() < 1 << 20, "{}", record.len());
        assert_eq!(decode(&record), Some(short.clone()));
        let answer = short.answer.expect("an answer");
        assert_eq!((answer.class, answer.classes.len()), ("ä".repeat(500), 100));
        assert_eq!(answer.classes[99].class.len(), 1000);
        assert_eq!(short.asked.client_request_id.map(|id| id.len()), Some(1000));
        let small = prediction(Uuid::now_v7());
        assert_eq!(shortened(small.clone()), small);
    }

    #[test]
    fn what_is_no_record_is_none() {
        let record = encode(&prediction(Uuid::now_v7()));
        assert_eq!(decode(b""), None);
        for end in 0..record.len() {
            assert_eq!(decode(&record[..end]), None);
        }
        let text = String::from_utf8(record).expect("text");
        // A name that a later release has added is passed over.
        let newer = text.replacen('{', r#"{"new":1,"#, 1);
        assert!(decode(newer.as_bytes()).is_some());
        for (from, to) in [("\"digits\"", "\"../x\""), ("sha256:07", "md5:07")] {
            assert_eq!(decode(text.replace(from, to).as_bytes()), None, "{to}");
        }
    }
}
