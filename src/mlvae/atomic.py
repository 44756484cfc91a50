"""Files written whole or not at all: beside their place, flushed to the disk, renamed.

A kill at any instant leaves the old file or the new one; what it may leave besides is a hidden file of another name.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlvae.errors import CheckpointError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A file beside ``path`` to write to, which takes its place at the end; after an error nothing has changed.

    Raises:
        CheckpointError: the disk is full, or the place cannot be written to.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "a.txt") as beside:
        ...         _ = beside.write_text("whole")
        ...     (Path(folder) / "a.txt").read_text()
        'whole'
    """
    path = Path(path)
    with place(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        beside = Path(name)
        try:
            yield beside
            _flush(beside)
            beside.chmod(0o644)
            os.replace(beside, path)
            _flush(path.parent)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise


@contextmanager
def place(path: Path) -> Iterator[None]:
    """The folder of a file that is to be written, made where it is not there; what then fails is told as its failure.

    Raises:
        CheckpointError: as `replacing`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise CheckpointError(
            f"Expected to write {path}; {error}. Free some space or choose another place; what was there is as it was."
        ) from error


def move(source: Path, target: Path) -> None:
    """A whole file to its place, which may be on another disk.

    Raises:
        CheckpointError: as `replacing`.
    """
    with place(target):
        try:
            os.replace(source, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            with replacing(target) as beside:
                shutil.copyfile(source, beside)
            source.unlink()


def write(path: str | Path, content: bytes) -> None:
    """A whole file in place of what was there.

    Raises:
        CheckpointError: as `replacing`.
    """
    with replacing(path) as beside:
        beside.write_bytes(content)


def _flush(path: Path) -> None:
    """Waits until the disk holds it; a folder, for the rename to last."""
    if os.name == "nt" and path.is_dir():
        return  # folders cannot be opened there
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
