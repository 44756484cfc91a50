"""Penalties of one's own: a function of what one level makes of a batch, by a name."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from mlvae.batch import GroupBatch
from mlvae.errors import MLVAEError, ModelError
from mlvae.evidence import READOUTS
from mlvae.levels import Level
from mlvae.model import Latent
from mlvae.normal import Normal


@dataclass(frozen=True, eq=False)
class Question:
    """What a penalty is asked about: one level in one batch of N observations.

    Args:
        level: its name, dimensions D and column.
        latent: what it makes of the batch: votes, evidence, posteriors, samples (N, D) that are decoded.
        batch: the observations; ``batch.ids[name]`` (N,) the group in the data of each, for every shared level. Its
            ``x`` has no features where several processes train: they put codes together, not observations.
        others: the levels whose groups this one should not know.
    """

    level: Level
    latent: Latent
    batch: GroupBatch
    others: tuple[str, ...]

    @property
    def alone(self) -> Normal:
        """(N, D), posteriors of observations understood each by itself."""
        latent = self.latent
        # Of what is an observation's own, that is the posterior.
        own = self.level.by is None and latent.evidence is latent.votes
        return latent.posterior if own else READOUTS[self.level.readout](latent.votes)


Penalty = Callable[[Question], Tensor | None]

PENALTIES: dict[str, Penalty] = {}
"""By name, beside those that the library has: a function to nats per observation, (), or None for a level that it is
not asked of. `Objective(further={name: weight})` asks it of every level."""


def answer(name: str, question: Question) -> Tensor | None:
    """What a penalty says of a level.

    Raises:
        ModelError: it fails, is no single number, or one without a gradient where the question has some.

    Example:
        >>> import torch
        >>> from mlvae.evidence import Evidence
        >>> PENALTIES["far"] = lambda question: question.alone.mean.square().mean()
        >>> level, votes = Level("style", 1), Evidence.votes(torch.ones(4, 1), torch.ones(4, 1))
        >>> latent = Latent(votes, votes, READOUTS["product_with_prior"](votes), torch.zeros(4, 1))
        >>> answer("far", Question(level, latent, GroupBatch(torch.zeros(4, 2)), ()))
        tensor(0.2500)
        >>> del PENALTIES["far"]
    """
    try:
        nats = PENALTIES[name](question)
    except MLVAEError:
        raise
    except Exception as error:  # whatever a function of somebody else's comes to
        at = traceback.extract_tb(error.__traceback__)[:2][-1]  # the first is here, the next is its own
        raise ModelError(
            f"Expected penalty {name!r} to say nats of level {question.level.name!r}; it failed in {at.filename}, line"
            f" {at.lineno}: {type(error).__name__}: {error}"
        ) from error
    if nats is None:
        return None
    if not isinstance(nats, Tensor) or nats.shape != ():
        got = f"a tensor of shape {tuple(nats.shape)}" if isinstance(nats, Tensor) else type(nats).__name__
        what = "Reduce it, as with `.mean()`" if isinstance(nats, Tensor) else "Compute it with torch from the question"
        raise ModelError(
            f"Expected penalty {name!r} to say nats per observation, a tensor of shape (), or None; it said {got} of"
            f" level {question.level.name!r}. {what}."
        )
    if question.latent.sample.requires_grad and not nats.requires_grad:
        raise ModelError(
            f"Expected penalty {name!r} to have a gradient, or nothing learns from it; that of level"
            f" {question.level.name!r} has none. Compute it from the question's tensors, without `.detach()`."
        )
    return nats
