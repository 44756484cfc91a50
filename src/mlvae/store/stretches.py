"""Tables, arrays and folders of pictures a stretch of rows at a time, for jobs that must not hold them whole.

What a stretch holds is what the same rows would be in the whole, so that pieces of evidence and of codes fit together.
"""

from __future__ import annotations

import hashlib
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any

import numpy as np

from mlvae.data import GroupedData
from mlvae.data.arrays import settle
from mlvae.data.sources import delimited, grouping_column, images, tables, vectors
from mlvae.data.sources import files as sources
from mlvae.data.sources.raw import Asked, Raw
from mlvae.data.stored import Stored
from mlvae.errors import DataError

ROWS = 2**16
"""Observations in a stretch, at most."""

BYTES = 64 * 2**20
"""Of a stretch, about; of wide rows it has fewer."""

Load = Callable[[], GroupedData | None]

Stretch = tuple[Path, int, int, Load]
"""The file, the first row, how many, and what reads them."""


def of_tables(files: list[Path], asked: Asked, missing: str, keys: Sequence[str]) -> Iterator[Stretch]:
    """Stretches of Parquet or CSV files.

    Args:
        files: of one kind, with the same columns.
        asked: how to read.
        missing: "error" or "drop" rows without a label.
        keys: further columns that must have labels.
    """
    table, readers = _opened(files, asked)
    whole = cache(partial(_whole, table))

    def load(rows: Rows | Lines, start: int, stop: int) -> GroupedData | None:
        raw = tables.from_table(sources.in_memory(rows.read(start, stop), rows.file.stem), asked)
        return grouped(raw, asked, missing, keys, whole)

    for rows in readers:
        yield from _stretches(rows.file, rows.count, _step(rows.nbytes), partial(load, rows))


def of_array(file: Path, beside: Path, asked: Asked, missing: str, keys: Sequence[str]) -> Iterator[Stretch]:
    """Stretches of an ``.npy`` file whose columns are in a table beside it. See `of_tables`."""
    x = Stored(file)
    table, (rows,) = _opened([beside], replace(asked, features=()))
    if len(x) != table.rows:
        raise DataError(
            f"Expected a label for each of the {len(x)} rows of {file.name} in {beside.name}; it has {table.rows} rows."
        )
    whole = cache(partial(_whole, table))

    def load(start: int, stop: int) -> GroupedData | None:
        columns = tables.labels_in(sources.in_memory(rows.read(start, stop), beside.stem))
        # Whether the model knows gaps is asked where it sees them.
        return grouped(Raw(x[start:stop], columns, file.stem, gaps=True), asked, missing, keys, whole)

    yield from _stretches(file, len(x), _step(4 * x.shape[1:].numel()), load)


def of_pictures(path: Path, asked: Asked) -> Iterator[tuple[list[Path], int, Load]]:
    """Stretches of a folder of pictures: their files, the first one's number, and what decodes them."""
    found = images.found(path)
    size, mode = images.common_format(found, asked)
    images.columns(path, found, asked.folders)  # says what is wrong with the folders before anything is decoded
    step = _step(size[0] * size[1] * len(mode))
    for start in range(0, len(found), step):
        some = found[start : start + step]
        yield some, start, partial(_decode, path, some, size, mode, asked)


def stamp(files: Sequence[Path]) -> str:
    """What changes when one of the files does."""
    about = [(file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
    return hashlib.sha256(repr(about).encode()).hexdigest()[:16]


class Rows:
    """Rows of a Parquet file: asked for the stretch after the last one it reads on, else it looks for the place.

    A row group, which may be the whole file, is so decoded once by a job that goes from part to part.
    """

    def __init__(self, file: Path, schema: Any) -> None:
        import pyarrow.parquet as pq

        self.file, self.schema = file, schema
        about = pq.read_metadata(file)
        self.count = about.num_rows
        stored = sum(about.row_group(place).total_byte_size for place in range(about.num_row_groups))
        self.nbytes = max(stored // max(self.count, 1), 8 * about.num_columns)
        self._at = -1
        self._stream: Iterator[Any] = iter(())
        self._rest: Any = None

    def read(self, start: int, stop: int) -> Any:
        """Rows ``start`` to ``stop`` as an Arrow table of the schema."""
        import pyarrow as pa

        if start != self._at:
            self._stream, self._rest, self._at = self._from(start), None, start
        parts = []
        while self._at < stop:
            batch = next(self._stream) if self._rest is None else self._rest
            part = batch.slice(0, stop - self._at)
            self._rest = batch.slice(len(part)) if len(part) < len(batch) else None
            self._at += len(part)
            parts.append(part)
        if stop == self.count:  # of many files none keeps what it had open
            self._stream, self._rest, self._at = iter(()), None, -1
        with sources.wrap(self.file, "Parquet"):
            return pa.Table.from_batches(parts).select(self.schema.names).cast(self.schema)

    def _from(self, start: int) -> Iterator[Any]:
        import pyarrow.parquet as pq

        with sources.wrap(self.file, "Parquet"), pq.ParquetFile(self.file, pre_buffer=False, buffer_size=2**20) as file:
            about = file.metadata
            ends = list(accumulate(about.row_group(place).num_rows for place in range(about.num_row_groups)))
            first = next(place for place, end in enumerate(ends) if end > start)
            skip = start - (ends[first - 1] if first else 0)
            groups = list(range(first, len(ends)))
            for batch in file.iter_batches(sources.batch_rows(about.num_columns), row_groups=groups, use_threads=False):
                if skip < len(batch):
                    yield batch.slice(skip)
                skip = max(0, skip - len(batch))


class Lines:
    """Rows of a CSV file, of which it holds one block: from stretch to stretch each line is parsed once."""

    def __init__(self, blocks: Sequence[delimited.Block], schema: Any) -> None:
        self.file, self.blocks, self.schema = blocks[0].file, blocks, schema
        self.count = blocks[-1].first + blocks[-1].rows
        self.nbytes = max(sum(block.nbytes for block in blocks) // max(self.count, 1), 8 * len(schema))
        self._held: tuple[delimited.Block | None, Any] = (None, None)

    def read(self, start: int, stop: int) -> Any:
        """Rows ``start`` to ``stop`` as an Arrow table of the schema."""
        import pyarrow as pa

        parts = []
        for block in self.blocks[bisect([block.first for block in self.blocks], start) - 1 :]:
            if block.first >= stop:
                break
            if self._held[0] is not block:
                self._held = (None, None)
                self._held = (block, block.read(self.schema))
            begin = max(start - block.first, 0)
            parts.append(self._held[1].slice(begin, stop - block.first - begin))
        if stop == self.count:
            self._held = (None, None)
        return pa.concat_tables(parts)


def _opened(files: list[Path], asked: Asked) -> tuple[sources.Table, list[Rows] | list[Lines]]:
    """A table, and what reads the rows of each of its files."""
    if files[0].suffix.lower() == ".parquet":
        table = sources.parquet_table(files, asked)
        schema = table.schema
        for place, field in enumerate(schema):
            kind = vectors.as_decimals(field.type) if table.types[field.name] == "vector" else None
            if kind is not None and vectors.missing(table, field.name):  # a stretch without a gap cannot know
                schema = schema.set(place, field.with_type(kind))
        return table, [Rows(file, schema) for file in table.files]
    blocks, schema, skipped = delimited.csv_blocks(files, asked)
    by_file = [list(some) for _, some in groupby(blocks, lambda block: block.file)]
    return delimited.streamed(blocks, schema, files[0].stem, skipped), [Lines(some, schema) for some in by_file]


def _step(nbytes: int) -> int:
    return max(64, min(ROWS, BYTES // max(nbytes, 1)))


def _stretches(file: Path, count: int, step: int, load: Callable[[int, int], GroupedData | None]) -> Iterator[Stretch]:
    for start in range(0, count, step):
        stop = min(start + step, count)
        yield file, start, stop - start, partial(load, start, stop)


def _decode(path: Path, some: list[Path], size: tuple[int, int], mode: str, asked: Asked) -> GroupedData | None:
    raw = images.some(path, some, size, mode, asked)
    return None if raw is None else grouped(raw, asked, "error", ())


def grouped(
    raw: Raw, asked: Asked, missing: str, keys: Sequence[str], whole: Callable[[str], bool] | None = None
) -> GroupedData | None:
    """Rows under their labels, of which a stretch may have one, or none; ``whole`` as `_whole` of all stretches."""
    if not len(raw.x):  # pictures that are all bad and passed over
        return None
    by = grouping_column(asked.by, raw.columns, raw.others, len(raw.x), raw.name, asked.usual)
    data = GroupedData(raw.x, raw.columns, None, raw.name, raw.schema, raw.gaps, raw.skipped)
    columns = dict(data.columns)
    kept = np.arange(len(data))
    for key in dict.fromkeys([by, *keys]):
        held = np.asarray(data.column(key))[kept]
        labels, rows = settle(held, key, missing)
        if whole is not None and held.dtype.kind == "f" and labels.dtype.kind == "i" and not whole(key):
            labels = labels.astype(held.dtype)
        kept = kept[rows]
        columns = {name: values[rows] for name, values in columns.items()} | {key: labels}
    if not len(kept):
        return None
    return GroupedData(data.x[kept], columns, by, data.name, data.schema, data.gaps, data.skipped)


def _whole(table: sources.Table, column: str) -> bool:
    """Whether all labels of a column are whole numbers, as `labels.whole` asks: of decimals a stretch cannot know."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for batch in table.batches([column]):
        if not pa.types.is_floating(batch.column(column).type):
            return True
        known = batch.column(column).cast("float64").drop_null()
        known = known.filter(pc.invert(pc.is_nan(known)))
        good = pc.and_(pc.less(pc.abs(known), 2.0**53), pc.equal(known, pc.floor(known)))
        if len(known) and not pc.all(good).as_py():
            return False
    return True
