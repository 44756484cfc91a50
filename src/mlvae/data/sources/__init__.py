"""Where data come from: a file, a folder, a built-in set, or data in memory. One function reads them all."""

from __future__ import annotations

import glob
import importlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from mlvae.data.arrays import check_shape
from mlvae.data.builtin import BUILTIN
from mlvae.data.grouped import GroupedData
from mlvae.data.sources import arrays, images, memory, tables
from mlvae.data.sources.raw import Asked, Raw
from mlvae.errors import DataError, nearest
from mlvae.labels import as_labels
from mlvae.schema import Schema


def read(
    source: Any,
    by: str | None = None,
    *,
    groups: Any = None,
    missing: str = "error",
    x: str = "x",
    features: str | Sequence[str] | None = None,
    covariates: Sequence[str] = (),
    labels: Sequence[str] = (),
    gaps: bool = False,
    size: int | tuple[int, int] | None = None,
    mode: str | None = None,
    folders: Sequence[str] = (),
    cache: str | os.PathLike[str] | None = None,
    in_memory: bool | None = None,
    on_bad_file: str = "error",
    like: Any = None,
) -> GroupedData:
    """Reads grouped data. `docs/data.md` has an example of each source.

    Args:
        source: the path of an `.npz` or `.npy` file; of Parquet or CSV (a file, a folder, or a pattern such as
            "part-*.parquet"); of a folder with one folder of PNG or JPEG pictures for each group; of a saved Hugging
            Face data set; the name of a built-in set ("digits", "avatars"); "package.module:function", which is called
            and its result read; or in memory: a data frame, an Arrow table, a Hugging Face data set, a torch data set,
            an array or a tensor, or data that are to be grouped by another column.
        by: the grouping column. None: that of the model in ``like`` if it is there, "group", or else the only column.
        groups: (N,) the group of each observation, where the source has no columns; called `by`, or "group".
        missing: what to do with rows without a group: "error", "drop", or "own" (each a group of its own).
        x: which array of an `.npz` file holds the observations.
        features: which columns of a table are the observation: names, patterns, "numbers", "categories", "all", each
            with a kind after a colon ("visits:count"), a minus before what to leave out. None: all numbers.
        covariates: columns that encoder and decoder are told, so that they need not be learned.
        labels: columns that patterns and types never take for features, as they never take `by`, "group", "split",
            "fold" and covariates.
        gaps: NaN in arrays is a value that was not observed. In tables it always is, and for a model in ``like`` that
            was trained on data with gaps.
        size: height and width that pictures are brought to, cut to the shape. None: that of all of them.
        mode: "L" (grey) or "RGB" for pictures. None: that of all of them, and an error where something would be lost.
        folders: what to call the levels of folders, outermost first. None: "group" and, above it, "folder1", ...
        cache: the folder that decoded pictures and large tables are kept in. None: ".mlvae" beside the source.
        in_memory: whether observations are held in memory, or rows read from disk as they are needed. None: in memory
            up to 1 GiB.
        on_bad_file: "error", or "skip": go on without files that cannot be read, and list them in `skipped`.
        like: a model (or its `schema`): read as its training data were, columns by name, words by its vocabulary,
            pictures in its size.

    Raises:
        DataError: there is no such file, set, array or column; or something is wrong with it: says where, and what to
            do.

    Example:
        >>> read("digits")
        GroupedData('digits': 1797 x (8, 8) float32, 10 groups by 'group' of 174-183, columns: split)
    """
    schema = getattr(like, "schema", like)
    if schema is not None and not isinstance(schema, Schema):
        raise DataError(f"Expected a model or its schema as `like`; got {type(like).__name__}.")
    known = tuple(covariates) or tuple(feature.name for feature in schema.covariates) if schema else tuple(covariates)
    if isinstance(source, GroupedData) or (isinstance(source, str) and source in BUILTIN):
        for name, value, what in (
            ("groups", groups, "arrays"),
            ("gaps", gaps or None, "arrays"),
            ("features", features, "a table"),
            ("size", size, "pictures in files"),
            ("mode", mode, "pictures in files"),
        ):
            if value is not None:
                raise DataError(f"Expected {what} for `{name}` (--{name}); got {source!r}. Leave the option out.")
    if isinstance(source, GroupedData):
        data = source if by is None else source.grouped_by(by, missing=missing)
        return data.with_covariates(*covariates) if covariates else data
    if isinstance(source, str) and source in BUILTIN:
        return read(BUILTIN[source](), by, missing=missing, covariates=covariates)
    if isinstance(source, str) and (found := called(source)) is not None:
        return read(
            found(), by, groups=groups, missing=missing, x=x, features=features, covariates=covariates, labels=labels,
            gaps=gaps, size=size, mode=mode, folders=folders, cache=cache, in_memory=in_memory,
            on_bad_file=on_bad_file, like=like,
        )  # fmt: skip
    asked = Asked(
        by, x, features, known, tuple(labels), (size, size) if isinstance(size, int) else size, mode, tuple(folders),
        None if cache is None else Path(cache), in_memory, on_bad_file, schema, usual=usual_column(like),
    )  # fmt: skip
    gaps = gaps or getattr(getattr(like, "likelihood", None), "missing", False)
    raw = _from_path(source, asked) if isinstance(source, (str, os.PathLike)) else memory.raw(source, asked, gaps)
    columns = dict(raw.columns)
    count = len(raw.x) if raw.x.ndim else 0
    if groups is not None:
        by = by or "group"
        columns[by] = as_labels(groups)
        check_shape("`groups`", columns[by], count)
    by = grouping_column(by, columns, raw.others, count, raw.name, usual_column(like))
    data = GroupedData.from_arrays(
        raw.x, columns=columns, by=by, name=raw.name, missing=missing, gaps=gaps or raw.gaps, schema=raw.schema
    )
    data = replace(data, skipped=raw.skipped)
    return data.with_covariates(*known) if known else data


def called(source: str) -> Callable[[], Any] | None:
    """The function that "package.module:function" names; None for any other text.

    Raises:
        DataError: the module or the function is not there.
    """
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", source) or Path(source).exists():
        return None
    module, _, name = source.partition(":")
    if len(module) == 1:  # the drive of a Windows path
        return None
    try:
        found: Callable[[], Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise DataError(
            f"Expected something that can be imported as {source!r}; {error}. Is its folder on PYTHONPATH?"
        ) from error
    return found


def _from_path(source: str | os.PathLike[str], asked: Asked) -> Raw:
    path = Path(source)
    if path.is_dir():
        return _from_folder(path, asked)
    if path.is_file():
        ending = path.suffix.lower()
        if ending in TABLES:
            return TABLES[ending]([path], asked)
        if ending == ".npz" and asked.in_memory is False:
            raise DataError(
                f"Expected a file whose rows can be read from disk; got {path.name}, which is unpacked whole. Save"
                " np.save('x.npy', x) and its columns in x.npz beside it, or leave in_memory out."
            )
        if ending in READERS:
            return READERS[ending](path, asked)
        known = [*READERS, *TABLES]
        raise DataError(
            f"Expected a file ending in {', '.join(known[:-1])} or {known[-1]}; got {path.name!r}. "
            "Load it yourself and use GroupedData.from_arrays(x, groups)."
        )
    if files := matching(source):
        return _tables(files, asked, f"the pattern {str(source)!r}")
    raise DataError(
        f"Expected a file, a folder or a built-in set; got {str(source)!r}, no such file. "
        + nearest(str(source), BUILTIN)
    )


def _from_folder(path: Path, asked: Asked) -> Raw:
    if (path / "state.json").is_file():
        return memory.saved(path, asked)
    if (path / "dataset_dict.json").is_file():
        parts = ", ".join(sorted(str(part) for part in path.iterdir() if part.is_dir()))
        raise DataError(f"Expected one data set; {path} holds several. Name one: {parts}.")
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in TABLES and not hidden(file, path))
    if files and images.holds_images(path):
        pattern = path / f"*{files[0].suffix}"
        raise DataError(f"Expected tables or pictures in {path}; it holds both. Name the tables: '{pattern}'.")
    if files:
        return _tables(files, asked, f"the folder {path}")
    if not images.holds_images(path):
        raise DataError(
            f"Expected pictures ({', '.join(images.ENDINGS)}) in folders, or tables ({', '.join(TABLES)}); {path}, a"
            " directory, holds neither."
        )
    return images.folder(path, asked)


def hidden(file: Path, folder: Path) -> bool:
    """Whether a file below a folder is no data of it: hidden, or what an encoding job is writing there."""
    *folders, name = file.relative_to(folder).parts
    return (
        any(part.startswith((".", "_")) for part in (*folders, name))
        or any(part.endswith(".parts") for part in folders)
        or file.with_name(f"{name}.parts").is_dir()  # the target of a job that is not at its end
    )


def matching(pattern: str | os.PathLike[str]) -> list[Path]:
    """The files of a pattern, but for an encoding job's unfinished ones, unless their folder is written out in it."""
    written = Path(pattern).parts
    found = map(Path, glob.glob(str(pattern), recursive=True))
    return sorted(
        file for file in found if not any(part.endswith(".parts") and part not in written for part in file.parts)
    )


def refuse_among(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Raises DataError where a file that is to be written would be read with its source from then on."""
    path, file = Path(source).resolve(), Path(target).resolve()
    if str(source) in BUILTIN or file.suffix.lower() not in (*TABLES, *images.ENDINGS):
        return
    if path.is_dir():
        among = file.is_relative_to(path) and not hidden(file, path) and not (path / "state.json").is_file()
    elif "**" in str(path):
        among = fnmatch(str(file), str(path).replace("**/", "*"))
    else:
        among = file == path or file.match(str(path))
    if among:
        raise DataError(
            f"Expected another file than the data to write, and none among them; got {target}, which would be read as"
            f" observations of {source} the next time. Name one in another folder."
        )


def _tables(files: list[Path], asked: Asked, where: str) -> Raw:
    endings = sorted({file.suffix.lower() for file in files})
    if len(endings) > 1 or endings[0] not in TABLES:
        raise DataError(f"Expected files of one kind in {where}, {' or '.join(TABLES)}; got {', '.join(endings)}.")
    return TABLES[endings[0]](files, asked)


def usual_column(like: Any) -> str | None:
    """The column that a model's first shared level is grouped by; None where there is no model, or it takes several."""
    columns = [level.by for level in getattr(like, "group_levels", ())]
    return columns[0] if columns and isinstance(columns[0], str) else None


def grouping_column(
    by: str | None, columns: Mapping[str, Any], others: Mapping[str, tuple[int, ...]], count: int, file: str,
    usual: str | None = None,
) -> str:  # fmt: skip
    """The column that is asked for, the usual one if it is there, "group", or the only one.

    Raises:
        DataError: there is no such column, or several and none is asked for.
    """
    if by is None and usual in columns:
        by = usual
    if by is None and ("group" in columns or "group" in others):
        by = "group"
    if by is None and len(columns) == 1:
        by = next(iter(columns))
    if by is None:
        known = ", ".join(map(repr, columns)) or f"none of shape ({count},)"
        raise DataError(
            f"Expected the name of the grouping column of {file}: read(..., by=...), or --by. Its columns: {known}."
        )
    if by not in columns and by not in others:
        known = nearest(by, columns) if columns else f"It has no column of shape ({count},)."
        if set(by.split(",")) <= set(columns):
            known = f"Several in combination are a level: --level content:16:{by}, or Level(..., by=(...))."
        raise DataError(f"Expected a column of {file}; got {by!r}. {known}")
    if by not in columns:
        raise DataError(
            f"Expected {by!r} of shape ({count},), a label for each observation; got {others[by]}. "
            "Choose another column, or save one label for each row."
        )
    return by


READERS: dict[str, Callable[[Path, Asked], Raw]] = {".npz": arrays.npz, ".npy": arrays.npy}
"""By file ending: a function from a path to what it holds. A new kind of file is one function and one line."""

TABLES: dict[str, Callable[[list[Path], Asked], Raw]] = {
    ".parquet": tables.parquet,
    ".csv": tables.csv,
    ".tsv": tables.csv,
}
"""By file ending: the same for tables, which may be in several files."""
