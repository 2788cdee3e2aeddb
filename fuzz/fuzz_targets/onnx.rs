//! Bytes as an ONNX file: its facts, what they say of every tensor, and the files it wants beside it.
//!
//! The reader takes a path: the bytes lie in an anonymous file in memory, nothing is written to a disk.
#![no_main]

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use lensgate_fuzz::model_store::onnx;
use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, memfd_create};

static FILE: LazyLock<(File, PathBuf)> = LazyLock::new(|| {
    let file = File::from(memfd_create("model.onnx", MemfdFlags::CLOEXEC).expect("a memfd"));
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    (file, path)
});

/// Stands for a version's folder; only looked at.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .canonicalize()
        .expect("this folder")
});

fuzz_target!(|data: &[u8]| {
    let (file, path) = &*FILE;
    file.set_len(0).expect("an empty file");
    file.write_all_at(data, 0).expect("memory");
    let facts = match onnx::read(path) {
        Ok(facts) => facts,
        Err(error) => return assert!(!error.to_string().contains('\n')),
    };
    for tensor in facts.inputs.iter().chain(&facts.outputs) {
        let _ = facts.ending(&tensor.name);
        let _ = facts.output_quantisation(&tensor.name);
        let _ = facts.input_quantisation(&tensor.name);
    }
    if let Ok(files) = onnx::check_external(&facts, &FOLDER) {
        assert!(files.iter().all(|file| file.starts_with(&*FOLDER)));
    }
});
