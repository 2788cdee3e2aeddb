//! Makes ONNX Runtime's error text readable.
//!
//! Called by `backend::ort` and its session. Knows how the runtime writes its messages.

use std::path::Path;

use crate::backend::reason::tidy;

/// `text` without the places in the runtime's own source, on one bounded line without paths; `model` is the file
/// that was being opened.
pub(super) fn reason(text: &str, model: Option<&Path>) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = split_at_place(rest) {
        kept.push_str(before);
        kept.push(' ');
        rest = without_function(after);
    }
    kept.push_str(rest);
    tidy(&kept, model)
}

/// Cuts `…/core/graph/model.cc:12` or `model.cc:12` out: what stands before it, and after.
fn split_at_place(text: &str) -> Option<(&str, &str)> {
    for (mark, _) in text.match_indices(".cc:").chain(text.match_indices(".h:")) {
        let (before, from_mark) = text.split_at(mark);
        let number = from_mark.split_once(':')?.1;
        let after = number.trim_start_matches(|c: char| c.is_ascii_digit());
        let word = before
            .rfind(char::is_whitespace)
            .map_or(0, |blank| blank + 1);
        let in_word = before.get(word..)?;
        // A whole path, or a bare file name that may follow a full stop without a blank.
        let start = in_word
            .find('/')
            .or_else(|| in_word.rfind('.').map(|dot| dot + 1));
        let start = start.unwrap_or_default();
        if after.len() < number.len() {
            return Some((before.get(..word + start)?, after));
        }
    }
    None
}

/// `text` without the function that it begins with: a bare name, or a C++ signature with `::` in it.
fn without_function(text: &str) -> &str {
    let text = text.trim_start();
    let Some((head, _)) = text.split_once('(').filter(|(head, _)| head.contains("::")) else {
        return text.split_once(' ').map_or(text, |(_, rest)| rest);
    };
    let rest = text
        .get(head.len()..)
        .and_then(|from| after_closing(from, '(', ')'));
    let rest = rest.unwrap_or(text).trim_start();
    let rest = rest.strip_prefix("const ").unwrap_or(rest).trim_start();
    if rest.starts_with("[with ") {
        return after_closing(rest, '[', ']').unwrap_or(rest);
    }
    rest
}

/// What follows the bracket that closes the one `text` begins with.
fn after_closing(text: &str, open: char, close: char) -> Option<&str> {
    let mut depth = 0_usize;
    for (at, c) in text.char_indices() {
        if c == open {
            depth += 1;
        } else if c == close {
            depth = depth.saturating_sub(1);
            if depth == 0 {
                return text.get(at + c.len_utf8()..);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_the_source_are_cut_out() {
        let text = "Load model from /x/m.onnx failed:/onnxruntime_src/core/load.h:46 void \
             onnxruntime::f(const std::map<std::string, int>&, T (*)(int)) ONNX Runtime only";
        assert_eq!(
            reason(text, None),
            "Load model from /x/m.onnx failed: ONNX Runtime only"
        );
        let text = "bad: /src/core/k.h:45 const T* onnxruntime::K::Input(int) const [with T = \
             onnxruntime::Tensor] Missing Input: other";
        assert_eq!(reason(text, None), "bad: Missing Input: other");
        let text = "w failed.t.cc:1 Get w is short";
        assert_eq!(reason(text, None), "w failed. w is short");
        let text = "Error: /src/core/t.cc:592 ValidatePath Absolute path not allowed";
        assert_eq!(reason(text, None), "Error: Absolute path not allowed");
        assert_eq!(
            reason("no place (here) at all", None),
            "no place (here) at all"
        );
    }
}
