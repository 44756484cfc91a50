"""Evidence on disk, added up by DuckDB, which spills what memory cannot hold. Nothing here needs torch."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlvae.atomic import replacing
from mlvae.errors import EvidenceError, MissingExtraError
from mlvae.store.layout import COLUMNS, KEY, Layout, PathLike, free, layout_of
from mlvae.untrusted import reading

ROUNDING = 0.01
"""As in `mlvae.evidence`."""


def merge(inputs: Sequence[PathLike], out: PathLike) -> Path:
    """Adds files of evidence up, group by group, in a database that spills to the disk what memory cannot hold.

    Args:
        inputs: files of one model; rows of one group add, also within a file.
        out: a file that does not exist yet.

    Raises:
        EvidenceError: other models or layouts, or one piece of evidence is in two inputs.
        CheckpointError: there is something at ``out``.
    """
    if not inputs:
        raise EvidenceError("Expected files of evidence to merge; got none.")
    layouts = [layout_of(path) for path in inputs]
    layout = layouts[0].combined(layouts[1:], 1, [str(path) for path in inputs])
    return _summed(list(inputs), [], layout, out)


def retract(everything: PathLike, part: PathLike, out: PathLike) -> Path:
    """Takes the evidence of one file out of another's; a group without votes is left out.

    This takes votes out of sums. A network that was trained on the observations still remembers them. Warns where
    ``part`` is no part of ``everything`` by name: whether its observations are a subset nobody can tell from sums.

    Args:
        everything: a file of evidence.
        part: evidence that was added to it, or that of observations which were.
        out: a file that does not exist yet.

    Raises:
        EvidenceError: more votes on a group would be taken out than went in, or others as far as sums can tell, other
            models or layouts, or ``part`` was taken out before.
        CheckpointError: there is something at ``out``.
    """
    names = [str(everything), str(part)]
    whole, leaving = layout_of(everything), layout_of(part)
    rest = _summed([everything], [part], whole.combined([leaving], -1, names), out)
    if any(whole.ledger.get(piece, 0) < 1 for piece in leaving.ledger):
        warnings.warn(
            f"{part} was not added to {everything} as it is: it is taken for the evidence of observations that are in"
            " it. Where they are not, what is left is wrong.",
            stacklevel=2,
        )
    return rest


def database() -> Any:
    """The duckdb package."""
    try:
        import duckdb
    except ImportError as error:
        raise MissingExtraError(
            "Expected the package duckdb to add up evidence on disk; it is not installed. pip install 'mlvae[store]'."
        ) from error
    return duckdb


def sums(level: str, layout: Layout, source: str, *, sign: str = "") -> str:
    """The SQL that adds up a level's rows, group by group."""
    dim = layout.levels[level].dim
    low = ("greatest(", ", 0)") if sign else ("", "")
    lists = {
        "precision": ", ".join(f"{low[0]}sum({sign}precision[{d}]){low[1]}" for d in range(1, dim + 1)),
        "information": ", ".join(f"sum({sign}information[{d}])" for d in range(1, dim + 1)),
    }
    where = f" where level = {_quoted(level)}" if len(layout.levels) > 1 else ""
    having = f" having sum({sign}count) > 0" if sign else ""
    return (
        f'select {_quoted(level)} as level, "group", sum({sign}count)::bigint as count,'
        f" [{lists['precision']}] as precision, [{lists['information']}] as information"
        f' from {source}{where} group by "group"{having}'
    )


def _summed(plus: Sequence[PathLike], minus: Sequence[PathLike], layout: Layout, out: PathLike) -> Path:
    duckdb, out = database(), free(out)
    source = _files(plus)
    if minus:
        source = f"(select *, 1 as sign from {source} union all by name select *, -1 as sign from {_files(minus)})"
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as spill, duckdb.connect() as connection:
        connection.execute(f"set temp_directory = {_quoted(spill)}; set preserve_insertion_order = false")
        try:
            if minus:
                _check_enough(connection, source, str(plus[0]), str(minus[0]))
                for level in layout.levels:
                    _check_added(connection, level, layout, _files(plus), _files(minus), str(minus[0]))
            query = " union all ".join(
                sums(level, layout, source, sign="sign * " if minus else "") for level in layout.levels
            )
            about = f"{{{KEY.decode()}: {_quoted(layout.metadata())}}}"
            with replacing(out) as beside:
                target = f"{_quoted(str(beside))} (format parquet, compression uncompressed, kv_metadata {about})"
                connection.execute(f"copy ({query}) to {target}")
        except duckdb.Error as error:
            names = ", ".join(str(path) for path in [*plus, *minus])
            raise EvidenceError(f"Expected to add up {names}; the database could not: {error}") from error
    return out


def _check_enough(connection: Any, source: str, everything: str, part: str) -> None:
    row = connection.execute(
        f'select level, "group", sum(count) filter (sign > 0), sum(count) filter (sign < 0) from {source}'
        " group by all having sum(sign * count) < 0 limit 1"
    ).fetchone()
    if row:
        raise EvidenceError(
            f"Expected to remove at most the {row[2] or 0} votes that {everything} has on group {row[1]!r} of"
            f" {row[0]!r}; {part} has {row[3]}. Remove only evidence that was added before."
        )


def _check_added(connection: Any, level: str, layout: Layout, plus: str, minus: str, part: str) -> None:
    """Raises EvidenceError where what would be left of a group is no evidence, as `Evidence.__sub__` does."""
    left = {name: f"a.{name}[d] - b.{name}[d]" for name in ("precision", "information")}
    allowed = f"{ROUNDING} * (1 + a.precision[d])"
    strange = (
        f"case when a.count > b.count then {left['precision']} < -{allowed} else abs({left['precision']}) > {allowed}"
        f" or abs({left['information']}) > {allowed} + {ROUNDING} * abs(a.information[d]) end"
    )
    touched = f'(select * from {plus} semi join b using (level, "group"))'
    row = connection.execute(
        f"with b as ({sums(level, layout, minus)}), a as ({sums(level, layout, touched)})"
        f' select "group", a.count, b.count from a join b using ("group"),'
        f" unnest(range(1, {layout.levels[level].dim + 1})) as each(d) where {strange} limit 1"
    ).fetchone()
    if row:
        raise EvidenceError(
            f"Expected to remove votes that were added; of the {row[1]} votes on group {row[0]!r} of {level!r} those"
            f" {row[2]} of {part} can be no part, as what would be left is no evidence. Remove only evidence that was"
            " added before."
        )


def check_unique(path: PathLike) -> None:
    """Raises EvidenceError where a group is in a file more than once."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with reading("file of evidence", path, EvidenceError, "It is damaged. Use an earlier copy."):
        names = pq.read_table(Path(path), columns=["level", "group"])
        times = names.group_by(["level", "group"]).aggregate([([], "count_all")])
        twice = times.filter(pc.greater(times["count_all"], 1)).slice(0, 1).to_pylist()
    for row in twice:
        raise EvidenceError(
            f"Expected every group once in {path}; {row['group']!r} of {row['level']!r} is there more often."
            f" `mlvae evidence merge {path} --out NEW` adds its rows up."
        )


def _files(paths: Sequence[PathLike]) -> str:
    columns = ", ".join(f'"{name}"' for name in COLUMNS)
    # A name with *, ? or [ would be taken for a pattern.
    literal = ["".join(f"[{c}]" if c in "*?[" else c for c in str(Path(path).resolve())) for path in paths]
    return f"(select {columns} from read_parquet([{', '.join(map(_quoted, literal))}]))"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
