"""All penalties that an objective asks, of all levels of a batch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mlvae.batch import GroupBatch
from mlvae.errors import ModelError
from mlvae.levels import Level
from mlvae.model import Latent
from mlvae.penalties.adversary import Adversaries
from mlvae.penalties.further import Question, answer
from mlvae.penalties.identification import misidentification
from mlvae.penalties.independence import Pairs, told
from mlvae.penalties.leaking import Crossed, leaks

BUILT_IN = ("independence", "leakage", "identification", "adversary")


@dataclass(frozen=True, eq=False)
class Plan:
    """All that penalties ask of a batch but its codes: counted once, before anything that may be compiled.

    Args:
        batch: N observations and their groupings.
        of: for penalties by name, those built in and further ones, the levels that they are asked of.
        others: for each level, those whose groups it should not know.
        pairs: for each of these levels that independence asks about, who shares a group of it.
        crossed: for each level that leakage is asked of and each of its others, how their groups lie.
        adversaries: that learn beside the model; None where none is asked.
    """

    batch: GroupBatch
    of: Mapping[str, Collection[str]]
    others: Mapping[str, tuple[str, ...]]
    pairs: Mapping[str, Pairs]
    crossed: Mapping[tuple[str, str], Crossed | None]
    adversaries: Adversaries | None = None

    @classmethod
    def made(
        cls,
        levels: Sequence[Level],
        batch: GroupBatch,
        of: Mapping[str, Collection[str]],
        apart: Mapping[str, Sequence[str]],
        dtype: torch.dtype,
        adversaries: Adversaries | None = None,
    ) -> Plan:
        """For a sampled batch.

        Args:
            levels: of the model.
            batch: the observations.
            of: for penalties by name the levels that they are asked of.
            apart: for levels by name, those whose groups they should not know, where it is not all that could be asked.
            dtype: of the codes.
            adversaries: that learn beside the model.

        Raises:
            ModelError: ``apart`` names a level that is each observation's own, or adversaries are asked and not there.
        """
        if of["adversary"] and adversaries is None:
            raise ModelError(
                "Expected the adversaries that the objective asks; got none. Let them learn beside the model:"
                " loss(..., adversaries=Adversaries(model.levels, {level: members of each group})), or use `fit`."
            )
        others = {level.name: _others(batch, level.name, apart) for level in levels}
        asked_about = {
            other: None for name in of["independence"] if name not in batch.ids for other in others[name]
        }  # in order
        crossed = {
            (level.name, other): Crossed.of(batch.ids[level.name], batch.ids[other], level.dim, dtype)
            for level in levels
            if level.name in batch.ids and level.name in of["leakage"]
            for other in others[level.name]
        }
        pairs = {name: Pairs.of(batch.ids[name]) for name in asked_about}
        return cls(batch, of, others, pairs, crossed, adversaries)


def ask(
    levels: Sequence[Level], plan: Plan, latents: Mapping[str, Latent], moments: int
) -> tuple[dict[tuple[str, str], Tensor], dict[str, Tensor]]:
    """What penalties say of a batch of N observations.

    Args:
        levels: of the model.
        plan: which penalties are asked of which levels of the batch.
        latents: what the levels make of it.
        moments: the highest that independence looks at.

    Returns:
        By penalty and level, (), nats per observation; and by level that independence is asked of, (), the square of
        what its means tell (`told`).

    Raises:
        ModelError: a further penalty says nothing of all levels that it is asked of, or no single number (`answer`).
    """
    batch, of = plan.batch, plan.of
    further = [kind for kind in of if kind not in BUILT_IN]
    penalties: dict[tuple[str, str], Tensor] = {}
    by_means: dict[str, Tensor] = {}
    for level in levels:
        name, others, shared = level.name, plan.others[level.name], level.name in batch.ids
        question = Question(level, latents[name], batch, others)
        # Both estimates are less what chance makes of them, so they may be negative; paid for that, a network that
        # knows its training data by heart gives members of one group opposite codes of any size.
        if others and not shared and name in of["independence"]:
            alone = question.alone
            every, means = zip(*(told(alone, plan.pairs[other], moments) for other in others), strict=True)
            estimates = torch.stack(every).clamp_min(0)
            # Fifth powers of a few means far out make an estimate of hundreds; such steps once spoiled whole runs.
            penalties["independence", name] = (estimates / (1 + estimates)).sum()
            by_means[name] = torch.stack(means).amax()
        if others and shared and name in of["leakage"]:
            # Held out, a sample knows nothing of the observation; what its own vote says is what counts.
            means_alone = question.alone.mean
            found = [leaks(means_alone, plan.crossed[name, other]) for other in others]
            penalties["leakage", name] = torch.stack(found).clamp_min(0).sum()
        if shared and name in of["identification"]:
            penalties["identification", name] = _misidentified(question)
        if others and not shared and name in of["adversary"] and plan.adversaries is not None:
            failing = [plan.adversaries.of(level, other)(question.latent.sample, batch.ids[other]) for other in others]
            penalties["adversary", name] = torch.stack(failing).sum()
        for kind in further:
            if name in of[kind] and (nats := answer(kind, question)) is not None:
                penalties[kind, name] = nats
    for kind in further:
        if of[kind] and not any(name == kind for name, _ in penalties):
            raise ModelError(
                f"Expected penalty {kind!r} to say something of a level that it is weighed for; it said None of"
                " each. Does its function return its value? Else leave the penalty out."
            )
    return penalties, by_means


def _misidentified(question: Question) -> Tensor:
    """Groups that others are nested in are asked of whole ones of these, from the others of them."""
    batch, name, latent = question.batch, question.level.name, question.latent
    grouping, witnesses, ids = batch.grouping(name), batch.witnesses(name), batch.ids[name]
    if witnesses.singletons:
        return misidentification(latent.votes, grouping, ids, latent.others)
    return misidentification(latent.votes.sum(witnesses), batch.above[name], ids[witnesses.first])


def _others(batch: GroupBatch, level: str, apart: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The levels whose groups this one should not know."""
    if level in apart:
        for other in apart[level]:
            if other not in batch.ids:
                raise ModelError(
                    f"Expected levels that groups share, for level {level!r} to be kept apart from; got {other!r}."
                    " Leave it out."
                )
        return tuple(apart[level])
    return tuple(
        other
        for other in batch.ids
        if other != level and (level, other) not in batch.nested and (other, level) not in batch.nested
    )
