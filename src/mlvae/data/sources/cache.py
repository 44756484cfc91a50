"""Observations made once and kept as ``.npy``: of pictures, their pixels; of large tables, their numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlvae.atomic import replacing
from mlvae.data.stored import Stored
from mlvae.errors import CheckpointError, DataError
from mlvae.untrusted import plain_json, reading

VERSION = 1
"""Raised when the same source would give other numbers."""


def place(folder: Path | None, beside: Path, name: str, about: Mapping[str, Any], files: Iterable[Path]) -> Path:
    """Where the numbers of a source are kept: another name once a file or an argument changes.

    Args:
        folder: the user's choice; None: ".mlvae" in `beside`.
        beside: the folder of the source.
        name: of the source.
        about: the arguments that the numbers depend on, as JSON values.
        files: whose sizes and times they depend on.
    """
    stamps = [(str(path), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in files]
    text = json.dumps([VERSION, about, stamps], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return (folder or beside / ".mlvae") / f"{name}-{digest}.npy"


def write(path: Path, shape: tuple[int, ...], kind: Any, blocks: Iterable[np.ndarray[Any, Any]], notes: Any) -> None:
    """Writes blocks of rows one after another, whole or not at all.

    Args:
        path: from `place`.
        shape: of one observation; the blocks say how many there are.
        kind: their type.
        blocks: (n, *shape) each.
        notes: a JSON value that may still grow while blocks are made; it stands behind the array, where readers of
            ``.npy`` do not look, so that one rename brings both.

    Raises:
        DataError: the folder cannot be written to.
    """
    try:
        with replacing(path) as part, part.open("wb") as file:
            rows = 0
            _header(file, rows, shape, kind)
            for block in blocks:
                file.write(np.ascontiguousarray(block, kind).data)
                rows += len(block)
            file.write(json.dumps(notes).encode())
            file.seek(0)
            _header(file, rows, shape, kind)
    except CheckpointError as error:
        raise DataError(
            f"Expected to keep what is read in {path.parent}; {error.__cause__}. Name a folder: cache=... (--cache)."
        ) from error


def load(path: Path, in_memory: bool) -> tuple[Any, Any]:
    """What `write` kept: the observations, in memory or on disk, and the notes."""
    stored = Stored(path)
    with reading("cache", path, advice="Remove it; it is made again."), path.open("rb") as file:
        file.seek(stored.end)
        notes = plain_json(file.read())
    return (stored[:] if in_memory else stored), notes


def _header(file: Any, rows: int, shape: tuple[int, ...], kind: Any) -> None:
    """Of one length whatever the number of rows, so that it can be written again at the end."""
    about = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": (rows, *shape)}
    text = repr(about).encode("latin1")
    file.write(np.lib.format.magic(1, 0) + (240).to_bytes(2, "little") + text.ljust(239) + b"\n")
