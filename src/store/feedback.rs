//! True labels in the database, and what they are about.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{Database, Postgres, QueryBuilder, Sqlite, query, query_as};
use trait_gen::trait_gen;
use uuid::Uuid;

use super::StoreError;
use super::rows::Found;
use super::sql_store::{AT_ONCE, Dialect as _, SqlStore};
use crate::domain::feedback::{Feedback, Subject};
use crate::domain::prediction::{first_id_at, time_of};
use crate::domain::tenant::TenantId;

/// Rows that one statement deletes.
const DELETED_AT_ONCE: i64 = 5000;

/// Feedback. No change here is one that anybody hears of.
#[async_trait]
pub trait FeedbackStore: Send + Sync {
    /// Keeps labels, all or none, each in place of what its tenant has said of the picture before; of several for one picture the
    /// last one counts. What is joined is not replaced by what is not. Gives for each, in order, `false` where a deletion of the
    /// tenant's predictions came after the request: that one is not kept.
    async fn put_feedback(&self, given: &[Feedback]) -> Result<Vec<bool>, StoreError>;
    /// What a tenant has said of a request's pictures, in their order.
    async fn find_feedback(
        &self,
        request_id: Uuid,
        tenant: TenantId,
    ) -> Result<Vec<Feedback>, StoreError>;
    /// The predictions of these requests, of any tenant, in no order. One statement for a thousand requests.
    async fn find_subjects(&self, requests: &[Uuid]) -> Result<Vec<Subject>, StoreError>;
    /// Labels that are not joined: at most `limit` of those after `after`, the oldest requests first.
    async fn unjoined_feedback(
        &self,
        after: Option<&Feedback>,
        limit: u32,
    ) -> Result<Vec<Feedback>, StoreError>;
    /// Joins labels that were not, with what each has found, and deletes those that have found nothing. One that was replaced or
    /// joined since it was read stays as it is. Gives how many were joined, and how many deleted.
    async fn settle_feedback(&self, read: &[Feedback]) -> Result<(u64, u64), StoreError>;
    /// Deletes a piece of what a tenant has said of requests until `until`; gives how many, 0 where nothing is left.
    async fn erase_feedback(
        &self,
        tenant: TenantId,
        until: DateTime<Utc>,
    ) -> Result<u64, StoreError>;
    /// Deletes a piece of what was said of requests before `before`; gives how many, 0 where nothing is left.
    async fn prune_feedback(&self, before: DateTime<Utc>) -> Result<u64, StoreError>;
}

/// What all that reads labels begins with.
const SELECT: &str =
    "SELECT request_id, \"index\", tenant_id, label, at, model, version, arm, class FROM feedback";

/// What one statement reads of a prediction.
macro_rules! of_a_subject {
    () => {
        "request_id, \"index\", tenant_id, model, version, digest, arm, class"
    };
}

/// Whether a label is still what was read of it.
macro_rules! is_as_given {
    () => {
        "day = given_day AND request_id = given_request AND \"index\" = given_index \
         AND tenant_id = given_tenant AND label = given_label AND at = given_at AND NOT joined"
    };
}

#[trait_gen(Db -> Postgres, Sqlite)]
#[async_trait]
impl FeedbackStore for SqlStore<Db> {
    async fn put_feedback(&self, given: &[Feedback]) -> Result<Vec<bool>, StoreError> {
        if given.is_empty() {
            return Ok(Vec::new());
        }
        self.within(async {
            let mut tx = self.writers.begin_with(Db::WRITE).await?;
            // A deletion waits for it, or is seen here.
            Self::add_beside_others(&mut tx).await?;
            let purges = Self::purges_of(given, &mut tx).await?;
            let kept = |one: &Feedback| {
                let until = purges.get(&one.tenant);
                until.is_none_or(|until| *until < time_of(one.request_id))
            };
            let rows = last_of_each(given.iter().filter(|one| kept(one)));
            for rows in rows.chunks(AT_ONCE) {
                Self::put(rows, &mut tx).await?;
            }
            tx.commit().await?;
            Ok(given.iter().map(kept).collect())
        })
        .await
    }

    async fn find_feedback(
        &self,
        request_id: Uuid,
        tenant: TenantId,
    ) -> Result<Vec<Feedback>, StoreError> {
        self.within(async {
            let mut select = QueryBuilder::<Db>::new(SELECT);
            select.push(" WHERE day = ");
            select.push_bind(time_of(request_id).date_naive());
            select.push(" AND request_id = ").push_bind(request_id);
            select.push(" AND tenant_id = ").push_bind(tenant.0);
            select.push(" ORDER BY \"index\"");
            let rows: Vec<Found<Feedback>> =
                select.build_query_as().fetch_all(&self.readers).await?;
            Ok(rows.into_iter().map(|Found(one)| one).collect())
        })
        .await
    }

    async fn find_subjects(&self, requests: &[Uuid]) -> Result<Vec<Subject>, StoreError> {
        let each_once: BTreeSet<Uuid> = requests.iter().copied().collect();
        let requests = Vec::from_iter(each_once);
        self.within(async {
            let mut found = Vec::new();
            for requests in requests.chunks(AT_ONCE) {
                let mut select =
                    QueryBuilder::<Db>::new("WITH wanted (wanted_day, wanted_id) AS (");
                select.push_values(requests, |mut row, &id| {
                    row.push_bind(time_of(id).date_naive()).push_bind(id);
                });
                select.push(Self::OF_THE_WANTED);
                let rows: Vec<Found<Subject>> = select
                    .build_query_as()
                    .persistent(false)
                    .fetch_all(&self.readers)
                    .await?;
                found.extend(rows.into_iter().map(|Found(one)| one));
            }
            Ok(found)
        })
        .await
    }

    async fn unjoined_feedback(
        &self,
        after: Option<&Feedback>,
        limit: u32,
    ) -> Result<Vec<Feedback>, StoreError> {
        self.within(async {
            let mut select = QueryBuilder::<Db>::new(SELECT);
            select.push(Self::OF_THE_UNJOINED);
            if let Some(after) = after {
                let day = time_of(after.request_id).date_naive();
                select.push(" AND (day, request_id, \"index\", tenant_id) > (");
                select.push_bind(day);
                select.push(", ").push_bind(after.request_id);
                select.push(", ").push_bind(i64::from(after.index));
                select.push(", ").push_bind(after.tenant.0);
                select.push(")");
            }
            select.push(" ORDER BY day, request_id, \"index\", tenant_id LIMIT ");
            select.push_bind(i64::from(limit));
            let rows: Vec<Found<Feedback>> =
                select.build_query_as().fetch_all(&self.readers).await?;
            Ok(rows.into_iter().map(|Found(one)| one).collect())
        })
        .await
    }

    async fn settle_feedback(&self, read: &[Feedback]) -> Result<(u64, u64), StoreError> {
        let (joined, never): (Vec<&Feedback>, Vec<&Feedback>) =
            read.iter().partition(|one| one.judged.is_some());
        if joined.is_empty() && never.is_empty() {
            return Ok((0, 0));
        }
        self.within(async {
            let mut tx = self.writers.begin_with(Db::WRITE).await?;
            let mut counts = (0, 0);
            for rows in joined.chunks(AT_ONCE) {
                let mut update = Self::given(rows);
                update.push(concat!(
                    " UPDATE feedback SET joined = true, model = given_model, version = given_version, \
                     arm = given_arm, class = given_class FROM given WHERE ",
                    is_as_given!()
                ));
                let updated = update.build().persistent(false).execute(&mut *tx).await?;
                counts.0 += updated.rows_affected();
            }
            for rows in never.chunks(AT_ONCE) {
                let mut delete = Self::given(rows);
                delete.push(Self::DELETE_THE_GIVEN);
                let deleted = delete.build().persistent(false).execute(&mut *tx).await?;
                counts.1 += deleted.rows_affected();
            }
            tx.commit().await?;
            Ok(counts)
        })
        .await
    }

    async fn erase_feedback(
        &self,
        tenant: TenantId,
        until: DateTime<Utc>,
    ) -> Result<u64, StoreError> {
        self.within(async {
            let mut tx = self.writers.begin_with(Db::WRITE).await?;
            let erased = query(
                "DELETE FROM feedback WHERE (day, request_id, \"index\", tenant_id) IN \
                 (SELECT day, request_id, \"index\", tenant_id FROM feedback \
                 WHERE tenant_id = $1 AND day <= $2 AND request_id < $3 LIMIT $4)",
            )
            .bind(tenant.0)
            .bind(until.date_naive())
            // An id holds its time, to the millisecond.
            .bind(first_id_at(until + chrono::TimeDelta::microseconds(1)))
            .bind(DELETED_AT_ONCE)
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(erased.rows_affected())
        })
        .await
    }

    async fn prune_feedback(&self, before: DateTime<Utc>) -> Result<u64, StoreError> {
        self.within(async {
            let mut tx = self.writers.begin_with(Db::WRITE).await?;
            let pruned = query(
                "DELETE FROM feedback WHERE (day, request_id, \"index\", tenant_id) IN \
                 (SELECT day, request_id, \"index\", tenant_id FROM feedback WHERE day < $1 LIMIT $2)",
            )
            .bind(before.date_naive())
            .bind(DELETED_AT_ONCE)
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(pruned.rows_affected())
        })
        .await
    }
}

#[trait_gen(Db -> Postgres, Sqlite)]
impl SqlStore<Db> {
    /// Until when predictions of the tenants are deleted whose labels these are.
    async fn purges_of(
        given: &[Feedback],
        reader: &mut <Db as Database>::Connection,
    ) -> Result<HashMap<TenantId, DateTime<Utc>>, StoreError> {
        let tenants: BTreeSet<Uuid> = given.iter().map(|one| one.tenant.0).collect();
        let mut purges = HashMap::new();
        // Who sends labels is one tenant.
        for tenant in tenants {
            let until: Option<(DateTime<Utc>,)> =
                query_as("SELECT at FROM purges WHERE tenant_id = $1")
                    .bind(tenant)
                    .fetch_optional(&mut *reader)
                    .await?;
            purges.extend(until.map(|(until,)| (TenantId(tenant), until)));
        }
        Ok(purges)
    }

    /// What a statement begins with that these rows are given to.
    fn given(rows: &[&Feedback]) -> QueryBuilder<Db> {
        let mut statement = QueryBuilder::<Db>::new(
            "WITH given (given_day, given_request, given_index, given_tenant, given_label, given_at, \
             given_model, given_version, given_arm, given_class) AS (",
        );
        statement.push_values(rows, |mut row, one| {
            let judged = one.judged.as_ref();
            row.push_bind(time_of(one.request_id).date_naive())
                .push_bind(one.request_id)
                .push_bind(i64::from(one.index))
                .push_bind(one.tenant.0)
                .push_bind(one.label.clone())
                .push_bind(one.at)
                .push_bind(judged.map(|judged| judged.model.to_string()))
                .push_bind(judged.map(|judged| judged.version.get().cast_signed()))
                .push_bind(judged.and_then(|judged| judged.arm.clone()))
                .push_bind(judged.map(|judged| judged.class.clone()));
        });
        statement.push(")");
        statement
    }

    /// Writes rows, no two of one picture.
    async fn put(
        rows: &[&Feedback],
        writer: &mut <Db as Database>::Connection,
    ) -> Result<(), StoreError> {
        let mut insert = QueryBuilder::<Db>::new(
            "INSERT INTO feedback (day, request_id, \"index\", tenant_id, label, at, joined, model, version, arm, class) ",
        );
        insert.push_values(rows, |mut row, one| {
            let judged = one.judged.as_ref();
            row.push_bind(time_of(one.request_id).date_naive())
                .push_bind(one.request_id)
                .push_bind(i64::from(one.index))
                .push_bind(one.tenant.0)
                .push_bind(&one.label)
                .push_bind(one.at)
                .push_bind(judged.is_some())
                .push_bind(judged.map(|judged| judged.model.as_str()))
                .push_bind(judged.map(|judged| judged.version.get().cast_signed()))
                .push_bind(judged.and_then(|judged| judged.arm.as_deref()))
                .push_bind(judged.map(|judged| judged.class.as_str()));
        });
        insert.push(
            " ON CONFLICT (day, request_id, \"index\", tenant_id) DO UPDATE SET label = excluded.label, \
             at = excluded.at, joined = excluded.joined, model = excluded.model, version = excluded.version, \
             arm = excluded.arm, class = excluded.class WHERE excluded.joined OR NOT feedback.joined",
        );
        insert.build().persistent(false).execute(writer).await?;
        Ok(())
    }
}

impl SqlStore<Postgres> {
    /// A look into one partition's index for each: the planner sees no other way, whatever it guesses of the tables' sizes.
    const OF_THE_WANTED: &str = concat!(
        ") SELECT ",
        of_a_subject!(),
        " FROM wanted CROSS JOIN LATERAL (SELECT ",
        of_a_subject!(),
        " FROM predictions WHERE day = wanted_day AND request_id = wanted_id OFFSET 0) AS found"
    );
    const OF_THE_UNJOINED: &str = " WHERE NOT joined";
    /// Where a label was replaced since, the conditions are looked at again.
    const DELETE_THE_GIVEN: &str =
        concat!(" DELETE FROM feedback USING given WHERE ", is_as_given!());
}

impl SqlStore<Sqlite> {
    /// `CROSS JOIN` holds the planner to this order.
    const OF_THE_WANTED: &str = concat!(
        ") SELECT ",
        of_a_subject!(),
        " FROM wanted CROSS JOIN predictions ON day = wanted_day AND request_id = wanted_id"
    );
    /// By itself the planner would go through all labels in the order of their key.
    const OF_THE_UNJOINED: &str = " INDEXED BY feedback_unjoined WHERE NOT joined";
    const DELETE_THE_GIVEN: &str = concat!(
        " DELETE FROM feedback WHERE rowid IN (SELECT feedback.rowid FROM given CROSS JOIN feedback ON ",
        is_as_given!(),
        ")"
    );
}

/// The last of each picture, but none that is not joined after one that is; in one order for all, so that no two transactions
/// ever hold rows that the other wants.
fn last_of_each<'a>(given: impl Iterator<Item = &'a Feedback>) -> Vec<&'a Feedback> {
    let mut last: BTreeMap<_, &Feedback> = BTreeMap::new();
    for one in given {
        let before = last.get(&one.place());
        if one.judged.is_some() || before.is_none_or(|before| before.judged.is_none()) {
            last.insert(one.place(), one);
        }
    }
    last.into_values().collect()
}
