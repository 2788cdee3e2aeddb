//! How the ONNX Runtime library is found, and that a file which is none never ends the process.
//!
//! A process loads one library for its life, so each file is tried in a child process: this test binary again.
#![expect(clippy::expect_used, reason = "a test stops where it fails")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lensgate::backend::OrtStatus;
use lensgate::backend::ort::{LibrarySearch, OrtBackend, check_library};

/// Tells the child process which library to load.
const PROBE: &str = "LENSGATE_TEST_ORT_LIBRARY";

/// A folder of this test's own, gone when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("lensgate-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a folder for the test");
        Self(path)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder for the file");
        std::fs::write(&path, bytes).expect("a file for the test");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The library that `make` has put, if it has.
fn made_library() -> Option<PathBuf> {
    let search = LibrarySearch {
        executable: std::env::current_exe().ok(),
        working_dir: Some(PathBuf::from(env!("CARGO_MANIFEST_DIR"))),
        ..LibrarySearch::default()
    };
    search
        .candidates()
        .map_err(|error| println!("onnxruntime: NOT RUN: {error}"))
        .ok()?
        .pop()
}

/// What a process that loads `library` says of it.
fn probe(library: &Path) -> String {
    let child = Command::new(std::env::current_exe().expect("this test binary"))
        .args([
            "--exact",
            "ort_library::in_the_child_process",
            "--nocapture",
            "--ignored",
        ])
        .env(PROBE, library)
        .stderr(Stdio::null())
        .output()
        .expect("the test binary starts");
    assert!(child.status.success(), "the process died: {}", child.status);
    let said = String::from_utf8_lossy(&child.stdout).into_owned();
    said.lines()
        .find_map(|line| line.split_once("probe: "))
        .expect("an answer")
        .1
        .to_owned()
}

#[test]
#[ignore = "run by the other tests, in a process of its own"]
fn in_the_child_process() {
    #[expect(clippy::disallowed_methods, reason = "tests have no configuration")]
    let library = std::env::var_os(PROBE);
    let Some(library) = library.map(PathBuf::from) else {
        return;
    };
    let search = LibrarySearch {
        configured: Some(library),
        ..LibrarySearch::default()
    };
    match OrtBackend::load(&search).map(|ort| ort.status()) {
        Ok(OrtStatus::Loaded { version, .. }) => println!("probe: loaded {version}"),
        Ok(OrtStatus::Missing { reason }) => println!("probe: missing {reason}"),
        Err(error) => println!("probe: {error}"),
    }
}

#[test]
fn the_search_goes_from_what_was_asked_for_to_what_lies_about() {
    let folder = Folder::new("search");
    let asked = folder.file("asked/libonnxruntime.so", b"1");
    let beside = folder.file("project/target/release/libonnxruntime.so.1.30.0", b"2");
    let old = folder.file("project/.runtime/onnxruntime/libonnxruntime.so.1.9.0", b"3");
    let made = folder.file(
        "project/.runtime/onnxruntime/libonnxruntime.so.1.32.0",
        b"4",
    );
    folder.file(
        "project/.runtime/onnxruntime/libonnxruntime.so.1.33.0.part",
        b"5",
    );
    folder.file(
        "project/.runtime/onnxruntime/libonnxruntime_providers_shared.so",
        b"6",
    );
    let mut search = LibrarySearch {
        executable: Some(folder.0.join("project/target/release/lensgate")),
        ..LibrarySearch::default()
    };
    let about = vec![beside.clone(), made.clone(), old.clone()];
    assert_eq!(
        search.candidates(),
        Ok(about),
        "beside the binary, then made, the newest first"
    );

    search.executable = None;
    search.working_dir = Some(folder.0.join("project"));
    assert_eq!(search.candidates(), Ok(vec![made, old]));
    search.environment = Some(beside.clone());
    assert_eq!(search.candidates(), Ok(vec![beside]));
    search.configured = Some(folder.0.join("asked"));
    assert_eq!(
        search.candidates(),
        Ok(vec![asked.clone()]),
        "a folder stands for what it holds"
    );
    search.configured = Some(PathBuf::from("../asked/libonnxruntime.so"));
    let found = search
        .candidates()
        .expect("a path relative to the working directory");
    assert_eq!(found[0].canonicalize().ok(), asked.canonicalize().ok());
}

#[test]
fn a_path_that_was_asked_for_and_is_not_there_is_named() {
    let folder = Folder::new("missing");
    let search = LibrarySearch {
        configured: Some(folder.0.join("nowhere.so")),
        executable: std::env::current_exe().ok(),
        ..LibrarySearch::default()
    };
    let error = OrtBackend::load(&search)
        .err()
        .expect("no library")
        .to_string();
    assert!(
        error.contains("backend.ort_library") && error.contains("nowhere.so"),
        "{error}"
    );
    let nothing = LibrarySearch::default()
        .candidates()
        .expect_err("no place to look");
    assert!(nothing.contains("backend.ort_library"), "{nothing}");
}

#[test]
fn a_file_that_is_no_library_is_refused_in_words() {
    let folder = Folder::new("files");
    let text = folder.file(
        "libonnxruntime.so",
        b"This is a text file, not a library.\n",
    );
    assert!(
        probe(&text).contains("is no shared library"),
        "{}",
        probe(&text)
    );
    let empty = folder.file("empty.so", b"");
    assert!(
        probe(&empty).contains("is no shared library"),
        "{}",
        probe(&empty)
    );
    let program = std::env::current_exe().expect("this test binary");
    let whole = std::fs::read(&program).expect("this test binary");
    let object = folder.file("cut.so", &whole[..4096]);
    assert!(
        check_library(&object)
            .expect_err("cut off")
            .contains("is truncated")
    );
    // A program of this machine is a whole shared object, but not this one.
    assert!(
        probe(&program).contains("cannot be used"),
        "{}",
        probe(&program)
    );
}

#[test]
fn a_truncated_library_is_refused_at_every_length() {
    let Some(library) = made_library() else {
        return;
    };
    let whole = std::fs::read(&library).expect("the library");
    check_library(&library).expect("the library is whole");
    let folder = Folder::new("truncated");
    for part in [1, 7, 13, 19] {
        let cut = folder.file("libonnxruntime.so", &whole[..whole.len() / 20 * part]);
        assert!(
            check_library(&cut)
                .expect_err("cut off")
                .contains("is truncated")
        );
    }
    let cut = folder.file("libonnxruntime.so", &whole[..whole.len() - 1]);
    assert!(probe(&cut).contains("is truncated"), "{}", probe(&cut));
    assert!(
        probe(&library).starts_with("loaded 1."),
        "{}",
        probe(&library)
    );
}

#[test]
fn an_old_library_is_refused_with_both_versions() {
    // Pretends to be ONNX Runtime 1.22.1, as far as the loader asks before it uses anything.
    const SOURCE: &str = "static const char *version(void) { return \"1.22.1\"; }\n\
        static struct { void *api; const char *(*version)(void); } base = { 0, version };\n\
        void *OrtGetApiBase(void) { return &base; }\n";
    let folder = Folder::new("old");
    let source = folder.file("old.c", SOURCE.as_bytes());
    let library = folder.0.join("libonnxruntime.so");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&source)
        .status();
    if !built.is_ok_and(|status| status.success()) {
        println!("an old library: NOT RUN (no C compiler)");
        return;
    }
    let said = probe(&library);
    assert!(
        said.contains("is version 1.22.1") && said.contains("1.30 or later"),
        "{said}"
    );
}
