//! Rules for the texts that operators give things: names, addresses of callbacks, kinds of events.

use super::AdminError;
use crate::callbacks::{CallbackError, Targets, check_url};
use crate::domain::callback::EventKind;

/// Characters of a name.
const MAX_NAME: usize = 200;

/// A name as it is kept: without the white space around it.
///
/// # Errors
/// When it is empty, too long or holds control characters.
pub(super) fn name(field: &str, text: &str) -> Result<String, AdminError> {
    let text = text.trim();
    let length = text.chars().count();
    if length == 0 || length > MAX_NAME || text.chars().any(char::is_control) {
        return Err(AdminError::Invalid(format!(
            "`{field}` must have 1 to {MAX_NAME} characters, none of them a control character"
        )));
    }
    Ok(text.to_owned())
}

/// Characters of a text of several lines.
const MAX_PROSE: usize = 4000;

/// A text of several lines, without the white space around it.
///
/// # Errors
/// When it is empty, too long or holds control characters other than line breaks and tabs.
pub(super) fn prose(field: &str, text: &str) -> Result<String, AdminError> {
    let text = text.trim();
    let length = text.chars().count();
    let odd = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if length == 0 || length > MAX_PROSE || text.chars().any(odd) {
        return Err(AdminError::Invalid(format!(
            "`{field}` must have 1 to {MAX_PROSE} characters, of control characters line breaks and tabs alone"
        )));
    }
    Ok(text.to_owned())
}

/// A web address that callbacks can be sent to.
///
/// # Errors
/// When it is none, or one that may not be called.
pub(super) fn callback_url(text: &str, targets: Targets) -> Result<String, AdminError> {
    match check_url(text, targets) {
        Ok(()) => Ok(text.to_owned()),
        Err(CallbackError::Refused(reason)) => {
            Err(AdminError::Invalid(format!("`callback_url` {reason}")))
        }
        Err(error) => Err(AdminError::Invalid(error.to_string())),
    }
}

/// The kinds of events that are sent to a tenant, each once.
///
/// # Errors
/// When one is none of ours.
pub(super) fn events(kinds: Vec<String>) -> Result<Vec<String>, AdminError> {
    let mut known = Vec::new();
    for kind in kinds {
        let event: EventKind = kind
            .parse()
            .map_err(|error| AdminError::Invalid(format!("`events` has {kind:?}; {error}")))?;
        let name = event.as_str().to_owned();
        if !known.contains(&name) {
            known.push(name);
        }
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_lines() {
        assert_eq!(name("name", "  acme ").expect("a name"), "acme");
        let longest = "ä".repeat(MAX_NAME);
        assert_eq!(name("name", &longest).expect("a name"), longest);
        for bad in ["", "  ", "a\nb", "a\0", &"a".repeat(MAX_NAME + 1)] {
            assert!(name("name", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn prose_has_lines() {
        assert_eq!(prose("x", " a\n\tb\n").expect("a text"), "a\n\tb");
        for bad in ["", "\n", "a\0", "a\rb", &"a".repeat(MAX_PROSE + 1)] {
            assert!(prose("x", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn callbacks_go_where_they_may() {
        let targets = Targets {
            allow_private: false,
            allow_http: true,
        };
        let good = "https://example.com/hook?x=1";
        assert_eq!(callback_url(good, targets).expect("a URL"), good);
        let error = callback_url("http://127.0.0.1:9000/", targets).expect_err("loopback");
        assert!(
            error.to_string().starts_with("`callback_url` must"),
            "{error}"
        );
    }

    #[test]
    fn kinds_of_events_are_known_ones_each_once() {
        let named = |names: &[&str]| events(names.iter().map(|&name| name.to_owned()).collect());
        assert_eq!(
            named(&["version.live", "rollout.rolled_back", "version.live"]).expect("two"),
            ["version.live", "rollout.rolled_back"]
        );
        for bad in ["Version.live", "", "version.seen"] {
            let error = named(&[bad]).expect_err("none of ours");
            assert!(
                error.to_string().contains("prediction.completed"),
                "{error}"
            );
        }
    }
}
