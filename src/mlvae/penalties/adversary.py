"""Can a network that learns beside the model name the group from samples? Whoever made them is paid for its failing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlvae.errors import ModelError
from mlvae.levels import Level

WIDTH = 128
"""Of its two hidden layers."""


class Adversary(nn.Module):
    """Names which of G groups each of N samples is of.

    What it descends makes it better at naming, and by a reversed gradient what made the samples worse to name by. Of an
    observation that is alone in its group it is not asked: whatever tells it apart is its own.

    Args:
        dim: D.
        members: (G,) how many each group of the training data has.

    Reference: Ganin et al. 2016, "Domain-Adversarial Training of Neural Networks", arXiv:1505.07818.

    Example:
        >>> import torch
        >>> sample, ids = torch.randn(6, 2, requires_grad=True), torch.tensor([0, 1, 2, 0, 1, 2])
        >>> adversary = Adversary(2, members=torch.tensor([2, 2, 2]))
        >>> plain = F.cross_entropy(adversary.names(sample), ids)
        >>> torch.allclose(adversary(sample, ids), plain)
        True
        >>> reversed, = torch.autograd.grad(adversary(sample, ids), sample)
        >>> torch.allclose(reversed, -torch.autograd.grad(plain, sample)[0])
        True
    """

    asked: Tensor

    def __init__(self, dim: int, members: Tensor) -> None:
        super().__init__()
        self.names = nn.Sequential(
            nn.Linear(dim, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, len(members))
        )
        self.register_buffer("asked", (members > 1).to(torch.get_default_dtype()), persistent=False)

    def forward(self, sample: Tensor, ids: Tensor) -> Tensor:
        """Nats by which it fails, (), mean over observations: where samples tell nothing, log G of equal groups.

        Args:
            sample: (N, D).
            ids: (N,) the group in the data set.
        """
        backwards = 2 * sample.detach() - sample  # the same numbers, to the last digit
        failing = F.cross_entropy(self.names(backwards), ids, reduction="none")
        return (failing * self.asked[ids]).mean()


class Adversaries(nn.ModuleDict):
    """One for each level of an observation's own and each level whose groups it should not know.

    Args:
        levels: of the model.
        members: for shared levels by name, (G,) how many members each group of the training data has.
        apart: for own levels by name, those whose groups they should not know, where these are not all that are shared.

    Example:
        >>> import torch
        >>> levels = [Level("content", 4, by="person"), Level("style", 2)]
        >>> Adversaries(levels, {"content": torch.full((10,), 7)}).of(levels[1], "content").names[-1].out_features
        10
    """

    def __init__(
        self,
        levels: Sequence[Level],
        members: Mapping[str, Tensor],
        apart: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        super().__init__(
            {
                level.name: nn.ModuleDict(
                    {o: Adversary(level.dim, members[o]) for o in apart.get(level.name, members) if o in members}
                )
                for level in levels
                if level.by is None
            }
        )

    def of(self, level: Level, other: str) -> Adversary:
        """The one that names groups of ``other`` from samples of ``level``.

        Raises:
            ModelError: it is not there, or made for samples of other dimensions.
        """
        about = cast(nn.ModuleDict, self[level.name]) if level.name in self else nn.ModuleDict()
        found = about[other] if other in about else None  # noqa: SIM401 (no dict)
        if not isinstance(found, Adversary) or found.names[0].in_features != level.dim:
            raise ModelError(
                f"Expected an adversary that names groups of {other!r} from samples of {level.name!r}, {level.dim}"
                " numbers each; there is none. Make them with the model's levels, and with the members of every level"
                " that groups share."
            )
        return found
