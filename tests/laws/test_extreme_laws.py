"""Numbers hold at the ends: precisions from 1e-12 to 1e12, groups of one and of a million, denormals, both types."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlvae import MLVAE, Evidence, Grouping, Level
from mlvae.asked import Objective
from mlvae.batch import GroupBatch
from mlvae.evidence import READOUTS, log_normaliser, product_with_prior
from mlvae.gallery import Gallery
from mlvae.normal import Normal
from mlvae.objective import elbo, loss

SETTINGS = settings(max_examples=60, deadline=None)

EPSILON = {torch.float32: 2.0**-23, torch.float64: 2.0**-52}
"""A rounding."""


@st.composite
def extreme(draw: st.DrawFn, rows: int = 24, dim: int = 2) -> Evidence:
    """Votes whose precisions lie anywhere in 1e-12 to 1e12, with means from nothing to 1e3, in either type."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    exponent = 12 * (2 * torch.rand(rows, dim, generator=generator, dtype=torch.float64) - 1)
    mean = torch.randn(rows, dim, generator=generator, dtype=torch.float64) * draw(
        st.sampled_from([0.0, 1e-3, 1.0, 1e3])
    )
    precision = (10**exponent).to(dtype)
    return Evidence.votes(mean.to(dtype), precision)


@SETTINGS
@given(extreme(), st.lists(st.integers(0, 5), min_size=24, max_size=24))
def test_sums_are_right_to_a_few_roundings_in_either_type(votes: Evidence, ids: list[int]) -> None:
    grouping = Grouping.from_ids(torch.tensor(ids))
    total, exact = votes.sum(grouping), votes.to(torch.float64).sum(grouping)
    bound = 24 * EPSILON[votes.precision.dtype]
    absolute = grouping.sum(votes.information.double().abs())
    assert ((total.precision.double() - exact.precision).abs() <= bound * exact.precision).all()
    assert ((total.information.double() - exact.information).abs() <= bound * absolute).all()
    assert torch.equal(total.count, exact.count)


@SETTINGS
@given(extreme())
def test_what_is_read_out_is_finite_and_never_wider_than_the_prior(votes: Evidence) -> None:
    for name, readout in READOUTS.items():
        normal = readout(votes)
        for value in (normal.mean, normal.precision, normal.variance, normal.log_var, normal.kl()):
            assert torch.isfinite(value).all(), name
        assert (normal.precision > 0).all()
        assert (normal.kl() >= -1e-6 * (1 + normal.log_var.abs().sum(-1))).all(), "a divergence"
        assert torch.isfinite(normal.rsample()).all() and torch.isfinite(normal.log_prob(normal.mean)).all()
    assert (product_with_prior(votes).variance <= 1).all()
    assert torch.isfinite(votes.log_evidence()).all()


@SETTINGS
@given(extreme(rows=12))
def test_the_others_lose_no_digits_to_the_one_left_out(votes: Evidence) -> None:
    """A precision of 1e12 beside others of 1e-12: subtracting it would leave nothing of them."""
    others = votes.sum_others(Grouping.one(12))
    for row in range(12):
        rest = torch.arange(12) != row
        exact = votes.precision[rest].double().sum(0)
        assert torch.allclose(others.precision[row].double(), exact, rtol=24 * EPSILON[votes.precision.dtype], atol=0)


@SETTINGS
@given(extreme(rows=6), extreme(rows=6), st.randoms())
def test_a_bayes_factor_does_not_depend_on_who_comes_first(a: Evidence, b: Evidence, random) -> None:
    """To the roundings of the log Z that it is a difference of: those of votes of 1e12 are 1e12 nats large."""
    a, b = a.to(torch.float64), b.to(torch.float64)
    terms = [(a + b).log_evidence(), a.log_evidence(), b.log_evidence()]
    back = (b + a).log_evidence() - terms[2] - terms[1]
    magnitude = sum(term.abs() for term in terms)
    assert ((terms[0] - terms[1] - terms[2] - back).abs() <= 8 * EPSILON[torch.float64] * magnitude).all()
    order = list(range(6))
    random.shuffle(order)
    assert torch.equal(a[torch.tensor(order)].log_evidence(), a.log_evidence()[torch.tensor(order)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_denormals_and_nothing_at_all(dtype: torch.dtype) -> None:
    tiny = torch.finfo(dtype).smallest_normal / 8
    for precision in (0.0, tiny, torch.finfo(dtype).smallest_normal):
        votes = Evidence.votes(torch.ones(3, 2, dtype=dtype), torch.full((3, 2), precision, dtype=dtype))
        total = votes.sum(Grouping.one(3))
        normal = product_with_prior(total)
        assert torch.equal(normal.precision, torch.ones(1, 2, dtype=dtype)) and (normal.mean.abs() < 1e-30).all()
        assert normal.kl().abs().item() < 1e-12 and total.log_evidence().abs().item() < 1e-30
    empty = Evidence.empty(4, 2, dtype)
    assert torch.equal((empty + empty).precision, empty.precision) and (empty - empty).count.tolist() == [0] * 4
    assert len(Evidence.empty(0, 2)) == 0 and len(Evidence.joined([], 3)) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("members", [1, 1000, 10**6])
def test_groups_of_one_and_of_a_million(members: int, dtype: torch.dtype) -> None:
    """One group of so many beside a group of one; the sum is right to the roundings of a sum one by one."""
    generator = torch.Generator().manual_seed(0)
    precision = torch.rand(members + 1, 1, generator=generator, dtype=torch.float64).to(dtype) + 0.5
    votes = Evidence.votes(torch.ones_like(precision), precision)
    grouping = Grouping(torch.cat([torch.zeros(members, dtype=torch.int64), torch.ones(1, dtype=torch.int64)]), 2)
    total = votes.sum(grouping)
    exact = precision[:members].double().sum().item()
    # Sums one after another: at worst N roundings, in practice about their square root.
    tolerance = 8 * math.sqrt(members) * EPSILON[dtype]
    assert abs(total.precision[0].item() - exact) <= tolerance * exact
    assert total.count.tolist() == [members, 1] and total.precision[1].item() == precision[-1].item()
    others = votes.sum_others(grouping)
    assert torch.equal(others.precision[-1], votes.precision[-1]), "alone, its own"
    if members > 1:
        left = exact - precision[0].double().item()
        assert abs(others.precision[0].item() - left) <= 64 * EPSILON[dtype] * left, "sums by doubling round less"


@SETTINGS
@given(st.floats(-1e3, 1e3), st.floats(-12, 12), st.sampled_from([torch.float32, torch.float64]))
def test_a_normal_is_finite_wherever_evidence_may_lead(mean: float, exponent: float, dtype: torch.dtype) -> None:
    normal = Normal(torch.full((1, 1), mean, dtype=dtype), torch.full((1, 1), 10.0**exponent, dtype=dtype))
    exact = 0.5 * (mean**2 + 10.0**-exponent - 1 + exponent * math.log(10))
    scale = 1 + mean**2 + 10.0**-exponent + abs(exponent)
    assert abs(normal.kl().item() - exact) <= 8 * EPSILON[dtype] * scale
    assert math.isfinite(normal.log_prob(torch.zeros(1, 1, dtype=dtype)).item())


def model(**options: object) -> MLVAE:
    torch.manual_seed(0)
    levels = [Level("content", 3, by="g"), Level("style", 2)]
    return MLVAE((6,), levels, width=8, likelihood="normal", **options).eval()  # type: ignore[arg-type]


X = torch.randn(600, 6, generator=torch.Generator().manual_seed(1))
GROUPS = torch.randint(0, 9, (600,), generator=torch.Generator().manual_seed(2))


def gap(a: Evidence, b: Evidence, terms: Evidence) -> float:
    """The largest difference, in units of the summed magnitudes."""
    return max(
        ((a.precision - b.precision).abs() / terms.precision).max().item(),
        ((a.information - b.information).abs() / terms.information).max().item(),
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_evidence_does_not_depend_on_batch_size_order_or_threads(
    dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = model().to(dtype)
    whole = trained.evidence(X, GROUPS).levels["content"]
    each = trained.evidence(X, torch.arange(600)).levels["content"]
    grouping = Grouping.from_ids(GROUPS)
    terms = Evidence(each.precision, each.information.abs(), each.count).sum(grouping)
    order = torch.randperm(600, generator=torch.Generator().manual_seed(3))
    assert gap(whole, trained.evidence(X[order], GROUPS[order]).levels["content"], terms) <= tolerance
    for chunk in (1, 7, 599):
        monkeypatch.setattr("mlvae.heads.CHUNK", chunk)
        assert gap(whole, trained.evidence(X, GROUPS).levels["content"], terms) <= tolerance
    monkeypatch.undo()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert gap(whole, trained.evidence(X, GROUPS).levels["content"], terms) <= tolerance
    finally:
        torch.set_num_threads(threads)


def test_a_ranking_does_not_depend_on_the_size_of_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = model()
    known = trained.evidence(X, torch.arange(600) // 2)
    asked = trained.evidence(X[:7] + 0.1, torch.arange(7))
    whole = Gallery(known).identify(asked, 5, new=0.1)
    monkeypatch.setattr("mlvae.gallery.BLOCK", 13)
    parts = Gallery(known).identify(asked, 5, new=0.1)
    assert (whole.groups == parts.groups).all()
    assert torch.allclose(whole.probability, parts.probability, atol=1e-3)


@pytest.mark.parametrize("objective", [Objective(), Objective.plain()], ids=["default", "plain"])
def test_the_loss_does_not_depend_on_the_order_of_rows(objective: Objective) -> None:
    """Noise belongs to rows; a decoder that ignores its codes ignores noise."""
    trained = model().double()
    torch.nn.init.zeros_(trained.decoder[-2].weight)
    x = X[:60].double()
    order = torch.randperm(60, generator=torch.Generator().manual_seed(4))
    terms = [
        elbo(
            trained, GroupBatch.of(x[rows], {"content": GROUPS[:60][rows]}), generator=torch.Generator().manual_seed(0)
        )
        for rows in (torch.arange(60), order)
    ]
    assert torch.allclose(terms[0].elbo, terms[1].elbo, rtol=1e-12)
    assert torch.allclose(terms[0].kl["content"], terms[1].kl["content"], rtol=1e-11)
    total = loss(trained, GroupBatch.of(x, {"content": GROUPS[:60]}), objective).total
    assert torch.isfinite(total)


@pytest.mark.parametrize("objective", [Objective(leakage=0.0), Objective.plain()], ids=["default", "plain"])
def test_gradients_are_those_of_finite_differences(objective: Objective) -> None:
    """Of the whole loss, in float64, along random directions through all parameters."""
    trained = model().double().train()
    batch = GroupBatch.of(X[:24].double(), {"content": GROUPS[:24] % 4})
    parameters = [p for p in trained.parameters() if p.requires_grad]

    def value() -> torch.Tensor:
        return loss(trained, batch, objective, generator=torch.Generator().manual_seed(5)).total

    gradients = torch.autograd.grad(value(), parameters)
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        way = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters]
        slope = sum((g * w).sum() for g, w in zip(gradients, way, strict=True)).item()
        found = []
        for sign in (1, -1):
            with torch.no_grad():
                for p, w in zip(parameters, way, strict=True):
                    p.add_(sign * 1e-6 * w)
                found.append(value().item())
                for p, w in zip(parameters, way, strict=True):
                    p.sub_(sign * 1e-6 * w)
        assert (found[0] - found[1]) / 2e-6 == pytest.approx(slope, rel=1e-5, abs=1e-5)


def test_log_z_is_stable_where_precision_is_huge() -> None:
    precision = torch.tensor([[1e12, 1e-12]], dtype=torch.float64)
    information = precision * 3
    exact = 0.5 * (9e24 / (1 + 1e12) - math.log(1 + 1e12) + 9e-24 / (1 + 1e-12) - math.log1p(1e-12))
    assert log_normaliser(precision, information).item() == pytest.approx(exact, rel=1e-14)
