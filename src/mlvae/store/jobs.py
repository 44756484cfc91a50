"""Long encoding jobs: data in, codes and evidence out, a part at a time.

Each part's files are written whole or not at all, its evidence last; so what is there is done, and a job that was
killed goes on with the first part that is not. At the end the evidence of all parts is added up.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlvae import tables
from mlvae.atomic import move, place, replacing, write
from mlvae.checkpoint import fingerprint
from mlvae.data.sources import refuse_among
from mlvae.errors import CheckpointError, DataError, ModelError
from mlvae.heads import looked
from mlvae.labels import refuse_missing
from mlvae.store import adding, files
from mlvae.store.layout import free
from mlvae.store.parts import Part, parts_of
from mlvae.untrusted import plain_json, reading

if TYPE_CHECKING:
    from mlvae.data import GroupedData
    from mlvae.group_evidence import GroupEvidence
    from mlvae.heads import Heads
    from mlvae.model import MLVAE

MANIFEST = "manifest.json"


@dataclass(frozen=True, eq=False)
class Job:
    """What is to be encoded, and where to.

    Unfinished work lies in a folder beside the target, named like it with ".parts" at the end, which goes at the end.

    Args:
        model: on any device.
        source: as `parts_of` takes it.
        out: Parquet of codes, a row an observation.
        evidence: Parquet of evidence, a row a group of each shared level.
        by: the grouping column.
        missing: what to do with rows without a group.
        reading: further arguments of `mlvae.read`.

    Raises:
        DataError: nothing to write is named, or what a next job would take for observations; rows without a label are
            to be evidence; or as `parts_of`.
        ModelError: votes of one part depend on other parts, where a shared level's head sees another.
    """

    model: MLVAE
    source: str | Path | GroupedData
    out: str | Path | None = None
    evidence: str | Path | None = None
    by: str | None = None
    missing: str = "error"
    reading: Mapping[str, Any] = field(default_factory=dict)
    parts: list[Part] = field(init=False)
    skipped: list[str] = field(init=False, default_factory=list)
    wanted: dict[str, Path] = field(init=False)

    def __post_init__(self) -> None:
        if self.out is None and self.evidence is None:
            raise DataError("Expected a file to write; got none. Add --out codes.parquet, --evidence evidence.parquet.")
        if self.evidence is not None and not self.model.group_levels:
            raise ModelError("Expected a model with a level that groups share, for evidence; this one is a plain VAE.")
        if self.evidence is not None and self.missing == "own":
            raise DataError(
                "Expected --missing error or drop with --evidence; got own. The group of a row without a label would be"
                " called as one in another file is, and their evidence added up. Write codes alone, or drop such rows."
            )
        targets = {"codes": self.out, "evidence": self.evidence}
        for target in targets.values():
            if target is not None and isinstance(self.source, (str, Path)):
                refuse_among(self.source, target)
        by, reading = self.by, dict(self.reading)
        if not _by_own_grouping(self.model):
            keys = [(level.by,) if isinstance(level.by, str) else level.by for level in self.model.group_levels]
            reading["labels"] = tuple(dict.fromkeys(column for key in keys for column in key or ()))
            by = by or reading["labels"][0]
        parts = parts_of(self.source, by, self.missing, like=self.model, noted=self.skipped, **reading)
        dependent = [level.name for level in self.model.group_levels if level.given]
        if len(parts) > 1 and dependent:
            raise ModelError(
                f"Expected one part for a model whose shared level {dependent[0]!r} sees another: its votes depend on"
                f" all rows of a group. Got {len(parts)}; encode the groups separately, from Python."
            )
        if len({target and Path(target).resolve() for target in targets.values()}) < 2:
            raise DataError(f"Expected two files for codes and evidence; got {self.out} for both. Rename one.")
        object.__setattr__(self, "parts", parts)
        object.__setattr__(self, "wanted", {k: Path(target) for k, target in targets.items() if target is not None})

    @property
    def work(self) -> Path:
        """The folder of unfinished work."""
        main = list(self.wanted.values())[-1]
        return main.with_name(main.name + ".parts")

    def begin(self) -> list[int]:
        """The parts that are still to be done.

        Raises:
            CheckpointError: there is something at a target, it cannot be written, or the unfinished work beside it is
                of another job.
        """
        job = {
            "model": fingerprint(self.model), "by": self.by, "missing": self.missing, "targets": sorted(self.wanted),
            "parts": [[part.name, part.size, part.stamp] for part in self.parts],
        }  # fmt: skip
        _begin(self.work, job, [target for kind, target in self.wanted.items() if not self._moved(kind)])
        if all(map(self._moved, self.wanted)):
            return []
        return [number for number in range(len(self.parts)) if not list(self._places(number).values())[-1].exists()]

    def encode(self, number: int) -> int:
        """Does one part; returns its observations.

        Raises:
            DataError: something is wrong with its rows.
        """
        try:
            return self._encode(number)
        except DataError as error:
            if len(self.parts) == 1:
                raise
            name = self.parts[number].name
            raise DataError(f"{error} Rows are counted from the first of the part {name}.") from error

    def _encode(self, number: int) -> int:
        places, data = self._places(number), self.parts[number].load()
        if data is None:
            for piece in places.values():
                write(piece, b"")
            return 0
        # One look serves both.
        heads = looked(self.model, data.x, data.columns) if "codes" in places else None
        if "codes" in places:
            tables.write_codes(self.model, data, places["codes"], heads)
        if "evidence" in places:
            piece = places["evidence"]
            piece.unlink(missing_ok=True)  # where two processes were given one part
            files.write(evidence_of(self.model, data, heads), self.model, piece)
        return len(data)

    def finish(self) -> None:
        """Joins the codes, adds up the evidence, and removes the parts."""
        for kind, target in self.wanted.items():
            if self._moved(kind):
                continue
            pieces = [self._places(number)[kind] for number in range(len(self.parts))]
            # Where all rows of a part were dropped, its piece is empty.
            pieces = [piece for piece in pieces if not piece.exists() or piece.stat().st_size]
            if not pieces:
                raise DataError(f"Expected rows with a label; all were dropped. Remove {self.work}.")
            whole, ready = self._whole(kind)
            whole.unlink(missing_ok=True)
            if len(pieces) == 1:
                with replacing(whole) as beside:
                    shutil.copyfile(pieces[0], beside)
            elif kind == "codes":
                _joined(pieces, whole)
            else:
                adding.merge(pieces, whole)
            write(ready, b"")
            move(whole, free(target))
        shutil.rmtree(self.work)

    def forget(self) -> None:
        """Removes a work in which nothing is finished: what stopped it can be mended, and it is then another job."""
        if not list(self.work.glob("*.parquet")):
            shutil.rmtree(self.work, ignore_errors=True)

    def _whole(self, kind: str) -> tuple[Path, Path]:
        """What all parts make, until it is moved to its target; and what says that it is whole."""
        return self.work / f"whole.{kind}.parquet", self.work / f"{kind}.ready"

    def _moved(self, kind: str) -> bool:
        """Whether what is at a target is this job's: killed then, it had but to remove the parts."""
        whole, ready = self._whole(kind)
        return ready.exists() and not whole.exists()

    def _places(self, number: int) -> dict[str, Path]:
        return {kind: self.work / f"{number:06}.{kind}.parquet" for kind in self.wanted}


def encode(
    model: MLVAE,
    source: str | Path | GroupedData,
    *,
    out: str | Path | None = None,
    evidence: str | Path | None = None,
    by: str | None = None,
    missing: str = "error",
    reading: Mapping[str, Any] | None = None,
    say: Callable[[str], None] | None = None,
) -> int:
    """Encodes data that need not fit in memory; called again after a kill, it goes on where it was. See `Job`.

    Args:
        model: as for `Job`.
        source: likewise.
        out: likewise.
        evidence: likewise.
        by: likewise.
        missing: likewise.
        reading: likewise.
        say: told of progress, with an estimate of the end.

    Returns:
        How many parts were encoded now; those of an earlier start are not.
    """
    job = Job(model, source, out, evidence, by, missing, reading or {})
    todo = job.begin()
    progress = Progress(job, todo, say)
    try:
        for number in todo:
            progress.add(number, job.encode(number))
    except DataError:
        job.forget()
        raise
    job.finish()
    progress.end()
    return len(todo)


def evidence_of(model: MLVAE, data: GroupedData, heads: Heads | None = None) -> GroupEvidence:
    """The evidence of grouped data, under labels that mean the same in other data.

    One shared level by one column takes the data's own grouping; others take the columns that they name, as text. A
    group by several columns is called by their values with commas between. ``heads`` are from a look at the same data,
    if there was one.

    Raises:
        DataError: a label is missing.
    """
    if _by_own_grouping(model):
        return model.evidence(data.x, data.groups, data.columns, heads=heads)
    labels = {}
    for level in model.group_levels:
        assert level.by is not None
        for column in (level.by,) if isinstance(level.by, str) else level.by:
            refuse_missing(data.column(column), f"column {column!r}")
        labels[level.name] = data.column(level.by).astype(str)
    return model.evidence(data.x, labels, data.columns, heads=heads)


def _by_own_grouping(model: MLVAE) -> bool:
    """Whether any one column may group data for this model: else its levels say which columns do."""
    return all(level.by is None or isinstance(level.by, str) for level in model.levels) and len(model.group_levels) < 2


def _begin(work: Path, job: dict[str, Any], targets: list[Path]) -> None:
    """Writes what the job is where nothing is in its way, or finds that it is the one that was begun."""
    manifest = work / MANIFEST
    for path in targets:
        with place(free(path)):
            pass
    if not manifest.exists():
        free(work)
        write(manifest, json.dumps(job).encode())
        return
    with reading("manifest of a job", manifest, CheckpointError, "Remove the folder to begin anew."):
        begun = dict(plain_json(manifest.read_bytes()))
    if differing := [name for name in job if begun.get(name) != job[name]]:
        raise CheckpointError(
            f"Expected the job that was begun in {work}; this one has other {' and '.join(differing)}."
            " Start it as it was, or remove the folder to begin anew."
        )


def _joined(pieces: list[Path], target: Path) -> None:
    """Codes of all parts in one file, a row group at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # A column of whole numbers, of words or of nothing where it has gaps in some part is one of decimals, words there.
    schemas = [pq.read_schema(piece) for piece in pieces]
    kinds: dict[str, set[Any]] = {}
    for column in (column for schema in schemas for column in schema):
        kinds.setdefault(column.name, set()).add(column.type)
    # One that is words in some part and numbers in another is words.
    words = {name for name, found in kinds.items() if len(found) > 1 and any(map(pa.types.is_string, found))}
    schemas = [
        pa.schema([column.with_type(pa.string()) if column.name in words else column for column in schema])
        for schema in schemas
    ]
    schema = pa.unify_schemas(schemas, promote_options="permissive")
    with replacing(target) as beside, pq.ParquetWriter(beside, schema) as writer:
        for piece in pieces:
            with pq.ParquetFile(piece) as file:
                for number in range(file.num_row_groups):
                    writer.write_table(file.read_row_group(number).cast(schema))


class Progress:
    """Says how far a job is, and when it will end."""

    def __init__(self, job: Job, todo: list[int], say: Callable[[str], None] | None) -> None:
        self.parts, self.skipped, self.say = job.parts, job.skipped, say
        self.left = sum(job.parts[number].size for number in todo)
        self.finished = len(job.parts) - len(todo)
        self.done = self.rows = 0
        self.started = self.said = time.perf_counter()

    def add(self, number: int, rows: int) -> None:
        """A part is done."""
        size, now = self.parts[number].size, time.perf_counter()
        self.left, self.done = self.left - size, self.done + size
        self.finished, self.rows = self.finished + 1, self.rows + rows
        if self.say is not None and len(self.parts) > 1 and (now - self.said > 1 or not self.left):
            self.said, seconds = now, now - self.started
            rate, rest = self.rows / seconds, _duration(seconds * self.left / max(self.done, 1))
            self.say(f"part {self.finished} of {len(self.parts)}, {rate:,.0f} observations/s, {rest} to go")

    def end(self) -> None:
        """All parts are done: says what was passed over."""
        if self.say is not None and self.skipped:
            self.say(f"Skipped {len(self.skipped):,} files that cannot be read, the first {self.skipped[0]}")


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
