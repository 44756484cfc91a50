"""Codes as Parquet, which any Arrow tool reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mlvae.atomic import replacing

if TYPE_CHECKING:
    from mlvae.data import GroupedData
    from mlvae.heads import Heads
    from mlvae.model import MLVAE

ROWS = 8192
"""Observations encoded and written at a time."""


def write_codes(model: MLVAE, data: GroupedData, path: str | Path, heads: Heads | None = None) -> Path:
    """A row an observation, each understood alone: its columns, then ``<level>_mean`` and ``<level>_variance``, lists.

    Args:
        model: any number of levels.
        data: to encode.
        path: of a file, Parquet.
        heads: from `heads.looked` at these data; None looks at them.

    Returns:
        The file, written whole or not at all.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Of the whole column: its first rows may all be empty.
    kinds = {name: pa.array(values).type for name, values in data.columns.items()}
    kinds = {name: pa.string() if pa.types.is_null(kind) else kind for name, kind in kinds.items()}

    def part(start: int) -> Any:
        rows = slice(start, start + ROWS)
        table = {name: pa.array(values[rows], kinds[name]) for name, values in data.columns.items()}
        known = {name: values[rows] for name, values in data.columns.items()}
        for name, code in model.codes(data.x[rows], None, known, heads=heads and heads[rows]).items():
            table[f"{name}_mean"] = _lists(code.mean)
            table[f"{name}_variance"] = _lists(code.variance)
        return pa.table(table)

    first = part(0)
    with replacing(path) as beside, pq.ParquetWriter(beside, first.schema) as writer:
        writer.write_table(first)
        for start in range(ROWS, len(data), ROWS):
            writer.write_table(part(start))
    return Path(path)


def write_generated(model: MLVAE, data: GroupedData, path: str | Path, count: int, seed: int = 0) -> Path:
    """New rows of a table, in its own units and words: codes as `generate` has them, covariates of random rows.

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
    path = Path(path)
    with replacing(path) as beside:
        if path.suffix == ".csv":
            csv.write_csv(table, beside)
        else:
            pq.write_table(table, beside)
    return path


def _lists(values: torch.Tensor) -> Any:
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(values.cpu().flatten().numpy()), values.shape[1])
