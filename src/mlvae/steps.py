"""One step of training, from rows to the loss; what lasts from step to step; and how both are computed meanwhile."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from mlvae.asked import Objective
from mlvae.augment import Augmentation
from mlvae.batch import GroupBatch
from mlvae.data import GroupedData
from mlvae.errors import DataError, TrainingError
from mlvae.model import MLVAE
from mlvae.objective import Measure, loss, measured
from mlvae.penalties import Adversaries, Plan
from mlvae.ranks import ALONE, Ranks
from mlvae.resident import Part, Resident
from mlvae.weights import Holder


@dataclass
class State:
    """Where training stands; with weights, optimiser and random state, all that the next step depends on."""

    epoch: int = 0
    batch: int = 0
    best: float = math.inf
    waited: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    seen: int = 0
    seconds: float = 0.0
    held: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


CUBLAS, ONE_ORDER = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")


class Step(nn.Module):
    """What Fabric wraps: from rows to the loss, under its precision."""

    def __init__(
        self,
        model: MLVAE,
        data: Resident,
        objective: Objective,
        augment: Augmentation | None,
        ranks: Ranks,
        holder: Holder,
        adversaries: Adversaries | None,
    ) -> None:
        super().__init__()
        self.model = model
        self.data = data
        self.objective = objective
        self.augment = augment
        self.ranks = ranks
        self.holder = holder
        self.adversaries = adversaries
        self.measure: Measure = measured

    def forward(self, part: Part, progress: float, share: float) -> tuple[Tensor, dict[str, Tensor]]:
        """This process's total, and the terms of the whole batch; ``share`` is that of this step in all of training."""
        batch = self.data.batch(self.model, part)
        if self.augment is not None:
            with torch.autocast(batch.x.device.type, enabled=False):  # where pixels are taken from is no rough number
                batch = replace(batch, x=changed(self.model, self.augment, batch.x))
        ranks = self.ranks if part.shared else ALONE
        held = self.holder.weights
        value = loss(
            self.model, batch, self.objective, progress=progress, ranks=ranks, held=held,
            adversaries=self.adversaries, measure=self.measure,
        )  # fmt: skip
        log = {"loss": value.total.detach(), **value.log(), **{f"held_{name}": weight for name, weight in held.items()}}
        self.holder.step(value.told, progress, share)
        return value.total, self.ranks.mean(log, len(part.rows))


def changed(model: MLVAE, augment: Augmentation, x: Tensor) -> Tensor:
    """Observations (N, *shape), each changed by itself; of a table its numbers: a word has no neighbours."""
    moved = augment(x, model.likelihood.missing)
    if not model.schema.features:
        return moved
    return torch.where(model.schema.numbers.to(x.device, non_blocking=True), moved, x)


def check_changes(model: MLVAE, train: GroupedData, augment: Augmentation) -> None:
    """Raises DataError where what is changed is no observation any more: categories, say, between two others."""
    if augment.time and model.schema.features:
        raise DataError("Expected series (channels, steps) to move in time; a table has no order. Leave `time` out.")
    if augment.noise and model.schema.features and "number" not in {f.kind for f in model.schema.features}:
        raise DataError("Expected numbers among the columns for noise; counts and categories have none. Leave it out.")
    x = model.prepare(train.x[torch.arange(min(len(train), 64))])
    with torch.random.fork_rng(devices=()):
        moved = changed(model, augment, x)
    if (seen := x[~x.isnan()]).numel():
        moved = moved.clamp(seen.min(), seen.max())  # what is between two pixels may lie beyond them by rounding
    try:
        model.check(moved)
    except DataError as error:
        raise DataError(
            f"Expected changes that leave data as the likelihood takes them; {augment} does not. {error} Or leave"
            " `augment` (--augment) out."
        ) from error


class Meter:
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

    def check(self, state: State, model: MLVAE | None = None) -> None:
        """Raises TrainingError, naming the terms, once any is not a number, or a weight of the model is none.

        The loss of a step whose gradient was none is a number yet: what is about to be saved must be looked at too.
        """
        sums = self.sums()
        if math.isfinite(sums["loss"]) and (model is None or finite(model)):
            return
        terms = [name for name, value in sums.items() if name != "loss" and not math.isfinite(value)]
        raise TrainingError(
            f"Expected a finite loss; by batch {state.batch} of epoch {state.epoch + 1} it was not"
            f" ({', '.join(terms) or 'its gradient'} first). Lower `lr`, or look for extreme values in the data;"
            " what was saved before is intact."
        )


def learning(model: nn.Module) -> None:
    """Puts a model into training mode, but for its frozen parts, which stay in evaluation mode.

    In a model in training mode these are the parts that are not. In one that is in evaluation mode as a whole, as after
    loading, they are those that have parameters of which none requires a gradient.
    """
    if model.training:
        return
    model.train()
    for part in model.modules():
        parameters = list(part.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            part.eval()


def finite(model: nn.Module) -> bool:
    """Whether all its weights are numbers."""
    weights = [parameter.detach() for parameter in model.parameters()]
    # Sums take a fraction of the time; those of finite weights may overflow, so then each is looked at.
    if torch.stack([weight.sum() for weight in weights]).isfinite().all():
        return True
    return all(weight.isfinite().all() for weight in weights)


@contextmanager
def compiled(wanted: bool) -> Iterator[Measure]:
    """`measured` for a while: all of a loss but what counts groups, compiled for any number of observations and groups.

    Args:
        wanted: else as it is.

    Raises:
        TrainingError: torch cannot compile here, as without a C++ compiler; at the first step.
    """
    if not wanted:
        yield measured
        return
    from torch import _dynamo
    from torch.fx.experimental import _config as shapes

    fast = torch.compile(measured, dynamic=True, options={"fallback_random": True})  # its noise is what it always is

    def measure(model: MLVAE, batch: GroupBatch, objective: Objective, plan: Plan, *rest: Any) -> Any:
        plan.batch.counted()
        _dynamo.mark_static(batch.x, list(range(1, batch.x.ndim)))
        try:
            return fast(model, batch.counted(), objective, plan, *rest)
        except _dynamo.exc.BackendCompilerFailed as error:
            reason = str(error).partition("\n\n")[0]
            raise TrainingError(
                f"Expected torch to compile a step here; it cannot: {reason} Install a C++ compiler (CXX in the"
                " environment names one), or train without compiling."
            ) from error
        except _dynamo.exc.TorchRuntimeError:
            measured(model, batch, objective, plan, *rest)  # says whose mistake it is: a network's, or a penalty's
            raise

    # A constant is no size, and sizes that are equal by chance are not the same one (not every torch can be told).
    by_chance = {"use_duck_shape": False} if hasattr(shapes, "use_duck_shape") else {}
    try:
        with _dynamo.config.patch(specialize_float=True), shapes.patch(by_chance):  # type: ignore[attr-defined]
            yield measure
    finally:
        torch.compiler.reset()  # sizes of one network would be taken for the next one's


@contextmanager
def one_order(wanted: bool, used: bool = False) -> Iterator[None]:
    """Sums in one order only, also on a GPU, for a while; an operation that has none raises torch's RuntimeError.

    Args:
        wanted: else nothing is changed.
        used: this process has used the GPU before. cuBLAS is told but once, at the first product there.

    Raises:
        TrainingError: it was used, and the environment did not say so.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if wanted:
        if used and os.environ.get(CUBLAS) not in ONE_ORDER:
            raise TrainingError(
                f"Expected {CUBLAS}={ONE_ORDER[0]} in the environment, to compute in one order on a GPU that this"
                " process has used before; it is not there. Set it before Python starts."
            )
        os.environ.setdefault(CUBLAS, ONE_ORDER[0])  # else cuBLAS refuses
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
