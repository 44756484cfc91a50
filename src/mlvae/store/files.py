"""Files of evidence: written, read, turned into posteriors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlvae.atomic import replacing
from mlvae.errors import EvidenceError, nearest
from mlvae.store.adding import check_unique
from mlvae.store.layout import COLUMNS, KEY, Layout, LevelLayout, PathLike, free, layout_of, part_number
from mlvae.untrusted import reading

if TYPE_CHECKING:
    from mlvae.group_evidence import GroupEvidence
    from mlvae.model import MLVAE

ROWS = 2**16
"""Groups read or written at a time."""


def write(evidence: GroupEvidence, model: MLVAE, path: PathLike) -> Path:
    """Writes evidence of named groups, whole or not at all.

    Args:
        evidence: of this model; groups without votes are left out.
        model: whose fingerprint the file carries.
        path: a file that does not exist yet.

    Returns:
        The file.

    Raises:
        EvidenceError: the groups have no names, or it is evidence of another model.
        CheckpointError: there is something at ``path``.
    """
    from mlvae.heads import mark

    evidence.check_model(mark(model))
    named = {level: labels for level, labels in evidence.groups.items() if labels is not None}
    if len(named) < len(evidence.groups):
        raise EvidenceError("Expected evidence of named groups to write; got some without. Pass `groups` to evidence.")
    # By its type, not its values, so that all parts of a column of uint64 are alike.
    fits = all(labels.dtype.kind in "iu" and labels.dtype != np.uint64 for labels in named.values())
    label = "int64" if fits else "string"
    return write_rows(table_of(evidence, label), layout_for(model, label), path)


def write_rows(table: Any, layout: Layout, path: PathLike) -> Path:
    """Writes a table of evidence as a new piece; raises CheckpointError where there is something at ``path``."""
    path = free(path)
    if table.num_rows:
        layout = replace(layout, ledger={**layout.ledger, part_number(layout, table): 1})
    with replacing(path) as beside:
        write_table(table, layout, beside)
    return path


def read(path: PathLike) -> GroupEvidence:
    """All evidence of a file, in memory: 16 D bytes a group.

    Raises:
        EvidenceError: not a file of evidence, damaged, or a group is in it twice.
    """
    from mlvae.evidence import Evidence
    from mlvae.group_evidence import GroupEvidence

    layout = layout_of(path)
    levels: dict[str, Evidence] = {}
    groups: dict[str, Any] = {}
    for name, about in layout.levels.items():
        parts = [(part.levels[name], part.groups[name]) for part in batches(path, name)]
        groups[name] = np.concatenate([labels for _, labels in parts]) if parts else np.empty(0, np.int64)
        levels[name] = Evidence.joined([evidence for evidence, _ in parts], about.dim)
        if len(np.unique(groups[name])) < len(groups[name]):
            raise EvidenceError(
                f"Expected every group of {name!r} once in {path}; one is there more often."
                f" `mlvae evidence merge {path} --out NEW` adds its rows up."
            )
    return GroupEvidence(levels, {name: about.readout for name, about in layout.levels.items()}, groups)


def batches(path: PathLike, level: str, rows: int = ROWS) -> Iterator[GroupEvidence]:
    """The evidence of one level, some groups at a time: the memory does not depend on the size of the file."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from mlvae.group_evidence import GroupEvidence

    layout = layout_of(path)
    about = level_of(layout, level, path)
    # Without pre_buffer=False it would read ahead until all is in memory.
    with (
        reading("file of evidence", path, EvidenceError, "It is damaged. Use an earlier copy."),
        pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True) as file,
    ):
        for batch in file.iter_batches(rows, columns=list(COLUMNS)):
            if len(layout.levels) > 1:
                batch = batch.filter(pc.equal(batch.column("level"), level))
            if batch.num_rows:
                labels = batch.column("group").to_numpy(zero_copy_only=False)
                labels = labels.astype(str) if layout.label == "string" else labels
                yield GroupEvidence({level: evidence_in(batch, about, path)}, {level: about.readout}, {level: labels})


def posterior(path: PathLike, out: PathLike) -> Path:
    """Writes the posterior of every group: ``level``, ``group``, ``count``, and ``mean`` and ``variance``, lists."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    layout, out = layout_of(path), free(out)
    check_unique(path)
    label = pa.int64() if layout.label == "int64" else pa.string()
    lists = pa.list_(pa.float64())
    schema = pa.schema(
        [("level", pa.string()), ("group", label), ("count", pa.int64()), ("mean", lists), ("variance", lists)]
    )
    with replacing(out) as beside, pq.ParquetWriter(beside, schema, use_dictionary=["level"]) as writer:
        for name in layout.levels:
            for part in batches(path, name):
                code = part.posterior(name)
                arrays = [
                    pa.repeat(name, len(code.mean)), pa.array(part.groups[name], label),
                    pa.array(part.count(name).numpy()), lists_of(code.mean), lists_of(code.variance),
                ]  # fmt: skip
                writer.write_table(pa.table(arrays, schema=schema))
    return out


def layout_for(model: MLVAE, label: str) -> Layout:
    """What a model's evidence says of itself; nothing is in its ledger yet."""
    from mlvae.checkpoint import fingerprint

    levels = {
        level.name: LevelLayout(level.dim, level.readout, model.calibration(level.name).temperature.double().tolist())
        for level in model.group_levels
    }
    return Layout(fingerprint(model), levels, label)


def level_of(layout: Layout, level: str, path: PathLike) -> LevelLayout:
    """One level of a file's layout."""
    from mlvae.evidence import READOUTS

    if level not in layout.levels:
        known = nearest(level, layout.levels)
        raise EvidenceError(f"Expected a level of {path}, by --level or level=...; got {level!r}. {known}")
    about = layout.levels[level]
    if about.readout not in READOUTS:
        raise EvidenceError(f"Expected a readout by name in {path}; got {about.readout!r}. Use an earlier copy.")
    return about


def table_of(evidence: GroupEvidence, label: str) -> Any:
    """Evidence of named groups as an Arrow table; those without votes are left out."""
    import pyarrow as pa

    kind = pa.int64() if label == "int64" else pa.string()
    tables = []
    for name, whole in evidence.levels.items():
        some = whole.count > 0
        level, labels = whole[some], np.asarray(evidence.groups[name])[some.numpy()]
        labels = labels.astype(np.int64) if label == "int64" else labels.astype(str)
        for start in range(0, max(len(level), 1), ROWS):
            rows = slice(start, start + ROWS)
            part = level[rows]
            tables.append(
                pa.table(
                    [
                        pa.repeat(name, len(part)), pa.array(labels[rows], kind), pa.array(part.count.numpy()),
                        lists_of(part.precision), lists_of(part.information),
                    ],
                    names=COLUMNS,
                )
            )  # fmt: skip
    return pa.concat_tables(tables)


def write_table(table: Any, layout: Layout, path: Path) -> None:
    """Writes a table of evidence as it is."""
    import pyarrow.parquet as pq

    table = table.replace_schema_metadata({KEY: layout.metadata()})
    # Sums of floats have no repetitions for a dictionary, and next to nothing for a compressor.
    pq.write_table(
        table,
        path,
        use_dictionary=["level"],
        compression="none",
        row_group_size=2 * ROWS,
        write_page_checksum=True,
    )


def lists_of(values: Any) -> Any:
    """A tensor (N, D) as an Arrow array of N lists."""
    import pyarrow as pa

    n, dim = values.shape
    flat = pa.array(values.detach().cpu().contiguous().flatten().numpy())
    return pa.ListArray.from_arrays(pa.array(np.arange(n + 1, dtype=np.int32) * dim), flat)


def evidence_in(batch: Any, about: LevelLayout, path: PathLike) -> Any:
    """An Arrow batch as `Evidence`, each value checked."""
    import pyarrow.compute as pc
    import torch

    from mlvae.evidence import Evidence

    values = []
    for name in ("precision", "information"):
        lengths = pc.min_max(pc.list_value_length(batch.column(name))).as_py()
        flat = batch.column(name).flatten()
        gaps = flat.null_count or any(column.null_count for column in batch.columns)
        if {*lengths.values()} != {about.dim} or gaps or str(flat.type) != "double":
            raise EvidenceError(
                f"Expected lists of {about.dim} doubles in {name} of {path}; it has others. Use an earlier copy."
            )
        values.append(torch.from_numpy(flat.to_numpy().reshape(-1, about.dim).copy()))
    count = torch.from_numpy(batch.column("count").to_numpy().copy())
    precision, information = values
    if not (
        torch.isfinite(information).all()
        and torch.isfinite(precision).all()
        and (precision >= 0).all()
        and (count > 0).all()
    ):
        raise EvidenceError(
            f"Expected finite evidence with precisions of 0 or more in {path}; it is damaged. Use an earlier copy."
        )
    return Evidence(precision, information, count)
