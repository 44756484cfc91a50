"""Learning: one loop, on Lightning Fabric, that can be read in one sitting.

data -> sampler -> GroupBatch -> loss -> step;   once an epoch: validate; every 10 seconds: save
"""

from __future__ import annotations

import math
import numbers
import operator
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from mlvae.asked import Objective, several, weighs
from mlvae.augment import Augmentation
from mlvae.calibration import FEWEST
from mlvae.data import GroupedData
from mlvae.engine import engine
from mlvae.errors import DataError, TrainingError
from mlvae.grouping import Grouping
from mlvae.heads import Evaluating
from mlvae.model import MLVAE
from mlvae.objective import loss
from mlvae.penalties import Adversaries
from mlvae.progress import Interrupt, Progress
from mlvae.ranks import Ranks
from mlvae.resident import Resident, keep_freed
from mlvae.runs import Run
from mlvae.states import KEEP
from mlvae.steps import Meter, State, Step, check_changes, compiled, learning, one_order
from mlvae.temperature import calibrated, populate, temper, uncalibrate
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
    groups: int = 70,
    members: int | tuple[int, int] | Literal["all"] = (2, 8),
    resample: bool = False,
    lr: float = 2e-3,
    seed: int = 0,
    patience: int | None = None,
    device: str = "auto",
    precision: Literal["32-true", "bf16-mixed", "64-true"] = "32-true",
    deterministic: bool = False,
    compile: bool = False,
    resume: bool = False,
    keep: int = KEEP,
    progress: bool = True,
    augment: Augmentation | None = None,
    logger: Any = None,
) -> History:
    """Trains a model in place.

    Parts that are frozen stay so: of a model in training mode those in evaluation mode; of one that is in evaluation
    mode as a whole, as it is once loaded or trained, those that have parameters of which none requires a gradient.

    Args:
        model: any number of levels. It is left in evaluation mode.
        train: what to learn from; its columns give the groups of every shared level.
        out: a folder for ``model.safetensors`` (with ``patience`` the best weights on ``valid``, else the latest),
            ``training.safetensors`` (all that resuming needs) and ``log.csv``; None keeps nothing.
        valid: observations that are not in ``train``, of other groups where there are many; the loss on them is
            logged (held weights at their least, without an adversary), ``patience`` watches it, and levels are
            calibrated on them at the end.
        objective: None takes the default, `Objective.for_groups` of n groups: those with at least two members, in the
            level that has most of them.
        epochs: None takes as many as make 4,000 steps.
        groups: sub-groups in a batch.
        members: observations in each: a number, an inclusive range, or "all".
        resample: draw groups with equal probability, instead of every observation exactly once an epoch.
        lr: the highest learning rate of Adam.
        seed: of the order, the sub-groups and the noise. The same seed gives the same weights.
        patience: epochs without a better validation loss before training stops.
        device: "auto", "cpu", "cuda", "mps".
        precision: of the networks; evidence, KL, likelihood and penalties stay in float32 or better.
        deterministic: compute in one order only, so that the same seed gives the same weights on a GPU too (on a CPU it
            does anyway); slower there, and a network of one's own whose operations cannot is refused.
        compile: let `torch.compile` make a step's loss faster; compiling takes minutes, less the second time, and needs
            a C++ compiler. Sums are rounded in another order.
        resume: go on from ``out``, to the same numbers as without the stop; from a run that has ended the model gets
            what was kept for use.
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
        TrainingError: the loss is no longer a number, a setting is none that can be, a setting or the data differ from
            the resumed run's, or the device has no bfloat16.
        CheckpointError: ``out`` holds a run already and ``resume`` is not asked for, or the reverse.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once the state is saved.
    """
    epochs, groups, members, seed, patience = map(_whole, (epochs, groups, members, seed, patience))
    _refuse_strange(epochs, lr, objective, valid, patience)
    lr = float(lr)  # JSON would not take numpy's
    data = Resident(model, train)
    objective = (objective or Objective.for_groups(several(data.ids.values()))).over(model.levels)
    sampler = data.sampler(groups, members, resample, seed)
    if epochs is None:
        epochs = max(1, math.ceil(STEPS / sampler.batches(0)))
    if valid is not None:
        _check_enough(model, valid)
    if augment is not None:
        check_changes(model, train, augment)
    keep_freed()
    settings: dict[str, Any] = {
        "objective": objective.settings(), "epochs": epochs, "groups": groups, "members": members, "resample": resample,
        "lr": lr, "seed": seed, "patience": patience, "precision": precision, "observations": len(train),
        "train": data.digest(), "valid": valid is not None,
        **({"augment": asdict(augment)} if augment else {}), **({"compile": True} if compile else {}),
        **({"deterministic": True} if deterministic else {}),
    }  # fmt: skip
    adversaries = None
    if objective.adversary:
        with torch.random.fork_rng(devices=()):
            torch.default_generator.manual_seed(seed)
            asked = [level for level in model.levels if weighs(objective.adversary, level.name)]
            sizes = {name: ids.bincount() for name, ids in data.ids.items()}
            adversaries = Adversaries(asked, sizes, objective.apart).to(next(model.parameters()).dtype)
    run = Run(None if out is None else Path(out), model, settings, keep, beside=adversaries)
    saved = run.open(resume)

    used = torch.cuda.is_initialized()  # before the engine moves the model there
    fabric = engine(device, precision, logger)
    ranks = Ranks.launched()
    if ranks.size > 1 and len(model.group_levels) > 1:
        raise TrainingError(
            f"Expected one process for a model of several shared levels; got {ranks.size}. Start it without torchrun."
        )
    with torch.random.fork_rng(_drawn_on(fabric.device)), Interrupt() as interrupt:
        torch.manual_seed(seed)
        holder = Holder(objective.independence, [level.name for level in model.levels if level.by is None])
        step = Step(model, data, objective, augment, ranks, holder.to(fabric.device), adversaries)
        optimizer = torch.optim.Adam(step.parameters(), lr=lr, betas=(0.9, 0.99), fused=fabric.device.type != "mps")
        step_module = fabric.setup(step)  # not the optimiser: without loss scaling it would only be wrapped
        data.to(fabric.device)
        checked = None if valid is None else Resident(model, valid, data.nested).to(fabric.device)
        state = State() if saved is None else State(**run.restore(saved, optimizer))
        holder.load(state.held)
        ended = saved is not None and (state.epoch == epochs or _out_of_patience(state, patience))
        bar = Progress(epochs, enabled=progress and ranks.first)
        uncalibrate(model)
        learning(model)
        with bar, compiled(compile) as step.measure, one_order(deterministic, used and fabric.device.type == "cuda"):
            while state.epoch < epochs and not _out_of_patience(state, patience):
                started, meter = time.perf_counter() - state.seconds, Meter(state.sums, state.seen)
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
                        state.seconds = time.perf_counter() - started
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
                state.epoch, state.batch, state.sums, state.seen, state.seconds = state.epoch + 1, 0, {}, 0, 0.0
                improved = False
                if checked is not None:
                    row["valid"] = _validation_loss(model, checked, objective, groups, members, seed)
                    improved = row["valid"] < state.best  # never, where it is no number
                    state.best = row["valid"] if improved else state.best
                    state.waited = 0 if improved else state.waited + 1
                state.history.append(row)
                bar.epoch(row)
                fabric.log_dict(row, step=state.epoch)
                # Weights of penalties grow and the learning rate falls to the end, so without early stopping the last
                # are the ones to use, whatever noise says of an earlier epoch.
                best = improved and patience is not None
                last = state.epoch == epochs or _out_of_patience(state, patience)
                if best or last or run.unsaved() > SAVE_EVERY:
                    run.save(optimizer, asdict(state), weights=best or patience is None)
    model.eval()
    if ranks.first and patience is not None and not state.best < math.inf:
        run.keep()  # no epoch had a loss to be the best
    elif ranks.first and (ended or patience is not None):
        run.take_best()
    ranks.agree(model)
    # A run that was stopped between its last step and its calibration is not calibrated yet.
    if valid is not None and model.group_levels and not (ended and calibrated(model)):
        labels = {level.name: valid.codes(level.by) for level in model.group_levels if level.by}
        found = {name: Grouping.from_ids(ids) for name, ids in labels.items()}
        # What is kept out may be nested otherwise; that is no reason to lose a training that is done.
        nested = {(fine, coarse) for fine, coarse in data.nested if found[fine].refines(found[coarse])}
        try:
            temper(model, valid.x, labels, valid.columns, nested=nested)
            populate(model, train, valid)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(run.how_to_resume()) from None
        run.keep()
    return History(state.history, state.epoch < epochs)


def _refuse_strange(epochs: Any, lr: float, objective: Any, valid: Any, patience: Any) -> None:
    """Raises TrainingError or DataError where an argument of `fit` is none that can be, before any time is spent."""
    if epochs is not None and not (isinstance(epochs, int) and epochs >= 1):
        raise TrainingError(
            f"Expected at least one epoch, a whole number; got {epochs!r}. Leave `epochs` out for the default."
        )
    if not (isinstance(lr, numbers.Real) and 0 < lr < math.inf):
        raise TrainingError(f"Expected a learning rate above 0; got {lr!r}. Leave it out for the default.")
    if not isinstance(objective, Objective | None):
        raise TrainingError(
            f"Expected an Objective; got {objective!r}. Pass Objective.plain() for the paper's, or leave it out."
        )
    if not isinstance(valid, GroupedData | None):
        raise TrainingError(
            f"Expected GroupedData as `valid`; got {valid!r:.80}. Keep groups out:"
            ' train, valid = train.split(by="group", test=0.1).'
        )
    if patience is not None and not (isinstance(patience, int) and patience >= 1):
        raise TrainingError(
            f"Expected a patience of at least one epoch, a whole number; got {patience!r}. Leave it out for none."
        )
    if patience is not None and valid is None:
        raise TrainingError(
            "Expected validation groups with `patience`; got none. Pass valid=... (--validation .1), or no patience."
        )


def _whole(value: Any) -> Any:
    """Whole numbers of numpy, which JSON would not take, as Python's."""
    if isinstance(value, tuple):
        return tuple(map(_whole, value))
    return operator.index(value) if hasattr(value, "__index__") else value


def _schedule(share: float) -> float:
    """The learning rate's factor after a share of training: a short rise, then a cosine to zero."""
    if share < WARM_UP:
        return max(share, 1e-3) / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP)))


def _validation_loss(model: MLVAE, data: Resident, objective: Objective, groups: int, members: Any, seed: int) -> float:
    """The objective on validation groups, nats per group, with the same sub-groups and noise every time."""
    objective = replace(objective, adversary=0.0)  # which knows the names of groups that training saw
    total, seen = 0.0, 0
    with Evaluating(model), torch.no_grad(), torch.random.fork_rng(_drawn_on(data.device)):
        torch.manual_seed(seed)
        for part in data.parts(data.sampler(groups, members, False, seed).epoch(0)):
            value = loss(model, data.batch(model, part), objective)
            total, seen = total + value.total.item() * value.terms.groups, seen + value.terms.groups
    return total / seen


def _drawn_on(device: torch.device) -> list[torch.device]:
    """The GPU whose generator is used, if any."""
    return [device] if device.type == "cuda" else []


def _out_of_patience(state: State, patience: int | None) -> bool:
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
