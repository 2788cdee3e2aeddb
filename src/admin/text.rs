//! Rules for the texts that operators give things: names, addresses of callbacks, kinds of events.

use super::AdminError;

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

/// A web address that results can be sent to.
///
/// # Errors
/// When it is no `http://…` or `https://…` with a host, or carries credentials.
pub(super) fn callback_url(text: &str) -> Result<String, AdminError> {
    let invalid = || {
        AdminError::Invalid(
            "`callback_url` must be an http:// or https:// address with a host, without credentials"
                .to_owned(),
        )
    };
    let uri: http::Uri = text.parse().map_err(|_| invalid())?;
    let web = matches!(uri.scheme_str(), Some("http" | "https"));
    let authority = uri.authority().map_or("", http::uri::Authority::as_str);
    if !web || text.len() > 2000 || authority.is_empty() || authority.contains('@') {
        return Err(invalid());
    }
    Ok(text.to_owned())
}

/// The kinds of events that are sent to a tenant.
///
/// # Errors
/// When one is no name like `prediction.completed`, or there are too many.
pub(super) fn events(kinds: Vec<String>) -> Result<Vec<String>, AdminError> {
    let fits = |kind: &String| {
        let plain = |byte: u8| byte.is_ascii_lowercase() || b"._".contains(&byte);
        (1..=64).contains(&kind.len()) && kind.bytes().all(plain)
    };
    if kinds.len() > 32 || !kinds.iter().all(fits) {
        return Err(AdminError::Invalid(
            "`events` must be at most 32 kinds of events of a-z, '.' and '_', e.g. prediction.completed"
                .to_owned(),
        ));
    }
    Ok(kinds)
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
    fn callbacks_go_to_web_addresses() {
        for good in ["https://example.com/hook?x=1", "http://127.0.0.1:9000/"] {
            assert!(callback_url(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "/hook",
            "ftp://example.com",
            "https://",
            "https://u:p@example.com",
            "x y",
        ] {
            assert!(callback_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn kinds_of_events_are_names() {
        assert!(events(vec!["prediction.completed".to_owned()]).is_ok());
        assert!(events(vec!["Prediction".to_owned()]).is_err());
        assert!(events(vec![String::new()]).is_err());
    }
}
