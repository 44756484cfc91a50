from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mlvae import MLVAE, Level
from mlvae.errors import DataError
from mlvae.evaluate.judge import Judge
from mlvae.evaluate.swaps import cross_member_mse, swaps
from mlvae.likelihoods import Normal
from oracles import raw

CENTRES = 3 * torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])


def data(n: int, seed: int, noise: float = 0.3) -> tuple[torch.Tensor, np.ndarray]:
    """Two numbers about the centre of the group, two that are each observation's own."""
    generator = torch.Generator().manual_seed(seed)
    groups = torch.randint(4, (n,), generator=generator)
    x = torch.cat([CENTRES[groups], torch.zeros(n, 2)], 1)
    return x + torch.randn(n, 4, generator=generator) * torch.tensor([noise, noise, 1, 1]), groups.numpy()


def copier(content: list[int], style: list[int], shared: bool = True) -> MLVAE:
    """Codes are numbers of the observation: those at ``content``, and those at ``style`` (zero where that is empty)."""
    levels = [Level("content", 2, by="g" if shared else None), Level("style", 2)]
    model = MLVAE((4,), levels, likelihood=Normal(1.0), encoder=nn.Linear(4, 4), decoder=nn.Linear(4, 4)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.encoder.weight.copy_(torch.eye(4))
        for place, (name, numbers) in enumerate({"content": content, "style": style}.items()):
            # So sharp that the prior pulls by a thousandth only; an own level's head says what is left of the mean.
            model.heads[name].bias[2:] = raw(torch.tensor(999.0))
            for i, number in enumerate(numbers):
                model.heads[name].weight[i, number] = 1 if levels[place].by is None else 1000 / 999
                model.decoder.weight[number, 2 * place + i] = 1
    return model


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.fit(*data(2000, 0), seed=0, steps=150)


class TestSwaps:
    def test_a_model_that_keeps_levels_apart_shows_the_donor(self, judge):
        x, groups = data(500, 1)
        result = swaps(copier([0, 1], [2, 3]), judge, x, groups, pairs=1500)
        assert result.pairs == 1500
        assert result.judge_accuracy == judge.accuracy(x, groups) > 0.97
        assert result.content_of_donor > 0.97
        assert result.content_of_style_giver < 0.03
        assert result.content_of_several > 0.97 and result.reconstructed == result.judge_accuracy

    def test_several_members_leave_less_doubt_than_one(self, judge):
        """Observations so noisy that one says little of its group, five much more: votes average."""
        x, groups = data(2000, 1, noise=3.0)
        result = swaps(copier([0, 1], [2, 3]), judge, x, groups)
        assert result.content_of_donor < 0.75 < 0.85 < result.content_of_several
        assert abs(result.content_of_donor - result.judge_accuracy) < 0.05

    def test_several_shared_levels_pool_the_first(self, judge):
        torch.manual_seed(0)
        levels = [Level("content", 2, by="g"), Level("word", 2, by="w"), Level("style", 2)]
        result = swaps(MLVAE((4,), levels, likelihood=Normal(1.0), width=8), judge, *data(200, 1), pairs=50)
        assert result.content_of_several is not None

    def test_groups_of_fewer_are_not_pooled_and_a_plain_vae_has_nothing_to_pool(self, judge):
        x, groups = data(500, 1)
        few = np.concatenate([np.flatnonzero(groups == g)[:4] for g in range(4)])
        assert swaps(copier([0, 1], [2, 3]), judge, x[few], groups[few]).content_of_several is None
        assert swaps(copier([0, 1], [2, 3], shared=False), judge, x, groups).content_of_several is None

    @pytest.mark.parametrize("model", [copier([2, 3], [0, 1]), copier([0, 1], [2, 3], shared=False)])
    def test_a_style_that_holds_the_group_and_a_plain_vae_show_the_style_giver(self, judge, model):
        result = swaps(model, judge, *data(500, 1))
        assert result.content_of_donor < 0.03
        assert result.content_of_style_giver > 0.97

    def test_half_the_content_in_style_shows_neither_half_of_the_time(self, judge):
        """One coordinate of the centre comes from the donor, the other from the style giver."""
        result = swaps(copier([0, 2], [1, 3]), judge, *data(3000, 1), pairs=6000)
        # Of the three other centres one shares the first coordinate and one the second.
        assert result.content_of_donor == pytest.approx(1 / 3, abs=0.04)
        assert result.content_of_style_giver == pytest.approx(1 / 3, abs=0.04)

    def test_pairs_are_uniform_over_pairs_of_different_groups(self, judge):
        x, groups = data(300, 1)
        kept = np.flatnonzero((groups == 0) | (np.arange(300) < 40) & (groups == 1))
        x, groups = x[kept], groups[kept]
        model, seen = copier([0, 1], [2, 3]), []
        model.swap = lambda a, b: seen.append((a, b)) or b.double()  # type: ignore[method-assign]
        swaps(model, judge, x, groups, pairs=4000)
        a, b = (torch.cat(side) for side in zip(*seen, strict=True))
        rows = {tuple(row.tolist()): i for i, row in enumerate(x)}
        pairs = np.array([[rows[tuple(u.tolist())], rows[tuple(v.tolist())]] for u, v in zip(a, b, strict=True)])
        assert (groups[pairs[:, 0]] != groups[pairs[:, 1]]).all()
        counts = np.zeros((len(x), len(x)))
        np.add.at(counts, (pairs[:, 0], pairs[:, 1]), 1)
        expected = (groups[:, None] != groups[None]) * 4000 / (2 * (groups == 0).sum() * (groups == 1).sum())
        for axis in (0, 1):
            assert np.abs((counts - expected).sum(axis) / np.sqrt(expected.sum(axis))).max() < 4.5

    def test_the_seed_chooses_the_pairs(self, judge):
        x, groups = data(200, 1, noise=1.5)
        model = copier([0, 1], [2, 3])
        assert swaps(model, judge, x, groups, pairs=300, seed=1) == swaps(model, judge, x, groups, pairs=300, seed=1)
        assert swaps(model, judge, x, groups, pairs=300, seed=1) != swaps(model, judge, x, groups, pairs=300, seed=2)

    def test_refuses_one_group_and_a_group_that_the_judge_does_not_know(self, judge):
        x, groups = data(20, 1)
        with pytest.raises(DataError, match="at least two groups"):
            swaps(copier([0, 1], [2, 3]), judge, x, np.zeros(20, int))
        with pytest.raises(DataError, match="fitted on"):
            swaps(copier([0, 1], [2, 3]), judge, x, groups + 10)


class TestCrossMember:
    def test_costs_what_members_differ_by(self):
        """Content numbers come from another member: a difference of twice their variance, in two of four numbers."""
        x, groups = data(4000, 1, noise=0.5)
        assert cross_member_mse(copier([0, 1], [2, 3]), x, groups) == pytest.approx(2 * 0.25 / 2, rel=0.06)

    def test_is_nothing_where_members_are_alike_and_style_is_kept(self):
        assert cross_member_mse(copier([0, 1], [2, 3]), *data(500, 1, noise=0.0)) < 1e-10

    def test_a_collapsed_style_pays_the_style_variance(self):
        x, groups = data(4000, 1, noise=0.0)
        expected = x[:, 2:].square().sum().item() / x.numel()
        assert cross_member_mse(copier([0, 1], []), x, groups) == pytest.approx(expected, rel=1e-6)

    def test_a_plain_vae_reconstructs_from_its_own_codes(self):
        assert cross_member_mse(copier([0, 1], [2, 3], shared=False), *data(500, 1, noise=1.0)) < 1e-10

    def test_the_other_member_is_another_and_one_alone_is_left_out(self):
        x, groups = torch.tensor([[0.0] * 4, [1.0] * 4, [50.0] * 4, [3.0] * 4, [1.0] * 4]), ["a", "b", "c", "a", "b"]
        # Only "a" differs among members: by three, in the two content numbers of two of its four observations.
        assert cross_member_mse(copier([0, 1], [2, 3]), x, groups) == pytest.approx(2 * 9 * 2 / 16)
        with pytest.raises(DataError, match="two members"):
            cross_member_mse(copier([0, 1], [2, 3]), x, list("abcde"))

    def test_every_other_member_is_met(self):
        x, model, met = torch.arange(16.0).reshape(4, 4), copier([0, 1], [2, 3]), set()
        model.swap = lambda a, b, _: met.update(zip(a[:, 0].tolist(), b[:, 0].tolist(), strict=True)) or b  # type: ignore[method-assign]
        for seed in range(40):
            cross_member_mse(model, x, ["a"] * 4, seed=seed)
        firsts = x[:, 0].tolist()
        assert met == {(a, b) for a in firsts for b in firsts if a != b}

    def test_whole_numbers_are_compared_on_the_models_scale(self):
        x = torch.randint(0, 256, (40, 4), dtype=torch.uint8)
        model, groups = copier([0, 1], [2, 3]), np.arange(40) % 3
        assert cross_member_mse(model, x, groups) == pytest.approx(cross_member_mse(model, x / 255, groups), rel=1e-5)
