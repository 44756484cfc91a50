"""A cluster of one machine gives what one machine gives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mlvae import MLVAE, Level, save
from mlvae.store import files, jobs
from test_store import close
from test_store_jobs import folder

pytest.importorskip("ray", reason="the extra `cluster` is not installed")

ENCODE = """
import sys
import ray
from mlvae.store import cluster
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
said = []
print(cluster.encode(sys.argv[1], sys.argv[2], evidence=sys.argv[3], out=sys.argv[4], say=said.append), len(said) > 0)
"""


@pytest.mark.slow
def test_ray_gives_the_evidence_of_one_machine(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MLVAE((4,), [Level("content", 3, by="group"), Level("style", 2)], width=8, likelihood="normal")
    save(model, tmp_path / "run")
    data = folder(tmp_path / "in")
    names = ("run", "in", "e", "c")
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", ENCODE, *(str(tmp_path / name) for name in names)],
        env=environment, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[-2:] == ["5", "True"]
    jobs.encode(model, tmp_path / "in", evidence=tmp_path / "one")
    assert close(files.read(tmp_path / "e"), files.read(tmp_path / "one"), 1e-9)
    assert close(files.read(tmp_path / "e"), model.evidence(data.x, data.groups), 1e-9)
