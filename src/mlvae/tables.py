"""Codes and evidence as Parquet, which any Arrow tool reads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from mlvae.data import GroupedData
    from mlvae.model import MLVAE

ROWS = 8192
"""Observations encoded and written at a time."""


def write_codes(model: MLVAE, data: GroupedData, path: str | Path) -> Path:
    """A row an observation, each understood alone: its columns, then ``<level>_mean`` and ``<level>_variance``, lists.

    Returns:
        The file, written whole or not at all.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    def part(start: int) -> Any:
        rows = slice(start, start + ROWS)
        table = {name: pa.array(values[rows]) for name, values in data.columns.items()}
        for name, code in model.codes(data.x[rows], covariates={k: v[rows] for k, v in data.columns.items()}).items():
            table[f"{name}_mean"] = _lists(code.mean)
            table[f"{name}_variance"] = _lists(code.variance)
        return pa.table(table)

    first = part(0)
    path, beside = _beside(path)
    with pq.ParquetWriter(beside, first.schema) as writer:
        writer.write_table(first)
        for start in range(ROWS, len(data), ROWS):
            writer.write_table(part(start))
    os.replace(beside, path)
    return path


def write_evidence(model: MLVAE, data: GroupedData, path: str | Path) -> Path:
    """A row a group of each shared level: ``level``, ``group``, ``count``, ``precision`` and ``information``.

    Precision and information are float64 lists: evidence of two files on one group is their sum. With one shared level
    the groups are the data's own, of their type; with several, each level's by its columns, as text.

    Returns:
        The file, written whole or not at all.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    several = len(model.group_levels) > 1
    labels = {level.name: data.column(level.by).astype(str) for level in model.group_levels if level.by}
    evidence = model.evidence(data.x, labels if several else data.groups, data.columns)
    tables = []
    for name, level in evidence.levels.items():
        groups = evidence.groups[name]
        assert groups is not None
        tables.append(
            pa.table(
                {
                    "level": [name] * len(level),
                    "group": pa.array(groups),
                    "count": pa.array(level.count.numpy()),
                    "precision": _lists(level.precision, several),
                    "information": _lists(level.information, several),
                }
            )
        )
    path, beside = _beside(path)
    pq.write_table(pa.concat_tables(tables), beside)
    os.replace(beside, path)
    return path


def write_generated(model: MLVAE, data: GroupedData, path: str | Path, count: int, seed: int = 0) -> Path:
    """New rows of a table, in its own units and words: codes from the prior, covariates from rows drawn at random.

    Args:
        model: trained on a table.
        data: whose covariates are taken, where the model was trained with some.
        path: CSV or Parquet.
        count: rows.
        seed: of everything random.

    Returns:
        The file, written whole or not at all.

    Raises:
        DataError: the model was not trained on a table.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow import csv

    from mlvae.errors import DataError

    if not model.schema.features:
        raise DataError("Expected a model that was trained on a table; observations of this one have no columns.")
    rows = torch.randint(0, len(data), (count,), generator=torch.Generator().manual_seed(seed)).numpy()
    known = {feature.name: data.column(feature.name)[rows] for feature in model.schema.covariates}
    made = model.restore(model.generate(count, seed=seed, covariates=known))
    table = pa.table({**known, **model.schema.table(made)})
    path, beside = _beside(path)
    if path.suffix == ".csv":
        csv.write_csv(table, beside)
    else:
        pq.write_table(table, beside)
    os.replace(beside, path)
    return path


def _lists(values: torch.Tensor, any_length: bool = False) -> Any:
    """A list a row; levels of several dimensions in one table need lists of any length."""
    import pyarrow as pa

    if any_length:
        return pa.array(values.tolist(), pa.list_(pa.float64()))
    return pa.FixedSizeListArray.from_arrays(pa.array(values.cpu().flatten().numpy()), values.shape[1])


def _beside(path: str | Path) -> tuple[Path, Path]:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path, path.with_name(f".{path.name}.part")
