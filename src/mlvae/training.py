"""Learning: one loop, on Lightning Fabric, that can be read in one sitting.

data -> sampler -> GroupBatch -> loss -> step;   once an epoch: validate; every 10 seconds: save
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mlvae.augment import Augmentation
from mlvae.calibration import FEWEST
from mlvae.data import GroupedData
from mlvae.errors import DataError, TrainingError
from mlvae.model import MLVAE
from mlvae.objective import Objective, loss
from mlvae.ranks import ALONE, Ranks
from mlvae.resident import Part, Resident, keep_freed
from mlvae.runs import Interrupt, Progress, Run, engine
from mlvae.states import KEEP
from mlvae.temperature import temper, uncalibrate
from mlvae.weights import Holder

STEPS = 4000
"""Without a number of epochs, as many as make at least this many steps."""

WARM_UP = 0.03
"""The share of training over which the learning rate rises, before it falls along a cosine to zero."""

CHECK_EVERY = 20
"""Steps between looks at whether the loss is still a number: each look waits for the device."""

SAVE_EVERY = 10.0
"""Seconds between two savings at least: what a kill can cost where epochs are short. The last epoch is always saved."""

MIDWAY = 300.0
"""Seconds without a saving after which an epoch is saved before its end."""


@dataclass(frozen=True)
class History:
    """What `fit` did.

    Args:
        epochs: for each epoch the mean terms in nats per observation, ``held_`` and the level's name for a held weight,
            ``valid`` where there were validation groups, ``seconds`` and ``images_per_second``.
        stopped_early: validation stopped improving before the last epoch.
    """

    epochs: list[dict[str, float]]
    stopped_early: bool = False


def fit(
    model: MLVAE,
    train: GroupedData,
    out: str | Path | None = None,
    *,
    valid: GroupedData | None = None,
    objective: Objective | None = None,
    epochs: int | None = None,
    groups: int = 50,
    members: int | tuple[int, int] | Literal["all"] = (2, 8),
    resample: bool = False,
    lr: float = 2e-3,
    seed: int = 0,
    patience: int | None = None,
    device: str = "auto",
    precision: Literal["32-true", "bf16-mixed", "64-true"] = "32-true",
    compile: bool = False,
    resume: bool = False,
    keep: int = KEEP,
    progress: bool = True,
    augment: Augmentation | None = None,
    logger: Any = None,
) -> History:
    """Trains a model in place.

    Args:
        model: any number of levels.
        train: what to learn from; its columns give the groups of every shared level.
        out: a folder for ``model.safetensors`` (with ``patience`` the best weights on ``valid``, else the latest),
            ``training.safetensors`` (all that resuming needs) and ``log.csv``; None keeps nothing.
        valid: observations that are not in ``train``, of other groups where there are many; the loss on them is
            logged (held weights at their least), ``patience`` watches it, and levels are calibrated on them at the end.
        objective: None takes the default, which separates best.
        epochs: None takes as many as make 4,000 steps.
        groups: sub-groups in a batch.
        members: observations in each: a number, an inclusive range, or "all".
        resample: draw groups with equal probability, instead of every observation exactly once an epoch.
        lr: the highest learning rate of Adam.
        seed: of the order, the sub-groups and the noise. The same seed gives the same weights.
        patience: epochs without a better validation loss before training stops.
        device: "auto", "cpu", "cuda", "mps".
        precision: of the networks; evidence, KL, likelihood and penalties stay in float32 or better.
        compile: let `torch.compile` make encoder and decoder faster; its first steps take long, and it needs a C++
            compiler. Sums are rounded in another order.
        resume: go on from ``out``, to the same numbers as without the stop.
        keep: training states that ``out`` holds, the latest and those before it; where the latest is damaged,
            ``resume`` goes on from the one before it, and warns.
        progress: show a bar.
        augment: changes that keep a group's content, drawn anew for every observation and step.
        logger: one of Lightning Fabric's loggers, or a list of them, for TensorBoard or another tracker: each epoch's
            numbers go to it as to ``log.csv``. It is the caller's to finish.

    Returns:
        The history, that of before a resumption included.

    Raises:
        DataError: data outside the likelihood's domain, or without the columns that the levels name.
        TrainingError: the loss is no longer a number, a setting differs from the resumed run's, or the device has no
            bfloat16.
        CheckpointError: ``out`` holds a run already and ``resume`` is not asked for, or the reverse.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once the state is saved.
    """
    objective = objective or Objective().over(model.levels)
    data = Resident(model, train)
    sampler = data.sampler(groups, members, resample, seed)
    if epochs is None:
        epochs = max(1, math.ceil(STEPS / sampler.batches(0)))
    if valid is not None:
        _check_enough(model, valid)
    if patience is not None and valid is None:
        raise TrainingError("Expected validation groups with `patience`; got none. Pass valid=..., or no patience.")
    keep_freed()
    settings: dict[str, Any] = {
        "objective": asdict(objective), "epochs": epochs, "groups": groups, "members": members, "resample": resample,
        "lr": lr, "seed": seed, "patience": patience, "precision": precision, "observations": len(train),
        **({"augment": asdict(augment)} if augment else {}), **({"compile": True} if compile else {}),
    }  # fmt: skip
    run = Run(None if out is None else Path(out), model, settings, keep)
    saved = run.open(resume)

    fabric = engine(device, precision, logger)
    ranks = Ranks.launched()
    if ranks.size > 1 and len(model.group_levels) > 1:
        raise TrainingError(
            f"Expected one process for a model of several shared levels; got {ranks.size}. Start it without torchrun."
        )
    with torch.random.fork_rng(), Interrupt() as interrupt:
        torch.manual_seed(seed)
        holder = Holder(objective.independence, [level.name for level in model.levels if level.by is None])
        step_module = _Step(model, data, objective, augment, ranks, holder.to(fabric.device))
        optimizer = torch.optim.Adam(model.parameters(), lr=lr, betas=(0.9, 0.99), fused=fabric.device.type != "mps")
        step_module = fabric.setup(step_module)  # not the optimiser: without loss scaling it would only be wrapped
        data.to(fabric.device)
        checked = None if valid is None else Resident(model, valid).to(fabric.device)
        state = _State() if saved is None else _State(**run.restore(saved, optimizer))
        holder.load(state.held)
        bar = Progress(epochs, enabled=progress and ranks.first)
        uncalibrate(model)
        model.train()
        with bar, _Compiled(model, compile):
            while state.epoch < epochs and not _out_of_patience(state, patience):
                started, meter = time.perf_counter(), _Meter(state.sums, state.seen)
                batches = sampler.batches(state.epoch)
                for part in data.parts(sampler.epoch(state.epoch, state.batch), ranks):
                    share = (state.epoch + state.batch / batches) / epochs
                    for parameters in optimizer.param_groups:
                        parameters["lr"] = lr * _schedule(share)
                    ranks.seed(seed, state.epoch, state.batch)
                    total, log = step_module(part, share, 1 / (batches * epochs))
                    optimizer.zero_grad()
                    fabric.backward(total)
                    optimizer.step()
                    state.batch += 1
                    meter.add(log, part.whole)
                    if state.batch % CHECK_EVERY == 0:
                        meter.check(state)
                        bar.show(state.epoch, state.batch / batches, meter.means(), meter.seen, started)
                    stopped = ranks.any(interrupt.asked)
                    if stopped or (state.batch % CHECK_EVERY == 0 and run.unsaved() > MIDWAY):
                        meter.check(state, model)
                        state.sums, state.seen, state.held = meter.sums(), meter.seen, holder.state()
                        run.save(optimizer, asdict(state), weights=patience is None)
                    if stopped:
                        raise KeyboardInterrupt(run.how_to_resume())
                meter.check(state, model)
                seconds = time.perf_counter() - started
                state.held = holder.state()
                row = {"epoch": state.epoch + 1, **meter.means(), "seconds": seconds,
                       "images_per_second": meter.seen / seconds}  # fmt: skip
                if train.skipped:
                    row["skipped_files"] = len(train.skipped)
                state.epoch, state.batch, state.sums, state.seen = state.epoch + 1, 0, {}, 0
                improved = False
                if checked is not None:
                    row["valid"] = _validation_loss(model, checked, objective, groups, members, seed)
                    improved = row["valid"] < state.best
                    state.best, state.waited = min(row["valid"], state.best), 0 if improved else state.waited + 1
                state.history.append(row)
                bar.epoch(row)
                fabric.log_dict(row, step=state.epoch)
                # Weights of penalties grow and the learning rate falls to the end, so without early stopping the last
                # are the ones to use, whatever noise says of an earlier epoch.
                best = improved and patience is not None
                ended = state.epoch == epochs or _out_of_patience(state, patience)
                if best or ended or run.unsaved() > SAVE_EVERY:
                    run.save(optimizer, asdict(state), weights=best or patience is None)
    model.eval()
    if valid is not None:
        if patience is not None and ranks.first:
            run.take_best()
        ranks.agree(model)
        if model.group_levels:
            groups_of = {level.name: valid.codes(level.by) for level in model.group_levels if level.by}
            temper(model, valid.x, groups_of, valid.columns)
            run.keep()
    return History(state.history, state.epoch < epochs)


class _Compiled:
    """The networks compiled for a while, their weights under the same names; a second size is compiled for any."""

    def __init__(self, model: MLVAE, wanted: bool) -> None:
        self.networks = (model.encoder, model.decoder) if wanted else ()

    def __enter__(self) -> None:
        for network in self.networks:
            # `network.compile()` would leave a torch.nn.Sequential as it is, and sizes that are all unknown fail.
            network.forward = torch.compile(network.forward)

    def __exit__(self, *_: object) -> None:
        for network in self.networks:
            del network.forward
        if self.networks:
            torch.compiler.reset()  # sizes of one network would be taken for the next one's


@dataclass
class _State:
    """Where training stands; with weights, optimiser and random state, all that the next step depends on."""

    epoch: int = 0
    batch: int = 0
    best: float = math.inf
    waited: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    seen: int = 0
    held: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


class _Step(nn.Module):
    """What Fabric wraps: from rows to the loss, under its precision."""

    def __init__(
        self,
        model: MLVAE,
        data: Resident,
        objective: Objective,
        augment: Augmentation | None,
        ranks: Ranks,
        holder: Holder,
    ) -> None:
        super().__init__()
        self.model = model
        self.data = data
        self.objective = objective
        self.augment = augment
        self.ranks = ranks
        self.holder = holder

    def forward(self, part: Part, progress: float, share: float) -> tuple[Tensor, dict[str, Tensor]]:
        """This process's total, and the terms of the whole batch; ``share`` is that of this step in all of training."""
        batch = self.data.batch(self.model, part)
        if self.augment is not None:
            batch = replace(batch, x=self.augment(batch.x))
        ranks = self.ranks if part.shared else ALONE
        held = self.holder.weights
        value = loss(self.model, batch, self.objective, progress=progress, ranks=ranks, held=held)
        log = {"loss": value.total.detach(), **value.log(), **{f"held_{name}": weight for name, weight in held.items()}}
        self.holder.step(value.told, progress, share)
        return value.total, self.ranks.mean(log, len(part.rows))


class _Meter:
    """Sums of the loss's terms over an epoch; they stay where they are until someone looks."""

    def __init__(self, sums: Mapping[str, float], seen: int) -> None:
        self.looked_at = dict(sums)
        self.waiting: list[tuple[Mapping[str, Tensor], int]] = []
        self.seen = seen

    def add(self, log: Mapping[str, Tensor], n: int) -> None:
        self.waiting.append((log, n))
        self.seen += n

    def sums(self) -> dict[str, float]:
        if self.waiting:
            names = list(self.waiting[0][0])
            rows = torch.stack([log[name] for log, _ in self.waiting for name in names]).cpu().double()
            counts = torch.tensor([n for _, n in self.waiting], dtype=torch.float64)
            sums = (counts @ rows.reshape(len(counts), -1)).tolist()
            self.looked_at = {
                name: self.looked_at.get(name, 0.0) + value for name, value in zip(names, sums, strict=True)
            }
            self.waiting.clear()
        return dict(self.looked_at)

    def means(self) -> dict[str, float]:
        return {name: value / max(self.seen, 1) for name, value in self.sums().items()}

    def check(self, state: _State, model: MLVAE | None = None) -> None:
        """Raises TrainingError, naming the terms, once any is not a number, or a weight of the model is none.

        The loss of a step whose gradient was none is a number yet: what is about to be saved must be looked at too.
        """
        sums = self.sums()
        if math.isfinite(sums["loss"]) and (model is None or all(p.isfinite().all() for p in model.parameters())):
            return
        terms = [name for name, value in sums.items() if name != "loss" and not math.isfinite(value)]
        raise TrainingError(
            f"Expected a finite loss; by batch {state.batch} of epoch {state.epoch + 1} it was not"
            f" ({', '.join(terms) or 'its gradient'} first). Lower `lr`, or look for extreme values in the data;"
            " what was saved before is intact."
        )


def _schedule(share: float) -> float:
    """The learning rate's factor after a share of training: a short rise, then a cosine to zero."""
    if share < WARM_UP:
        return max(share, 1e-3) / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP)))


def _validation_loss(model: MLVAE, data: Resident, objective: Objective, groups: int, members: Any, seed: int) -> float:
    """The objective on validation groups, nats per group, with the same sub-groups and noise every time."""
    model.eval()
    total, seen = 0.0, 0
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        for part in data.parts(data.sampler(groups, members, False, seed).epoch(0)):
            value = loss(model, data.batch(model, part), objective)
            total, seen = total + value.total.item() * value.terms.groups, seen + value.terms.groups
    model.train()
    return total / seen


def _out_of_patience(state: _State, patience: int | None) -> bool:
    return patience is not None and state.waited >= patience


def _check_enough(model: MLVAE, valid: GroupedData) -> None:
    """Raises DataError where levels could not be calibrated at the end, before any time is spent."""
    for level in model.group_levels:
        assert level.by is not None
        groups = int(valid.codes(level.by).max()) + 1
        if len(valid) - groups < FEWEST:
            raise DataError(
                f"Expected `valid` to have at least {FEWEST} members beyond the first of each group, to"
                f" calibrate {level.name!r}; got {len(valid)} observations of {groups}. Keep more out, or pass"
                " no valid."
            )
