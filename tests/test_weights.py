"""Weights that are held to a course while training."""

from __future__ import annotations

import math

import pytest
import torch

import mlvae
from mlvae import MLVAE, Held, Objective, Ramp
from mlvae.errors import TrainingError
from mlvae.weights import MOST, Holder


def test_a_course_halves_in_equal_times() -> None:
    assert [Held(0.4, 0.1).course(at) for at in (0.0, 0.5, 1.0)] == pytest.approx([0.4, 0.2, 0.1])


def test_a_weight_grows_while_too_much_is_told_and_falls_while_too_little() -> None:
    holder = Holder(Held(0.1, 0.1, Ramp(10.0, 2.0), pace=20.0), ["style"])

    def after(told: float, steps: int = 1) -> float:
        for _ in range(steps):
            holder.step({"style": torch.tensor(told)}, progress=0.5, share=0.01)
        return float(holder.weights["style"])

    assert after(0.01) == pytest.approx(10.0)
    assert after(0.015) == pytest.approx(10 * math.exp(0.1), rel=1e-5)
    assert after(5.0) == pytest.approx(10 * math.exp(0.3), rel=1e-5)  # no faster than at twice the course's square
    assert after(0.0, 2) == pytest.approx(10 * math.exp(-0.1), rel=1e-5)
    assert after(-3.0, 1000) == 6.0 and after(3.0, 1000) == MOST


def test_only_levels_that_are_held_are() -> None:
    holder = Holder({"word": 2.0, "style": Held(least=Ramp(4.0, 4.0))}, ["word", "style", "other"])
    holder.step({"word": torch.tensor(9.0)}, 0.0, 0.1)
    assert holder.state() == {"style": 4.0}
    holder.load({"style": 5.0})
    assert holder.state() == {"style": 5.0}
    assert not Holder(7.0, ["style"]).weights


def test_training_finds_the_weight_that_keeps_to_a_course() -> None:
    data = mlvae.read("digits")
    ended, told = {}, {}
    for course in (1e-3, 1.0):
        torch.manual_seed(0)
        model = MLVAE.for_data(data, network="mlp-small")
        objective = Objective(independence=Held(course, course, Ramp(0.01, 0.01)))
        log = mlvae.fit(model, data, objective=objective, epochs=15, lr=1e-2, progress=False).epochs
        ended[course], told[course] = log[-1]["held_style"], log[-1]["independence"]
    assert ended[1.0] == pytest.approx(0.01) and ended[1e-3] > 0.1
    assert told[1e-3] < told[1.0]


@pytest.mark.parametrize("wrong", [{"since": 0.6, "until": 0.5}, {"since": -0.1}, {"end": float("nan")}])
def test_ramps_that_are_no_course_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(TrainingError, match="between finite weights"):
        Ramp(**{"start": 0.0, "end": 5.0, **wrong})


def test_a_ramp_may_be_a_step() -> None:
    step = Ramp(0.0, 5.0, since=0.5, until=0.5)
    assert [step.at(share) for share in (0.0, 0.4, 0.5, 1.0)] == [0.0, 0.0, 5.0, 5.0]
    with pytest.raises(TrainingError, match="from 0 on"):
        Objective(identification=float("nan"))
