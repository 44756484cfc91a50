"""Tables: Parquet, CSV, Arrow, data frames, Hugging Face sets. A row is an observation, some columns its features."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlvae.data.rounding import Rounding
from mlvae.data.sources import cache
from mlvae.data.sources.delimited import csv_table
from mlvae.data.sources.files import Table, parquet_table, refuse_homeless
from mlvae.data.sources.raw import Asked, Raw
from mlvae.data.sources.select import chosen
from mlvae.data.sources.vectors import vectors
from mlvae.errors import DataError
from mlvae.errors import row as named
from mlvae.schema import Feature, Schema, feature_from, label
from mlvae.untrusted import reading

BLOCK = 64 * 2**20
"""Bytes of observations that are made at a time."""

KEPT_OUT = ("group", "split", "fold")
"""Columns that say who is trained on, which patterns never take for features."""

NUMBERS = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"

COMMAS = r"^\s*[+-]?\d*,\d+([.,]\d+)*\s*$"

MIXED_FROM = 0.5
"""From this share of numbers on, words in a column that is asked for are taken for mistakes; else from 0.9 on."""


def parquet(files: list[Path], asked: Asked) -> Raw:
    """One table in one or more Parquet files."""
    with reading("Parquet file", files[0]):  # text that is no text is found only where it is looked at
        return from_table(parquet_table(files, asked), asked)


def csv(files: list[Path], asked: Asked) -> Raw:
    """One table in one or more CSV or TSV files."""
    with reading("CSV file", files[0]):
        return from_table(csv_table(files, asked), asked)


def labels_of(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """All columns of a file as labels."""
    with reading("table", path):
        return labels_in((csv_table if path.suffix == ".csv" else parquet_table)([path], Asked(features=())))


def labels_in(table: Table) -> dict[str, np.ndarray[Any, Any]]:
    """All columns of a table as labels, but for those that cannot be."""
    return _labels(table, _others(table, set()))


def from_table(table: Table, asked: Asked) -> Raw:
    """A table as observations and columns.

    Its features become float32, in the order of the table: numbers, counts and 0/1 as they are, categories by their
    code, what is missing NaN. A column of vectors, or of pictures, is the observation itself.
    """
    from mlvae.data.sources import images

    kept_out = [name for name in (asked.by, *KEPT_OUT, *asked.covariates, *asked.labels) if name is not None]
    whole = _whole(table, asked)
    if whole is not None and table.types[whole] == "image":
        picture, kept = images.from_bytes(table, whole, asked)
        labels = _labels(table, _others(table, {whole}))
        return replace(picture, columns={name: values[kept] for name, values in labels.items()})
    if whole is not None:
        x, gaps = vectors(table, whole, asked)
        labels = _labels(table, _others(table, {whole}))
        return Raw(x, labels, table.name, gaps=gaps, skipped=table.skipped)

    if asked.like is not None and asked.like.features:
        trained = _as_trained(table, asked.like)
        kinds = {feature.name: feature.kind for feature in trained}
        about: dict[str, Any] = {"like": [asdict(feature) for feature in trained]}

        def found() -> list[Feature]:
            return trained
    else:
        if asked.features is None:
            suspects = [name for name, kind in table.types.items() if kind == "category" and name not in kept_out]
            _refuse_mixed(table, suspects, 0.9)
            _warn_of_commas(table, suspects)
        kinds = chosen(asked.features, table.types, kept_out)
        if asked.by in kinds:
            raise DataError(
                f"Expected features other than the grouping column; {asked.by!r} is both, and content would only copy"
                f" it. Leave it out: --features '...,-{asked.by}'."
            )
        if clash := [name for name in kinds if name in (*asked.labels, *asked.covariates)]:
            raise DataError(
                f"Expected features other than columns that say who is trained on, name groups or are known covariates;"
                f" {clash[0]!r} is both. Leave it out: --features '...,-{clash[0]}'."
            )
        told = [name for name in kinds if f"{name}:category" in _items(asked.features)]
        about = {"kinds": kinds, "told": told}

        def found() -> list[Feature]:
            return _features(table, kinds, told)

    x, features = _numbers(table, found, len(kinds), about, asked)
    columns = _labels(table, _others(table, set(kinds)))
    return Raw(x, columns, table.name, Schema(tuple(features)), True, table.skipped)


def _items(features: str | Sequence[str] | None) -> list[str]:
    return [item.strip() for item in (features.split(",") if isinstance(features, str) else features or ())]


def _whole(table: Table, asked: Asked) -> str | None:
    """The column that holds whole observations, pictures or vectors, if that is what is asked for."""
    candidates = [name for name, kind in table.types.items() if kind in ("image", "vector")]
    if isinstance(asked.features, str) and asked.features in candidates:
        return asked.features
    if asked.features is None and len(candidates) == 1 and not (asked.like and asked.like.features):
        return candidates[0]
    if asked.features is None and len(candidates) > 1:
        names = ", ".join(map(repr, candidates))
        if {"precision", "information", "count"} <= set(table.types):
            raise DataError(
                f"Expected observations; {table.name} holds evidence. Ask it with mlvae evidence, or name the data."
            )
        raise DataError(
            f"Expected one column of pictures or vectors; got {names}. Choose one: features=... (--features)."
        )
    return None


def _others(table: Table, features: set[str]) -> list[str]:
    """Columns that become labels: all words, numbers or times that are no features."""
    return [n for n, kind in table.types.items() if kind not in ("vector", "image", "other") and n not in features]


def _labels(table: Table, names: list[str]) -> dict[str, np.ndarray[Any, Any]]:
    import pyarrow as pa

    if not names:
        return {}
    parts: dict[str, list[Any]] = {name: [] for name in names}
    for batch in table.batches(names):
        for name in names:
            parts[name].append(batch.column(name))
    result = {}
    for name, arrays in parts.items():
        column = pa.chunked_array([plain(array) for array in arrays])
        # With a gap numpy has decimals only, which merge large neighbours.
        large = pa.types.is_integer(column.type) and column.null_count and _large(column)
        result[name] = np.array(column.to_pylist(), dtype=object) if large else column.to_numpy()
    return result


def _large(column: Any) -> bool:
    """Whether whole numbers are too large for decimals to tell apart."""
    import pyarrow.compute as pc

    ends = pc.min_max(column).as_py()
    return bool(max(abs(end or 0) for end in ends.values()) >= 2**53)


def plain(array: Any) -> Any:
    """An Arrow array without a dictionary."""
    import pyarrow as pa

    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _features(table: Table, kinds: Mapping[str, str], told: Collection[str]) -> list[Feature]:
    """One look over the table: vocabularies, which numbers are only 0 and 1 or too large, words among numbers."""
    words: dict[str, set[str]] = {name: set() for name, kind in kinds.items() if kind == "category"}
    rounding = {name: Rounding() for name, kind in kinds.items() if kind == "number"}
    binary = set(rounding)
    _refuse_mixed(table, [name for name in words if name not in told and table.types[name] == "category"], MIXED_FROM)
    start = 0
    for batch in table.batches([*words, *binary]) if words or binary else ():
        for name in words:
            words[name] |= {
                label(value)
                for value in plain(batch.column(name)).unique().to_pylist()
                if value is not None and value == value  # nor NaN
            }
        for name in rounding:
            values = floats(batch.column(name), name, table, start)
            rounding[name].add(values)
            if name in binary and not np.isin(values[~np.isnan(values)], (0, 1)).all():
                binary.discard(name)
        start += len(batch)
    for name, found in rounding.items():
        found.warn(f"column {name!r}")
    features = []
    for name, kind in kinds.items():
        if kind == "category":
            features.append(Feature(name, kind, tuple(sorted(words[name]))))
        else:
            features.append(Feature(name, "binary" if name in binary else kind))
    return features


def _warn_of_commas(table: Table, names: list[str]) -> None:
    """Says which columns of words hold nothing but numbers with commas in them."""
    import pyarrow.compute as pc

    plausible = set(names)
    for batch in table.batches(names) if names else ():
        for name in list(plausible):
            words = plain(batch.column(name)).cast("string").drop_null()
            fits = pc.match_substring_regex(words, COMMAS)
            if len(words) and not pc.all(fits).as_py():
                plausible.discard(name)
    if found := [name for name in names if name in plausible]:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        warnings.warn(
            f"Column {found[0]!r} of {table.name}{more} holds numbers with commas, which are words here and no"
            " features. Write decimal points, and no signs between thousands.",
            stacklevel=2,
        )


def _refuse_mixed(table: Table, names: list[str], limit: float) -> None:
    """Raises DataError for a column of numbers with some words in it; says where the first is."""
    import pyarrow.compute as pc

    start: dict[str, tuple[int, int, int, str]] = dict.fromkeys(names, (0, 0, -1, ""))
    row = 0
    for batch in table.batches(names) if names else ():
        for name in names:
            column = plain(batch.column(name)).cast("string")
            fits = pc.match_substring_regex(column, NUMBERS)
            good, there = pc.sum(fits).as_py() or 0, len(fits) - fits.null_count
            numbers, total, first, value = start[name]
            if first < 0 and good < there:
                place = pc.index(fits, False).as_py()
                first, value = row + place, column[place].as_py()
            start[name] = (numbers + good, total + there, first, value)
        row += len(batch)
    for name, (numbers, total, first, value) in start.items():
        if total and first >= 0 and numbers / total >= limit:
            raise DataError(
                f"Expected one type in column {name!r} of {table.name}; {numbers} of {total} values are numbers, and"
                f" {named(first)} holds {value!r}. Correct it (leave it empty if it is unknown), name the column"
                f" '{name}:category' if words are meant, or leave it out of the features ('-{name}')."
            )


def _as_trained(table: Table, like: Schema) -> list[Feature]:
    """The features that a model was trained with, by name, whatever their order here."""
    missing = [feature.name for feature in like.features if feature.name not in table.types]
    if missing:
        raise DataError(
            f"Expected the columns that the model was trained with in {table.name}; {', '.join(map(repr, missing[:5]))}"
            f"{f' and {len(missing) - 5} more are' if len(missing) > 5 else ' is' if len(missing) == 1 else ' are'}"
            f" missing."
            " Add them (empty where a value is unknown)."
        )
    return list(like.features)


def _numbers(
    table: Table, found: Callable[[], list[Feature]], width: int, about: Mapping[str, Any], asked: Asked
) -> tuple[Any, list[Feature]]:
    """(N, F) float32, in memory or kept on disk, and the features; of kept numbers nothing is looked at again.

    Args:
        table: a table.
        found: the features, which may take a look over the table.
        width: F.
        about: what they depend on, as JSON values.
        asked: how to read.
    """
    if asked.keep(table.rows * width * 4):
        features = found()
        x = np.empty((table.rows, width), np.float32)
        start = 0
        for block in _blocks(table, features):
            x[start : start + len(block)] = block
            start += len(block)
        return x, features
    refuse_homeless(table)
    path = cache.place(asked.cache, table.files[0].parent, table.name, about, table.files)
    if not path.exists():
        features = found()
        notes = [asdict(feature) for feature in features]
        cache.write(path, (width,), np.float32, _blocks(table, features), notes)
    x, notes = cache.load(path, in_memory=False)
    return x, [feature_from(saved) for saved in notes]


def _blocks(table: Table, features: list[Feature]) -> Iterator[np.ndarray[Any, Any]]:
    start = 0
    for batch in table.batches([feature.name for feature in features]):
        block = np.empty((len(batch), len(features)), np.float32)
        for place, feature in enumerate(features):
            column = batch.column(feature.name)
            if feature.kind == "category":
                block[:, place] = feature.codes(np.array(plain(column).to_pylist(), dtype=object))
            else:
                block[:, place] = floats(column, feature.name, table, start)
        if np.isinf(block).any():
            row, place = np.argwhere(np.isinf(block))[0]
            raise DataError(
                f"Expected finite numbers in column {features[place].name!r} of {table.name}; got infinity or a number"
                f" too large in {named(start + row)}. Correct it, or leave it empty."
            )
        start += len(block)
        yield block


def floats(column: Any, name: str, table: Table, start: int = 0) -> np.ndarray[Any, Any]:
    """An Arrow column, from row ``start`` of the table on, as float64, NaN where it is null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        values = plain(column)
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            values = values.cast("float64")
        return np.asarray(values.cast("float64", safe=False).to_numpy(zero_copy_only=False), np.float64)
    except pa.ArrowInvalid as error:
        what = str(error)
        if pa.types.is_string(values.type):
            place = pc.index(pc.match_substring_regex(values, NUMBERS), False).as_py()
            what = f"{named(start + place)} holds {values[place].as_py()!r}" if place >= 0 else what
        raise DataError(
            f"Expected numbers in column {name!r} of {table.name}; {what}. Correct it (leave it empty if it is"
            f" unknown), or train with '{name}:category'."
        ) from error
