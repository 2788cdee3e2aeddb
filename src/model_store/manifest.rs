//! `model.toml` on disk: read, and its title and description edited so that the rest stays as its author wrote it.
//!
//! Called by the folder and the editor. What the keys mean is `domain::manifest`'s.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use toml_edit::{DocumentMut, Item, RawString};

use super::labels;
use crate::domain::manifest::{Golden, Manifest};

/// The most bytes of a `model.toml`.
pub(super) const MAX_BYTES: u64 = 1 << 20;

/// The text of the `model.toml` in `dir`, where there is one.
pub(super) fn read(dir: &Path) -> Result<Option<String>, String> {
    let path = dir.join("model.toml");
    match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // Reading a pipe or a device would never end.
        Ok(found) if !found.is_file() => Err("model.toml is not a file".to_owned()),
        Ok(found) if found.len() > MAX_BYTES => {
            Err(format!("model.toml has {} bytes", found.len()))
        }
        _ => fs::read_to_string(&path)
            .map(Some)
            .map_err(|error| format!("model.toml: {error}")),
    }
}

/// Golden pictures with their files, which lie in the first of `dirs` that has them.
pub(super) fn golden_files(
    golden: &[Golden],
    dirs: [&Path; 2],
) -> Result<Vec<(Golden, PathBuf)>, String> {
    golden
        .iter()
        .map(|golden| {
            for dir in dirs {
                let path = labels::inside(dir, &golden.image)
                    .map_err(|reason| format!("golden picture: {reason}"))?;
                if path.is_file() {
                    return Ok((golden.clone(), path));
                }
            }
            Err(format!("golden picture: there is no file {}", golden.image))
        })
        .collect()
}

/// What becomes of a text for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Edit {
    /// It stays.
    #[default]
    Keep,
    /// It is taken out.
    Remove,
    /// It is this from now on.
    Set(String),
}

/// What becomes of a model's texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// The name for people.
    pub title: Edit,
    /// What the model is for.
    pub description: Edit,
}

impl Description {
    fn named(&self) -> [(&'static str, &Edit); 2] {
        [("title", &self.title), ("description", &self.description)]
    }

    /// The manifest's text with these texts; everything else, comments and order included, is as it was.
    ///
    /// # Errors
    /// When the text is no manifest, or could not be edited so that it says what is meant and nothing else.
    pub(super) fn edit(&self, text: &str) -> Result<String, String> {
        let read =
            |text: &str| Manifest::parse(Some(text), None).map_err(|error| error.to_string());
        let mut expected = read(text)?;
        let mut document: DocumentMut = text
            .parse()
            .map_err(|_| "model.toml is no TOML".to_owned())?;
        for (key, edit) in self.named() {
            match edit {
                Edit::Keep => {}
                Edit::Remove => take_out(&mut document, key),
                Edit::Set(value) => set(&mut document, key, value),
            }
        }
        let put = |place: &mut Option<String>, edit: &Edit| match edit {
            Edit::Keep => {}
            Edit::Remove => *place = None,
            Edit::Set(value) => *place = Some(value.clone()),
        };
        put(&mut expected.title, &self.title);
        put(&mut expected.description, &self.description);
        let after = document.to_string();
        if read(&after)? == expected {
            Ok(after)
        } else {
            Err("the edited model.toml would say something else than was meant".to_owned())
        }
    }
}

/// Sets a key; what stands around the value of one that is there already stays.
fn set(document: &mut DocumentMut, key: &str, text: &str) {
    match document.get_mut(key).and_then(Item::as_value_mut) {
        Some(value) if value.as_str() == Some(text) => {}
        Some(value) => {
            let decor = value.decor().clone();
            *value = text.into();
            *value.decor_mut() = decor;
        }
        None => {
            document.insert(key, toml_edit::value(text));
        }
    }
}

/// Takes a key out; the comments above it stay, above what follows.
fn take_out(document: &mut DocumentMut, key: &str) {
    let above = document.key(key).and_then(|key| {
        let prefix = key.leaf_decor().prefix()?.as_str()?;
        prefix.contains('#').then(|| prefix.to_owned())
    });
    let keys: Vec<String> = document.iter().map(|(key, _)| key.to_owned()).collect();
    document.remove(key);
    let Some(above) = above else { return };
    let mut behind = keys.iter().skip_while(|name| *name != key).skip(1);
    let joined = |old: Option<&RawString>| {
        let old = old.and_then(RawString::as_str).unwrap_or_default();
        format!("{above}{old}")
    };
    match behind.next() {
        None => {
            let trailing = joined(Some(document.trailing()));
            document.set_trailing(trailing);
        }
        Some(next) => {
            // A section carries its comments itself, a plain key before its name.
            if let Some(table) = document.get_mut(next).and_then(first_table) {
                let prefix = joined(table.decor().prefix());
                table.decor_mut().set_prefix(prefix);
            } else if let Some(mut key) = document.key_mut(next) {
                let prefix = joined(key.leaf_decor().prefix());
                key.leaf_decor_mut().set_prefix(prefix);
            }
        }
    }
}

/// The table that an item is, or the first of several.
fn first_table(item: &mut Item) -> Option<&mut toml_edit::Table> {
    match item {
        Item::Table(table) if !table.is_implicit() && !table.is_dotted() => Some(table),
        Item::ArrayOfTables(tables) => tables.get_mut(0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(title: Edit, description: Edit) -> Description {
        Description { title, description }
    }

    fn text(text: &str) -> Edit {
        Edit::Set(text.to_owned())
    }

    #[test]
    fn everything_else_stays_as_it_was() {
        let before = "# mine\ntitle = 'T' # why\n\n[input] # how\n  # odd\n  size = [ 8,8 ]\n\n\
                      [[golden]]\nimage = 'a'\nlabel = 'b'\n# the end\n";
        let edit = described(text("Ziffern \"0\" – 9"), Edit::Keep);
        let after = edit.edit(before).expect("edited");
        assert_eq!(after, before.replace("'T'", "'Ziffern \"0\" – 9'"));
        assert_eq!(edit.edit(&after).expect("edited"), after, "twice is once");
        let both = described(Edit::Keep, text("two\nlines"));
        let after = both.edit(before).expect("edited");
        let manifest = Manifest::parse(Some(&after), None).expect("a manifest");
        assert_eq!(manifest.description.as_deref(), Some("two\nlines"));
        for line in before.lines() {
            assert!(after.contains(line), "{line:?} is gone:\n{after}");
        }
    }

    #[test]
    fn what_is_not_there_is_made_and_what_is_removed_leaves_its_comments() {
        let edit = described(text("T"), text("D"));
        assert_eq!(
            edit.edit("").expect("edited"),
            "title = \"T\"\ndescription = \"D\"\n"
        );
        let none = described(Edit::Remove, Edit::Remove);
        assert_eq!(none.edit("").expect("edited"), "");
        for (before, after) in [
            ("# a\ntitle = 'T'\n", "# a\n"),
            (
                "# a\ntitle = 'T'\nlabels = ['x']\n",
                "# a\nlabels = ['x']\n",
            ),
            (
                "# a\ntitle = 'T'\n# b\n[input]\nsize = [8, 8]\n",
                "# a\n# b\n[input]\nsize = [8, 8]\n",
            ),
            (
                "title = 'T'\n# b\ndescription = 'D'\n# c\n[[golden]]\nimage = 'a'\nlabel = 'b'\n",
                "# b\n# c\n[[golden]]\nimage = 'a'\nlabel = 'b'\n",
            ),
        ] {
            assert_eq!(none.edit(before).as_deref(), Ok(after));
        }
    }

    #[test]
    fn what_is_no_manifest_is_not_touched() {
        let edit = described(text("T"), Edit::Keep);
        for bad in ["title = ", "sise = 3", "[serving]\ninstances = 0\n"] {
            assert!(edit.edit(bad).is_err(), "{bad}");
        }
    }
}
