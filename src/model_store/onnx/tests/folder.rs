//! External data on the disk: where it may lie and how links are followed.

use std::os::unix::fs::symlink;

use super::*;

/// A folder of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("lensgate-onnx-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(fs::canonicalize(path).unwrap())
    }

    fn write(&self, at: &str, len: usize) {
        let path = self.0.join(at);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, vec![0; len]).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn needs(location: &str, needed_bytes: u64) -> GraphFacts {
    let external = vec![ExternalFile {
        location: location.to_owned(),
        needed_bytes,
    }];
    GraphFacts {
        external,
        ..GraphFacts::default()
    }
}

#[test]
fn files_inside_the_folder_are_found() {
    let folder = Folder::new("inside");
    folder.write("1/w.bin", 10);
    folder.write("1/sub/v.bin", 1);
    let version = folder.0.join("1");
    let found = |location: &str| check_external(&needs(location, 1), &version);
    assert_eq!(found("w.bin"), Ok(vec![version.join("w.bin")]));
    assert_eq!(found("./sub//v.bin"), Ok(vec![version.join("sub/v.bin")]));
    assert!(check_external(&needs("w.bin", 10), &version).is_ok());
    let short = check_external(&needs("w.bin", 11), &version).unwrap_err();
    let expected = OnnxError::ExternalShort {
        location: "\"w.bin\"".to_owned(),
        has: 10,
        needs: 11,
    };
    assert_eq!(short, expected);
    assert_eq!(
        short.to_string(),
        r#"external data "w.bin" is truncated: it has 10 of 11 bytes"#
    );
    let missing = found("nowhere.bin").unwrap_err();
    assert_eq!(
        missing.to_string(),
        r#"external data "nowhere.bin" is missing"#
    );
    assert!(short.is_incomplete() && missing.is_incomplete());
}

#[test]
fn locations_that_lead_elsewhere_are_refused() {
    let folder = Folder::new("outside");
    folder.write("1/w.bin", 10);
    folder.write("secret", 10);
    folder.write("1-secret/w.bin", 10);
    folder.write("1/*/_ORT_MEM_ADDR_/*", 10);
    folder.write("1/a\\b", 10);
    let version = folder.0.join("1");
    symlink("../secret", version.join("link")).unwrap();
    symlink("..", version.join("up")).unwrap();
    symlink(folder.0.join("1-secret"), version.join("near")).unwrap();
    symlink("loop", version.join("loop")).unwrap();
    let absolute = version.join("w.bin");
    let long = "n".repeat(60_000);
    let cases = [
        ("", "no location"),
        (".", "names no file"),
        ("../secret", "without `..`"),
        ("sub/../../secret", "without `..`"),
        ("../1/w.bin", "without `..`"),
        (absolute.to_str().unwrap(), "relative path"),
        ("w.bin\0", "characters"),
        ("a\\b", "characters"),
        ("*/_ORT_MEM_ADDR_/*", "characters"),
        ("link", "outside"),
        ("up/secret", "outside"),
        ("near/w.bin", "outside"),
        ("up/1", "not a regular file"),
        ("loop", "cannot be opened"),
        ("w.bin/", "cannot be opened"),
        ("w.bin/x", "cannot be opened"),
        (&long, "cannot be opened"),
    ];
    for (location, expected) in cases {
        let error = check_external(&needs(location, 1), &version).unwrap_err();
        assert!(
            matches!(error, OnnxError::External { .. }),
            "{location}: {error:?}"
        );
        let text = error.to_string();
        assert!(
            text.contains(expected) && text.len() < 300,
            "{location}: {text}"
        );
        let own = location.starts_with('/');
        assert!(own || !text.contains(folder.0.to_str().unwrap()), "{text}");
    }
}

#[test]
fn mounts_of_kubernetes_are_followed() {
    // A volume's files are links to `..data/…`, itself a link to the folder of the day.
    let folder = Folder::new("mount");
    folder.write("1/..2024_05_01/w.bin", 10);
    folder.write("..2024_05_01/2/w.bin", 10);
    let version = folder.0.join("1");
    symlink("..2024_05_01", version.join("..data")).unwrap();
    symlink("..data/w.bin", version.join("w.bin")).unwrap();
    let found = check_external(&needs("w.bin", 10), &version);
    assert_eq!(found, Ok(vec![version.join("..2024_05_01/w.bin")]));
    // Or the version's folder is such a link.
    symlink("..2024_05_01", folder.0.join("..data")).unwrap();
    symlink("..data/2", folder.0.join("2")).unwrap();
    let found = check_external(&needs("w.bin", 10), &folder.0.join("2"));
    assert_eq!(found, Ok(vec![folder.0.join("..2024_05_01/2/w.bin")]));
}

#[test]
fn files_are_read_and_refusals_name_no_path() {
    let folder = Folder::new("read");
    let path = folder.0.join("model.onnx");
    fs::write(&path, model(&simple("Softmax", "x", "y"))).unwrap();
    assert_eq!(read(&path).unwrap().ending("y"), Ending::Softmax);
    fs::write(&path, "").unwrap();
    assert_eq!(read(&path).unwrap_err(), OnnxError::Empty);
    let absent = read(&folder.0.join("absent")).unwrap_err();
    assert_eq!(absent, OnnxError::Io(ErrorKind::NotFound));
    assert_eq!(
        absent.to_string(),
        "the model file cannot be read: entity not found"
    );
    let directory = read(&folder.0).unwrap_err();
    assert!(
        directory.to_string().contains("not a regular file"),
        "{directory}"
    );
    let none = check_external(&GraphFacts::default(), &folder.0.join("absent"));
    assert_eq!(none, Ok(Vec::new()));
    let lost = check_external(&needs("w.bin", 1), &folder.0.join("absent"));
    assert_eq!(lost, Err(OnnxError::Io(ErrorKind::NotFound)));
}
