"""Does the worth that needs no labels (`mlvae.tuning`) rank runs as the protocol does on the test part?

python benchmarks/tuning.py --out tuning.json [--runs 5] [--sets digits,faces,motion]

Settings are drawn at random from the search's space. A run's worth is read on validation observations cut from the
training part; the same three quantities are read by `mlvae.evaluate(quick=True)` on the test part, which took no part:
naming (linear probe, or one shot where groups are new), style samples (MLP probe, or five shots), and reconstruction.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import optuna
import torch
from scipy.stats import spearmanr

import mlvae
from mlvae.atomic import replacing
from mlvae.tuning import Choice, cut, run

EPOCHS = {"digits": 15, "faces": 3, "motion": 6}


def digits() -> tuple[mlvae.GroupedData, mlvae.GroupedData]:
    """Known groups, new observations."""
    return mlvae.read("digits").split(by="observation", test=0.25, seed=1)


def faces() -> tuple[mlvae.GroupedData, mlvae.GroupedData]:
    """Groups never seen; the drawn faces at 16 x 16."""
    data = mlvae.read("avatars")
    small = torch.nn.functional.avg_pool2d(torch.as_tensor(data.x).float()[:, None] / 255, 4)[:, 0]
    return mlvae.GroupedData.from_arrays(small, data.groups, columns={"split": data.columns["split"]}).split(
        column="split"
    )


def motion() -> tuple[mlvae.GroupedData, mlvae.GroupedData]:
    """Exercises of people never seen, as means and spreads of six channels in windows of two seconds."""
    from seglearn.datasets import load_watch

    watch = load_watch()
    x, what, who = [], [], []
    for series, subject, exercise in zip(watch["X"], watch["subject"], watch["y"], strict=True):
        for start in range(0, len(series) - 99, 50):
            window = series[start : start + 100]
            x.append(np.concatenate([window.mean(0), window.std(0)]))
            what.append(int(exercise))
            who.append(int(subject))
    known = np.array(who) < 9
    rows = np.stack(x)
    rows = (rows - rows[known].mean(0)) / rows[known].std(0)
    data = mlvae.GroupedData.from_arrays(rows.astype(np.float32), np.array(what))
    return data.subset(known), data.subset(~known)


SETS = {"digits": digits, "faces": faces, "motion": motion}


def protocol(metrics: dict[str, float], variance: float) -> float:
    """named + kept - told, from the protocol's own numbers."""

    def beyond(accuracy: float, chance: float) -> float:
        return max(0.0, (accuracy - chance) / (1 - chance))

    if "probe.content.k1.linear" in metrics:
        named, told = (beyond(metrics[key], metrics["probe.chance"]) for key in
                       ("probe.content.k1.linear", "probe.style.sample.mlp"))  # fmt: skip
    else:
        named, told = (beyond(metrics[key], 1 / metrics["unseen.way"]) for key in
                       ("unseen.shots.1.accuracy", "unseen.style.shots.5.accuracy"))  # fmt: skip
    return named + max(0.0, 1 - metrics["reconstruction.mse"] / variance) - told


def main() -> None:
    """Writes what is done so far after every set."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", required=True)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--sets", default="digits,faces,motion")
    asked = parser.parse_args()
    found: dict[str, object] = {}
    for name in asked.sets.split(","):
        train, new = SETS[name]()
        fitted, valid = cut(train)
        draws = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        rows = []
        for _ in range(asked.runs):
            choice = Choice.suggested(draws.ask())
            model, worth = run(choice, fitted, valid, epochs=EPOCHS[name], network="mlp-small", likelihood="normal")
            x = model.prepare(new.x)
            metrics = mlvae.evaluate(model, train, new, quick=True)
            rows.append({"worth": worth.value, "protocol": protocol(metrics, float((x - x.mean(0)).square().mean()))})
            print(name, rows[-1], worth, flush=True)
        rank = spearmanr([row["worth"] for row in rows], [row["protocol"] for row in rows]).statistic
        found[name] = {"runs": rows, "spearman": float(rank)}
        print(f"{name}: rank correlation {rank:.2f} of {len(rows)} runs", flush=True)
        with replacing(Path(asked.out)) as path:
            path.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
