//! Makes a runtime's error text fit to be shown: one line, bounded, without a path of this machine.
//!
//! Called by the backends only. Knows nothing of what the text says.

use std::path::Path;

/// The most characters a reason may have.
const MAX_CHARS: usize = 300;

/// `text` on one line of at most 300 characters, with every path of this machine cut down to its last part.
///
/// `model` is the file that was being opened: it is known by name and may hold blanks, so it is replaced literally.
/// What merely looks like a path (`/features/conv_1`, as exporters name their nodes) is kept, since it tells the
/// operator where to look.
pub(super) fn tidy(text: &str, model: Option<&Path>) -> String {
    let mut text = text.to_owned();
    for (path, plain) in model.into_iter().flat_map(known_paths) {
        text = text.replace(&path, &plain);
    }
    let words: Vec<String> = text.split_whitespace().map(without_path).collect();
    shorten(&words.join(" "))
}

/// The model's own paths, the longest first, with what stands for each.
fn known_paths(model: &Path) -> Vec<(String, String)> {
    let name = model
        .file_name()
        .map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let mut known = Vec::new();
    for file in [Some(model.to_path_buf()), model.canonicalize().ok()]
        .into_iter()
        .flatten()
    {
        let folder = file
            .parent()
            .map(|p| p.to_string_lossy().into_owned())
            .unwrap_or_default();
        known.push((file.to_string_lossy().into_owned(), name.clone()));
        if folder.len() > 1 {
            known.push((format!("{folder}/"), String::new()));
            known.push((folder, "the model's folder".to_owned()));
        }
    }
    known
}

/// A word with the absolute path in it, if any, cut down to its last part.
fn without_path(word: &str) -> String {
    let Some(start) = word.find('/') else {
        return word.to_owned();
    };
    let (before, rest) = word.split_at(start);
    let is_boundary = before
        .chars()
        .last()
        .is_none_or(|c| !c.is_alphanumeric() && c != '.');
    let root = rest.split('/').nth(1).unwrap_or_default();
    let is_here = !root.is_empty() && Path::new("/").join(root).exists();
    // The place in the runtime's own source, as its build machine knew it.
    let is_source = root == "onnxruntime_src";
    if is_boundary && (is_here || is_source) {
        let last = rest.rsplit('/').next().unwrap_or_default();
        format!("{before}{last}")
    } else {
        word.to_owned()
    }
}

/// The first [`MAX_CHARS`] characters, with a mark where something is missing.
fn shorten(text: &str) -> String {
    if text.chars().count() <= MAX_CHARS {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(MAX_CHARS - 1).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_this_machine_go_and_node_names_stay() {
        let here = std::env::temp_dir()
            .join("a folder")
            .join("1")
            .join("model.onnx");
        let text = format!(
            "Load model from {} failed:\n  no such\tthing",
            here.display()
        );
        assert_eq!(
            tidy(&text, Some(&here)),
            "Load model from model.onnx failed: no such thing"
        );
        let weights = here.with_file_name("weights.bin");
        let text = format!("cannot read \"{}\"", weights.display());
        assert_eq!(tidy(&text, Some(&here)), "cannot read \"weights.bin\"");
        let other = std::env::temp_dir().join("secret").join("x.bin");
        assert_eq!(
            tidy(&format!("in \"{}\"", other.display()), None),
            "in \"x.bin\""
        );
        assert_eq!(
            tidy(
                "node /features-zz/conv1: /onnxruntime_src/core/graph.cc:12 bad a/b",
                None
            ),
            "node /features-zz/conv1: graph.cc:12 bad a/b"
        );
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let long = tidy(&"ß".repeat(1000), None);
        assert_eq!(long.chars().count(), MAX_CHARS);
        assert!(long.ends_with('…'));
    }
}
