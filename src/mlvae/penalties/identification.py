"""Does content name the group? The model's own Bayes factor is asked, and what it says wrong is paid for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mlvae.evidence import Evidence
from mlvae.grouping import Grouping


def misidentification(votes: Evidence, grouping: Grouping, ids: Tensor, others: Evidence | None = None) -> Tensor:
    """How badly the model's own Bayes factor names an observation's group among the batch's, in nats.

    Softmax cross-entropy over log Z(E_g + t_i) - log Z(E_g), the vote t_i left out of its own group's evidence.
    Sub-groups of one data-set group are the same answer. Observations alone in their group have nothing to be named by.

    Args:
        votes: N votes of one level.
        grouping: who is a group in this batch.
        ids: (N,) the group in the data set.
        others: ``votes.sum_others(grouping)``, where it is known already.

    Returns:
        (), mean over the observations that are not alone; zero where there are none.
    """
    others = votes.sum_others(grouping) if others is None else others
    foreign = ids.unsqueeze(1) != ids[grouping.first]
    accompanied = grouping.expand((grouping.sizes > 1).to(votes.precision))
    value: Tensor = _Misidentification.apply(  # type: ignore[no-untyped-call]
        votes.precision, votes.information, others.precision, others.information, grouping, foreign, accompanied
    )
    return value


class _Misidentification(torch.autograd.Function):
    """Most of what learning costs beyond its networks, where groups are many; so its gradient is made with it, by hand.

    log Z of (Λ, η) has the gradients -½ (μ² + 1/(1 + Λ)) and μ = η / (1 + Λ). ``foreign`` (N, G) are the groups that
    would be a wrong answer; ``accompanied`` (N,) is 0 where an observation is alone, else 1.
    """

    @staticmethod
    def forward(
        context: Any,
        precision: Tensor,
        information: Tensor,
        others_precision: Tensor,
        others_information: Tensor,
        grouping: Grouping,
        foreign: Tensor,
        accompanied: Tensor,
    ) -> Tensor:
        groups, dim, index = grouping.num_groups, precision.shape[1], grouping.index.unsqueeze(1)
        # The evidence of G groups; then, for each of N votes, that of its own group without it.
        totals = grouping.sum(torch.cat([precision, information], 1))
        before = torch.cat([totals, torch.cat([others_precision, others_information], 1)])
        posterior, summed = before[:, :dim] + 1, before[:, dim:]
        mean = summed / posterior
        normaliser = 0.5 * torch.sub(summed * mean, posterior.log()).sum(1)
        # Each of N votes with each of G groups, (N, G, D), and then its own group with its own vote left out.
        with_posterior = posterior[:groups] + precision.unsqueeze(1)
        with_summed = summed[:groups] + information.unsqueeze(1)
        with_mean = with_summed / with_posterior
        scores = 0.5 * with_summed.mul_(with_mean).sub_(with_posterior.log()).sum(2) - normaliser[:groups]
        scores.scatter_(1, index, normaliser[grouping.index].sub_(normaliser[groups:]).unsqueeze(1))
        named = scores.log_softmax(1)
        right = named.masked_fill(foreign, -torch.inf)
        nats = -right.logsumexp(1, keepdim=True)
        weight = accompanied / accompanied.sum().clamp_min(1)
        value = torch.dot(nats.flatten(), weight)
        if not any(context.needs_input_grad):
            return value

        by_scores = (named.exp_() - right.add_(nats).exp_()).mul_(weight.unsqueeze(1))
        by_own = by_scores.gather(1, index)
        by_scores.scatter_(1, index, 0)
        by_normaliser = torch.cat([grouping.sum(by_own) - by_scores.sum(0).unsqueeze(1), -by_own])
        by_before = torch.cat([torch.addcmul(posterior.reciprocal(), mean, mean).mul_(-0.5), mean], 1) * by_normaliser
        by_each = by_scores.unsqueeze(2)
        by_precision = with_posterior.reciprocal_().addcmul_(with_mean, with_mean).mul_(by_each)
        by_information = with_mean.mul_(by_each)
        by_groups, by_votes = (
            torch.cat([by_precision.sum(axis).mul_(-0.5), by_information.sum(axis)], 1) for axis in (0, 1)
        )
        by_votes += grouping.expand(by_groups + by_before[:groups])
        context.save_for_backward(by_votes, by_before[groups:])
        return value

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        votes, others = (saved * gradient for saved in context.saved_tensors)
        return *votes.chunk(2, 1), *others.chunk(2, 1), None, None, None
