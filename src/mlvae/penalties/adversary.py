"""Can a network that learns beside the model name the group from samples? Whoever made them is paid for its failing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch.nn.functional as F
from torch import Tensor, nn

from mlvae.levels import Level

WIDTH = 256
"""Of its two hidden layers."""


class Adversary(nn.Module):
    """Names which of G groups each of N samples is of.

    What it descends makes it better at naming, and by a reversed gradient what made the samples worse to name by.

    Args:
        dim: D.
        groups: G, those of the training data.

    Reference: Ganin et al. 2016, "Domain-Adversarial Training of Neural Networks", arXiv:1505.07818.

    Example:
        >>> import torch
        >>> sample, ids = torch.randn(6, 2, requires_grad=True), torch.tensor([0, 1, 2, 0, 1, 2])
        >>> adversary = Adversary(2, groups=3)
        >>> plain = F.cross_entropy(adversary.names(sample), ids)
        >>> torch.equal(adversary(sample, ids), plain)
        True
        >>> reversed, = torch.autograd.grad(adversary(sample, ids), sample)
        >>> torch.allclose(reversed, -torch.autograd.grad(plain, sample)[0])
        True
    """

    def __init__(self, dim: int, groups: int) -> None:
        super().__init__()
        self.names = nn.Sequential(
            nn.Linear(dim, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, groups)
        )

    def forward(self, sample: Tensor, ids: Tensor) -> Tensor:
        """Nats by which it fails, (), mean over observations: log G where samples tell nothing.

        Args:
            sample: (N, D).
            ids: (N,) the group in the data set.
        """
        backwards = 2 * sample.detach() - sample  # the same numbers, to the last digit
        return F.cross_entropy(self.names(backwards), ids)


class Adversaries(nn.ModuleDict):
    """One for each level of an observation's own and each level whose groups it should not know.

    Args:
        levels: of the model.
        groups: for shared levels by name, how many groups the training data have.
        apart: for own levels by name, those whose groups they should not know, where these are not all that are shared.

    Example:
        >>> levels = [Level("content", 4, by="person"), Level("style", 2)]
        >>> Adversaries(levels, {"content": 10}).of("style", "content").names[-1].out_features
        10
    """

    def __init__(
        self,
        levels: Sequence[Level],
        groups: Mapping[str, int],
        apart: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        super().__init__(
            {
                level.name: nn.ModuleDict(
                    {o: Adversary(level.dim, groups[o]) for o in apart.get(level.name, groups) if o in groups}
                )
                for level in levels
                if level.by is None
            }
        )

    def of(self, level: str, other: str) -> Adversary:
        """The one that names groups of ``other`` from samples of ``level``."""
        found = self.get_submodule(f"{level}.{other}")
        assert isinstance(found, Adversary)
        return found
