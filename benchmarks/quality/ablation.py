"""One change at a time to the default, on MNIST with the MLP network: docs/ablation.md.

    python benchmarks/quality/ablation.py --data mnist.npz --out runs/ablation [--seeds 0,1,2] [--only NAME ...]

Seven epochs (1,000 steps) on five sixths of the training part, measured on the last sixth: the test part takes no part.
About two minutes a run on one core; what is finished is not done again. Ends with a table, mean over seeds and half the
range.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import mlvae
from mlvae import Held, Objective, Ramp, training
from mlvae.atomic import write
from mlvae.augment import Augmentation
from mlvae.evaluate.bounds import bound
from mlvae.evaluate.measures import calibrated
from mlvae.evaluate.probes import cross_probe, probe
from mlvae.evaluate.subject import Subject
from mlvae.networks import LAYOUTS, NETWORKS

Measure = Callable[[str, mlvae.GroupedData, mlvae.GroupedData, int], Mapping[str, float]]

EPOCHS = 7
DEFAULT = Objective()


@dataclass(frozen=True)
class Variant:
    """A change to the objective, the model or the way it is trained.

    Args:
        objective: what is asked.
        model: arguments of `MLVAE.for_data`.
        fit: arguments of `mlvae.fit`.
        schedule: the learning rate's factor by the share of training done, in place of `fit`'s.
        averaged: of how many steps, about, the weights that are measured are an average (EMA).
    """

    objective: Objective = DEFAULT
    model: Mapping[str, Any] = field(default_factory=dict)
    fit: Mapping[str, Any] = field(default_factory=dict)
    schedule: Callable[[float], float] | None = None
    averaged: int = 0


def _straight(since: float, end: float = 1000.0) -> Variant:
    return Variant(replace(DEFAULT, independence=Ramp(0.0, end, since=since)))


def doubling(start: float, end: float) -> Variant:
    """Independence's weight doubling all through training, not held."""
    return Variant(replace(DEFAULT, independence=Ramp(start, end, doubling=True)))


VARIANTS: dict[str, Variant] = {
    "default": Variant(),
    "all evidence": Variant(replace(DEFAULT, evidence="all")),
    "one sample a group": Variant(replace(DEFAULT, draw="group", evidence="all")),
    "product of votes without the prior": Variant(model={"readout": "product"}),
    "the bound alone (the paper's objective)": Variant(Objective.plain()),
    "no independence penalty": Variant(replace(DEFAULT, independence=0.0)),
    "independence 3 to 1000, not held": doubling(3.0, 1000.0),
    "independence 3 to 300": doubling(3.0, 300.0),
    "independence 3 to 3000": doubling(3.0, 3000.0),
    "independence 30 to 1000": doubling(30.0, 1000.0),
    "independence straight from .3": _straight(0.3),
    "half may be told": Variant(replace(DEFAULT, independence=Held(end=0.006))),
    "twice may be told": Variant(replace(DEFAULT, independence=Held(end=0.024))),
    "moments to the second": Variant(replace(DEFAULT, moments=2)),
    "moments to the third": Variant(replace(DEFAULT, moments=3)),
    "moments to the sixth": Variant(replace(DEFAULT, moments=6)),
    "no identification term": Variant(replace(DEFAULT, identification=0.0)),
    "identification 1": Variant(replace(DEFAULT, identification=1.0)),
    "identification 20": Variant(replace(DEFAULT, identification=20.0)),
    "content KL 1": Variant(DEFAULT.changed(content=1.0)),
    "content KL .05": Variant(DEFAULT.changed(content=0.05)),
    "content KL from .2 to 1": Variant(replace(DEFAULT, kl_weight={"content": Ramp(0.2, 1.0)})),
    "style KL 2": Variant(DEFAULT.changed(style=2.0)),
    "style KL from 0 to 1 in the first fifth": Variant(
        replace(DEFAULT, kl_weight={**DEFAULT.kl_weight, "style": Ramp(0.0, 1.0, until=0.2)})
    ),
    "style given content": Variant(model={"style_given_content": True}),
    "8 dimensions of style": Variant(model={"style_dim": 8}),
    "32 dimensions of style": Variant(model={"style_dim": 32}),
    "a style head that says its vote's mean": Variant(model={"layout": 1, "network": NETWORKS["mlp"]}),
    "no gated blocks": Variant(model={"network": LAYOUTS[1]["mlp"]}),
    "the small network": Variant(model={"network": "mlp-small"}),
    "groups of 2": Variant(fit={"members": 2, "groups": 175}),
    "groups of 2 to 20": Variant(fit={"members": (2, 20), "groups": 32}),
    "half the batch, as many epochs": Variant(fit={"groups": 35}),
    "learning rate halved": Variant(fit={"lr": 1e-3}),
    "learning rate doubled": Variant(fit={"lr": 4e-3}),
    "learning rate constant": Variant(schedule=lambda share: min(share / 0.03, 1.0)),
    "weights averaged over a hundred steps": Variant(averaged=100),
    "learning rate constant, weights averaged": Variant(schedule=lambda share: min(share / 0.03, 1.0), averaged=100),
    "moved by up to a pixel": Variant(fit={"augment": Augmentation(shift=1)}),
    "twice the epochs": Variant(fit={"epochs": 2 * EPOCHS}),
    "the convolutional network": Variant(model={"network": "conv"}),
}
COLUMNS = {
    "probe.content.k1.linear": "content, linear",
    "probe.style.sample.mlp": "style samples, MLP",
    "probe.style.sample.nats": "nats",
    "elbo": "bound",
    "kl.style": "style's KL",
    "reconstruction.mse": "error",
    "calibration.k1.ratio": "calibration, k = 1",
}


def compare(about: str, out: str, names: Sequence[str], measure: Measure) -> None:
    """The command line of a comparison: measures what is not there yet, variant by variant, and prints the table.

    Args:
        about: what ``--help`` says.
        out: the usual folder.
        names: all variants.
        measure: trains one of them, given its name, on one part and measures it on another, with a seed.
    """
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", nargs="+", default=None, choices=names, metavar="NAME", help="names of variants")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    part, _ = mlvae.read(arguments.data, by="group").split(column="split")
    for seed in map(int, arguments.seeds.split(",")):
        train, valid = part.split(by="observation", test=1 / 6, seed=seed)
        for name in arguments.only or names:
            file = arguments.out / f"{slug(name)}-{seed}.json"
            if not file.exists():
                numbers = measure(name, train, valid, seed)
                write(file, json.dumps({"variant": name, "seed": seed, **numbers}, indent=1).encode())
                print(name, seed, {key: round(numbers[key], 3) for key in COLUMNS if key in numbers}, flush=True)
    print(table(arguments.out, names))


def slug(name: str) -> str:
    """The name as a file's."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")


def measure(name: str, train: mlvae.GroupedData, valid: mlvae.GroupedData, seed: int) -> dict[str, float]:
    """On the validation part; probes fitted on less than all of the training part find less."""
    variant = VARIANTS[name]
    torch.manual_seed(seed)
    model = mlvae.MLVAE.for_data(train, **{"network": "mlp", **variant.model})
    fit = {"objective": variant.objective, "epochs": EPOCHS, **variant.fit}
    with scheduled(variant.schedule), averaging(model, variant.averaged):
        mlvae.fit(model, train, seed=seed, progress=False, **fit)
    return numbers(model, train, valid, seed)


def numbers(model: mlvae.MLVAE, train: mlvae.GroupedData, valid: mlvae.GroupedData, seed: int) -> dict[str, float]:
    """What the protocol says of the table's columns; `mlvae.evaluate` asks much more."""
    labels = train.groups, valid.groups
    subject = Subject(model, train, valid, labels, seed)
    before, after = (part.codes["content"].mean for part in (subject.before, subject.after))
    content = probe(before, labels[0], after, labels[1], "linear", seed)
    generator = torch.Generator().manual_seed(seed)
    before, after = (part.codes["style"].rsample(generator) for part in (subject.before, subject.after))
    style = [probe(before, labels[0], after, labels[1], "mlp", seed), cross_probe(after, labels[1], "mlp", seed)]
    return {
        "probe.content.k1.linear": content.accuracy,
        "probe.style.sample.mlp": max(found.accuracy for found in style if found),
        "probe.style.sample.nats": max(found.nats for found in style if found),
        **bound(subject),
        **calibrated(subject),
    }


@contextmanager
def scheduled(schedule: Callable[[float], float] | None) -> Iterator[None]:
    """Another course of the learning rate meanwhile."""
    before = training._schedule
    training._schedule = schedule or before
    try:
        yield
    finally:
        training._schedule = before


@contextmanager
def averaging(model: mlvae.MLVAE, steps: int) -> Iterator[None]:
    """At the end the weights are an exponential average over about so many steps; 0: the last ones."""
    if not steps:
        yield
        return
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(1 - 1 / steps))
    hook = register_optimizer_step_post_hook(lambda *_: average.update_parameters(model))
    try:
        yield
    finally:
        hook.remove()
    model.load_state_dict(average.module.state_dict())


def table(out: Path, names: Sequence[str]) -> str:
    """A row a variant, in the order of the names: mean over seeds ± half the range."""
    runs = [json.loads(file.read_text()) for file in sorted(out.glob("*.json"))]
    rows = ["| | " + " | ".join(COLUMNS.values()) + " |", "|---" * (1 + len(COLUMNS)) + "|"]
    found = {run["variant"] for run in runs}
    for name in [*(name for name in names if name in found), *sorted(found.difference(names))]:
        cells = []
        for key in COLUMNS:
            values = [run[key] for run in runs if run["variant"] == name and key in run]
            digits = 1 if key in ("elbo", "kl.style") else 4 if key == "reconstruction.mse" else 3
            spread = f" ± {np.ptp(values) / 2:.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.{digits}f}{spread}" if values else "")
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    compare(__doc__ or "", "runs/ablation", list(VARIANTS), measure)
