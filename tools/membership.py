"""How well does a trained model tell who was in its training data? Measured on the built-in avatars.

    python tools/membership.py --epochs 60

Half of the identities are trained on, 16 of their 24 pictures each. Three questions, each answered by a score and the
area under its curve (0.5: nothing is told; 1: everything), and by the share of members that are found where 5 % of the
others are taken for members:

- pictures: the bound of a picture alone, of training pictures against other pictures of the same identities;
- identities, bound: the same, of training pictures against pictures of identities never seen, a mean an identity;
- identities, Bayes factor: two halves of an identity's unseen pictures, do they agree better where it was trained on?
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

import mlvae
from mlvae.batch import GroupBatch
from mlvae.objective import elbo

SEEN = 16


def bound(model: mlvae.MLVAE, data: mlvae.GroupedData, draws: int = 4) -> np.ndarray:
    """(N,) the bound of each picture alone, in nats, the mean over draws of the noise."""
    values = []
    with torch.no_grad():
        for start in range(0, len(data), 256):
            x = model.prepare(data.x[start : start + 256])
            batch = GroupBatch.of(x, {"content": torch.arange(len(x))})
            total = torch.zeros(len(x))
            for _ in range(draws):
                terms = elbo(model, batch)
                total += terms.log_likelihood - terms.kl["content"] - terms.kl["style"]
            values.append(total / draws)
    return torch.cat(values).numpy()


def agreement(model: mlvae.MLVAE, data: mlvae.GroupedData) -> np.ndarray:
    """(G,) the log Bayes factor of the first half of each group's pictures and the second, one group against two."""
    place = np.array([np.flatnonzero(data.groups == name).tolist().index(row) for row, name in enumerate(data.groups)])
    half = place % 2 == 0
    one, two = (model.evidence(data.x[part], data.groups[part]).levels["content"] for part in (half, ~half))
    return ((one + two).log_evidence() - one.log_evidence() - two.log_evidence()).numpy()


def told(name: str, members: np.ndarray, others: np.ndarray) -> None:
    truth = np.r_[np.ones(len(members)), np.zeros(len(others))]
    area = roc_auc_score(truth, np.r_[members, others])
    found = (members > np.quantile(others, 0.95)).mean()
    print(f"{name:34} {len(members):5} members {len(others):5} others  AUC {area:.3f}  found at 5 % false {found:.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--network", default="conv-small")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    whole = mlvae.read("avatars")
    inside, outside = whole.split(by="group", test=0.5, seed=asked.seed)
    trained, kept = (inside.subset(rows) for rows in _pictures(inside, asked.seed))
    _, strangers = (outside.subset(rows) for rows in _pictures(outside, asked.seed))
    torch.manual_seed(asked.seed)
    model = mlvae.MLVAE.for_data(trained, network=asked.network)
    mlvae.fit(model, trained, epochs=asked.epochs, groups=25, seed=asked.seed, progress=False)
    print(f"{asked.network}, {asked.epochs} epochs of {len(trained):,} pictures of {trained.num_groups} identities")
    torch.manual_seed(asked.seed)
    own, other, strange = bound(model, trained), bound(model, kept), bound(model, strangers)
    told("pictures, bound", own, other)
    told("identities, bound (training)", _means(own, trained), _means(strange, strangers))
    told("identities, bound (other pictures)", _means(other, kept), _means(strange, strangers))
    told("identities, Bayes factor", agreement(model, kept), agreement(model, strangers))


def _pictures(data: mlvae.GroupedData, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows kept, of every group."""
    order = np.random.default_rng(seed).permutation(len(data))
    rank = np.empty(len(data), int)
    for name in np.unique(data.groups):
        mine = order[data.groups[order] == name]
        rank[mine] = np.arange(len(mine))
    return np.flatnonzero(rank < SEEN), np.flatnonzero(rank >= SEEN)


def _means(values: np.ndarray, data: mlvae.GroupedData) -> np.ndarray:
    return np.array([values[data.groups == name].mean() for name in np.unique(data.groups)])


if __name__ == "__main__":
    main()
