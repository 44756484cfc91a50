"""Other ways to keep the group out of style, in the place of the independence penalty: docs/ablation.md.

    python benchmarks/quality/rivals.py --data mnist.npz --out runs/rivals [--seeds 0,1,2] [--only NAME ...]

All have the model, the bound on held-out evidence, the identification term, the batches and the steps of the ablation
(MNIST's training part, MLP network, seven epochs); only what asks style to know nothing differs. What is finished is
not done again. Each is written from its published description:

adversary     a network that names the group from style samples, its gradient reversed (Ganin et al. 2016)
reader        the same without a word for each group: it makes votes of style samples, by which the library's own
              identification names each observation's group from the others of it
cycle         decode one style with the contents of two observations, and ask for it back (Jha et al. 2018)
switched      a contrastive loss on style in which positives are of *other* groups (CLEAR-VAE's pair switching, 2024)
fixed noise   style of variance one whatever the observation, its mean held small (LORD, Gabbay and Hoshen 2020)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from ablation import DEFAULT, EPOCHS, compare, doubling, numbers
from torch import Tensor, nn

import mlvae
from mlvae import MLVAE, Evidence, GroupBatch, Objective, loss
from mlvae.data import GroupSampler
from mlvae.evidence import product_with_prior
from mlvae.model import LOG_PRECISION_BOUND
from mlvae.penalties import misidentification

Term = Callable[[MLVAE, GroupBatch], Tensor]
LEARNING_RATE = 2e-3
BARE = replace(DEFAULT, independence=0.0)


def style_of(model: MLVAE, x: Tensor) -> mlvae.Normal:
    """Each observation's posterior of style."""
    votes = model.votes("style", model.features(x))
    return product_with_prior(votes)


class Reversed(torch.autograd.Function):
    """The identity, whose gradient is reversed."""

    @staticmethod
    def forward(context: object, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(context: object, gradient: Tensor) -> Tensor:
        return -gradient


class Adversary(nn.Module):
    """What it descends makes it better at naming groups, and the encoder worse to name by."""

    def __init__(self, dim: int, groups: int) -> None:
        super().__init__()
        self.names = nn.Sequential(
            nn.Linear(dim, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, groups)
        )

    def forward(self, model: MLVAE, batch: GroupBatch) -> Tensor:
        style = style_of(model, batch.x).rsample()
        return F.cross_entropy(self.names(Reversed.apply(style)), batch.ids["content"])


class Reader(nn.Module):
    """Reads style samples as content is read, and is descended and ascended as the adversary is."""

    def __init__(self, dim: int, votes: int = 32) -> None:
        super().__init__()
        self.says = nn.Sequential(
            nn.Linear(dim, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 2 * votes)
        )

    def forward(self, model: MLVAE, batch: GroupBatch) -> Tensor:
        style = style_of(model, batch.x).rsample()
        mean, raw = self.says(Reversed.apply(style)).chunk(2, 1)
        log_precision = LOG_PRECISION_BOUND * torch.tanh(raw / LOG_PRECISION_BOUND)
        ids = batch.ids["content"]
        return misidentification(Evidence.votes(mean, log_precision.exp()), mlvae.Grouping.from_ids(ids), ids)


def cycle(model: MLVAE, batch: GroupBatch) -> Tensor:
    """How far the styles read from two pictures of one style lie apart, per observation."""
    content = model.encode(batch, evidence="held_out", draw="observation")["content"].sample
    style = torch.randn_like(content[:, : model.level("style").dim])
    read = [
        style_of(model, model.likelihood.mean(model.decode({"content": each, "style": style}))).mean
        for each in (content, content[torch.randperm(len(content))])
    ]
    return (read[0] - read[1]).abs().sum(1).mean()


def switched(model: MLVAE, batch: GroupBatch, temperature: float = 0.5) -> Tensor:
    """Soft nearest neighbours in style, where the right ones are those of other groups."""
    style = F.normalize(style_of(model, batch.x).mean, dim=1)
    near = (style @ style.T / temperature).fill_diagonal_(-torch.inf)
    same = batch.ids["content"].unsqueeze(1) == batch.ids["content"]
    return (near.logsumexp(1) - near.masked_fill(same, -torch.inf).logsumexp(1)).mean()


class FixedNoise(MLVAE):
    """Style is N(mean, 1): votes of no precision, which move the mean."""

    def believed(self, level: str, said: Tensor) -> Evidence:
        votes = super().believed(level, said)
        if level != "style":
            return votes
        mean = said.chunk(2, -1)[0]
        return Evidence(torch.zeros_like(mean), mean, votes.count)


def nothing(model: MLVAE, batch: GroupBatch) -> Tensor:
    return batch.x.new_zeros(())


def rivals(groups: int, dim: int) -> dict[str, tuple[type[MLVAE], Objective, Term, float]]:
    """By name: the model, what it descends, a term beside it and that term's weight, which grows as the default's."""
    found: dict[str, tuple[type[MLVAE], Objective, Term, float]] = {
        "none": (MLVAE, BARE, nothing, 0.0),
        "independence (the default)": (MLVAE, DEFAULT, nothing, 0.0),
    }
    for weight in (3.0, 10.0, 30.0):
        found[f"adversary {weight:g}"] = (MLVAE, BARE, Adversary(dim, groups), weight)
    lighter = {end: doubling(3.0, end).objective for end in (100.0, 300.0)}
    for end, objective in lighter.items():
        found[f"independence to {end:g}"] = (MLVAE, objective, nothing, 0.0)
        found[f"independence to {end:g}, adversary 10"] = (MLVAE, objective, Adversary(dim, groups), 10.0)
        for weight in (10.0, 30.0):
            found[f"independence to {end:g}, reader {weight:g}"] = (MLVAE, objective, Reader(dim), weight)
    found["independence to 100, switched 300"] = (MLVAE, lighter[100.0], switched, 300.0)
    found["independence, adversary 3"] = (MLVAE, DEFAULT, Adversary(dim, groups), 3.0)
    for weight in (1.0, 10.0, 100.0):
        found[f"cycle {weight:g}"] = (MLVAE, BARE, cycle, weight)
    for weight in (3.0, 30.0, 300.0, 3000.0):
        found[f"switched {weight:g}"] = (MLVAE, BARE, switched, weight)
    for weight in (0.1, 1.0, 3.0):
        found[f"fixed noise with KL {weight:g}"] = (FixedNoise, BARE.changed(style=weight), nothing, 0.0)
    return found


def measure(name: str, train: mlvae.GroupedData, valid: mlvae.GroupedData, seed: int) -> Mapping[str, float]:
    """Trains one of them as `fit` would, and measures it on the validation part."""
    torch.manual_seed(seed)
    ids = train.codes("group")
    kind, objective, term, weight = rivals(int(ids.max()) + 1, 16)[name]
    model = kind.for_data(train, network="mlp")
    parameters = [*model.parameters(), *(term.parameters() if isinstance(term, nn.Module) else ())]
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE, betas=(0.9, 0.99), fused=True)
    sampler = GroupSampler(ids, 70, (2, 8), seed=seed)
    for epoch in range(EPOCHS):
        for place, (rows, index) in enumerate(sampler.epoch(epoch)):
            share = (epoch + place / sampler.batches(epoch)) / EPOCHS
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(share / 0.03, 0.5 + 0.5 * math.cos(math.pi * share))
            grouping = mlvae.Grouping(index, int(index.max()) + 1)
            batch = GroupBatch(model.prepare(train.x[rows]), {"content": grouping}, {"content": ids[rows]})
            total = loss(model, batch, objective, progress=share).total
            if weight:
                growing = weight * max(0.0, share - 0.1) / 0.9
                total = total + growing * len(rows) / grouping.num_groups * term(model, batch)
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
    model.eval()
    return numbers(model, train, valid, seed)


if __name__ == "__main__":
    compare(__doc__ or "", "runs/rivals", list(rivals(2, 2)), measure)
