"""A version's folder, put in place whole or not at all, and never over one that is there."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lensgate_export.failures import Failure, Misuse

_MODEL_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_NUMBER = re.compile(r"[1-9][0-9]{0,17}")


def place(out: Path) -> Path:
    """`out` as an absolute path; a `Misuse` where it is no `STORE/MODEL/VERSION`, a `Failure` where it is taken."""
    path = Path(os.path.abspath(out))
    if not _NUMBER.fullmatch(path.name):
        raise Misuse(f"--out {out} ends in {path.name!r}; a version's folder is a positive integer, as in flowers/1")
    if not _MODEL_ID.fullmatch(path.parent.name):
        raise Misuse(f"--out {out} is in {path.parent.name!r}; a model's id is {_MODEL_ID.pattern}")
    refuse_taken(path)
    return path


def refuse_taken(path: Path) -> None:
    """Versions are immutable: what a number once meant, predictions and reports go on meaning."""
    if os.path.lexists(path):
        raise Failure(f"{path} is there already, and versions are never overwritten: take the next number")


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A folder beside `path` to write into; it becomes `path` by one rename where the block ends well.

    On any other end it goes, and so do folders that were made for it.
    """
    made = [folder for folder in (path.parent, path.parent.parent) if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise Failure(f"{path.parent} cannot be written to: {error}") from error
    try:
        yield work
        # Only its maker may enter what mkdtemp makes; the gateway may run as another user.
        work.chmod(0o755)
        refuse_taken(path)
        os.rename(work, path)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        for folder in made:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        raise
