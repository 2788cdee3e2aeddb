//! `[serving]` in a model's `model.toml`, edited so that the rest of the file stays as its author wrote it.
//!
//! Called by `models tune --write`. The file is replaced whole or not at all. Knows nothing of what was measured.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use toml_edit::{DocumentMut, Item, Table, TableLike};

use crate::domain::ids::VersionNumber;
use crate::domain::manifest::Manifest;
use crate::models::tune::ServingKeys;

/// What became of the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// Nothing was to be written.
    Nothing,
    /// This file has the settings now.
    File(PathBuf),
}

/// Puts `keys` into the manifest in the model's folder; a key that is `None` is taken out. The version's own manifest
/// must fit the new one, and is not touched.
pub(super) fn keep(
    dir: &Path,
    keys: ServingKeys,
    version: VersionNumber,
) -> anyhow::Result<Written> {
    let path = dir.join("model.toml");
    let before = read(&path)?;
    let after = edit(before.as_deref().unwrap_or(""), keys)?;
    if before.as_deref().unwrap_or("") == after {
        return Ok(Written::Nothing);
    }
    let own = read(&own_manifest(dir, version))?;
    check(before.as_deref(), &after, keys, own.as_deref())?;
    replace(&path, &after).with_context(|| format!("{} cannot be written", path.display()))?;
    Ok(Written::File(path))
}

/// The tuned keys that the version's own manifest sets, and that the model's therefore does not decide.
pub(super) fn overridden(dir: &Path, version: VersionNumber) -> Vec<&'static str> {
    let text = read(&own_manifest(dir, version)).ok().flatten();
    let own = text.and_then(|text| Manifest::parse(Some(&text), None).ok());
    let keys = own.map_or_else(ServingKeys::default, |own| ServingKeys::of(&own.serving));
    let set = keys
        .named()
        .into_iter()
        .filter(|(_, value)| value.is_some());
    set.map(|(key, _)| key).collect()
}

fn own_manifest(dir: &Path, version: VersionNumber) -> PathBuf {
    dir.join(version.to_string()).join("model.toml")
}

fn read(path: &Path) -> anyhow::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("{} cannot be read", path.display())),
    }
}

/// The text with these keys in `[serving]`; everything else, comments and order included, is as it was.
fn edit(text: &str, keys: ServingKeys) -> anyhow::Result<String> {
    let mut document: DocumentMut = text.parse().context("model.toml is no TOML")?;
    if keys.is_default() && !document.contains_key("serving") {
        return Ok(text.to_owned());
    }
    let serving = document.entry("serving").or_insert_with(|| {
        let mut table = Table::new();
        if !text.trim().is_empty() {
            table.decor_mut().set_prefix("\n");
        }
        Item::Table(table)
    });
    let Some(table) = serving.as_table_like_mut() else {
        bail!("model.toml: serving is no table");
    };
    let mut comments = String::new();
    for (key, value) in keys.named() {
        match value {
            Some(value) => set(table, key, i64::try_from(value)?),
            None => comments.push_str(&take_out(table, key)),
        }
    }
    // What stood above a key that is gone now stands above the section.
    if let Some(table) = serving.as_table_mut().filter(|_| !comments.is_empty()) {
        let prefix = table.decor().prefix().and_then(|prefix| prefix.as_str());
        let prefix = format!("{}{comments}", prefix.unwrap_or("\n"));
        table.decor_mut().set_prefix(prefix);
    }
    Ok(document.to_string())
}

/// Sets a key; what stands around the value of one that is there already stays.
fn set(table: &mut dyn TableLike, key: &str, number: i64) {
    match table.get_mut(key).and_then(Item::as_value_mut) {
        Some(value) if value.as_integer() == Some(number) => {}
        Some(value) => {
            let decor = value.decor().clone();
            *value = number.into();
            *value.decor_mut() = decor;
        }
        None => {
            table.insert(key, toml_edit::value(number));
        }
    }
}

/// Takes a key out, and gives the comments above it.
fn take_out(table: &mut dyn TableLike, key: &str) -> String {
    let above = table.key(key).and_then(|key| {
        let prefix = key.leaf_decor().prefix()?.as_str()?;
        prefix.contains('#').then(|| prefix.to_owned())
    });
    table.remove(key);
    above.unwrap_or_default()
}

/// What is about to be written must be read as it is meant: these keys, and nothing else, are others than before.
fn check(
    before: Option<&str>,
    after: &str,
    keys: ServingKeys,
    own: Option<&str>,
) -> anyhow::Result<()> {
    let mut expected = Manifest::parse(before, None)?;
    keys.put(&mut expected.serving);
    ensure!(
        Manifest::parse(Some(after), None)? == expected,
        "the edited model.toml would say something else than was meant; nothing was written"
    );
    Manifest::parse(Some(after), own).context("with the version's own model.toml")?;
    Ok(())
}

/// Puts the text in the file's place at once: who reads it, or interrupts this, finds the old or the new one whole.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    // A link stays a link.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let beside = path.with_file_name(format!(".model.toml.{}", std::process::id()));
    let place = || {
        let mut file = fs::File::create(&beside)?;
        file.write_all(text.as_bytes())?;
        if let Ok(found) = fs::metadata(&path) {
            file.set_permissions(found.permissions())?;
        }
        file.sync_all()?;
        fs::rename(&beside, &path)
    };
    place().inspect_err(|_| {
        // It may not be there at all.
        let _ = fs::remove_file(&beside);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: ServingKeys = ServingKeys {
        instances: Some(2),
        threads: Some(1),
        max_batch_size: Some(4),
    };

    fn edited(text: &str, keys: ServingKeys) -> String {
        let after = edit(text, keys).expect("an edit");
        check(Some(text), &after, keys, None).expect("what is meant");
        after
    }

    #[test]
    fn everything_else_stays_as_it_was() {
        let text = "# mine\ntitle = 'T' # why\n\n[serving] # how\n# so many\nthreads = 8 # cores\n\
                    timeout_ms = 100\n\n[input]\n  # odd\n  size = [ 8,8 ]\n\n[[golden]]\nimage = 'a'\nlabel = 'b'\n";
        let expected = text.replace("threads = 8", "threads = 1").replace(
            "timeout_ms = 100\n",
            "timeout_ms = 100\ninstances = 2\nmax_batch_size = 4\n",
        );
        assert_eq!(edited(text, KEYS), expected);
        assert_eq!(edited(&expected, KEYS), expected, "twice is once");
    }

    #[test]
    fn a_section_or_a_file_that_is_not_there_is_made() {
        let section = "[serving]\ninstances = 2\nthreads = 1\nmax_batch_size = 4\n";
        assert_eq!(edited("", KEYS), section);
        let text = "title = 'T'\n[[golden]]\nimage = 'a'\nlabel = 'b'\n# the end\n";
        let after = edited(text, KEYS);
        assert!(after.contains(&format!("\n{section}")), "{after}");
        assert_eq!(after.replacen(&format!("\n{section}"), "", 1), text);
        assert_eq!(
            edited("title = 'T'\n", ServingKeys::default()),
            "title = 'T'\n"
        );
    }

    #[test]
    fn other_ways_to_write_a_table_are_kept() {
        assert_eq!(
            edited("serving = { backend = 'ort', instances = 9 }\n", KEYS),
            "serving = { backend = 'ort', instances = 2 , threads = 1, max_batch_size = 4 }\n"
        );
        let dotted = edited("serving.instances = 9 # nine\ntitle = 'T'\n", KEYS);
        assert!(
            dotted.contains("serving.instances = 2 # nine\n"),
            "{dotted}"
        );
        assert!(dotted.contains("title = 'T'\n"), "{dotted}");
        assert!(edit("serving = 3", KEYS).is_err());
        assert!(edit("serving = ", KEYS).is_err());
    }

    #[test]
    fn the_default_takes_the_keys_out_and_loses_no_comment() {
        let text = "title = 'T'\n\n[serving]\n# all cores\nthreads = 8\ncache = false # no\n# eight\ninstances = 8\n";
        let expected = "title = 'T'\n\n# eight\n# all cores\n[serving]\ncache = false # no\n";
        assert_eq!(edited(text, ServingKeys::default()), expected);
    }

    #[test]
    fn a_text_that_would_mean_something_else_is_refused() {
        let before = "title = 'T'";
        let other = "[serving]\ninstances = 2\nthreads = 1\nmax_batch_size = 4";
        assert!(check(Some(before), other, KEYS, None).is_err());
        let good = format!("{before}\n{other}");
        assert!(check(Some(before), &good, KEYS, None).is_ok());
        let zero = ServingKeys {
            instances: Some(0),
            ..KEYS
        };
        let bad = good.replace("instances = 2", "instances = 0");
        assert!(check(Some(before), &bad, zero, None).is_err());
    }
}
