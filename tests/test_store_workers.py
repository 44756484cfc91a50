"""What workers of a cluster are given, on an engine that is this process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from mlvae import MLVAE, Level, read, save
from mlvae.store import cluster


class Rows:
    """Of ray.data: rows, which a class made in a worker maps."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def map(self, worker: Callable[..., Any], *, fn_constructor_args: tuple[Any, ...], **_: Any) -> Rows:
        return Rows(list(map(worker(*fn_constructor_args), self.rows)))

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)


def test_workers_know_a_built_in_set_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = ModuleType("ray")
    ray.data = SimpleNamespace(from_items=lambda rows, **_: Rows(rows))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.data", ray.data)
    monkeypatch.chdir(tmp_path)
    save(MLVAE((8, 8), [Level("content", 3, by="group"), Level("style", 2)], width=8), "run")
    assert cluster.encode("run", "digits", evidence="e.parquet", out="c.parquet") == 1
    assert pq.read_metadata(tmp_path / "c.parquet").num_rows == len(read("digits"))
