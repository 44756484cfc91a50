"""What others do in a step, written from their published descriptions, over the same networks and optimiser.

plain            a VAE: every observation its own code (Kingma and Welling 2014)
authors          Bouchacourt et al. 2018: a loop over the groups, each one's product of normals of its members
reimplementation the best-known public ML-VAE: for every group a loop over all observations, one at a time
clear_vae        CLEAR-VAE: a VAE, content drawn together within a group by a contrastive loss and style pushed apart
ada_ml_vae       Locatello et al. 2020, as disent trains it: pairs, the dimensions that differ least averaged
pythae           not written here but pythae's own, where it is installed
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONTENT, STYLE, WIDTH, PIXELS = 16, 16, 500, 784


def encoder() -> nn.Module:
    """784 numbers to 500 features."""
    return nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, WIDTH), nn.ReLU())


def decoder() -> nn.Module:
    """Codes to pictures' logits."""
    return nn.Sequential(
        nn.Linear(CONTENT + STYLE, WIDTH), nn.ReLU(), nn.Linear(WIDTH, PIXELS), nn.Unflatten(1, (28, 28))
    )


class Peer(nn.Module):
    """The networks that all have in common: an encoder, means and log variances, a decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder(), decoder()
        self.heads = nn.Linear(WIDTH, 2 * (CONTENT + STYLE))

    def codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log variances (N, 32), content first."""
        mean, log_var = self.heads(self.encoder(x)).chunk(2, -1)
        return mean, log_var

    def bound(self, x: Tensor, code: Tensor, divergence: Tensor) -> Tensor:
        """Minus the bound, an observation."""
        error = F.binary_cross_entropy_with_logits(self.decoder(code), x, reduction="sum")
        return (error + divergence) / len(x)


def drawn(mean: Tensor, log_var: Tensor) -> Tensor:
    """One sample a row."""
    return mean + torch.randn_like(mean) * torch.exp(0.5 * log_var)


def kl(mean: Tensor, log_var: Tensor) -> Tensor:
    """Divergence from N(0, 1), summed over everything."""
    return 0.5 * (mean**2 + log_var.exp() - 1 - log_var).sum()


def plain(model: Peer, x: Tensor, groups: Tensor) -> Tensor:
    mean, log_var = model.codes(x)
    return model.bound(x, drawn(mean, log_var), kl(mean, log_var))


def looped(mean: Tensor, log_var: Tensor, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each group's product of normals, a group at a time; and the groups' labels."""
    labels = groups.unique()
    means, log_vars = [], []
    for label in labels:
        members = groups == label
        precision = torch.exp(-log_var[members])
        total = precision.sum(0)
        means.append((mean[members] * precision).sum(0) / total)
        log_vars.append(-torch.log(total))
    return torch.stack(means), torch.stack(log_vars), labels


def authors(model: Peer, x: Tensor, groups: Tensor) -> Tensor:
    mean, log_var = model.codes(x)
    group_mean, group_log_var, labels = looped(mean[:, :CONTENT], log_var[:, :CONTENT], groups)
    sample = drawn(group_mean, group_log_var)
    content = torch.empty(len(x), CONTENT)
    for place, label in enumerate(labels):
        members = groups == label
        content = torch.where(members.unsqueeze(1), sample[place], content)
    style = mean[:, CONTENT:], log_var[:, CONTENT:]
    return model.bound(x, torch.cat([content, drawn(*style)], 1), kl(group_mean, group_log_var) + kl(*style))


def one_by_one(mean: Tensor, log_var: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Each group's product of normals for each of its members, an observation at a time."""
    var, names = log_var.exp(), groups.tolist()
    total: dict[int, tuple[Tensor, Tensor]] = {}
    for label in set(names):
        weighted, precision = torch.zeros(mean.shape[1]), torch.zeros(mean.shape[1])
        for row, name in enumerate(names):
            if name == label:
                weighted, precision = weighted + mean[row] / var[row], precision + 1 / var[row]
        total[label] = weighted / precision, -torch.log(precision)
    return torch.stack([total[name][0] for name in names]), torch.stack([total[name][1] for name in names])


def reimplementation(model: Peer, x: Tensor, groups: Tensor) -> Tensor:
    mean, log_var = model.codes(x)
    group_mean, group_log_var = one_by_one(mean[:, :CONTENT], log_var[:, :CONTENT], groups)
    noise = {name: torch.randn(CONTENT) for name in set(groups.tolist())}
    rows = [group_mean[row] + noise[name] * torch.exp(0.5 * group_log_var[row]) for row, name in
            enumerate(groups.tolist())]  # fmt: skip
    style = mean[:, CONTENT:], log_var[:, CONTENT:]
    code = torch.cat([torch.stack(rows), drawn(*style)], 1)
    return model.bound(x, code, kl(group_mean, group_log_var) + kl(*style))


def contrast(codes: Tensor, groups: Tensor, sign: float) -> Tensor:
    """Cosine similarities within groups against all others; ``sign`` -1 asks for the reverse."""
    codes = F.normalize(codes, dim=1)
    scores = sign * codes @ codes.T / 0.1
    alone = torch.eye(len(codes), dtype=torch.bool)
    logs = F.log_softmax(scores.masked_fill(alone, -torch.inf), 1).masked_fill(alone, 0)
    same = ((groups[:, None] == groups[None]) & ~alone).float()
    return -((logs * same).sum(1) / same.sum(1).clamp_min(1)).mean()


def clear_vae(model: Peer, x: Tensor, groups: Tensor) -> Tensor:
    mean, log_var = model.codes(x)
    apart = contrast(mean[:, :CONTENT], groups, 1.0) + contrast(mean[:, CONTENT:], groups, -1.0)
    return model.bound(x, drawn(mean, log_var), kl(mean, log_var)) + apart


def ada_ml_vae(model: Peer, x: Tensor, groups: Tensor) -> Tensor:
    """The batch as pairs, its first half with its second."""
    mean, log_var = model.codes(x)
    (mean_a, mean_b), (log_a, log_b) = mean.chunk(2), log_var.chunk(2)
    var_a, var_b = log_a.exp(), log_b.exp()
    between = 0.5 * (log_b - log_a + (var_a + (mean_a - mean_b) ** 2) / var_b - 1)
    shared = between < 0.5 * (between.amax(1, keepdim=True) + between.amin(1, keepdim=True))
    precision = (1 / var_a + 1 / var_b) / 2
    both_mean, both_log = (mean_a / var_a + mean_b / var_b) / 2 / precision, -torch.log(precision)
    mean = torch.cat([torch.where(shared, both_mean, one) for one in (mean_a, mean_b)])
    log_var = torch.cat([torch.where(shared, both_log, one) for one in (log_a, log_b)])
    return model.bound(x, drawn(mean, log_var), kl(mean, log_var))


def pythae() -> nn.Module:
    """pythae's own VAE around the same networks; it takes {"data": x} and gives a loss. Raises ImportError."""
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.heads = encoder(), nn.Linear(WIDTH, 2 * (CONTENT + STYLE))

        def forward(self, x: Tensor) -> Any:
            mean, log_var = self.heads(self.inner(x)).chunk(2, -1)
            return ModelOutput(embedding=mean, log_covariance=log_var)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.inner = decoder()

        def forward(self, code: Tensor) -> Any:
            return ModelOutput(reconstruction=self.inner(code).sigmoid())

    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=CONTENT + STYLE, reconstruction_loss="bce")
    model: nn.Module = VAE(config, encoder=Encoder(), decoder=Decoder())
    return model


PEERS: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "plain": plain,
    "authors": authors,
    "reimplementation": reimplementation,
    "clear_vae": clear_vae,
    "ada_ml_vae": ada_ml_vae,
}
