"""What every source is asked for, and what it gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlvae.errors import DataError, nearest
from mlvae.schema import Schema

IN_MEMORY = 2**30
"""Bytes of observations that are kept in memory where nothing else is asked for; more stay on disk."""


@dataclass(frozen=True)
class Asked:
    """How data are to be read: the arguments of `read` that reach a source; ``usual`` as for `grouping_column`."""

    by: str | None = None
    x: str = "x"
    features: str | Sequence[str] | None = None
    covariates: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    mode: str | None = None
    folders: tuple[str, ...] = ()
    cache: Path | None = None
    in_memory: bool | None = None
    on_bad_file: str = "error"
    like: Schema | None = None
    noted: list[str] = field(default_factory=list)
    usual: str | None = None

    def keep(self, nbytes: int) -> bool:
        """Whether observations of that size are kept in memory."""
        return nbytes <= IN_MEMORY if self.in_memory is None else self.in_memory

    def skip(self, bad: DataError, file: str, skipped: list[str]) -> None:
        """Notes a bad file, or raises what is wrong with it: the policy for bad files."""
        if self.on_bad_file not in ("error", "skip"):
            raise DataError(
                f"Expected `on_bad_file` 'error' or 'skip'; got {self.on_bad_file!r}. "
                + nearest(self.on_bad_file, ("error", "skip"))
            )
        if self.on_bad_file == "error":
            raise DataError(f"{bad} To go on without it: on_bad_file='skip' (--on-bad-file skip).") from bad
        skipped.append(file)
        self.noted.append(file)


@dataclass(frozen=True, eq=False)
class Raw:
    """What a source gives.

    Args:
        x: (N, *shape), a tensor, an array or `Stored` rows.
        columns: labels (N,) by name.
        name: what to call the data.
        schema: what the numbers of an observation are.
        gaps: NaN in ``x`` is a value that was not observed.
        skipped: files passed over.
        others: names of arrays that are no columns, with their shapes, for messages.
    """

    x: Any
    columns: Mapping[str, Any]
    name: str
    schema: Schema = field(default_factory=Schema)
    gaps: bool = False
    skipped: tuple[str, ...] = ()
    others: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
