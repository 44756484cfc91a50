"""A run's folder: what is in it, how it is gone on from, what is to be said of it."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mlvae import atomic, checkpoint, states
from mlvae.asked import Objective
from mlvae.augment import Augmentation
from mlvae.errors import CheckpointError, TrainingError
from mlvae.model import MLVAE
from mlvae.ranks import Ranks
from mlvae.temperature import calibrated
from mlvae.untrusted import reading

LOG_FILE = "log.csv"

SAME_NUMBERS_EITHER_WAY = {"patience"}
"""Settings that a resumption may change: they decide when training ends, not what it computes."""

NOT_ALWAYS_KEPT = {"train", "valid"}
"""Settings that runs begun before they were kept go on without."""


class Run:
    """The files of one run: what is in them, and when they may be written.

    Args:
        folder: None keeps nothing.
        model: whose weights are saved.
        settings: JSON values; a resumption must have the same.
        keep: how many training states are kept: the latest, and those before it.
        beside: what learns beside the model and is of no use after training; its weights are part of training states.
    """

    def __init__(
        self,
        folder: Path | None,
        model: MLVAE,
        settings: Mapping[str, Any],
        keep: int = states.KEEP,
        beside: nn.Module | None = None,
    ) -> None:
        self.folder = folder
        self.model = model
        self.learning = nn.ModuleDict({"model": model} if beside is None else {"model": model, "beside": beside})
        self.kept = keep
        self.settings = json.loads(json.dumps(settings))
        self.best: dict[str, Tensor] = {}
        self._saved = time.monotonic()

    def unsaved(self) -> float:
        """Seconds since the last `save`, or since the start."""
        return time.monotonic() - self._saved

    def open(self, resume: bool) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The saved state to go on from; None at a fresh start.

        Raises:
            CheckpointError: the folder holds a run and ``resume`` is not asked for, or holds none and it is.
            TrainingError: the saved run had other settings, other data, or another model.
        """
        if self.folder is None:
            if resume:
                raise CheckpointError("Expected the folder of a run to resume; got none. Pass out='runs/...'.")
            return None
        held = begun(self.folder)
        if held and not resume:
            raise CheckpointError(
                f"Expected a folder without a run; {self.folder} holds {held[0].name}. Resume it (--resume,"
                " resume=True), or name another folder."
            )
        for name in ("training.*", checkpoint.MODEL_FILE, LOG_FILE):
            for rest in self.folder.glob(f".{name}.*"):  # of a writer that was killed
                rest.unlink(missing_ok=True)
        if not resume:
            return None
        tensors, about = states.latest(self.folder)
        saved = {**about["settings"], "model": about["model"]}
        asked = {**self.settings, "model": json.loads(json.dumps(checkpoint.describe(self.model)))}
        if saved.get("patience") is None and asked.get("patience") is not None:
            raise TrainingError(
                f"Expected no patience, as the run in {self.folder} began without: its best weights were not kept."
                " Leave --patience (patience=) out, or start a new run."
            )
        for name in sorted((saved.keys() | asked.keys()) - SAME_NUMBERS_EITHER_WAY):
            if name in NOT_ALWAYS_KEPT - saved.keys():
                continue
            if saved.get(name) != asked.get(name) and name == "train":
                raise TrainingError(
                    f"Expected the observations and groups of the run in {self.folder}, in their order, to resume it;"
                    " got others. Use the same, or start a new run."
                )
            if saved.get(name) != asked.get(name):
                where, was, now = _difference(name, saved.get(name), asked.get(name))
                if where.startswith("objective.further"):
                    raise TrainingError(
                        f"Expected the penalties of one's own of the run in {self.folder} to resume it,"
                        f" {_penalties(saved)}; got {_penalties(asked)}. Name the same with --penalty"
                        " package.module:name=weight, or start a new run."
                    )
                raise TrainingError(
                    f"Expected the settings of the run in {self.folder} to resume it; its {where} is {was}, not {now}."
                    " Use the same, or start a new run."
                )
        return tensors, about

    def save(self, optimizer: torch.optim.Optimizer, state: Mapping[str, Any], *, weights: bool) -> None:
        """Writes the training state, and the weights for use where ``weights``."""
        self._saved = time.monotonic()
        if self.folder is None or not Ranks.launched().first:
            if weights:
                self.best = {name: value.clone() for name, value in self.model.state_dict().items()}
            return
        tensors = {
            **self.learning.state_dict(),
            **{
                f"optimizer.{place}.{name}": torch.as_tensor(value)
                for place, values in optimizer.state_dict()["state"].items()
                for name, value in values.items()
            },
            "random.cpu": torch.get_rng_state(),
        }
        if self.model.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.model.device)
        about = {"settings": self.settings, "model": checkpoint.describe(self.model), "state": state}
        # The state last: after a kill in between, its epoch is done again, and writes the same weights again. But
        # weights without any state could not be gone on from, so the first state has the weights that come after it.
        first = not (self.folder / checkpoint.TRAINING_FILE).exists()
        if weights and not first:
            checkpoint.save(self.model, self.folder)
        if state["history"]:
            atomic.write(self.folder / LOG_FILE, _csv(state["history"]))
        states.write(self.folder, tensors, about, self.kept)
        if weights and first:
            checkpoint.save(self.model, self.folder)

    def restore(
        self, saved: tuple[dict[str, Tensor], dict[str, Any]], optimizer: torch.optim.Optimizer
    ) -> dict[str, Any]:
        """Puts weights, optimiser and random state back; returns where training stood.

        Raises:
            CheckpointError: the state does not fit the model.
        """
        with reading(states.KIND, self.folder, CheckpointError, checkpoint.ADVICE):
            return self._restore(saved, optimizer)

    def _restore(
        self, saved: tuple[dict[str, Tensor], dict[str, Any]], optimizer: torch.optim.Optimizer
    ) -> dict[str, Any]:
        tensors, about = saved
        self.learning.load_state_dict({k: v for k, v in tensors.items() if k.startswith(("model.", "beside."))})
        moments = states.moments(tensors, self.learning)
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
        torch.set_rng_state(tensors["random.cpu"])
        if "random.cuda" in tensors and self.model.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"], self.model.device)
        state = dict(about["state"])
        if (
            self.folder
            and not (self.folder / checkpoint.MODEL_FILE).exists()
            and state["batch"] == state["waited"] == 0
        ):
            self.keep()  # stopped between its first state and these weights
        return state

    def take_best(self) -> None:
        """Gives the model the weights that were last saved for use; keeps its own, the last, where those are gone."""
        if self.folder and not (self.folder / checkpoint.MODEL_FILE).exists() and self.settings.get("patience") is None:
            self.keep()
            return
        kept = self.best if self.folder is None else checkpoint.read(self.folder / checkpoint.MODEL_FILE, "model")[0]
        self.model.load_state_dict(kept)

    def keep(self) -> None:
        """Writes the model as it is, for use."""
        if self.folder is not None and Ranks.launched().first:
            checkpoint.save(self.model, self.folder)

    def how_to_resume(self) -> str:
        """What to tell a user who stopped the run."""
        if self.folder is None:
            return "Stopped. Nothing was kept: `out` was not given."
        return f"Stopped and saved in {self.folder}. Go on with resume=True (`--resume`)."


def begun(folder: Path) -> list[Path]:
    """The files of a run in a folder that starting another would write over."""
    return [*sorted(folder.glob("training*.safetensors")), *folder.glob(checkpoint.MODEL_FILE)]


def options_of(run: str | Path) -> dict[str, Any]:
    """What a run was trained with, as arguments of `fit`: to train another model likewise.

    Raises:
        CheckpointError: the folder holds no training state.
    """
    path = Path(run) / checkpoint.TRAINING_FILE
    _, about = states.read(path)
    names = ("epochs", "groups", "members", "resample", "lr", "precision")
    with reading(states.KIND, path, CheckpointError, checkpoint.ADVICE):
        settings = about["settings"]
        options = {name: tuple(v) if isinstance(v := settings[name], list) else v for name in names}
        if "augment" in settings:
            options["augment"] = Augmentation(**settings["augment"])
        return {**options, "objective": Objective.from_settings(settings["objective"])}


def unfinished(run: str | Path, model: MLVAE) -> str | None:
    """What is to be said of a run that was stopped; None where it came to its end, or holds no training state.

    Args:
        run: its folder.
        model: what was saved for use.
    """
    path = Path(run) / checkpoint.TRAINING_FILE
    if not path.exists():
        return None
    try:
        about = checkpoint.description(path, states.KIND)
    except CheckpointError:
        return f"The training state in {path} is damaged, the model is not. --resume goes on from the state before it"
    with reading(states.KIND, path, CheckpointError, checkpoint.ADVICE):
        state, settings = about["state"], about["settings"]
        done, epochs, patience = state["epoch"], settings["epochs"], settings["patience"]
        if done >= epochs or (patience is not None and state["waited"] >= patience):
            if settings.get("valid") and model.group_levels and not calibrated(model):
                return "Training ended, and levels are not calibrated: --resume does that"
            return None
    return f"Training stopped in epoch {done + 1} of {epochs}, and levels are not calibrated: --resume goes on"


def _csv(rows: list[dict[str, float]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[-1]), restval="", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _penalties(settings: Mapping[str, Any]) -> str:
    further = settings["objective"].get("further", {})
    return ", ".join(f"{name}={weight}" for name, weight in further.items()) or "none"


def _difference(name: str, was: Any, now: Any) -> tuple[str, Any, Any]:
    """Where two settings first differ, as deep as it goes, and how."""
    if isinstance(was, dict) and isinstance(now, dict):
        pairs = [(key, was.get(key), now.get(key)) for key in sorted({*was, *now})]
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        pairs = list(zip(range(len(was)), was, now, strict=True))
    else:
        return name, was, now
    key, was, now = next(pair for pair in pairs if pair[1] != pair[2])
    return _difference(f"{name}.{key}", was, now)
