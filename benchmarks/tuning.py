"""Does the worth that needs no labels (`mlvae.tuning`) rank runs as the protocol does on the test part?

python benchmarks/tuning.py --data FOLDER --out tuning.json [--runs 8] [--seed 1] [--sets mnist,omniglot,avatars]

FOLDER has mnist.npz, omniglot_28.npz and avatars_lorelei_64.npz. Settings are drawn at random from the search's space;
a worth is read on validation observations cut from the training part, the protocol's numbers (`mlvae.evaluate`, quick)
on the test part, which took no part. Beside the worth stands what else the grouping alone can give: its three terms by
themselves, and the bound on validation.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import optuna
import torch
from scipy.stats import spearmanr

import mlvae
from mlvae.atomic import replacing
from mlvae.evaluate.bounds import bound
from mlvae.evaluate.subject import Subject
from mlvae.tuning import Choice, cut, run

Parts = tuple[mlvae.GroupedData, mlvae.GroupedData]
EPOCHS = 40


def mnist(folder: Path) -> Parts:
    """Known groups, new observations."""
    train, new = mlvae.read(folder / "mnist.npz", by="group").split(column="split")
    return _some(train, 4000), _some(new, 2000)


def omniglot(folder: Path) -> Parts:
    """Characters never seen: 250 to learn from, 100 to be asked about."""
    train, new = mlvae.read(folder / "omniglot_28.npz", by="group").split(column="split")
    return _groups(train, 250), _groups(new, 100)


def avatars(folder: Path) -> Parts:
    """Drawn people never seen: 200 to learn from, 80 to be asked about, at 32 x 32."""
    data = mlvae.read(folder / "avatars_lorelei_64.npz", by="group")
    small = torch.nn.functional.avg_pool2d(torch.as_tensor(data.x).float()[:, None], 2)[:, 0].round().byte()
    train, new = replace(data, x=small).split(column="split")
    return _groups(train, 200), _groups(new, 80)


SETS: dict[str, Callable[[Path], Parts]] = {"mnist": mnist, "omniglot": omniglot, "avatars": avatars}


def _some(data: mlvae.GroupedData, count: int) -> mlvae.GroupedData:
    return data.subset(np.sort(np.random.default_rng(0).permutation(len(data))[:count]))


def _groups(data: mlvae.GroupedData, count: int) -> mlvae.GroupedData:
    chosen = np.random.default_rng(0).permutation(np.unique(data.groups))[:count]
    return data.subset(np.isin(data.groups, chosen))


def protocol(metrics: dict[str, float], variance: float) -> dict[str, float]:
    """The protocol's own named, kept and told, and named + kept - told."""

    def beyond(accuracy: float, chance: float) -> float:
        return max(0.0, (accuracy - chance) / (1 - chance))

    if "probe.content.k1.linear" in metrics:
        named, told = (beyond(metrics[key], metrics["probe.chance"]) for key in
                       ("probe.content.k1.linear", "probe.style.sample.mlp"))  # fmt: skip
    else:
        named, told = (beyond(metrics[key], 1 / metrics["unseen.way"]) for key in
                       ("unseen.shots.1.accuracy", "unseen.style.shots.5.accuracy"))  # fmt: skip
    kept = max(0.0, 1 - metrics["reconstruction.mse"] / variance)
    return {"named": named, "kept": kept, "told": told, "value": named + kept - told}


def main() -> None:
    """Writes what is done so far after every run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sets", default=",".join(SETS))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, object] = {}
    for name in asked.sets.split(","):
        train, new = SETS[name](Path(asked.data))
        fitted, valid = cut(train, asked.seed)
        draws = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=asked.seed))
        rows = []
        for _ in range(asked.runs):
            started = time.perf_counter()
            choice = Choice.suggested(draws.ask())
            model, worth = run(choice, fitted, valid, epochs=EPOCHS, seed=asked.seed, network="mlp-small")
            x = model.prepare(new.x)
            metrics = mlvae.evaluate(model, train, new, quick=True, controls=False)
            subject = Subject(model, fitted, valid, (fitted.groups, valid.groups))
            rows.append(
                {
                    "choice": asdict(choice),
                    "validation": asdict(worth) | {"value": worth.value, "elbo": bound(subject)["elbo"]},
                    "protocol": protocol(metrics, float((x - x.mean(0)).square().mean())),
                    "seconds": time.perf_counter() - started,
                }
            )
            print(name, json.dumps(rows[-1]), flush=True)
            found[name] = {"runs": rows}
            with replacing(Path(asked.out)) as path:
                path.write_text(json.dumps(found, indent=1))
        truth = [row["protocol"]["value"] for row in rows]
        ranks = {
            key: float(spearmanr([row["validation"][key] for row in rows], truth).statistic)
            for key in rows[0]["validation"]
        }
        found[name] = {"runs": rows, "spearman": ranks}
        with replacing(Path(asked.out)) as path:
            path.write_text(json.dumps(found, indent=1))
        print(name, "rank correlation", {key: round(value, 2) for key, value in ranks.items()}, flush=True)


if __name__ == "__main__":
    main()
