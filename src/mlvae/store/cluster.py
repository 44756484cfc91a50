"""Encoding jobs on a Ray cluster: workers encode parts to files that all machines see, and their evidence is added up.

Any engine could do it: a part is a number, its result a file, and a part done twice is the same file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlvae.checkpoint import load
from mlvae.data.builtin import BUILTIN
from mlvae.data.sources import called
from mlvae.errors import MissingExtraError
from mlvae.model import MLVAE
from mlvae.store.jobs import Job, Progress


def encode(
    run: str | Path,
    source: str | Path,
    *,
    out: str | Path | None = None,
    evidence: str | Path | None = None,
    by: str | None = None,
    missing: str = "error",
    reading: Mapping[str, Any] | None = None,
    workers: int = 1,
    cpus: float = 0.5,
    gpus: float = 0.0,
    say: Callable[[str], None] | None = None,
    network: str | None = None,
    likelihood: str | None = None,
) -> int:
    """As `jobs.encode`, by the workers of the Ray cluster that `ray.init` or RAY_ADDRESS names, or of this machine.

    Args:
        run: the folder that training wrote, on a file system that all workers see, like all the others.
        source: as `parts_of` takes it; each part goes to one worker.
        out: Parquet of codes to write.
        evidence: Parquet of evidence to write.
        by: the grouping column.
        missing: what to do with rows without a group.
        reading: further arguments of `mlvae.read`.
        workers: processes, each with a model.
        cpus: that Ray reserves for each. On two processors, two workers that ask for one each leave none to Ray's own
            reading, and nothing moves.
        gpus: likewise.
        say: told of progress.
        network: "package.module:name" of the network that the run was trained with, where it is one's own.
        likelihood: likewise.

    Returns:
        How many parts were encoded now.

    Raises:
        MissingExtraError: Ray is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError(
            "Expected the package ray to encode on a cluster; it is not installed. pip install 'mlvae[cluster]'."
        ) from error
    paths = {"out": out, "evidence": evidence, **({} if str(source) in BUILTIN else {"source": source})}
    options: dict[str, Any] = {name: None if path is None else _absolute(path) for name, path in paths.items()}
    options = {"source": source, **options, "by": by, "missing": missing, "reading": dict(reading or {})}
    own = {"network": network, "likelihood": likelihood}
    job = Job(_model(run, own), **options)
    todo = job.begin()
    if todo:
        progress = Progress(job, todo, say)
        numbers = ray.data.from_items([{"number": number} for number in todo], override_num_blocks=len(todo))
        done = numbers.map(
            _Worker,  # type: ignore[arg-type, unused-ignore]
            fn_constructor_args=(_absolute(run), own, options), concurrency=workers,
            num_cpus=cpus, num_gpus=gpus,
        )  # fmt: skip
        for row in done.iter_rows():
            job.skipped.extend(row["skipped"])
            progress.add(int(row["number"]), int(row["rows"]))
        progress.end()
    job.finish()
    return len(todo)


class _Worker:
    """A process with the model, which encodes the parts it is given."""

    def __init__(self, run: str, own: Mapping[str, str | None], options: dict[str, Any]) -> None:
        import torch

        model = _model(run, own)
        self.job = Job(model.to("cuda" if torch.cuda.is_available() else "cpu"), **options)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        before = len(self.job.skipped)
        rows = self.job.encode(int(row["number"]))
        return {"number": row["number"], "rows": rows, "skipped": self.job.skipped[before:]}


def _model(run: str | Path, own: Mapping[str, str | None]) -> MLVAE:
    """The run's model, with the user's own parts by their names, as workers know them."""
    parts: dict[str, Any] = {part: None if name is None else called(name) for part, name in own.items()}
    return load(run, **parts)


def _absolute(path: str | Path) -> str:
    """Workers start in folders of their own."""
    return str(Path(path).resolve())
