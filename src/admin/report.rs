//! Reports: how the versions of a model do beside each other.

use chrono::{DateTime, TimeDelta, Utc};

use super::{Admin, AdminError};
use crate::domain::ids::ModelId;
use crate::predictions::{Report, ReportQuery, Window};

/// How long a window is where the caller does not say.
const USUAL_WINDOW: TimeDelta = TimeDelta::hours(24);

/// The times that a caller has named; `None` where it leaves the choice to us.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReportTimes {
    /// Where the window begins: without it, 24 h before its end.
    pub from: Option<DateTime<Utc>>,
    /// Where the window ends: without it, now.
    pub to: Option<DateTime<Utc>>,
    /// Where the reference begins: without it, as long before its end as the window is long.
    pub reference_from: Option<DateTime<Utc>>,
    /// Where the reference ends: without it, where the window begins.
    pub reference_to: Option<DateTime<Utc>>,
}

impl Admin {
    /// How the versions of a model do beside each other, and what exactly that was asked of.
    ///
    /// # Errors
    /// [`AdminError::Invalid`] by the field's name for a window that ends before it begins; when there is no such model, or
    /// the store is away or needs more than 30 s for one of its counts.
    pub async fn report(
        &self,
        id: &ModelId,
        times: ReportTimes,
    ) -> Result<(ReportQuery, Report), AdminError> {
        let rollout = self.model(id)?.rollout.clone();
        let (window, reference) = windows(times, self.clock.now())?;
        let query = ReportQuery {
            model: id.clone(),
            rollout,
            window,
            reference,
        };
        let report = self.predictions.report(&query).await?;
        Ok((query, report))
    }
}

/// The window and its reference.
fn windows(times: ReportTimes, now: DateTime<Utc>) -> Result<(Window, Window), AdminError> {
    // Nothing was asked before there was time: databases do not know of every year that would come out.
    let before =
        |end: DateTime<Utc>, length: TimeDelta| (end - length).max(DateTime::UNIX_EPOCH.min(end));
    let to = times.to.unwrap_or(now);
    let from = times.from.unwrap_or_else(|| before(to, USUAL_WINDOW));
    let refused =
        |field: &str, end: &str| AdminError::Invalid(format!("`{field}` must be before {end}"));
    if from >= to {
        let end = if times.to.is_some() {
            "`to`"
        } else {
            "now, which `to` is where it is left out"
        };
        return Err(refused("from", end));
    }
    let reference_to = times.reference_to.unwrap_or(from);
    let reference_from = times.reference_from;
    let reference_from = reference_from.unwrap_or_else(|| before(reference_to, to - from));
    if times.reference_from.is_some() && reference_from >= reference_to {
        let is_given = times.reference_to.is_some();
        let end = if is_given {
            "`reference_to`"
        } else {
            "`from`, which `reference_to` is where it is left out"
        };
        return Err(refused("reference_from", end));
    }
    let window = Window { from, to };
    let reference = Window {
        from: reference_from,
        to: reference_to,
    };
    Ok((window, reference))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hour: i64) -> DateTime<Utc> {
        let noon = DateTime::from_timestamp(1_790_000_000, 0).expect("a time");
        noon + TimeDelta::hours(hour)
    }

    #[test]
    fn what_is_left_out_lies_where_it_should() {
        let hours = |from, to, reference_from, reference_to| {
            let times = ReportTimes {
                from: Option::<i64>::map(from, at),
                to: Option::<i64>::map(to, at),
                reference_from: Option::<i64>::map(reference_from, at),
                reference_to: Option::<i64>::map(reference_to, at),
            };
            let (window, reference) = windows(times, at(0)).map_err(|error| error.to_string())?;
            let times = [window.from, window.to, reference.from, reference.to];
            Ok::<_, String>(times.map(|time| (time - at(0)).num_hours()))
        };
        assert_eq!(hours(None, None, None, None), Ok([-24, 0, -48, -24]));
        assert_eq!(hours(Some(-6), None, None, None), Ok([-6, 0, -12, -6]));
        assert_eq!(hours(None, Some(-6), None, None), Ok([-30, -6, -54, -30]));
        assert_eq!(
            hours(Some(-2), Some(-1), None, Some(-10)),
            Ok([-2, -1, -11, -10])
        );
        assert_eq!(
            hours(Some(-2), Some(-1), Some(-50), None),
            Ok([-2, -1, -50, -2])
        );
        for (times, field) in [
            ((Some(0), None, None, None), "`from`"),
            ((Some(-1), Some(-1), None, None), "`from`"),
            ((Some(-1), Some(-2), None, None), "`from`"),
            ((Some(-1), None, Some(-1), None), "`reference_from`"),
            ((None, None, Some(-1), Some(-2)), "`reference_from`"),
        ] {
            let error = hours(times.0, times.1, times.2, times.3).expect_err("refused");
            assert!(error.starts_with(field), "{error}");
        }
        // The year 0, and all of time.
        let zero = DateTime::parse_from_rfc3339("0000-01-01T00:00:00Z").expect("a time");
        let times = ReportTimes {
            to: Some(zero.with_timezone(&Utc)),
            ..ReportTimes::default()
        };
        assert!(windows(times, at(0)).is_err());
        let times = ReportTimes {
            from: Some(zero.with_timezone(&Utc)),
            ..ReportTimes::default()
        };
        let (_, reference) = windows(times, at(0)).expect("windows");
        assert_eq!(reference.from, reference.to);
    }
}
