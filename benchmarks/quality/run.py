"""The numbers of docs/results.md: train and evaluate on every data set, seed by seed.

    python benchmarks/quality/run.py --data FOLDER --out runs/quality [--sets mnist,orl] [--seeds 0,1,2] [--threads 2]
        [--measured benchmarks/quality/measured]

FOLDER holds mnist.npz, omniglot_28.npz, avatars_lorelei_64.npz and orl_faces_64.npz; Fashion-MNIST comes from the four
IDX files of Debian's package dataset-fashion-mnist. What is finished is not done again, and what was stopped goes on.
Seed 0 (fold 0) is measured beside all controls, the others beside the untrained network. A set that the folder lacks
is named and left out. Ends with a table (mean, least to greatest over seeds) in OUT/results.md and OUT/results.json.
With --measured the runs whose numbers lie there are taken as done: `measured` beside this script has those of the docs.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FASHION = Path("/usr/share/datasets/fashion-mnist")
FACTORS = "mouth:label,eyes:label,rotate_deg:number,flip:label,tx:number,ty:number"


@dataclass(frozen=True)
class Set:
    """A data set of the benchmark.

    Args:
        file: in the data folder, or written beside the runs.
        train: further options of `mlvae train`.
        evaluate: further options of `mlvae evaluate`.
        folds: as many parts of the groups, each kept out once, in place of seeds.
    """

    file: str
    train: tuple[str, ...] = ()
    evaluate: tuple[str, ...] = ()
    folds: int = 0


SETS = {
    "mnist": Set("mnist.npz"),
    "fashion": Set("fashion.npz"),
    "omniglot": Set("omniglot_28.npz", train=("--quarter-turns",)),
    "avatars": Set("avatars_lorelei_64.npz", train=("--augment", "shift:2,flip:.5"), evaluate=("--factors", FACTORS)),
    "orl": Set(
        "orl_faces_64.npz",
        train=("--deformed", "31", "--augment", "shift:3,rotate:8", "--style-kl", "32", "--epochs", "49"),
        folds=4,
    ),
}

ROWS = {
    "probe.content.k1.linear": "group from content means, linear probe, k = 1",
    "probe.content.k1.mlp": "the same, MLP probe",
    "probe.style.sample.mlp": "group from style samples, MLP probe",
    "probe.style.sample.nats": "the same, nats",
    "probe.style.mean.mlp": "group from style means, MLP probe",
    "unseen.shots.1.accuracy": "unseen groups, 1 shot",
    "unseen.shots.5.accuracy": "unseen groups, 5 shots",
    "unseen.style.shots.5.accuracy": "the same from style samples",
    "verification.auc": "same group or not, AUC",
    "verification.eer": "same group or not, equal error rate",
    "open_set.auc": "known group or new, AUC",
    "swap.content_of_donor": "swaps that show the content giver's group",
    "swap.content_of_style_giver": "swaps that show the style giver's group",
    "swap.k5.content_of_donor": "the same with the content of five",
    "swap.reconstructed": "the judge on observations through their own codes",
    "swap.judge": "the judge on real observations",
    "swap.cross_member_mse": "error through another member's content",
    "swap.cross_member_mse_ratio": "the same over the plain VAE's own error",
    "reconstruction.mse": "error from own codes",
    **{
        f"calibration.k{k}.{what}": f"calibration at k = {k}, {text}"
        for k in (1, 2, 5, 10)
        for what, text in (("ratio", "ratio"), ("coverage90", "coverage of 90 % intervals"))
    },
    "elbo": "bound, nats per observation",
    "iwae": "importance-weighted bound, k = 1, binarised",
    "generation.coverage": "coverage of samples",
    "generation.density": "density of samples",
    "amortisation.gap": "amortisation gap, nats a group",
}
CONTROLS = {"untrained": "untrained", "vae": "plain VAE", "permuted": "shuffled labels"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measured", type=Path, help="a folder of numbers of runs that are not to be done again")
    arguments = parser.parse_args()
    if arguments.measured and not arguments.measured.is_dir():
        parser.error(f"expected a folder of numbers after --measured; {arguments.measured} is none")
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
    arguments.out.mkdir(parents=True, exist_ok=True)
    for file in arguments.measured.glob("*.json") if arguments.measured else ():
        shutil.copy(file, arguments.out)
    for name in arguments.sets.split(","):
        chosen = SETS[name]
        repeats = range(chosen.folds) if chosen.folds else [int(seed) for seed in arguments.seeds.split(",")]
        for repeat in repeats:
            file = _file(name, arguments.data, arguments.out, repeat)
            if file is None:
                print(f"{name}: left out, {chosen.file} is not there", flush=True)
                break
            one(name, file, arguments.out, repeat, "untrained" if repeat else "all", environment)
    collect(arguments.out)


def one(name: str, file: Path, out: Path, repeat: int, controls: str, environment: dict[str, str]) -> None:
    """Trains and evaluates one seed (or fold) of one set, unless its numbers are there."""
    chosen, run = SETS[name], out / f"{name}-{repeat}"
    metrics = out / f"{name}-{repeat}.json"
    seed = "0" if chosen.folds else str(repeat)
    timed = run / "seconds.json"
    if metrics.exists():
        return
    if not timed.exists():
        started = time.perf_counter()
        again = ["--resume"] if (run / "training.safetensors").exists() else []
        _mlvae(
            ["train", str(file), "--by", "group", "--out", str(run), "--seed", seed, *chosen.train, *again], environment
        )
        timed.write_text(json.dumps({"seconds": time.perf_counter() - started, "resumed": bool(again)}))
    _mlvae(
        ["evaluate", str(run), str(file), "--by", "group", "--controls", controls, "--controls-folder",
         str(out / "controls"), "--seed", seed, "--out", str(metrics), *chosen.evaluate], environment,
    )  # fmt: skip


def _mlvae(arguments: list[str], environment: dict[str, str]) -> None:
    print("mlvae", *arguments, flush=True)
    subprocess.run(
        [sys.executable, "-c", "from mlvae.cli import main; main()", *arguments], check=True, env=environment
    )


def _file(name: str, data: Path, out: Path, repeat: int) -> Path | None:
    """The set's npz; Fashion-MNIST's and the folds' are written beside the runs."""
    chosen = SETS[name]
    source = data / chosen.file
    if name == "fashion":
        source = out / chosen.file
        if not source.exists() and FASHION.exists():
            _fashion(source)
    if not source.exists():
        return None
    if not chosen.folds:
        return source
    target = out / f"{source.stem}-{repeat}.npz"
    if not target.exists():
        with np.load(source) as held:
            columns = dict(held)
        groups = np.unique(columns["group"])
        kept_out = np.array_split(groups, chosen.folds)[chosen.folds - 1 - repeat]  # fold 0 is the file's own split
        np.savez(target, **{**columns, "split": np.isin(columns["group"], kept_out).astype(np.uint8)})
    return target


def _fashion(target: Path) -> None:
    parts = []
    for stem in ("train", "t10k"):
        with gzip.open(FASHION / f"{stem}-images-idx3-ubyte.gz") as images:
            x = np.frombuffer(images.read(), np.uint8, offset=16).reshape(-1, 28, 28)
        with gzip.open(FASHION / f"{stem}-labels-idx1-ubyte.gz") as labels:
            parts.append((x, np.frombuffer(labels.read(), np.uint8, offset=8)))
    split = np.repeat([0, 1], [len(y) for _, y in parts])
    np.savez(target, x=np.concatenate([x for x, _ in parts]), group=np.concatenate([y for _, y in parts]), split=split)


def collect(out: Path) -> None:
    """One table a set: mean over seeds or folds, least to greatest, and the controls of the first."""
    numbers: dict[str, dict[str, dict[str, float]]] = {}
    for file in sorted(out.glob("*-[0-9]*.json")):
        numbers.setdefault(file.stem.rsplit("-", 1)[0], {})[file.stem] = json.loads(file.read_text())
    text = []
    for name, runs in numbers.items():
        every = list(runs.values())
        controls = [c for c in CONTROLS if any(key.startswith(f"control.{c}.") for key in every[0])]
        text += [
            f"## {name}, {len(every)} runs\n",
            "| | " + " | ".join(["mean", "least - greatest", *map(CONTROLS.get, controls), "chance or pixels"]) + " |",
        ]
        text.append("|---" * (4 + len(controls)) + "|")
        factors = sorted({k for k in every[0] if k.startswith("probe.") and k not in ROWS and k != "probe.chance"})
        for key in [*ROWS, *factors]:
            values = [metrics[key] for metrics in every if key in metrics]
            if not values:
                continue
            beside = [_shown(every[0].get(f"control.{control}.{key}")) for control in controls]
            spread = f"{_shown(min(values))} - {_shown(max(values))}"
            text.append(
                f"| {ROWS.get(key, key)} | {_shown(float(np.mean(values)))} | {spread} | "
                + " | ".join([*beside, _floor(every[0], key)])
                + " |"
            )
        text.append("")
    (out / "results.md").write_text("\n".join(text))
    (out / "results.json").write_text(json.dumps(numbers, indent=1))
    print("\n".join(text))


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _floor(metrics: dict[str, float], key: str) -> str:
    if key == "unseen.shots.1.accuracy":
        return f"{metrics['unseen.pixels.shots.1.accuracy']:.3f} (pixels), {1 / metrics['unseen.way']:.3f}"
    if key.startswith("unseen.") and "way" not in key:
        return f"{1 / metrics['unseen.way']:.3f}"
    if key.startswith("probe.") and (key in ROWS) and not key.endswith("nats"):
        return _shown(metrics.get("probe.chance"))
    parts = key.split(".")
    return (
        _shown(metrics.get(f"probe.{parts[2]}.chance"))
        if key.startswith("probe.") and len(parts) > 3 and not key.endswith(("r2", "nats"))
        else ""
    )


if __name__ == "__main__":
    main()
