"""Evidence on the groups of every shared level of a model, by the groups' labels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlvae.errors import EvidenceError, ModelError, nearest
from mlvae.evidence import READOUTS, Evidence, log_normaliser
from mlvae.grouping import Grouping
from mlvae.labels import alike
from mlvae.normal import Normal
from mlvae.notebook import table

Labels = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False, repr=False)
class GroupEvidence:
    """What observations say about the groups of every shared level: it adds, and it can be taken back.

    Args:
        levels: evidence by the level's name, float64 on the CPU.
        readouts: how each level's evidence becomes a posterior.
        groups: by level, the label of each row of its evidence; None for one group without a name.
        model: a mark of the model whose votes they are (`heads.mark`); empty where it is not known. Evidence of two
            models does not add, and is not compared.

    Example:
        >>> from mlvae import MLVAE, Level
        >>> model = MLVAE((4,), [Level("content", 2, by="person"), Level("style", 2)], likelihood="normal")
        >>> evidence = model.evidence(torch.randn(3, 4)) + model.evidence(torch.randn(2, 4))
        >>> evidence.count("content").tolist()
        [5]
    """

    levels: Mapping[str, Evidence]
    readouts: Mapping[str, str]
    groups: Mapping[str, np.ndarray[Any, Any] | None]
    model: str = ""

    def posterior(self, level: str = "content") -> Normal:
        """The posterior of every group of a level, (G, D)."""
        return READOUTS[self.readouts[self._known(level)]](self.levels[level])

    def count(self, level: str = "content") -> Tensor:
        """The number of votes each group of a level has, (G,)."""
        return self.levels[self._known(level)].count

    def __repr__(self) -> str:
        parts = [
            f"{name}: {int(evidence.count.sum()):,} votes on {len(evidence):,} group{'s' * (len(evidence) != 1)}"
            for name, evidence in self.levels.items()
        ]
        return f"GroupEvidence({', '.join(parts)})"

    def _repr_html_(self) -> str:
        """In a notebook: votes and posterior variance of the first groups of each level."""
        parts = []
        for name, evidence in self.levels.items():
            labels = self.groups[name]
            rows = (
                [
                    "one group, unnamed" if labels is None else labels[row],
                    int(evidence.count[row]),
                    # Without a prior, a group without votes has no posterior.
                    READOUTS[self.readouts[name]](evidence[row : row + 1]).variance.mean().item()
                    if evidence.count[row] or self.readouts[name] == "product_with_prior"
                    else "none",
                ]
                for row in range(len(evidence))
            )
            caption = f"evidence on {name}, {evidence.dim} dimensions, {self.readouts[name]}"
            parts.append(table(caption, ["group", "votes", "posterior variance"], rows, len(evidence)))
        return "".join(parts)

    def __add__(self, other: GroupEvidence) -> GroupEvidence:
        """Evidence of both, group by group; a group that only one side knows keeps what it has."""
        return self._combined(other, lambda mine, theirs, names: mine + theirs)

    def __sub__(self, other: GroupEvidence) -> GroupEvidence:
        """Takes evidence back out, group by group; a group left without votes is exactly empty."""
        return self._combined(other, Evidence.without)

    def of(self, level: str, labels: np.ndarray[Any, Any] | None, rows: int) -> Evidence:
        """The evidence on the group of each label, (rows,); empty where the group is not known.

        Args:
            level: whose groups.
            labels: (rows,); None takes the one group without a name. Numbers and text are compared as text.
            rows: how many.
        """
        level, mine = self._known(level), self.groups[level]
        evidence = self.levels[level]
        if (mine is None) != (labels is None):
            raise EvidenceError(f"Expected groups of level {level!r} named on both sides or on neither. Pass `groups`.")
        if mine is None or labels is None:
            return evidence[torch.zeros(rows, dtype=torch.int64)]
        if not len(mine):
            return Evidence.empty(rows, evidence.dim)
        mine, labels = alike(mine, labels)
        order = np.argsort(mine)
        place = order[np.searchsorted(mine, labels, sorter=order).clip(max=len(mine) - 1)]
        known = torch.from_numpy(mine[place] == labels)
        return Evidence.chosen(known, evidence[torch.from_numpy(place)], Evidence.empty(rows, evidence.dim))

    def check_model(self, mark: str) -> None:
        """Raises EvidenceError where this is evidence of another model than that of a mark; one unknown may be any."""
        if self.model and mark and self.model != mark:
            raise EvidenceError(
                "Expected evidence of one model; got that of two, whose codes mean different things. Ask one model"
                " about all observations."
            )

    def check_comparable(self, level: str) -> None:
        """Raises EvidenceError where a level's readout has no prior, so that Bayes factors have no meaning."""
        if self.readouts[self._known(level)] != "product_with_prior":
            raise EvidenceError(
                f"Expected the readout 'product_with_prior' for a Bayes factor; level {level!r} has"
                f" {self.readouts[level]!r}. Only under a prior is the evidence of two groups comparable."
            )

    def log_bayes_factor(self, other: GroupEvidence, level: str = "content") -> Tensor:
        """log Z(A + B) - log Z(A) - log Z(B) for every group A of this and B of the other: one group or two?

        Returns:
            (G_this, G_other), nats; above zero speaks for one group.

        Raises:
            EvidenceError: the level's readout has no prior, so a Bayes factor has no meaning.
        """
        self.check_comparable(level)
        self.check_model(other.model)
        a, b = self.levels[level], other.levels[other._known(level)]
        if a.dim != b.dim:
            raise EvidenceError(f"Expected {a.dim} dimensions on both sides; got {b.dim}. Use one model's evidence.")
        apart = a.log_evidence()[:, None] + b.log_evidence()[None]
        # Blocks of rows bound the memory of the (rows, G_other, D) intermediate.
        rows = max(1, 2**22 // max(1, len(b) * b.dim))
        together = [
            log_normaliser(p[:, None] + b.precision[None], i[:, None] + b.information[None])
            for p, i in zip(a.precision.split(rows), a.information.split(rows), strict=True)
        ]
        return torch.cat(together) - apart

    def identify(self, gallery: GroupEvidence, level: str = "content", *, new: float = 0.0) -> Tensor:
        """Which group of the gallery is each of these, or none? Exact probabilities by Bayes factor.

        Args:
            gallery: evidence on the known groups.
            level: whose groups.
            new: prior probability of "none of these"; the known groups share the rest equally.

        Returns:
            (G_this, G_gallery + 1) probabilities; the last column is "none of these". A group without evidence, whose
            votes were all taken back, is not known: 0.
        """
        if not 0 <= new <= 1:
            raise EvidenceError(f"Expected the prior of a new group between 0 and 1; got {new}.")
        scores = self.log_bayes_factor(gallery, level)
        if not scores.shape[1]:
            raise EvidenceError("Expected at least one known group to identify among; the gallery is empty. Add some.")
        there = gallery.levels[level].count > 0
        if not there.any():
            raise EvidenceError("Expected a gallery with evidence; all of its groups have none. Add some.")
        share = math.log1p(-new) - math.log(int(there.sum())) if new < 1 else -math.inf
        known = (scores + share).masked_fill(~there.to(scores.device), -math.inf)
        none = scores.new_full((len(scores), 1), math.log(new) if new > 0 else -torch.inf)
        return torch.cat([known, none], 1).softmax(1)

    def _combined(self, other: GroupEvidence, operation: Any) -> GroupEvidence:
        if dict(self.readouts) != dict(other.readouts):
            raise EvidenceError(
                f"Expected evidence on the same levels with the same readouts; got {dict(self.readouts)} and"
                f" {dict(other.readouts)}. Add evidence of one model."
            )
        self.check_model(other.model)
        levels: dict[str, Evidence] = {}
        groups: dict[str, np.ndarray[Any, Any] | None] = {}
        for name in self.levels:
            mine, theirs = self.groups[name], other.groups[name]
            if (mine is None) != (theirs is None):
                raise EvidenceError(
                    f"Expected groups of level {name!r} named on both sides or on neither. Pass `groups` to both calls."
                )
            if mine is None or theirs is None:
                levels[name], groups[name] = operation(self.levels[name], other.levels[name], None), None
            else:
                mine, theirs = alike(mine, theirs)
                union = np.unique(np.concatenate([mine, theirs]))
                placed = [
                    _placed(evidence, np.searchsorted(union, labels), len(union))
                    for evidence, labels in ((self.levels[name], mine), (other.levels[name], theirs))
                ]
                levels[name], groups[name] = operation(*placed, union), union
        return replace(self, levels=levels, groups=groups, model=self.model or other.model)

    def _known(self, level: str) -> str:
        if level not in self.levels:
            raise ModelError(f"Expected a level that groups share; got {level!r}. {nearest(level, self.levels)}")
        return level


def _placed(evidence: Evidence, rows: np.ndarray[Any, Any], groups: int) -> Evidence:
    """Evidence at its rows of a larger table, empty elsewhere."""
    return evidence.sum(Grouping(torch.as_tensor(rows, dtype=torch.int64), groups))
