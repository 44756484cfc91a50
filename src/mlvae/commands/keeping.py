"""Which rows a run of the command line kept out of training: written, read again, and held against what is asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlvae.errors import CheckpointError, DataError
from mlvae.untrusted import plain_json, reading

KEPT_OUT_FILE = "kept_out.json"
DAMAGED = "It is damaged. Restore or remove it."

DIGESTED = 256
"""Rows, evenly spaced, by which data are known again."""


def kept_out(run: str) -> Callable[[Any], dict[str, Any] | None]:
    """How a run of the command line kept rows of its data out of training: as `parts` takes it; {} where it kept none.

    Raises:
        DataError, by what is returned: the run took a share, and the data are others.
    """

    def how(data: Any) -> dict[str, Any] | None:
        found = note_of(run)
        if found is None:
            return None
        with reading("file of what a run kept out", Path(run) / KEPT_OUT_FILE, CheckpointError, DAMAGED):
            size, known = (
                (found["rows"], found["groups"]),
                found.get("digest"),
            )  # none where a run is older than digests
            other = size != (len(data), data.num_groups) or known not in (None, recognised_by(data))
            if "test" not in found:
                return None if other else {"column": found["column"]} if found["column"] else {}
            split = {name: found[name] for name in ("by", "test", "seed")}
            for name in ("of", "within"):
                if name in found:
                    split[name] = tuple(found[name]) if isinstance(found[name], list) else found[name]
        if other:
            got = (
                f"{len(data):,} of {data.num_groups:,}"
                if size != (len(data), data.num_groups)
                else "as many, but other labels or values, or another order: was a group renamed?"
            )
            raise DataError(
                f"Expected the {size[0]:,} rows of {size[1]:,} groups, in their order, that {run} kept a share of out"
                f" of training; got {got}. In a table, other data may stand below the rows that training saw, with a"
                " column that is 0 in these and 1 in new ones: name it with --split-column."
            )
        return split

    return how


def note_of(run: str) -> dict[str, Any] | None:
    """What a run of the command line says of the rows that it kept out; None where it says nothing."""
    file = Path(run) / KEPT_OUT_FILE
    if not file.exists():
        return None
    with reading("file of what a run kept out", file, CheckpointError, DAMAGED):
        found = plain_json(file.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("it does not say by name how")
    return found


def recognised_by(data: Any) -> str:
    """What tells a GroupedData from others of its size: a hash of its labels in their order, and of some of its rows.

    Categories are numbered anew where data are read like a model's, so rows that have some are known by labels alone.
    """
    import hashlib

    import numpy as np
    import torch

    labels = data.columns[data.by].astype(str) if data.by else np.empty(0, str)
    digest = hashlib.blake2b("\0".join(labels).encode(), digest_size=16)
    if not any(feature.kind == "category" for feature in data.schema.features):
        some = torch.from_numpy(np.unique(np.linspace(0, len(data) - 1, DIGESTED).astype(np.int64)))
        digest.update(data.x[some].contiguous().numpy().tobytes())
    return digest.hexdigest()


def trained_on(data: Any, column: str, kept: Callable[[Any], dict[str, Any] | None]) -> str | None:
    """How many rows that a column marks as new a run, which kept others of the same data out, was trained on."""
    from dataclasses import replace

    import numpy as np

    try:
        before = kept(data)
    except DataError:
        return None  # other data: which of their rows it knows cannot be told
    if before is not None:
        numbered = replace(data, columns={**data.columns, "": np.arange(len(data))})
        new, out = (numbered.split(**how)[1].column("") if how else [] for how in ({"column": column}, before))
        if len(trained := np.setdiff1d(new, out)):
            return (
                f"! {len(trained):,} of the {len(new):,} rows that {column!r} marks as new are among those that this"
                " run was trained on; what is measured on them says nothing."
                + (" Leave --split-column out." if before else " Train with --test 0.2, or by that column.")
            )
    return None
