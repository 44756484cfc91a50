"""A cluster of one machine gives what one machine gives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pyarrow import csv

from mlvae import MLVAE, Level, save
from mlvae.store import files, jobs
from test_store import close
from test_store_jobs import folder

pytest.importorskip("ray", reason="the extra `cluster` is not installed")

SOURCES = {"arrays": 5, "parquet": 4, "csv": 4, "array.npy": 1}
"""By name, the parts that each is in."""

ENCODE = """
import sys
import ray
from mlvae.store import cluster
for attempt in range(4):  # it gives its own start 30 s, which a busy machine may not
    try:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
        break
    except Exception as error:
        print(error, file=sys.stderr)
        ray.shutdown()
folder, said = sys.argv[1], []
for name in sys.argv[2:]:
    targets = {"evidence": f"{folder}/{name}.e", "out": f"{folder}/{name}.c"}
    print(cluster.encode(f"{folder}/run", f"{folder}/{name}", by="group", say=said.append, **targets), len(said) > 0)
"""


@pytest.mark.slow
def test_ray_gives_the_evidence_of_one_machine(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MLVAE((4,), [Level("content", 3, by="group"), Level("style", 2)], width=8, likelihood="normal")
    save(model, tmp_path / "run")
    data = folder(tmp_path / "arrays")
    x, labels = data.x.numpy(), pa.table({"group": data.groups})
    np.save(tmp_path / "array.npy", x)
    csv.write_csv(labels, tmp_path / "array.csv")
    vectors = labels.append_column("x", pa.array(x.tolist()))
    numbers = pa.table({"group": data.groups, **{f"x{i}": x[:, i] for i in range(4)}})
    for name in ("parquet", "csv"):
        (tmp_path / name).mkdir()
    for number in range(4):
        pq.write_table(vectors.slice(50 * number, 50), tmp_path / "parquet" / f"{number}.parquet")
        csv.write_csv(numbers.slice(50 * number, 50), tmp_path / "csv" / f"{number}.csv")
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", ENCODE, str(tmp_path), *SOURCES],
        env=environment, capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[-8:] == [text for parts in SOURCES.values() for text in (str(parts), "True")]
    for name in SOURCES:
        jobs.encode(model, tmp_path / name, by="group", evidence=tmp_path / f"{name}.one")
        evidence = files.read(tmp_path / f"{name}.e")
        assert close(evidence, files.read(tmp_path / f"{name}.one"), 1e-9), name
        assert close(evidence, model.evidence(data.x, data.groups), 1e-6), name
        assert pq.read_metadata(tmp_path / f"{name}.c").num_rows == len(data)
