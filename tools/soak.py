"""Trains, encodes, keeps evidence and answers the page's questions, over and over, and watches what is held.

    python tools/soak.py --minutes 30

After the first third, resident memory and open files must stay where they are. Exit code 1 where they do not.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

import mlvae
from mlvae.explore.session import Session
from mlvae.store import jobs

GROWTH = 16 * 2**20
"""Bytes by which the median of the last third may be above that of the second."""


def cycle(data: mlvae.GroupedData, number: int) -> None:
    """Everything once, in a folder of its own."""
    part, held = data.split(by="group", test=0.3, seed=number % 7)
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(number)
        model = mlvae.MLVAE.for_data(part, content_dim=4, style_dim=3, width=16)
        mlvae.fit(model, part, f"{folder}/run", epochs=1, groups=6, progress=False)
        model = mlvae.load(f"{folder}/run")
        jobs.encode(model, held, out=f"{folder}/codes.parquet", evidence=f"{folder}/evidence.parquet")
        store = mlvae.EvidenceStore(f"{folder}/store.duckdb", model)
        store.merge(f"{folder}/evidence.parquet")
        store.add([f"id{i}" for i in range(20)], held.x[:20], held.groups[:20])
        store.retract(["id3", "id4"])
        store.query(model.evidence(held.x[:2]))
        session = Session(model, held)
        for row in range(10):
            session.picture(row)
            session.posterior([row, row + 1])
            session.swap(row, row + 1)
            session.identify([row])
            session.generate(4, seed=row)


def held() -> tuple[int, int]:
    """Resident bytes and open files of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    data = mlvae.read("digits").subset(range(600))
    seen: list[tuple[float, int, int]] = []
    started = time.monotonic()
    while (passed := time.monotonic() - started) < 60 * asked.minutes or len(seen) < 9:
        cycle(data, len(seen))
        seen.append((passed, *held()))
    third = len(seen) // 3
    parts = [seen[third : 2 * third], seen[2 * third :]]
    memory = [statistics.median(row[1] for row in part) for part in parts]
    files = [max(row[2] for row in part) for part in parts]
    print(
        f"{len(seen)} cycles in {passed / 60:.1f} min; memory {seen[0][1] / 2**20:.0f} MiB after the first,"
        f" {memory[0] / 2**20:.1f} in the second third, {memory[1] / 2**20:.1f} in the last;"
        f" open files {files[0]} and {files[1]}"
    )
    sys.exit(memory[1] - memory[0] > GROWTH or files[1] > files[0])


if __name__ == "__main__":
    main()
