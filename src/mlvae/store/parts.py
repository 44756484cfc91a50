"""Data in parts that are encoded one after another: files, stretches of tables and of pictures, or of one set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlvae.data import GroupedData, read
from mlvae.data.builtin import BUILTIN
from mlvae.data.sources import TABLES, hidden, images, matching, usual_column
from mlvae.data.sources.arrays import columns_beside
from mlvae.data.sources.files import saved_table
from mlvae.data.sources.raw import Asked
from mlvae.errors import DataError
from mlvae.store import stretches
from mlvae.store.archives import of_archives

STRETCH = 2**16
"""Observations in a part of one set."""


@dataclass(frozen=True)
class Part:
    """A piece of the data.

    Args:
        name: the same at every start, so that a restarted job knows it again.
        size: how much of the data it is, in a unit of the whole: bytes of files, or rows.
        stamp: changes when its content does.
        load: reads it; None where no row of it has a label.
    """

    name: str
    size: int
    stamp: str
    load: Callable[[], GroupedData | None]


def parts_of(
    source: str | Path | GroupedData, by: str | None = None, missing: str = "error", *, like: Any = None,
    labels: Sequence[str] = (), on_bad_file: str = "error", noted: list[str] | None = None, **reading: Any,
) -> list[Part]:  # fmt: skip
    """The data in parts, none of which is read before it is asked for where that can be done.

    Args:
        source: a folder of `.npz` files, each a part; Parquet or CSV (a file, a folder, a pattern), an `.npy` file or a
            folder of pictures, in stretches that fit in memory; or whatever else `read` takes, which is read whole.
        by: the grouping column.
        missing: what to do with rows without a group, as in `read`; "own" only for one set, which is read whole.
        like: a model, as whose training data these are read.
        labels: columns that must have labels, as they name groups.
        on_bad_file: as in `read`.
        noted: where the names of files that are passed over are added, now and when parts are read.
        reading: further arguments of `read`.

    Raises:
        DataError: "own" for a folder, labels of two types in its files, or as `read`.
    """
    path = None if isinstance(source, GroupedData) or str(source) in BUILTIN else Path(source)
    files = [] if path is None else _files(path)
    arrays = [file for file in files if file.suffix == ".npz"] if path is not None and path.is_dir() else []
    if arrays and missing == "own":
        raise DataError(
            "Expected missing='error' or 'drop' for a folder of files: groups of their own would have the same names"
            " in several files. Drop them, or name them."
        )
    options = {"like": like, "labels": labels, "on_bad_file": on_bad_file, **reading}
    schema = getattr(like, "schema", like)
    covariates = tuple(feature.name for feature in schema.covariates) if schema else ()
    asked = Asked(
        by, reading.get("x", "x"), features=reading.get("features"), labels=tuple(labels), covariates=covariates,
        folders=tuple(reading.get("folders", ())),
        on_bad_file=on_bad_file, in_memory=True, like=schema, noted=[] if noted is None else noted,
        usual=usual_column(like),
    )  # fmt: skip
    if path is not None and arrays:
        loads = of_archives(arrays, asked, missing, labels)
        return [
            Part(str(file.relative_to(path)), file.stat().st_size, _stamp(file), load)
            for file, load in zip(arrays, loads, strict=True)
        ]
    tables = [file for file in files if file.suffix.lower() in TABLES]
    pictures = path is not None and path.is_dir() and images.holds_images(path)
    if path is not None and pictures and not tables:
        return [
            Part(f"{start:012}", len(some), stretches.stamp(some), load)
            for some, start, load in stretches.of_pictures(path, asked)
        ]
    if missing != "own" and not pictures and len({file.suffix.lower() for file in tables}) == 1:
        return [
            Part(f"{file.name}:{start:012}", rows, _stamp(file), load)
            for file, start, rows, load in stretches.of_tables(tables, asked, missing, labels)
        ]
    array = path if path is not None and path.is_file() and path.suffix.lower() == ".npy" else None
    beside = None if array is None else columns_beside(array)
    if array is not None and beside is not None and beside.suffix != ".npz" and missing != "own":
        return [
            Part(f"{start:012}", rows, stretches.stamp([array, beside]), load)
            for _, start, rows, load in stretches.of_array(array, beside, asked, missing, labels)
        ]
    if array is not None:
        options |= {"in_memory": False, "gaps": True}  # whether the model knows gaps is asked where it sees them
    data = _whole(source, by, missing, options)
    asked.noted.extend(data.skipped)
    if path is not None and (path / "state.json").is_file():
        files = [path / "state.json", *saved_table(path).files]
    stamp = stretches.stamp([*files, beside] if beside is not None else files)
    return [
        Part(f"{start:012}", min(STRETCH, len(data) - start), stamp, _stretch(data, start))
        for start in range(0, len(data), STRETCH)
    ]


def _whole(source: Any, by: str | None, missing: str, options: dict[str, Any]) -> GroupedData:
    """A set that is read at once; what rows without a label are, holds for every column that names groups."""
    data = read(source, by, missing=missing, **options)
    grouping = data.by
    for key in options["labels"]:
        data = data.grouped_by(key, missing=missing)
    return data if grouping is None or data.by == grouping else data.grouped_by(grouping)


def _files(path: Path) -> list[Path]:
    """All files that a source is in, but for a saved Hugging Face set, which is one."""
    if path.is_dir():
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            return []
        return sorted(file for file in path.rglob("*") if not hidden(file, path) and file.is_file())
    return [path] if path.is_file() else matching(path)


def _stamp(path: Path) -> str:
    return f"{path.stat().st_mtime_ns}"


def _stretch(data: GroupedData, start: int) -> Callable[[], GroupedData]:
    return lambda: data.subset(slice(start, start + STRETCH))
