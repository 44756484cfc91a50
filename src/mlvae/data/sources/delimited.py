"""CSV and TSV, gone over a block of lines at a time: only once the last line is seen are the columns' types known."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlvae.data.sources.files import COLUMNS, ROWS, Table, batch_rows, in_memory, kind_of, refuse_twins, wrap
from mlvae.data.sources.raw import Asked
from mlvae.data.sources.select import chosen
from mlvae.data.stored import stamp
from mlvae.errors import DataError
from mlvae.errors import row as named
from mlvae.untrusted import TEXT

PADDED = re.compile(rb"[,;\t\n\"][+-]?0[0-9]|^[+-]?0[0-9]")
"""A number with a zero before it, somewhere in a table."""
LONG = re.compile(rb"[0-9]{19}")
"""A number that no type of whole numbers may hold."""
BLOCK = 16 * 2**20
"""Bytes of a block, at most, but for its last line; of short lines it has about `ROWS`."""


@dataclass(frozen=True, eq=False)
class Block:
    """Some lines of a file, all of its columns.

    Args:
        file: that they are in.
        start: their first byte.
        nbytes: how many.
        first: the rows before them in the file.
        rows: in them.
        delimiter: between values.
        stamp: of the file when it was first looked at.
        names: of the columns; None for the block that begins with them.
    """

    file: Path
    start: int
    nbytes: int
    first: int
    rows: int
    delimiter: str
    stamp: Any
    names: tuple[str, ...] | None = None

    def read(self, types: Any = None, columns: Sequence[str] | None = None) -> Any:
        """An Arrow table, of ``types`` (an Arrow schema) or of what the block by itself looks like.

        Raises:
            DataError: the lines are damaged, or the file changed since it was first looked at.
        """
        if stamp(self.file) != self.stamp:
            raise DataError(f"Expected {self.file} to stay as it was; it changed while it was read. Start again.")
        with self.file.open("rb") as file:
            file.seek(self.start)
            text = file.read(self.nbytes)
        return read_csv(text, self.file, self.delimiter, names=self.names, types=types, columns=columns, row=self.first)


def csv_blocks(files: list[Path], asked: Asked) -> tuple[list[Block], Any, list[str]]:
    """The blocks of CSV files with the same columns, their Arrow schema, and the files that were passed over."""
    import pyarrow as pa

    blocks: list[Block] = []
    types: dict[str, set[Any]] = {}
    skipped: list[str] = []
    for file in files:
        try:
            found = list(_blocks_of(file, asked))
            names = found[0][1].names
            if types and set(names) != set(types):
                odd = sorted(set(names) ^ set(types))[:5]
                raise DataError(f"Expected the columns of {blocks[0].file.name} in {file}; they differ in {odd}.")
        except DataError as bad:
            asked.skip(bad, str(file), skipped)
            continue
        for block, schema in found:
            blocks.append(block)
            for field in schema:
                types.setdefault(field.name, set()).add(field.type)
    if not blocks:
        raise DataError(f"Expected a CSV file that can be read; all {len(files)} cannot.")
    return blocks, pa.schema([(name, _common(kinds)) for name, kinds in types.items()]), skipped


def csv_table(files: list[Path], asked: Asked) -> Table:
    """CSV files with the same columns: in memory where they are small, else parsed each time they are gone over."""
    import pyarrow as pa

    blocks, schema, skipped = csv_blocks(files, asked)
    good = list(dict.fromkeys(block.file for block in blocks))
    name = good[0].stem if len(good) == 1 else good[0].parent.name
    if asked.keep(sum(file.stat().st_size for file in good)):
        tables = [block.read(schema).select(schema.names) for block in blocks]
        return in_memory(pa.concat_tables(tables), name, good, skipped)
    return streamed(blocks, schema, name, skipped)


def streamed(blocks: Sequence[Block], schema: Any, name: str, skipped: Iterable[str] = ()) -> Table:
    """Blocks of CSV as a table that holds one of them at a time."""
    rows = sum(block.rows for block in blocks)
    if not rows:
        raise DataError(f"Expected rows in {name}; it has none.")

    def batches(columns: Sequence[str]) -> Iterator[Any]:
        for block in blocks:
            table = block.read(schema, columns)
            yield from table.combine_chunks().to_batches(max_chunksize=batch_rows(len(columns)))

    kinds = {field.name: kind_of(field.type) for field in schema}
    return Table(name, kinds, rows, batches, tuple(dict.fromkeys(block.file for block in blocks)), tuple(skipped))


def read_csv(
    text: bytes, file: Path, delimiter: str, *, header: bool = True, names: Sequence[str] | None = None,
    types: Any = None, columns: Sequence[str] | None = None, row: int = 0,
) -> Any:  # fmt: skip
    """CSV as an Arrow table.

    Args:
        text: whole lines.
        file: what messages call them.
        delimiter: between values.
        header: whether the first line names the columns, where ``names`` do not.
        names: of the columns, in lines that do not.
        types: an Arrow schema; None takes the narrowest types that fit.
        columns: that are wanted, in this order; None takes all.
        row: rows of the file before these.

    Raises:
        DataError: they are damaged, not UTF-8, or two columns have one name.
    """
    import pyarrow as pa
    from pyarrow import csv

    # A copy that Arrow owns: its threads let go of what they have read a little late, and one that then lets go of a
    # Python object while the process is ending aborts it.
    copy = pa.BufferOutputStream()
    copy.write(text)
    held = copy.getvalue()

    def parsed(threads: bool) -> Any:
        return csv.read_csv(
            pa.BufferReader(held),
            read_options=csv.ReadOptions(
                column_names=names, autogenerate_column_names=not header and names is None, use_threads=threads
            ),
            parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=b'"' in text),
            convert_options=csv.ConvertOptions(
                strings_can_be_null=True, column_types=types, include_columns=list(columns or ())
            ),
        )

    with wrap(file, "CSV"):
        try:
            table = parsed(True)
        except pa.ArrowInvalid as error:
            if "parse error" not in str(error):
                raise
            try:  # one thread knows which row it is
                table = parsed(False)
            except pa.ArrowInvalid as again:
                before = row - (2 if header and names is None else 1)
                said = re.sub(r"Row #(\d+)", lambda found: named(int(found[1]) + before), str(again))
                raise pa.ArrowInvalid(said) from error
        refuse_twins(table.schema, file.name)
        table = table.select(list(columns)) if columns is not None else table
    if garbled := [field.name for field in table.schema if pa.types.is_binary(field.type)]:
        raise DataError(
            f"Expected UTF-8 in {file}; column {garbled[0]!r} is not UTF-8. Save it again, for example"
            f" `iconv -f latin1 -t utf-8 {file.name}`."
        )
    return table


def delimiter(header: bytes) -> str:
    """What parts the names in the first line of a table: the commonest of comma, semicolon and tab, but in quotes.

    Example:
        >>> delimiter(b"a;b;c,d"), delimiter(b"a"), delimiter(b'a;"b, c, d"')
        (';', ',', ';')
    """
    bare = re.sub(rb'"[^"]*"', b"", header)
    return max(",;\t", key=lambda sign: bare.count(sign.encode()))


def _blocks_of(file: Path, asked: Asked) -> Iterator[tuple[Block, Any]]:
    """The blocks of a file, each with its own Arrow schema; labels that begin with a zero, as 007 does, are words."""
    mark, seen = _delimiter(file), stamp(file)
    names: tuple[str, ...] | None = None
    start = first = 0
    with file.open("rb") as stream:
        sample = stream.read(2**20)
        size = min(BLOCK, ROWS * -(-len(sample) // max(1, sample.count(b"\n"))))
        stream.seek(0)
        while (text := stream.read(size)) or not start:
            text += b"" if text.endswith(b"\n") else stream.readline(TEXT)
            # An odd number of quotes is a line break within some, unless nothing closes them.
            while text.count(b'"') % 2 and len(text) < 2 * BLOCK and (more := stream.readline(TEXT)):
                text += more
            block = Block(file, start, len(text), first, 0, mark, seen, names)
            table = read_csv(text, file, mark, names=names, row=first)
            yield replace(block, rows=len(table)), _as_words(block, text, table.schema, _labels(table.schema, asked))
            names = names or tuple(table.column_names)
            start, first = start + len(text), first + len(table)


def _labels(schema: Any, asked: Asked) -> set[str | None]:
    """Columns that name groups, or may: those that are asked for, and where features are, all others."""
    named = {asked.by, asked.usual, "group", *asked.labels}
    if asked.features is None:
        return named
    try:
        types = {field.name: kind_of(field.type) for field in schema}
        features = chosen(asked.features, types, ()) if asked.features else {}
    except DataError:  # which is told where they are taken
        return named
    return named | set(schema.names) - set(features)


def _as_words(block: Block, text: bytes, schema: Any, labels: Collection[str | None]) -> Any:
    """The schema, numbers of columns of labels as words where one is written with a zero before it, or is too long."""
    import pyarrow as pa
    import pyarrow.compute as pc

    labelled = [field for field in schema if field.name in labels]
    for field in labelled:  # of more than 19 digits, which Arrow takes for decimals
        if pa.types.is_floating(field.type) and LONG.search(text):
            schema = schema.set(schema.get_field_index(field.name), pa.field(field.name, pa.string()))
    whole = [field.name for field in labelled if pa.types.is_integer(field.type)]
    if not whole or not PADDED.search(text):
        return schema
    words = pa.schema([(name, pa.string()) for name in whole])
    table = read_csv(text, block.file, block.delimiter, names=block.names, types=words, columns=whole, row=block.first)
    for name in whole:
        if pc.any(pc.match_substring_regex(table[name], "^[+-]?0[0-9]")).as_py():
            schema = schema.set(schema.get_field_index(name), pa.field(name, pa.string()))
    return schema


def _common(types: set[Any]) -> Any:
    """The narrowest Arrow type that holds what all blocks have of a column; words where they have nothing in common."""
    import pyarrow as pa

    types = types - {pa.null()}
    if len(types) < 2:
        return next(iter(types), pa.null())
    if types == {pa.int64(), pa.float64()}:
        return pa.float64()
    times = {pa.date32(), pa.timestamp("s"), pa.timestamp("ns")}
    return (pa.timestamp("ns" if pa.timestamp("ns") in types else "s")) if types <= times else pa.string()


def _delimiter(file: Path) -> str:
    with file.open("rb") as stream:
        header = stream.readline(TEXT)
    counts = {mark: header.count(mark.encode()) for mark in (",", ";", "\t")}
    if max(counts.values()) > COLUMNS:
        raise DataError(f"Expected at most {COLUMNS:,} columns in {file}; its first line has more. Is it a CSV file?")
    if file.suffix.lower() == ".tsv":
        return "\t"
    return delimiter(header)
