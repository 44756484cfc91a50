"""What evidence costs as it grows: seconds a group and an observation, bytes a group, memory, and the fitted slopes.

    python benchmarks/speed/scale.py [--most 7] [--dim 8] [--out result.json]

merge, posterior and identify on simulated evidence of 10^4 to 10^MOST groups, two files with half of their groups in
common, each in a process of its own whose processor time and peak memory are taken; identify reads its gallery from the
file.
encode: a folder of parts of 20,000 observations of 64 numbers, 1 to 16 parts, from files to a file.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from evidence import simulated

from mlvae import MLVAE, Level, save
from mlvae.store import files

CLI = "import sys; from mlvae.cli import main; main(sys.argv[1:])"
ROWS = 20_000


def measured(*arguments: str) -> dict[str, float]:
    """Runs a command; seconds on the clock, seconds of processor, peak memory in MB."""
    started, child = time.perf_counter(), os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.execv(sys.executable, [sys.executable, "-c", CLI, *arguments])
    _, status, usage = os.wait4(child, 0)
    if status:
        raise SystemExit(f"mlvae {' '.join(arguments)} failed")
    scale = 2**20 if sys.platform == "darwin" else 2**10
    processor = usage.ru_utime + usage.ru_stime
    return {"clock": time.perf_counter() - started, "processor": processor, "megabytes": usage.ru_maxrss / scale}


def slope(rows: list[dict[str, float]], by: str, idle: float) -> float:
    """Of log seconds by log size, once those of the smallest size are taken off; of sizes that take half a second."""
    size, seconds = (np.array([row[name] for row in rows]) for name in (by, "processor"))
    some = seconds - idle > 0.5
    return float(np.polyfit(np.log(size[some]), np.log(seconds[some] - idle), 1)[0]) if some.sum() > 1 else math.nan


def groups(model: MLVAE, folder: Path, sizes: list[int], dim: int) -> dict[str, list[dict[str, float]]]:
    """merge, posterior, identify at each number of groups."""
    results: dict[str, list[dict[str, float]]] = {"merge": [], "posterior": [], "identify": []}
    query = files.write(simulated(1, dim, 9), model, folder / "query")
    for count in sizes:
        paths = [folder / name for name in ("a", "b", "ab", "p", "i")]
        for place, path in enumerate(paths[:2]):
            files.write(simulated(count, dim, place, place * count // 2), model, path)
        runs = {
            "merge": ("merge", paths[0], paths[1], "--out", paths[2]),
            "posterior": ("posterior", paths[0], "--out", paths[3]),
            "identify": ("identify", paths[0], query, "--out", paths[4]),
        }
        for name, arguments in runs.items():
            row = {"groups": count, **measured("evidence", *map(str, arguments))}
            results[name].append(row)
            print(f"{name:9} {row}", flush=True)
        results["merge"][-1]["bytes a group"] = paths[0].stat().st_size / count
        for path in paths:
            path.unlink()
    return results


def observations(folder: Path) -> list[dict[str, float]]:
    """encode at 1 to 16 parts."""
    torch.manual_seed(0)
    model = MLVAE((64,), [Level("content", 8, by="group"), Level("style", 8)], network="mlp", likelihood="normal")
    save(model, folder / "run")
    random, rows = np.random.default_rng(0), []
    for parts in (1, 2, 4, 8, 16):
        source = folder / f"in{parts}"
        source.mkdir()
        for part in range(parts):
            x = random.random((ROWS, 64), np.float32)
            np.savez(source / f"{part}.npz", x=x, group=random.integers(0, 1000, ROWS))
        run = measured("encode", str(folder / "run"), str(source), "--evidence", str(folder / f"e{parts}"))
        rows.append({"observations": parts * ROWS, **run})
        print(f"encode    {rows[-1]}", flush=True)
    return rows


def main() -> None:
    """Prints every run, then the slopes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=7)
    parser.add_argument("--dim", type=int, default=8)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        model = MLVAE((4,), [Level("content", options.dim, by="g"), Level("style", 2)])
        sizes = sorted([10**e for e in range(4, options.most + 1)] + [3 * 10 ** (options.most - 1)])
        results = {"encode": observations(Path(name)), **groups(model, Path(name), sizes, options.dim)}
    for name, rows in results.items():
        by = "observations" if name == "encode" else "groups"
        idle, large = rows[0]["processor"], rows[-1]  # the smallest is all starting and hardly any work
        each = 1e6 * (large["processor"] - idle) / (large[by] - rows[0][by])
        print(
            f"{name:9} {each:.3f} microseconds of processor a {by[:-1]}, slope {slope(rows, by, idle):.3f}", flush=True
        )
    if options.out:
        options.out.write_text(json.dumps({"dim": options.dim, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
