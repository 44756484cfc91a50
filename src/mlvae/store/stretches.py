"""Tables and folders of pictures a stretch of rows at a time, for jobs that must not hold them whole.

What a stretch holds is what the same rows would be in the whole, so that pieces of evidence and of codes fit together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from mlvae.data import GroupedData
from mlvae.data.arrays import settle
from mlvae.data.sources import files as sources
from mlvae.data.sources import grouping_column, images, tables
from mlvae.data.sources.raw import Asked, Raw

ROWS = 2**16
"""Observations in a stretch, at most."""

BYTES = 64 * 2**20
"""Of a stretch, about; of wide rows it has fewer."""

Load = Callable[[], GroupedData | None]


def of_parquet(
    files: list[Path], asked: Asked, missing: str, keys: Sequence[str]
) -> Iterator[tuple[Path, int, int, Load]]:
    """Stretches of Parquet files: the file, the first row, how many, and what reads them.

    Args:
        files: with the same columns.
        asked: how to read.
        missing: "error" or "drop" rows without a label.
        keys: further columns that must have labels.
    """
    import pyarrow.parquet as pq

    table = sources.parquet_table(files, asked)
    schema = pq.read_schema(table.files[0])
    whole = [key for key in dict.fromkeys([asked.by or "group", *keys]) if _whole_with_gaps(table, key)]
    for file in table.files:
        about = pq.read_metadata(file)
        stored = sum(about.row_group(place).total_byte_size for place in range(about.num_row_groups))
        step = _step(max(stored // max(about.num_rows, 1), 8 * about.num_columns))
        rows = Rows(file, schema)
        for start in range(0, about.num_rows, step):
            count = min(step, about.num_rows - start)
            yield file, start, count, partial(_read, rows, start, start + count, whole, asked, missing, keys)


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
        self.file, self.schema = file, schema
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
        table = pa.Table.from_batches(parts)
        return table.select(self.schema.names).cast(self.schema)

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


def _step(nbytes: int) -> int:
    return max(64, min(ROWS, BYTES // max(nbytes, 1)))


def _read(
    rows: Rows, start: int, stop: int, whole: list[str], asked: Asked, missing: str, keys: Sequence[str]
) -> GroupedData | None:
    table = rows.read(start, stop)
    for key in whole:
        place = table.schema.get_field_index(key)
        table = table.set_column(place, key, _as_integers(table.column(key)))
    return _grouped(tables.from_table(sources.in_memory(table, rows.file.stem), asked), asked, missing, keys)


def _decode(path: Path, some: list[Path], size: tuple[int, int], mode: str, asked: Asked) -> GroupedData | None:
    raw = images.some(path, some, size, mode, asked)
    return None if raw is None else _grouped(raw, asked, "error", ())


def _grouped(raw: Raw, asked: Asked, missing: str, keys: Sequence[str]) -> GroupedData | None:
    """Rows under their labels, of which a stretch may have one, or none."""
    by = grouping_column(asked.by, raw.columns, raw.others, len(raw.x), raw.name)
    data = GroupedData(raw.x, raw.columns, None, raw.name, raw.schema, raw.gaps, raw.skipped)
    columns = dict(data.columns)
    kept = np.arange(len(data))
    for key in dict.fromkeys([by, *keys]):
        labels, rows = settle(np.asarray(data.column(key))[kept], key, missing)
        kept = kept[rows]
        columns = {name: values[rows] for name, values in columns.items()} | {key: labels}
    if not len(kept):
        return None
    return GroupedData(data.x[kept], columns, by, data.name, data.schema, data.gaps, data.skipped)


def _whole_with_gaps(table: sources.Table, column: str) -> bool:
    """Whether a column of decimals is one of whole numbers with gaps, as data frames keep those: its labels are whole.

    A stretch without a gap cannot know.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    gaps = False
    for batch in table.batches([column]) if column in table.types else ():
        values = batch.column(column)
        if not pa.types.is_floating(values.type):
            return False
        known = values.drop_null().filter(pc.is_finite(values.drop_null()))
        gaps |= len(known) < len(values)
        if len(known) and not pc.all(pc.equal(known, pc.floor(known))).as_py():
            return False
    return gaps


def _as_integers(column: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.if_else(pc.is_finite(column), column, pa.scalar(None, column.type)).cast(pa.int64())
