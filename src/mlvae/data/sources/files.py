"""Tables as streams of Arrow batches, wherever they come from, and what may be wrong with their files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlvae.data.sources.raw import Asked
from mlvae.errors import DataError
from mlvae.untrusted import plain_json

ROWS = 65_536
"""Rows of a batch at most."""

ROWS_A_BYTE = 1000
"""Rows that a byte of a Parquet file may stand for: constant columns take next to nothing, but a table has others."""

COLUMNS = 2**18
"""Columns of a table at most."""

NUMBERS = 4 * 2**20
"""Numbers of a batch, about."""


def batch_rows(columns: int) -> int:
    """Rows of a batch of so many columns."""
    return max(64, min(ROWS, NUMBERS // max(1, columns)))


@dataclass(frozen=True, eq=False)
class Table:
    """A table that can be gone over more than once, some columns at a time.

    Args:
        name: for messages.
        types: what each column holds, one of `select.TYPES`.
        rows: how many there are.
        batches: from column names to batches of rows.
        files: that it is in; none where it is in memory.
        skipped: files that were passed over.
        schema: of Parquet, the Arrow types that all its files are brought to.
    """

    name: str
    types: dict[str, str]
    rows: int
    batches: Callable[[Sequence[str]], Iterator[Any]]
    files: tuple[Path, ...] = ()
    skipped: tuple[str, ...] = ()
    schema: Any = None


def in_memory(table: Any, name: str, files: Sequence[Path] = (), skipped: Sequence[str] = ()) -> Table:
    """An Arrow table."""
    refuse_twins(table.schema, name)
    if (schema := _without_views(table.schema)) != table.schema:
        table = table.cast(schema)
    if not table.num_rows:
        raise DataError(f"Expected rows in {name}; it has none.")
    return Table(
        name,
        {field.name: kind_of(field.type) for field in table.schema},
        table.num_rows,
        lambda columns: iter(table.select(list(columns)).to_batches(max_chunksize=batch_rows(len(columns)))),
        tuple(files),
        tuple(skipped),
    )


def parquet_table(files: list[Path], asked: Asked) -> Table:
    """Parquet files with the same columns, read a part at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    good: list[Path] = []
    schema: Any = None
    skipped: list[str] = []
    for file in files:
        try:
            if not file.stat().st_size:
                raise DataError(f"Expected a Parquet file; {file} is empty (0 bytes). Write it again.")
            with wrap(file, "Parquet"):
                found = _without_views(pq.read_schema(file))
                refuse_twins(found, file.name)
            schema = _common(schema, found, good[0], file) if good else found
            good.append(file)
        except DataError as bad:
            asked.skip(bad, str(file), skipped)
    if not good:
        raise DataError(f"Expected a Parquet file that can be read; all {len(files)} cannot.")
    with wrap(good[0], "Parquet"):
        rows = sum(pq.read_metadata(file).num_rows for file in good)
    if rows > ROWS_A_BYTE * sum(file.stat().st_size for file in good) or len(schema) > COLUMNS:
        raise DataError(
            f"Expected at most {ROWS_A_BYTE} rows a byte and {COLUMNS:,} columns in {good[0].parent}; its files say"
            f" {rows:,} and {len(schema):,}. They are damaged, or meant to fill your memory."
        )
    name = good[0].stem if len(good) == 1 else good[0].parent.name
    if not rows:
        raise DataError(f"Expected rows in {name}; it has none.")

    def batches(columns: Sequence[str]) -> Iterator[Any]:
        # File by file: a scanner over all of them reads ahead, and holds gigabytes.
        for file in good:
            with wrap(file, "Parquet"), pq.ParquetFile(file, pre_buffer=False, buffer_size=2**20) as opened:
                for batch in opened.iter_batches(batch_rows(len(columns)), columns=list(columns), use_threads=False):
                    arrays = [batch.column(column).cast(schema.field(column).type) for column in columns]
                    yield pa.RecordBatch.from_arrays(arrays, names=list(columns))

    types = {field.name: kind_of(field.type) for field in schema}
    return Table(name, types, rows, batches, tuple(good), tuple(skipped), schema)


def _common(schema: Any, found: Any, first: Path, file: Path) -> Any:
    """The schema with types that also hold what a further file has.

    Raises:
        DataError: it has other columns, or words where there are numbers.
    """
    import pyarrow as pa

    if set(found.names) != set(schema.names):
        odd = sorted(set(found.names) ^ set(schema.names))[:5]
        raise DataError(f"Expected the columns of {first.name} in {file}; they differ in {odd}.")
    for place, field in enumerate(schema):
        other = found.field(field.name)
        if other.equals(field):
            continue
        known, came = (held.value_type if pa.types.is_dictionary(held) else held for held in (field.type, other.type))
        kinds = {kind_of(known), kind_of(came)}
        try:
            both = [pa.schema([(field.name, held)]) for held in (known, came)]
            common = pa.unify_schemas(both, promote_options="permissive").field(0).type
        except (pa.ArrowTypeError, pa.ArrowInvalid):
            if len(kinds) > 1 and kinds != {"number", "binary"}:
                raise DataError(
                    f"Expected {known} in column {field.name!r} of {file}, as in {first.name}; got {came}. Write it"
                    " with one type in all files."
                ) from None
            common = came if kind_of(known) == "binary" else known
        schema = schema.set(place, pa.field(field.name, common))
    return schema


def _without_views(schema: Any) -> Any:
    """The schema, words that polars keeps as views as those that can be computed with."""
    import pyarrow as pa

    for place, field in enumerate(schema):
        words, held = pa.large_string(), field.type
        if pa.types.is_dictionary(held) and pa.types.is_string_view(held.value_type):
            schema = schema.set(place, field.with_type(pa.dictionary(held.index_type, words)))
        elif pa.types.is_string_view(held):
            schema = schema.set(place, field.with_type(words))
    return schema


def frame_table(source: Any, name: str) -> Table:
    """A data frame of pandas, polars or any library that speaks Arrow."""
    import pyarrow as pa

    try:
        if type(source).__module__.partition(".")[0] == "pandas":
            return in_memory(pa.Table.from_pandas(source, preserve_index=False), name)
        return in_memory(source if isinstance(source, pa.Table) else pa.table(source), name)
    except (pa.ArrowInvalid, pa.ArrowTypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"Expected columns of one type each, with names that differ, in the data frame; {error}."
            " Convert or rename the column."
        ) from error


def huggingface_table(source: Any) -> Table:
    """A `datasets.Dataset` as Arrow, its own selection of rows applied."""
    return in_memory(
        source.with_format("arrow")[:], str((getattr(source, "info", None) and source.info.dataset_name) or "dataset")
    )


def saved_table(folder: Path) -> Table:
    """What `Dataset.save_to_disk` wrote: Arrow streams, read without that library."""
    import pyarrow as pa

    with wrap(folder, "data set"):
        state = plain_json((folder / "state.json").read_bytes())
        names = [str(entry["filename"]) for entry in state["_data_files"]]
        if outside := [name for name in names if Path(name).name != name]:
            raise DataError(f"Expected the files of {folder} in it; state.json names {outside[0]!r}. Do not trust it.")
        files = [folder / name for name in names]
        table = pa.concat_tables([pa.ipc.open_stream(pa.memory_map(str(file))).read_all() for file in files])
    return in_memory(table, folder.name, files)


def kind_of(type_: Any) -> str:
    """What a column of that Arrow type holds: one of `select.TYPES`."""
    import pyarrow as pa

    types = pa.types
    if isinstance(type_, pa.BaseExtensionType):
        return kind_of(type_.storage_type)
    if types.is_dictionary(type_):
        return kind_of(type_.value_type)
    if types.is_struct(type_) and {field.name for field in type_} >= {"bytes"}:
        return "image"
    if types.is_list(type_) or types.is_large_list(type_) or types.is_fixed_size_list(type_):
        return "vector" if kind_of(type_.value_type) in ("number", "vector") else "other"
    checks = {
        "binary": [types.is_boolean],
        "number": [types.is_integer, types.is_floating, types.is_decimal],
        "category": [types.is_string, types.is_large_string],
        "time": [types.is_temporal],
    }
    return next((kind for kind, tests in checks.items() if any(test(type_) for test in tests)), "other")


def refuse_twins(schema: Any, name: str) -> None:
    """Raises DataError where two columns have one name."""
    twins = (
        sorted({column for column in schema.names if schema.names.count(column) > 1})
        if (len(set(schema.names)) < len(schema.names))
        else []
    )
    if twins:
        raise DataError(
            f"Expected columns of different names in {name}; {', '.join(map(repr, twins))} occurs twice. Rename one."
        )


@contextmanager
def wrap(file: Path, what: str) -> Iterator[None]:
    """What Arrow says of a file, with its name and what to do."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        advice = "Was the copy cut off?"
        if "UTF8" in text or "UTF-8" in text:
            advice = f"It is not UTF-8: save it again, for example `iconv -f latin1 -t utf-8 {file.name}`."
        elif "parse error" in text:
            advice = "Correct that row: every row needs as many fields as the header."
        elif "not in range" in text or "lose data" in text:
            advice = "Write that column with one type in all files."
        raise DataError(f"Expected a whole {what} file; {file} cannot be read ({text}). {advice}") from error


def refuse_homeless(table: Table) -> None:
    """Raises DataError where a table in memory is to keep its numbers on disk."""
    if not table.files:
        raise DataError(
            "Expected a table in files to keep its numbers on disk; got one in memory. Pass in_memory=True."
        )
