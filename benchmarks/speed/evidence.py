"""What evidence costs beside the least it could: merge, encode, identify; interleaved, medians, one thread.

    python benchmarks/speed/evidence.py [--groups 300000] [--gallery 1000000] [--dim 32] [--rounds 5] [--out r.json]

merge: the whole command `mlvae evidence merge` as a process, beside a process in which DuckDB does SUM ... GROUP BY
over the same two files: once keeping the sums in memory, once writing them to Parquet as the command must.
encode: `model.evidence` beside a bare forward pass of encoder and head over tensors in memory, in the same chunks.
Times are of the processor, so that other work on the machine counts for less.
identify: one query against a gallery in memory, beside one read (sum) of the gallery's means and variances.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from mlvae import MLVAE, Evidence, Gallery, GroupEvidence, Level
from mlvae.inference import CHUNK
from mlvae.store import files

READOUT = {"content": "product_with_prior"}


def simulated(groups: int, dim: int, seed: int, first: int = 0) -> GroupEvidence:
    """Evidence of about ten votes a group on latents drawn from the prior."""
    random = np.random.default_rng(seed)
    precision = random.gamma(10.0, 0.5, (groups, dim))
    truth = random.normal(size=(groups, dim))
    information = precision * truth + np.sqrt(precision) * random.normal(size=(groups, dim))
    count = torch.full((groups,), 10)
    level = Evidence(torch.from_numpy(precision), torch.from_numpy(information), count)
    return GroupEvidence({"content": level}, READOUT, {"content": np.arange(first, first + groups)})


def processes() -> float:
    """Seconds of processor of all processes that were started and have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def medians(
    variants: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.process_time
) -> dict[str, float]:
    """Seconds of each variant, taken in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            started = clock()
            run()
            seconds[name].append(clock() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def bare_sql(paths: list[Path], dim: int, target: Path | None) -> str:
    """A program that only sums, and writes where asked."""
    lists = ", ".join(
        "[" + ", ".join(f"sum({name}[{d}])" for d in range(1, dim + 1)) + f"] as {name}"
        for name in ("precision", "information")
    )
    names = ", ".join(f"'{path}'" for path in paths)
    query = f'select "group", sum(count)::bigint as count, {lists} from read_parquet([{names}]) group by "group"'
    whole = f"create temp table r as {query}" if target is None else f"copy ({query}) to '{target}' (format parquet)"
    return f"import duckdb\nduckdb.connect().execute({whole!r})"


def merging(groups: int, dim: int, rounds: int) -> dict[str, float]:
    """Two files, half of whose groups are in both."""
    torch.manual_seed(0)
    model = MLVAE((4,), [Level("content", dim, by="g"), Level("style", 2)])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [
            files.write(simulated(groups, dim, seed, seed * groups // 2), model, folder / f"{seed}") for seed in (0, 1)
        ]

        def run(*command: str) -> None:
            (folder / "out").unlink(missing_ok=True)
            subprocess.run([sys.executable, *command], check=True, capture_output=True, env={**os.environ})

        code = "import sys; from mlvae.cli import main; main(sys.argv[1:])"
        arguments = ["evidence", "merge", *map(str, paths), "--out", str(folder / "out")]
        return medians(
            {
                "command": lambda: run("-c", code, *arguments),
                "sum and write": lambda: run("-c", bare_sql(paths, dim, folder / "out")),
                "sum": lambda: run("-c", bare_sql(paths, dim, None)),
            },
            rounds,
            processes,
        )


def encoding(rounds: int, network: str) -> dict[str, float]:
    """16,384 observations of 28 x 28 in 1,000 groups."""
    torch.manual_seed(0)
    model = MLVAE((28, 28), [Level("content", 16, by="g"), Level("style", 16)], network=network).eval()
    x, groups = torch.rand(16384, 28, 28), np.arange(16384) % 1000

    @torch.no_grad()
    def forward() -> None:
        for chunk in x.split(CHUNK):
            model.heads["content"](model.encoder(chunk))

    return medians({"evidence": lambda: model.evidence(x, groups), "forward": forward}, rounds)


def identifying(groups: int, dim: int, rounds: int) -> dict[str, float]:
    """One query, the five likeliest of all groups."""
    gallery = Gallery(simulated(groups, dim, 0))
    query = simulated(1, dim, 1)
    blocks = gallery._blocks

    def read() -> None:
        for mean, variance in blocks:
            mean.sum()
            variance.sum()

    found = medians({"identify": lambda: gallery.identify(query, 5), "read": read}, 3 * rounds)
    slow = medians(
        {"full matrix": lambda: query.identify(GroupEvidence({"content": gallery.evidence}, READOUT, {}))}, 1
    )
    return {**found, **slow}


def main() -> None:
    """Prints seconds and ratios, and writes them where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=300_000)
    parser.add_argument("--gallery", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=["merge", "mlp", "conv", "identify"])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    jobs: dict[str, Callable[[], dict[str, float]]] = {
        "merge": lambda: merging(options.groups, options.dim, options.rounds),
        "mlp": lambda: encoding(options.rounds, "mlp"),
        "conv": lambda: encoding(options.rounds, "conv"),
        "identify": lambda: identifying(options.gallery, options.dim, options.rounds),
    }
    results = {}
    for name in options.only:
        results[name] = seconds = jobs[name]()
        first = next(iter(seconds))
        ratios = ", ".join(f"{seconds[first] / s:.2f} x {other}" for other, s in seconds.items() if other != first)
        print(f"{name:9} {first} {1e3 * seconds[first]:.1f} ms = {ratios}", flush=True)
    if options.out:
        about = {**vars(options), "out": None}
        options.out.write_text(json.dumps({"options": about, "seconds": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
