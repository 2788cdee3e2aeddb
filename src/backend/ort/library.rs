//! Where the ONNX Runtime library may lie, and whether a file is a whole library that may be opened at all.
//!
//! Called by `backend::ort` before the library is loaded. Opens nothing but plain files; knows no ONNX.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Where `make` puts the library, below the project's root.
const MADE_FOLDER: &str = ".runtime/onnxruntime";
/// How the library's file name begins; a version may follow.
const LIBRARY_NAME: &str = "libonnxruntime.so";

/// Where to look for the library. Reads neither the environment nor the process: the caller says what is known.
#[derive(Clone, Debug, Default)]
pub struct LibrarySearch {
    /// The configuration's path: a file, or a folder that holds one. If set, it alone counts.
    pub configured: Option<PathBuf>,
    /// The value of `ORT_DYLIB_PATH`. If set, it alone counts, unless `configured` is set too.
    pub environment: Option<PathBuf>,
    /// This program's own file: the library may lie beside it, or where `make` put it in a folder above.
    pub executable: Option<PathBuf>,
    /// The working directory: relative paths begin here, and `make` may have put the library below it.
    pub working_dir: Option<PathBuf>,
}

impl LibrarySearch {
    /// The files to try, absolute, the best first. A path that was asked for is tried alone, so that a wrong one is
    /// an error and not something else that happens to lie about.
    ///
    /// # Errors
    /// Words for an operator: the path that was asked for does not exist, or no place has a library.
    pub fn candidates(&self) -> Result<Vec<PathBuf>, String> {
        let asked = [
            ("backend.ort_library", &self.configured),
            ("ORT_DYLIB_PATH", &self.environment),
        ];
        for (setting, path) in asked {
            if let Some(path) = path.as_ref().filter(|p| !p.as_os_str().is_empty()) {
                return self.asked_for(setting, path);
            }
        }
        let folders = self.folders();
        let found: Vec<PathBuf> = folders
            .iter()
            .flat_map(|folder| libraries_in(folder))
            .collect();
        if found.is_empty() {
            let places: Vec<String> = folders.iter().map(|f| f.display().to_string()).collect();
            return Err(format!(
                "no {LIBRARY_NAME} in {}; `make run` fetches it, or set backend.ort_library",
                if places.is_empty() {
                    "any known folder".to_owned()
                } else {
                    places.join(", ")
                }
            ));
        }
        Ok(found)
    }

    /// The one path that somebody named, or what the folder of that name holds.
    fn asked_for(&self, setting: &str, path: &Path) -> Result<Vec<PathBuf>, String> {
        let path = self.absolute(path);
        let Ok(metadata) = path.metadata() else {
            return Err(format!(
                "{setting} names {}, which does not exist",
                path.display()
            ));
        };
        if !metadata.is_dir() {
            return Ok(vec![path]);
        }
        let found = libraries_in(&path);
        if found.is_empty() {
            return Err(format!(
                "{setting} names the folder {}, which holds no {LIBRARY_NAME}",
                path.display()
            ));
        }
        Ok(found)
    }

    /// The folders to look through when nobody named a path.
    fn folders(&self) -> Vec<PathBuf> {
        let beside = self
            .executable
            .as_deref()
            .and_then(Path::parent)
            .map(|p| self.absolute(p));
        let mut folders: Vec<PathBuf> = beside.iter().cloned().collect();
        folders.extend(self.working_dir.as_ref().map(|dir| dir.join(MADE_FOLDER)));
        for above in beside.iter().flat_map(|folder| folder.ancestors().skip(1)) {
            folders.push(above.join(MADE_FOLDER));
        }
        folders.retain(|folder| folder.is_absolute() && folder.is_dir());
        let mut seen = Vec::new();
        folders.retain(|folder| {
            let new = !seen.contains(folder);
            seen.push(folder.clone());
            new
        });
        folders
    }

    fn absolute(&self, path: &Path) -> PathBuf {
        let joined = match &self.working_dir {
            Some(dir) => dir.join(path),
            None => path.to_path_buf(),
        };
        std::path::absolute(&joined).unwrap_or(joined)
    }
}

/// The library files in `folder`: the unversioned name first, then the newest version.
fn libraries_in(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = folder.read_dir() else {
        return Vec::new();
    };
    let mut found: Vec<(Option<Vec<u32>>, PathBuf)> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let version = version_in_name(&path)?;
            path.is_file().then_some((version, path))
        })
        .collect();
    found.sort_by(|(a, a_path), (b, b_path)| {
        a.is_some()
            .cmp(&b.is_some())
            .then_with(|| b.cmp(a))
            .then_with(|| a_path.cmp(b_path))
    });
    found.into_iter().map(|(_, path)| path).collect()
}

/// The numbers after the library's name: `Some(None)` without any, `None` for a file of another name (a part file of a
/// download among them).
#[expect(
    clippy::option_option,
    reason = "no library, a library, a library with a version: all three occur"
)]
fn version_in_name(path: &Path) -> Option<Option<Vec<u32>>> {
    let rest = path.file_name()?.to_str()?.strip_prefix(LIBRARY_NAME)?;
    if rest.is_empty() {
        return Some(None);
    }
    let numbers = rest.strip_prefix('.')?.split('.').map(str::parse);
    Some(Some(numbers.collect::<Result<_, _>>().ok()?))
}

/// The library's version: from its symbols (`VERS_1.32.0`), else from its file's real name, else a bare `1.x`.
pub(super) fn version_of(path: &Path) -> String {
    if let Some(version) = version_in_symbols(path) {
        return version;
    }
    let real = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    match version_in_name(&real).flatten() {
        Some(numbers) if numbers.len() > 1 => numbers
            .iter()
            .map(u32::to_string)
            .collect::<Vec<_>>()
            .join("."),
        _ => "1.x".to_owned(),
    }
}

/// The name of the library's symbol version. It stands in the string table near the file's head.
fn version_in_symbols(path: &Path) -> Option<String> {
    const MARK: &[u8] = b"\0VERS_";
    const HEAD_BYTES: u64 = 4 << 20;
    let mut head = Vec::new();
    File::open(path)
        .ok()?
        .take(HEAD_BYTES)
        .read_to_end(&mut head)
        .ok()?;
    let start = head.windows(MARK.len()).position(|window| window == MARK)? + MARK.len();
    let version: String = head
        .get(start..)?
        .iter()
        .take(16)
        .map(|&byte| char::from(byte))
        .take_while(|c| c.is_ascii_digit() || *c == '.')
        .collect();
    version.contains('.').then_some(version)
}

/// Checks that `path` is a whole ELF shared object for this processor. The loader maps a file without asking whether
/// it ends early, and the process dies of a bus error when it does.
///
/// # Errors
/// Words for an operator, with the path.
pub fn check_library(path: &Path) -> Result<(), String> {
    let fault = match whole_library(path) {
        Ok(()) => return Ok(()),
        Err(Fault::Is(what)) => what.to_owned(),
        Err(Fault::Io(error)) if error.kind() == ErrorKind::UnexpectedEof => TRUNCATED.to_owned(),
        Err(Fault::Io(error)) => format!("cannot be read: {error}"),
    };
    Err(format!("{} {fault}", path.display()))
}

const TRUNCATED: &str = "is truncated; fetch it again";
const NO_LIBRARY: &str = "is no shared library of this system (no ELF file)";
const OTHER_MACHINE: &str = "is a library for another kind of processor";

enum Fault {
    Is(&'static str),
    Io(std::io::Error),
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// `e_machine` of the processor this program was built for.
const MACHINE: Option<u16> = if cfg!(target_arch = "x86_64") {
    Some(62)
} else if cfg!(target_arch = "aarch64") {
    Some(183)
} else {
    None
};

/// Field offsets are those of the ELF-64 format, little-endian.
fn whole_library(path: &Path) -> Result<(), Fault> {
    const SHARED_OBJECT: u16 = 3;
    const LOAD: u32 = 1;
    const DYNAMIC: u32 = 2;
    const SEGMENT_SIZE: u16 = 56;
    const SECTION_SIZE: u16 = 64;

    // Before it is opened: opening a pipe would wait for somebody to write to it.
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(Fault::Is("is not a file"));
    }
    let mut file = File::open(path)?;
    let len = metadata.len();
    let mut header = [0_u8; 64];
    match file.read_exact(&mut header) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
            return Err(Fault::Is(NO_LIBRARY));
        }
        other => other?,
    }
    let header = Fields(&header);
    // Magic, 64-bit, little-endian.
    if !header.0.starts_with(b"\x7fELF\x02\x01") || header.u16(16) != Some(SHARED_OBJECT) {
        return Err(Fault::Is(NO_LIBRARY));
    }
    if MACHINE.is_some() && header.u16(18) != MACHINE {
        return Err(Fault::Is(OTHER_MACHINE));
    }
    let sections = end_of(
        header.u64(40),
        header.u16(58),
        header.u16(60).map(u64::from),
    );
    let segments = end_of(
        header.u64(32),
        header.u16(54),
        header.u16(56).map(u64::from),
    );
    if sections.is_none_or(|end| end > len) || segments.is_none_or(|end| end > len) {
        return Err(Fault::Is(TRUNCATED));
    }
    let has_sections = header.u16(60) != Some(0);
    let sizes_fit = header.u16(54) == Some(SEGMENT_SIZE)
        && (!has_sections || header.u16(58) == Some(SECTION_SIZE));
    let (Some(start), Some(count), true) = (header.u64(32), header.u16(56), sizes_fit) else {
        return Err(Fault::Is(NO_LIBRARY));
    };
    file.seek(SeekFrom::Start(start))?;
    let mut kinds = Vec::new();
    for _ in 0..count {
        let mut segment = [0_u8; SEGMENT_SIZE as usize];
        file.read_exact(&mut segment)?;
        let segment = Fields(&segment);
        let kind = segment.u32(0);
        if end_of(segment.u64(8), Some(1), segment.u64(32)).is_none_or(|end| end > len) {
            return Err(Fault::Is(TRUNCATED));
        }
        kinds.extend(kind);
    }
    if kinds.contains(&LOAD) && kinds.contains(&DYNAMIC) {
        Ok(())
    } else {
        Err(Fault::Is(NO_LIBRARY))
    }
}

/// `start + size * count`, where the file says all three.
fn end_of(start: Option<u64>, size: Option<u16>, count: Option<u64>) -> Option<u64> {
    start?.checked_add(u64::from(size?).checked_mul(count?)?)
}

/// Little-endian numbers in a header.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..at.checked_add(N)?)?.try_into().ok()
    }

    fn u16(&self, at: usize) -> Option<u16> {
        self.bytes(at).map(u16::from_le_bytes)
    }

    fn u32(&self, at: usize) -> Option<u32> {
        self.bytes(at).map(u32::from_le_bytes)
    }

    fn u64(&self, at: usize) -> Option<u64> {
        self.bytes(at).map(u64::from_le_bytes)
    }
}
