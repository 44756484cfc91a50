"""Models that a number must be seen beside: untrained, without groups, with groups that mean nothing.

A trained control costs as much as the model itself. It is kept in a folder, under a name made of all that it depends
on, and trained once.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mlvae.asked import Objective, several
from mlvae.checkpoint import TRAINING_FILE, describe, load
from mlvae.data import GroupedData
from mlvae.errors import ModelError
from mlvae.levels import Level
from mlvae.likelihoods import LIKELIHOODS
from mlvae.model import MLVAE, OWN
from mlvae.temperature import uncalibrate
from mlvae.training import fit

TRAINED = ("vae", "permuted")
"""Controls that are trained: an iid VAE of the same size and total dimensions; the same model with labels shuffled."""

SHORTER = 4
"""Shuffled labels are learned from in a quarter of the epochs: what they cannot tell, no length of training finds."""


def untrained(model: MLVAE, seed: int = 0) -> MLVAE:
    """The same architecture with fresh weights.

    Warns:
        UserWarning: a network of one's own has a part that cannot be made anew, for want of `reset_parameters`.
    """
    fresh = copy.deepcopy(model)
    kept = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, module in fresh.named_modules():
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if callable(reset):
                reset()
            elif next(module.parameters(recurse=False), None) is not None and not name.startswith("likelihood"):
                kept.append(f"{name} ({type(module).__name__})")
    if kept:
        warnings.warn(
            f"The untrained network has the trained weights of {', '.join(kept)}, and its numbers mean less for it."
            " Give them a method `reset_parameters`.",
            stacklevel=2,
        )
    uncalibrate(fresh)
    return fresh


def permuted(data: GroupedData, seed: int = 0) -> GroupedData:
    """The same observations with every column of labels shuffled alike: groups of the same sizes that mean nothing.

    Known covariates stay, as they are no grouping.
    """
    order = np.random.default_rng(seed).permutation(len(data))
    kept = {feature.name for feature in data.schema.covariates}
    columns = {name: labels if name in kept else labels[order] for name, labels in data.columns.items()}
    return replace(data, columns=columns)


def refuse_replaced(model: MLVAE) -> None:
    """Raises ModelError where no control of the model can be trained: it has modules of the user's own."""
    if own := [name for name, replaced in describe(model)["replaced"].items() if replaced]:
        raise ModelError(
            f"Expected mlvae's own networks to train a control of; this model's {' and '.join(own)} was passed in."
            " Evaluate it with controls=True."
        )


def digest_of(data: GroupedData, keys: Sequence[str | tuple[str, ...]]) -> str:
    """A hash of the observations and of the groups by each of some columns, or combinations of columns."""
    digest = hashlib.sha256()
    for part in data.chunks():
        digest.update(part.contiguous().numpy().tobytes())
    for key in keys:
        digest.update("\0".join(data.column(key).astype(str)).encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class Controls:
    """Where trained controls are kept, and how they are trained: best as the model that they stand beside.

    Args:
        folder: of all controls, of any number of runs.
        options: of `mlvae.fit`: ``epochs``, ``objective``, ``groups``, ... An iid VAE has the plain bound whatever the
            objective.
        train: what to train them on, where it is more than the data that probes are fitted on (turned images, say).
        progress: show a bar.
    """

    folder: str | Path
    options: Mapping[str, Any] = field(default_factory=dict)
    train: GroupedData | None = None
    progress: bool = True

    def get(self, kind: str, model: MLVAE, train: GroupedData, seed: int = 0) -> tuple[MLVAE, Path]:
        """A control, trained where the folder does not hold it yet and resumed where it was stopped.

        Args:
            kind: "vae", one level of all dimensions, each observation's own, and the plain bound; or "permuted", the
                model and its objective on shuffled labels, in a quarter of the epochs where ``options`` have a number.
            model: what it stands beside.
            train: what that was trained on.
            seed: of the control's weights, shuffle and training.

        Returns:
            The control, in evaluation mode, and its own folder.

        Raises:
            ModelError: no such kind, or the model has modules of the user's own.
        """
        if kind not in TRAINED:
            raise ModelError(f"Expected a control to train, one of {', '.join(TRAINED)}; got {kind!r}.")
        refuse_replaced(model)
        data = self.train or train
        options = {**self.options, "seed": seed}
        if kind == "vae":
            options["objective"] = Objective.plain()
        else:
            # Named, so that a control of another default is another one.
            shared = [data.codes(level.by) for level in model.group_levels if level.by is not None]
            options["objective"] = options.get("objective") or Objective.for_groups(several(shared))
            if options.get("epochs"):
                options["epochs"] = math.ceil(options["epochs"] / SHORTER)
        place = Path(self.folder) / f"{kind}-{_fingerprint(kind, model, data, options)}"
        finished = place / "finished"
        if not finished.exists():
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                fresh = _like(model, plain=kind == "vae")
            if self.progress:
                print(f"Training the control {kind!r}, once, in {place}", flush=True)
            fit(
                fresh, permuted(data, seed) if kind == "permuted" else data, place,
                resume=(place / TRAINING_FILE).exists(), progress=self.progress, **options,
            )  # fmt: skip
            finished.touch()
        return load(place, likelihood=copy.deepcopy(model.likelihood), network=model.pair), place


def _like(model: MLVAE, *, plain: bool) -> MLVAE:
    levels = [Level("style", sum(level.dim for level in model.levels))] if plain else list(model.levels)
    likelihood = copy.deepcopy(model.likelihood)
    if type(likelihood) in LIKELIHOODS.values():  # what was made for the data stays, what was learned does not
        likelihood = type(likelihood)(**likelihood.settings())
        likelihood.load_state_dict(dict(model.likelihood.named_buffers()), strict=False)
    return MLVAE(
        model.shape,
        levels,
        network=model.pair if model.network == OWN else model.network,
        width=model.width,
        likelihood=likelihood,
        schema=model.schema,
        layout=model.layout,
    )


def _fingerprint(kind: str, model: MLVAE, train: GroupedData, options: Mapping[str, Any]) -> str:
    """Of the data and of every setting that the control's numbers depend on."""
    about = describe(model)
    if kind == "vae":
        about["levels"] = sum(level.dim for level in model.levels)
    # Where it was trained is no setting: one kept from another device serves.
    said = {name: digest_of(value, list(value.columns)) if isinstance(value, GroupedData) else repr(value)
            for name, value in sorted(options.items()) if name != "device"}  # fmt: skip
    # As from before there were further penalties and an adversary: controls that were trained then serve.
    text = json.dumps([about, said]).replace(", further={}", "").replace(", adversary=0.0", "")
    digest = hashlib.sha256(text.encode())
    for part in train.chunks():
        digest.update(part.contiguous().numpy().tobytes())
    for level in model.group_levels if kind == "permuted" else ():
        assert level.by is not None
        digest.update(train.codes(level.by).numpy().tobytes())
    for feature in model.schema.covariates:
        digest.update("\0".join(train.column(feature.name).astype(str)).encode())
    return digest.hexdigest()[:12]
