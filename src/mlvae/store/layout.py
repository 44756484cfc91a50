"""How evidence lies on disk: which columns, and what the file says of itself. Nothing here needs torch.

A file has a row a group of each level, in any order:

    level        string
    group        int64 or string, the group's label
    count        int64, the number of votes, at least 1
    precision    list<double>, Σ Λ, as many as the level has dimensions
    information  list<double>, Σ Λμ

and in the Parquet footer, under the key "mlvae", the JSON of `Layout`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mlvae.errors import CheckpointError, EvidenceError
from mlvae.untrusted import plain_json, reading

SCHEMA = 1
"""Raised when a file of before can no longer be read as it is."""

KEY = b"mlvae"

DIMENSIONS = 2**16
"""Of a level at most."""

PathLike = str | Path

COLUMNS = ("level", "group", "count", "precision", "information")


@dataclass(frozen=True)
class LevelLayout:
    """One level: D, how its evidence is read out, and the temperature (D,) of its votes, which is in them already."""

    dim: int
    readout: str
    temperature: Sequence[float]


@dataclass(frozen=True)
class Layout:
    """What two files must agree on to add, and what has been added already.

    Args:
        model: the model's fingerprint.
        levels: by name.
        label: the type of group labels, "int64" or "string".
        ledger: 1 for each written file whose evidence is in this one, by a hash of its rows; -1 for one that was taken
            out of evidence that it was no part of by name (it may be: whose observations are a subset).
    """

    model: str
    levels: Mapping[str, LevelLayout]
    label: str
    ledger: Mapping[str, int] = field(default_factory=dict)

    def metadata(self) -> str:
        """The JSON of the footer."""
        about = {"kind": "evidence", "schema": SCHEMA, **asdict(self)}
        return json.dumps(about, sort_keys=True)

    def combined(self, others: Sequence[Layout], sign: int, names: Sequence[str]) -> Layout:
        """The layout of the sum (``sign`` 1) or of what is left (-1).

        Raises:
            EvidenceError: other models or layouts, or the same evidence would count twice; both files are named.
        """
        ledger = dict(self.ledger)
        origin = dict.fromkeys(ledger, names[0])
        for other, name in zip(others, names[1:], strict=True):
            self.check_adds(other, names[0], name)
            for part, times in other.ledger.items():
                ledger[part] = ledger.get(part, 0) + sign * times
                if abs(ledger[part]) > 1:
                    raise EvidenceError(
                        f"Expected every piece of evidence once; {name} holds a piece (number {part}) that"
                        f" {origin.get(part, names[0])} has {'counted' if sign > 0 else 'taken out'} already. Leave one"
                        " of them out."
                    )
                origin[part] = name
        return replace(self, ledger={part: times for part, times in ledger.items() if times})

    def check_adds(self, other: Layout, mine: str, name: str) -> None:
        """Raises EvidenceError, naming both, where the evidence of two files does not add."""
        if self.model != other.model:
            raise EvidenceError(
                f"Expected evidence of one model; {mine} is of model {self.model[:12]}, {name} of {other.model[:12]}."
                " Votes of two models do not add: encode one of them again."
            )
        for what, a, b in (("levels", self.levels, other.levels), ("type of group labels", self.label, other.label)):
            if a != b:
                raise EvidenceError(
                    f"Expected evidence of one layout; the {what} of {mine} and {name} differ: {a} and {b}."
                    " Encode one of them again."
                )


def free(path: PathLike) -> Path:
    """The path, if nothing is there.

    Raises:
        CheckpointError: a file or folder that is not empty.
    """
    path = Path(path)
    if (path.is_dir() and any(path.iterdir())) or (path.is_file() and path.stat().st_size):
        raise CheckpointError(
            f"Expected nothing at {path}; there is something. Name another target, or remove it first."
        )
    return path


def layout_of(path: str | Path) -> Layout:
    """What a file of evidence says of itself.

    Raises:
        EvidenceError: no such file, damaged, not evidence, or of another schema.
    """
    import pyarrow.parquet as pq

    path = Path(path)
    if not path.is_file():
        raise EvidenceError(
            f"Expected a file of evidence at {path}; there is none. `mlvae encode --evidence` makes one."
        )
    with reading("Parquet file", path, EvidenceError, "It is damaged, or no Parquet file. Use an earlier copy."):
        schema = pq.read_schema(path)
    return parsed((schema.metadata or {}).get(KEY, b"null"), schema.names, str(path))


def parsed(text: bytes | str, columns: Sequence[str], name: str) -> Layout:
    """The layout in a footer; ``name`` is the file's, for messages."""
    try:
        about = plain_json(text)
    except ValueError:
        about = None
    if not isinstance(about, dict) or about.get("kind") != "evidence" or set(columns) != set(COLUMNS):
        raise EvidenceError(
            f"Expected a file of evidence; {name} is not one: its columns are {', '.join(map(str, columns)) or 'none'}."
            " Name the file that `mlvae encode --evidence` wrote."
        )
    if about.get("schema") != SCHEMA:
        raise EvidenceError(
            f"Expected evidence of schema {SCHEMA}; {name} has {about.get('schema')}."
            " Read it with the mlvae that wrote it."
        )
    try:
        levels = {
            str(level): LevelLayout(int(v["dim"]), str(v["readout"]), [float(t) for t in v["temperature"]])
            for level, v in about["levels"].items()
        }
        ledger = {str(part): int(times) for part, times in about["ledger"].items()}
        if about["label"] not in ("int64", "string") or any(
            not 0 < level.dim <= DIMENSIONS for level in levels.values()
        ):
            raise ValueError
        return Layout(str(about["model"]), levels, about["label"], ledger)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise EvidenceError(
            f"Expected a description of evidence in {name}; it is damaged. Use an earlier copy."
        ) from error


def part_number(layout: Layout, table: Any) -> str:
    """The name of a table of evidence in ledgers: a hash of model and rows, so the same evidence has it again."""
    digest = hashlib.sha256(layout.model.encode())
    for name in COLUMNS:
        for chunk in table.column(name).chunks:
            for buffer in chunk.buffers():
                if buffer is not None:
                    digest.update(buffer)
    return digest.hexdigest()[:32]
