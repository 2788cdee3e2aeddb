//! Rows of both databases as things of the domain. What a row holds that the domain does not know is a failure, said by name.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{Error, FromRow, Row as _};
use trait_gen::trait_gen;

use super::{LeasedDelivery, Subscriber, TakenPicture};
use crate::domain::api_key::{ApiKey, KeyLimits};
use crate::domain::callback::{Attempt, CallbackSecret, Delivery, NewDelivery};
use crate::domain::feedback::{Feedback, Judged, Subject};
use crate::domain::ids::VersionNumber;
use crate::domain::job::{Job, JobStanding};
use crate::domain::operator::{AdminToken, AuditEntry};
use crate::domain::prediction::{Answer, AnsweredBy, Asked, PictureFacts, Prediction, Spent};
use crate::domain::secret::SecretHash;
use crate::domain::tenant::{KeyId, Tenant, TenantId, TokenId};

/// The columns of a table in a statement. Named one by one, so that a column which a newer release adds changes no statement
/// that is prepared.
macro_rules! columns {
    (tenants) => {
        "id, name, callback_url, events, created_at, updated_at, version"
    };
    (api_keys) => {
        "id, tenant_id, name, secret_hash, hint, previous_hash, previous_until, scopes, models, \
         requests_per_second, burst, images_per_day, max_image_bytes, limit_mode, expires_at, \
         created_at, updated_at, last_used_at, version"
    };
    (admin_tokens) => {
        "id, name, secret_hash, hint, role, expires_at, created_at, last_used_at"
    };
    (predictions) => {
        "day, request_id, \"index\", tenant_id, key_id, model, version, digest, arm, picture_digest, bytes, \
         format, width, height, class, confidence, classes, cached, decode_ms, queue_ms, inference_ms, \
         total_ms, status, code, trace_id, client_request_id, at"
    };
    (callback_deliveries) => {
        "id, tenant_id, event, url, body, state, attempts, begun_at, next_attempt_at, created_at, \
         last_status, last_error, finished_at, traceparent"
    };
    (callback_attempts) => {
        "at, status, error, duration_ms"
    };
    (callback_secrets) => {
        "id, tenant_id, secret, created_at, expires_at"
    };
    (jobs) => {
        "id, tenant_id, key_id, client_request_id, trace_id, model, terms, callback_url, created_at, state, \
         results, traceparent"
    };
    (audit) => {
        "id, at, actor, token_id, action, target, value_before, value_after, address, request_id"
    };
}

pub(super) use columns;

/// What a row stands for.
pub(super) struct Found<T>(pub(super) T);

#[trait_gen(R -> PgRow, SqliteRow)]
impl FromRow<'_, R> for Found<Tenant> {
    fn from_row(row: &R) -> Result<Self, Error> {
        Ok(Self(Tenant {
            id: TenantId(row.try_get("id")?),
            name: row.try_get("name")?,
            callback_url: row.try_get("callback_url")?,
            events: list(row.try_get("events")?)?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
            version: row.try_get("version")?,
        }))
    }
}

#[trait_gen(R -> PgRow, SqliteRow)]
impl FromRow<'_, R> for Found<ApiKey> {
    fn from_row(row: &R) -> Result<Self, Error> {
        let previous: Option<&[u8]> = row.try_get("previous_hash")?;
        let until: Option<DateTime<Utc>> = row.try_get("previous_until")?;
        let burst: Option<i64> = row.try_get("burst")?;
        Ok(Self(ApiKey {
            id: KeyId(row.try_get("id")?),
            tenant: TenantId(row.try_get("tenant_id")?),
            name: row.try_get("name")?,
            hash: hash(row.try_get("secret_hash")?)?,
            hint: row.try_get("hint")?,
            previous: previous.map(hash).transpose()?.zip(until),
            scopes: list(row.try_get("scopes")?)?,
            models: list(row.try_get("models")?)?,
            limits: KeyLimits {
                requests_per_second: row.try_get("requests_per_second")?,
                burst: burst.map(u32::try_from).transpose().map_err(strange)?,
                images_per_day: row.try_get("images_per_day").map(unsigned)?,
                max_image_bytes: row.try_get("max_image_bytes").map(unsigned)?,
                mode: word(row.try_get("limit_mode")?)?,
            },
            expires_at: row.try_get("expires_at")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
            last_used_at: row.try_get("last_used_at")?,
            version: row.try_get("version")?,
        }))
    }
}

/// A key and the revision of its last change.
pub(super) struct ChangedKey {
    pub(super) revision: i64,
    pub(super) key: ApiKey,
}

#[trait_gen(R -> PgRow, SqliteRow)]
impl FromRow<'_, R> for ChangedKey {
    fn from_row(row: &R) -> Result<Self, Error> {
        let Found(key) = Found::from_row(row)?;
        let revision = row.try_get("revision")?;
        Ok(Self { revision, key })
    }
}

#[trait_gen(R -> PgRow, SqliteRow)]
impl FromRow<'_, R> for Found<AdminToken> {
    fn from_row(row: &R) -> Result<Self, Error> {
        Ok(Self(AdminToken {
            id: TokenId(row.try_get("id")?),
            name: row.try_get("name")?,
            hash: hash(row.try_get("secret_hash")?)?,
            hint: row.try_get("hint")?,
            role: word(row.try_get("role")?)?,
            expires_at: row.try_get("expires_at")?,
            created_at: row.try_get("created_at")?,
            last_used_at: row.try_get("last_used_at")?,
        }))
    }
}

#[trait_gen(R -> PgRow, SqliteRow)]
impl FromRow<'_, R> for Found<AuditEntry> {
    fn from_row(row: &R) -> Result<Self, Error> {
        Ok(Self(AuditEntry {
            id: row.try_get("id")?,
            at: row.try_get("at")?,
            actor: row.try_get("actor")?,
            token: row
                .try_get("token_id")
                .map(|id: Option<_>| id.map(TokenId))?,
            action: row.try_get("action")?,
            target: row.try_get("target")?,
            before: json(row.try_get("value_before")?)?,
            after: json(row.try_get("value_after")?)?,
            address: row.try_get("address")?,
            request_id: row.try_get("request_id")?,
        }))
    }
}

#[trait_gen(R -> PgRow, SqliteRow)]
impl FromRow<'_, R> for Found<Option<AnsweredBy>> {
    fn from_row(row: &R) -> Result<Self, Error> {
        let version: Option<i64> = row.try_get("version")?;
        let digest: Option<&str> = row.try_get("digest")?;
        let answered_by = version.zip(digest).map(|(version, digest)| {
            Ok::<_, Error>(AnsweredBy {
                version: number(version)?,
                digest: word(digest)?,
                arm: row.try_get("arm")?,
            })
        });
        Ok(Self(answered_by.transpose()?))
    }
}

#[trait_gen(R -> PgRow, SqliteRow)]
impl FromRow<'_, R> for Found<Prediction> {
    fn from_row(row: &R) -> Result<Self, Error> {
        let index: i64 = row.try_get("index")?;
        let picture: Option<&str> = row.try_get("picture_digest")?;
        let bytes: Option<i64> = row.try_get("bytes")?;
        let (width, height): (Option<i64>, Option<i64>) =
            (row.try_get("width")?, row.try_get("height")?);
        let classes: Option<&str> = row.try_get("classes")?;
        let class: Option<String> = row.try_get("class")?;
        let confidence: Option<f64> = row.try_get("confidence")?;
        let status: i64 = row.try_get("status")?;
        let Found(answered_by) = Found::from_row(row)?;
        let picture = picture.zip(bytes).map(|(digest, bytes)| {
            let size = width.zip(height).map(|(width, height)| {
                let side = |side| u32::try_from(side).map_err(strange);
                Ok::<_, Error>((side(width)?, side(height)?))
            });
            Ok::<_, Error>(PictureFacts {
                digest: word(digest)?,
                bytes: bytes.cast_unsigned(),
                format: row.try_get("format")?,
                size: size.transpose()?,
            })
        });
        let answer = class.zip(confidence).map(|(class, confidence)| {
            let classes = classes.unwrap_or("[]");
            Ok::<_, Error>(Answer {
                class,
                confidence: single(confidence),
                classes: serde_json::from_str(classes).map_err(strange)?,
            })
        });
        Ok(Self(Prediction {
            asked: Asked {
                request_id: row.try_get("request_id")?,
                tenant: TenantId(row.try_get("tenant_id")?),
                key: KeyId(row.try_get("key_id")?),
                client_request_id: row.try_get("client_request_id")?,
                trace_id: row.try_get("trace_id")?,
            },
            index: u32::try_from(index).map_err(strange)?,
            model: word(row.try_get("model")?)?,
            answered_by,
            picture: picture.transpose()?,
            answer: answer.transpose()?,
            cached: row.try_get("cached")?,
            timings: Spent {
                decode: row.try_get("decode_ms")?,
                queue: row.try_get("queue_ms")?,
                inference: row.try_get("inference_ms")?,
                total: row.try_get("total_ms")?,
            },
            status: u16::try_from(status).map_err(strange)?,
            code: row.try_get("code")?,
        }))
    }
}

#[trait_gen(R -> PgRow, SqliteRow)]
impl FromRow<'_, R> for Found<Feedback> {
    fn from_row(row: &R) -> Result<Self, Error> {
        let index: i64 = row.try_get("index")?;
        let model: Option<&str> = row.try_get("model")?;
        let version: Option<i64> = row.try_get("version")?;
        let class: Option<String> = row.try_get("class")?;
        let judged = model
            .zip(version)
            .zip(class)
            .map(|((model, version), class)| {
                Ok::<_, Error>(Judged {
                    model: word(model)?,
                    version: number(version)?,
                    arm: row.try_get("arm")?,
                    class,
                })
            });
        Ok(Self(Feedback {
            request_id: row.try_get("request_id")?,
            index: u32::try_from(index).map_err(strange)?,
            tenant: TenantId(row.try_get("tenant_id")?),
            label: row.try_get("label")?,
            at: row.try_get("at")?,
            judged: judged.transpose()?,
        }))
    }
}

#[trait_gen(R -> PgRow, SqliteRow)]
impl FromRow<'_, R> for Found<Subject> {
    fn from_row(row: &R) -> Result<Self, Error> {
        let index: i64 = row.try_get("index")?;
        let Found(answered_by) = Found::from_row(row)?;
        Ok(Self(Subject {
            request_id: row.try_get("request_id")?,
            index: u32::try_from(index).map_err(strange)?,
            tenant: TenantId(row.try_get("tenant_id")?),
            model: word(row.try_get("model")?)?,
            answered_by,
            class: row.try_get("class")?,
        }))
    }
}

#[trait_gen(R -> PgRow, SqliteRow)]
impl FromRow<'_, R> for Found<NewDelivery> {
    fn from_row(row: &R) -> Result<Self, Error> {
        Ok(Self(NewDelivery {
            id: row.try_get("id")?,
            tenant: TenantId(row.try_get("tenant_id")?),
            event: word(row.try_get("event")?)?,
            url: row.try_get("url")?,
            body: row.try_get("body")?,
            created_at: row.try_get("created_at")?,
            traceparent: row.try_get("traceparent")?,
        }))
    }
}

#[trait_gen(R -> PgRow, SqliteRow)]
impl FromRow<'_, R> for Found<LeasedDelivery> {
    fn from_row(row: &R) -> Result<Self, Error> {
        let Found(what) = Found::from_row(row)?;
        let attempts: i64 = row.try_get("attempts")?;
        Ok(Self(LeasedDelivery {
            what,
            attempts: u32::try_from(attempts).map_err(strange)?,
            begun_at: row.try_get("begun_at")?,
        }))
    }
}

#[trait_gen(R -> PgRow, SqliteRow)]
impl FromRow<'_, R> for Found<Delivery> {
    fn from_row(row: &R) -> Result<Self, Error> {
        let Found(what) = Found::from_row(row)?;
        let attempts: i64 = row.try_get("attempts")?;
        let status: Option<i64> = row.try_get("last_status")?;
        Ok(Self(Delivery {
            what,
            state: word(row.try_get("state")?)?,
            attempts: u32::try_from(attempts).map_err(strange)?,
            next_attempt_at: row.try_get("next_attempt_at")?,
            last_status: status.map(u16::try_from).transpose().map_err(strange)?,
            last_error: row.try_get("last_error")?,
            finished_at: row.try_get("finished_at")?,
        }))
    }
}

#[trait_gen(R -> PgRow, SqliteRow)]
impl FromRow<'_, R> for Found<Attempt> {
    fn from_row(row: &R) -> Result<Self, Error> {
        let status: Option<i64> = row.try_get("status")?;
        let duration: i64 = row.try_get("duration_ms")?;
        Ok(Self(Attempt {
            at: row.try_get("at")?,
            status: status.map(u16::try_from).transpose().map_err(strange)?,
            error: row.try_get("error")?,
            duration_ms: duration.cast_unsigned(),
        }))
    }
}

#[trait_gen(R -> PgRow, SqliteRow)]
impl FromRow<'_, R> for Found<CallbackSecret> {
    fn from_row(row: &R) -> Result<Self, Error> {
        Ok(Self(CallbackSecret {
            id: row.try_get("id")?,
            tenant: TenantId(row.try_get("tenant_id")?),
            secret: row.try_get("secret")?,
            created_at: row.try_get("created_at")?,
            expires_at: row.try_get("expires_at")?,
        }))
    }
}

#[trait_gen(R -> PgRow, SqliteRow)]
impl FromRow<'_, R> for Found<Subscriber> {
    fn from_row(row: &R) -> Result<Self, Error> {
        Ok(Self(Subscriber {
            tenant: TenantId(row.try_get("id")?),
            url: row.try_get("callback_url")?,
            events: list(row.try_get("events")?)?,
            models: list(row.try_get("models")?)?,
        }))
    }
}

#[trait_gen(R -> PgRow, SqliteRow)]
impl FromRow<'_, R> for Found<JobStanding> {
    fn from_row(row: &R) -> Result<Self, Error> {
        let results: Option<&str> = row.try_get("results")?;
        Ok(Self(JobStanding {
            job: Job {
                asked: Asked {
                    request_id: row.try_get("id")?,
                    tenant: TenantId(row.try_get("tenant_id")?),
                    key: KeyId(row.try_get("key_id")?),
                    client_request_id: row.try_get("client_request_id")?,
                    trace_id: row.try_get("trace_id")?,
                },
                model: word(row.try_get("model")?)?,
                terms: serde_json::from_str(row.try_get("terms")?).map_err(strange)?,
                callback_url: row.try_get("callback_url")?,
                created_at: row.try_get("created_at")?,
                traceparent: row.try_get("traceparent")?,
            },
            state: word(row.try_get("state")?)?,
            results: serde_json::from_str(results.unwrap_or("[]")).map_err(strange)?,
        }))
    }
}

#[trait_gen(R -> PgRow, SqliteRow)]
impl FromRow<'_, R> for Found<TakenPicture> {
    fn from_row(row: &R) -> Result<Self, Error> {
        let (index, bytes): (i64, i64) = (row.try_get("index")?, row.try_get("bytes")?);
        let filename: Option<&str> = row.try_get("filename")?;
        let filename = filename.map(serde_json::from_str).transpose();
        Ok(Self(TakenPicture {
            index: u32::try_from(index).map_err(strange)?,
            filename: filename.map_err(strange)?,
            bytes: bytes.cast_unsigned(),
            result: json(row.try_get("result")?)?,
        }))
    }
}

/// A column that was written from an `f32`.
#[expect(clippy::cast_possible_truncation, reason = "it was an f32")]
fn single(number: f64) -> f32 {
    number as f32
}

/// A version's number as the database keeps it, see [`signed`].
pub(super) fn number(kept: i64) -> Result<VersionNumber, Error> {
    let number = NonZeroU64::new(kept.cast_unsigned());
    number
        .map(VersionNumber::from)
        .ok_or_else(|| strange("a version is not 0"))
}

/// Numbers that may be beyond `i64` are kept as its two's complement: nothing compares them in SQL.
pub(super) fn signed(number: Option<u64>) -> Option<i64> {
    number.map(u64::cast_signed)
}

fn unsigned(number: Option<i64>) -> Option<u64> {
    number.map(i64::cast_unsigned)
}

/// Texts as the JSON array that stands for them in a column.
pub(super) fn listed<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    texts.into_iter().collect::<Value>().to_string()
}

/// The reverse of [`listed`].
fn list<T: FromStr<Err: fmt::Display>>(text: &str) -> Result<Vec<T>, Error> {
    let texts: Vec<String> = serde_json::from_str(text).map_err(strange)?;
    texts.iter().map(|text| word(text)).collect()
}

/// A word as what it stands for.
pub(super) fn word<T: FromStr<Err: fmt::Display>>(text: &str) -> Result<T, Error> {
    text.parse()
        .map_err(|error| strange(format_args!("{text:?}: {error}")))
}

fn json(text: Option<&str>) -> Result<Option<Value>, Error> {
    text.map(serde_json::from_str).transpose().map_err(strange)
}

fn hash(bytes: &[u8]) -> Result<SecretHash, Error> {
    let bytes = bytes.try_into().map_err(strange)?;
    Ok(SecretHash::from_bytes(bytes))
}

/// What is in the database, but cannot be read.
pub(super) fn strange(what: impl fmt::Display) -> Error {
    Error::Decode(what.to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::api_key::Scope;

    #[test]
    fn lists_are_json_and_what_is_unknown_is_named() {
        assert_eq!(listed([]), "[]");
        let text = listed(["a \"b\"", "ä,"]);
        assert_eq!(text, r#"["a \"b\"","ä,"]"#);
        assert_eq!(list::<String>(&text).expect("a list"), ["a \"b\"", "ä,"]);
        let error = list::<Scope>(r#"["read","fly"]"#).expect_err("no scope");
        assert!(error.to_string().contains("\"fly\""), "{error}");
        assert!(list::<String>("{}").is_err());
    }

    #[test]
    fn every_number_comes_back() {
        for number in [0, 1, u64::MAX / 2, u64::MAX / 2 + 1, u64::MAX] {
            assert_eq!(unsigned(signed(Some(number))), Some(number));
        }
        assert_eq!(unsigned(signed(None)), None);
    }
}
