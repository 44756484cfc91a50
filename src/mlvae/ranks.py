"""Several processes as one: each takes whole groups of every batch, and the gradient is that of the whole batch.

The bound is a sum over groups, so its parts add. Penalties compare observations of the whole batch: each process
gathers the others' votes, which are small, and gradients flow back to where they came from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

from mlvae.batch import GroupBatch
from mlvae.evidence import READOUTS, Evidence
from mlvae.grouping import Grouping
from mlvae.levels import Level
from mlvae.model import Latent


@dataclass(frozen=True)
class Ranks:
    """The processes that train one model.

    Args:
        rank: which of them this one is.
        size: how many there are.

    Example:
        >>> Ranks.launched()
        Ranks(rank=0, size=1)
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def launched(cls) -> Ranks:
        """Those that `torchrun` or another launcher started; this one alone where there was none."""
        on = distributed.is_available() and distributed.is_initialized()
        return cls(distributed.get_rank(), distributed.get_world_size()) if on else cls()

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def share(self, rows: Tensor, index: Tensor) -> tuple[Tensor, Tensor] | None:
        """This process's whole sub-groups of a batch; None where there are too few for each to have one."""
        if int(index[-1]) + 1 < self.size:
            return None
        mine = index % self.size == self.rank
        return rows[mine], index[mine] // self.size

    def whole(self, batch: GroupBatch) -> GroupBatch:
        """Groupings of all processes' shares, of observations without features."""
        if self.size == 1:
            return batch
        ids = {name: self._gathered(value) for name, value in batch.ids.items()}
        groupings = {
            name: Grouping.from_ids(self._gathered(grouping.index + self.rank * 2**32))
            for name, grouping in batch.groupings.items()
        }
        rows = len(next(iter(ids.values()))) if ids else int(self.add_up(torch.tensor([len(batch)])))
        return GroupBatch(batch.x.new_empty(rows, 0), groupings, ids)

    def together(
        self, levels: Sequence[Level], whole: GroupBatch, latents: Mapping[str, Latent]
    ) -> Mapping[str, Latent]:
        """What levels make of all processes' shares, of which ``whole`` has the groupings."""
        if self.size == 1:
            return latents
        fields = [
            field
            for latent in (latents[level.name] for level in levels)
            for field in (latent.votes.precision, latent.votes.information, latent.sample)
        ]
        parts = iter(self._gathered(torch.cat(fields, 1)).split([field.shape[1] for field in fields], 1))
        all_latents = {}
        for level in levels:
            precision, information, sample = next(parts), next(parts), next(parts)
            count = torch.ones(len(precision), dtype=torch.int64, device=precision.device)
            votes = Evidence(precision, information, count)
            total = votes.sum(whole.grouping(level.name))
            all_latents[level.name] = Latent(votes, total, READOUTS[level.readout](total), sample)
        return all_latents

    def mean(self, log: Mapping[str, Tensor], n: int) -> dict[str, Tensor]:
        """Logged terms over all processes: ``loss`` is the mean of theirs, others are means over observations."""
        if self.size == 1:
            return dict(log)
        weights = torch.tensor([1.0 if name == "loss" else n for name in log], dtype=torch.float64)
        values = torch.stack([value.double().cpu() for value in log.values()])
        sums = self.add_up(torch.stack([weights * values, weights]))
        return dict(zip(log, sums[0] / sums[1], strict=True))

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process, the same answer in all."""
        return flag if self.size == 1 else bool(self.add_up(torch.tensor([float(flag)])).item())

    def seed(self, seed: int, epoch: int, batch: int) -> None:
        """Noise of its own for each process, a pure function of the place in training, so a resumption has it again."""
        if self.size > 1:
            torch.manual_seed(hash((seed, epoch, batch, self.rank)) % 2**63)

    def agree(self, model: nn.Module) -> None:
        """Gives all processes the first one's weights, and what it alone may have beside them, as populations."""
        if self.size == 1:
            return
        own = model.state_dict()
        shapes = [{name: (value.shape, value.dtype) for name, value in own.items()}]
        distributed.broadcast_object_list(shapes, 0)
        device = next(model.parameters()).device
        state = {name: own[name] if self.first else torch.empty(shape, dtype=dtype, device=device)
                 for name, (shape, dtype) in shapes[0].items()}  # fmt: skip
        for value in state.values():
            distributed.broadcast(value, 0)
        model.load_state_dict(state)

    def add_up(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        values = values.to(device)
        distributed.all_reduce(values)
        return values.cpu()

    def _gathered(self, values: Tensor) -> Tensor:
        """All processes' rows, those of the first one first."""
        gathered: Tensor = _Gather.apply(values, self.rank, self.size)  # type: ignore[no-untyped-call]
        return gathered


ALONE = Ranks()
"""One process, whatever was launched."""


class _Gather(torch.autograd.Function):
    """Rows of all processes; backwards, a row's gradient is the sum of what all processes made of it."""

    @staticmethod
    def forward(context: Any, values: Tensor, rank: int, size: int) -> Tensor:
        counts = [torch.zeros(1, dtype=torch.int64, device=values.device) for _ in range(size)]
        distributed.all_gather(counts, torch.tensor([len(values)], device=values.device))
        lengths = [int(count) for count in counts]
        padded = values.new_zeros(max(lengths), *values.shape[1:])
        padded[: len(values)] = values
        parts = [torch.empty_like(padded) for _ in range(size)]
        distributed.all_gather(parts, padded)
        context.start, context.length = sum(lengths[:rank]), len(values)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        gradient = gradient.contiguous()
        distributed.all_reduce(gradient)
        return gradient[context.start : context.start + context.length], None, None
