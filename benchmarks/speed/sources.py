"""What reading costs: a table that does not fit beside the same in memory, and each source beside torch's DataLoader.

    python benchmarks/speed/sources.py [--gigabytes 4] [--steps 300] [--rounds 7] [--out result.json]

Memory is the largest resident set of a process that reads and trains, less what its imports took; the second of two
runs finds the numbers kept by the first. Rates are medians over single steps, from disk and in memory in turn in one
process; in memory are at most 1 GB of such rows. Reading alone is timed against a DataLoader over the same array or
the same files, in turn, medians.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

WIDTH = 256
MEMBERS = 20
WARM = 20

RESIDENT = """
import json, re, sys
import numpy, torch, pyarrow.dataset, pyarrow.parquet, lightning_fabric, mlvae, mlvae.training, mlvae.data.sources
sys.path.insert(0, sys.argv[1])
from sources import stepper
def kilobytes(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read()).group(1))
torch.set_num_threads(1)
before = kilobytes("VmRSS")
step = stepper(mlvae.read(sys.argv[2], by="person", cache=sys.argv[3], in_memory=False))
for _ in range(int(sys.argv[4])):
    step()
print(json.dumps((kilobytes("VmHWM") - before) / 1024))
"""


def stepper(data: Any) -> Callable[[], int]:
    """One training step on the next batch; how many observations it had."""
    import torch

    import mlvae

    torch.manual_seed(0)
    model = mlvae.MLVAE.for_data(data)
    sampler = mlvae.GroupSampler(data.codes("person"), groups=50, members=(2, 8))
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    batches = (batch for epoch in itertools.count() for batch in sampler.epoch(epoch))

    def step() -> int:
        picked, index = next(batches)
        batch = mlvae.GroupBatch.of(model.prepare(data.x[picked]), {"content": index})
        optimizer.zero_grad()
        mlvae.loss(model, batch, mlvae.Objective.plain()).total.backward()
        optimizer.step()
        return len(picked)

    return step


def write_table(folder: Path, gigabytes: float) -> int:
    """Parquet files of WIDTH numbers a row, groups of MEMBERS in random order; how many rows."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.default_rng(0)
    rows, part = int(gigabytes * 1e9 / 4 / WIDTH), 100_000
    folder.mkdir()
    for start in range(0, rows, part):
        count = min(part, rows - start)
        x = random.standard_normal((count, WIDTH), np.float32)
        person = random.integers(0, max(1, rows // MEMBERS), count)
        columns = {f"x{i}": x[:, i] for i in range(WIDTH)}
        pq.write_table(pa.table({"person": person, **columns}), folder / f"{start:010}.parquet", compression="none")
    return rows


def out_of_core(folder: Path, gigabytes: float, steps: int) -> dict[str, float]:
    """Rate and memory of training from disk, and its rate beside that in memory."""
    import torch

    import mlvae

    rows = write_table(folder / "table", gigabytes)
    small = folder / "small"
    write_table(small, min(gigabytes, 1.0))
    resident = []
    for _ in range(2):  # the first makes the kept file too
        here = str(Path(__file__).parent)
        command = [sys.executable, "-c", RESIDENT, here, str(folder / "table"), str(folder / "kept"), str(steps)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        resident.append(float(done.stdout.splitlines()[-1]))
    torch.set_num_threads(1)
    kept = mlvae.read(folder / "table", by="person", cache=folder / "kept", in_memory=False)
    kinds = {"disk": stepper(kept), "memory": stepper(mlvae.read(small, by="person", in_memory=True))}
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(steps):
        for kind, step in kinds.items():
            started = time.perf_counter()
            seen = step()
            if number >= WARM:
                seconds[kind].append((time.perf_counter() - started) / seen)
    each = {kind: statistics.median(values) for kind, values in seconds.items()}
    return {
        "table_gb": gigabytes,
        "rows": rows,
        "resident_mb.making": resident[0],
        "resident_mb.training": resident[1],
        "disk.rate": 1 / each["disk"],
        "memory.rate": 1 / each["memory"],
        "disk/memory": each["memory"] / each["disk"],
    }


def reading(folder: Path, rounds: int) -> dict[str, float]:
    """Observations a second of an epoch of batches of 256: each source over a DataLoader on the same data."""
    import datasets
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch
    from PIL import Image
    from pyarrow import csv
    from torch.utils.data import DataLoader, Dataset, TensorDataset

    from mlvae.data import GroupedData, GroupSampler, read

    torch.set_num_threads(1)
    count, random = 20_000, np.random.default_rng(0)
    x = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    group = np.arange(count) // MEMBERS
    np.savez(folder / "data.npz", x=x, group=group)
    np.save(folder / "data.npy", x)
    numbers = x.reshape(count, -1)[:, :WIDTH].astype(np.float32)
    table = pa.table({"group": group, **{f"x{i}": numbers[:, i] for i in range(WIDTH)}})
    pq.write_table(table, folder / "data.parquet")
    csv.write_csv(table, folder / "data.csv")
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(numbers.ravel()), WIDTH)
    lists = pa.table({"group": group, "embedding": vectors})
    pq.write_table(lists, folder / "lists.parquet")
    hub = datasets.Dataset(lists)
    files = []
    for i in range(4000):
        place = folder / "pictures" / f"{group[i]}" / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x[i]).save(place)
        files.append(place)

    class Pictures(Dataset[Any]):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, place: int) -> Any:
            with Image.open(files[place]) as picture:
                return torch.from_numpy(np.array(picture))

    def observations(batch: Any) -> Any:
        return batch["embedding"] if isinstance(batch, dict) else batch[0] if isinstance(batch, list) else batch

    def ours(data: GroupedData) -> Callable[[], int]:
        sampler = GroupSampler(data.codes("group"), 52, (2, 8))
        return lambda: sum(len(data.x[rows]) for rows, _ in sampler.epoch(0))

    def theirs(loader: Iterable[Any]) -> Callable[[], int]:
        return lambda: sum(len(observations(batch)) for batch in loader)

    arrays = DataLoader(TensorDataset(torch.from_numpy(x)), batch_size=256, shuffle=True)
    items = TensorDataset(torch.from_numpy(numbers), torch.from_numpy(group))
    rows = DataLoader(items, batch_size=256, shuffle=True)
    hubs = DataLoader(hub.with_format("torch"), batch_size=256, shuffle=True)
    pictures = DataLoader(Pictures(), batch_size=256, shuffle=True)
    pairs = {
        "npz": (read(folder / "data.npz"), arrays),
        "npy on disk": (read(folder / "data.npy", groups=group, in_memory=False), arrays),
        "parquet": (read(folder / "data.parquet"), rows),
        "parquet on disk": (read(folder / "data.parquet", in_memory=False), rows),
        "csv": (read(folder / "data.csv"), rows),
        "csv on disk": (read(folder / "data.csv", in_memory=False), rows),
        "embeddings": (read(folder / "lists.parquet"), rows),
        "hugging face": (read(hub), hubs),
        "torch data set": (read(items), rows),
        "pictures": (read(folder / "pictures"), pictures),
        "pictures on disk": (read(folder / "pictures", in_memory=False), pictures),
    }
    results = {}
    for name, (data, loader) in pairs.items():
        timed: tuple[list[float], list[float]] = ([], [])
        for _ in range(rounds):
            for run, seconds in zip((ours(data), theirs(loader)), timed, strict=True):
                started = time.perf_counter()
                seen = run()
                seconds.append((time.perf_counter() - started) / seen)
        results[f"{name}/DataLoader"] = statistics.median(timed[1]) / statistics.median(timed[0])
    return results


def main() -> None:
    """Prints, and writes where asked, rates as ratios and memory in megabytes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where the table is written (default: a temporary folder)")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        result = reading(folder, arguments.rounds) | out_of_core(folder, arguments.gigabytes, arguments.steps)
        for key, value in result.items():
            print(f"{key:28} {value:,.2f}", flush=True)
        if arguments.out:
            arguments.out.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
