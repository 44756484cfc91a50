"""Penalties of one's own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import mlvae
import mlvae.steps
from mlvae import MLVAE, GroupBatch, GroupedData, Level, Objective, Ramp, fit, loss
from mlvae.cli import main
from mlvae.errors import ModelError, TrainingError
from mlvae.penalties import PENALTIES, Question
from mlvae.runs import options_of

LEVELS = [Level("person", 2, by="person"), Level("word", 2, by="word"), Level("style", 3)]
GROUPS = {"person": [0, 0, 0, 1, 1, 1, 2, 2], "word": [0, 1, 0, 1, 0, 1, 0, 1]}


def size(question: Question) -> Tensor | None:
    """How far an observation's own codes are from nothing."""
    return question.alone.mean.square().sum(1).mean() if question.level.by is None else None


@pytest.fixture(autouse=True)
def known() -> Iterator[None]:
    before = dict(PENALTIES)
    PENALTIES["size"] = size
    yield
    PENALTIES.clear()
    PENALTIES.update(before)


@pytest.fixture
def model() -> MLVAE:
    torch.manual_seed(0)
    return MLVAE((6,), LEVELS, width=8).double()


def batch() -> GroupBatch:
    return GroupBatch.of(torch.rand(8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), GROUPS)


def total(model: MLVAE, objective: Objective, progress: float = 1.0) -> Tensor:
    return loss(model, batch(), objective, progress=progress, generator=torch.Generator().manual_seed(1)).total


def test_it_is_worth_its_nats_per_observation(model: MLVAE) -> None:
    means = model.codes(batch().x)["style"].mean
    nats = means.square().sum(1).mean() * 8 / 3  # per group of the first level
    without = total(model, Objective())
    assert torch.allclose(total(model, Objective(further={"size": 2.0})) - without, 2 * nats)
    assert torch.allclose(total(model, Objective(further={"size": {"style": 3.0}})) - without, 3 * nats)
    growing = Objective(further={"size": Ramp(0.0, 4.0)})
    assert torch.allclose(total(model, growing, 0.25) - total(model, Objective(), 0.25), nats)
    assert total(model, Objective(further={"size": 0.0})) == without
    assert Objective().changed(further={"size": 2.0}, style=0.5).further == {"size": 2.0}
    value = loss(model, batch(), Objective(further={"size": 2.0}))
    assert torch.allclose(value.log()["size"], means.square().sum(1).mean())
    value.total.backward()


def test_it_sees_the_level_the_batch_and_what_should_not_be_known(model: MLVAE) -> None:
    seen: dict[str, Question] = {}

    def watch(question: Question) -> None:
        seen[question.level.name] = question

    PENALTIES["watch"] = watch
    with pytest.raises(ModelError, match="'watch' to say something of a level .* None of each"):
        loss(model, batch(), Objective(further={"watch": 1.0}))
    assert "watch" not in loss(model, batch(), Objective(further={"watch": 0.0})).penalties
    assert {name: question.others for name, question in seen.items()} == {
        "person": ("word",), "word": ("person",), "style": ("person", "word"),
    }  # fmt: skip
    person = seen["person"]
    assert person.latent.sample.shape == (8, 2) and person.batch.ids["word"].tolist() == GROUPS["word"]
    alone = model.evidence(batch().x, {name: np.arange(8) for name in GROUPS}).posterior("person")
    assert torch.allclose(person.alone.mean, alone.mean) and torch.allclose(person.alone.precision, alone.precision)


@pytest.mark.parametrize(
    ("further", "error", "message"),
    [
        ({"sise": 1.0}, ModelError, "got 'sise'. Put its function there first, .*--penalty package.module:name"),
        ({"size": -1.0}, TrainingError, "weights of size from 0 on"),
        ({"size": mlvae.Held()}, TrainingError, "only independence can be held"),
        ({"size": "x"}, TrainingError, "numbers or ramps; got 'x'"),
        ({"leakage": 1.0}, ModelError, "'leakage' is taken"),
        ({"loss": 1.0}, ModelError, "'loss' is taken"),
        ({"kl_size": 1.0}, ModelError, "'kl_size' is taken"),
    ],
)
def test_weights_that_cannot_be_are_named(further: dict[str, float], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Objective(further=further)


def test_answers_that_are_no_number_are_named(model: MLVAE) -> None:
    with pytest.raises(ModelError, match="Did you mean 'style'"):
        total(model, Objective(further={"size": {"stile": 1.0}}))
    PENALTIES["still"] = lambda question: question.alone.mean.detach().mean()
    with pytest.raises(ModelError, match="'still' to have a gradient"):
        total(model, Objective(further={"still": 1.0}))
    with torch.no_grad():
        total(model, Objective(further={"still": 1.0}))
    for value, said in ((torch.zeros(8), r"a tensor of shape \(8,\)"), (1.0, "float")):
        PENALTIES["bad"] = lambda question, value=value: value  # type: ignore[misc]
        with pytest.raises(ModelError, match=f"shape \\(\\), or None; it said {said} of level 'person'"):
            total(model, Objective(further={"bad": 1.0}))


def test_one_that_fails_is_told_in_a_line_with_its_place(model: MLVAE) -> None:
    def wrong(question: Question) -> Tensor:
        return question.alone.mean @ question.alone.mean

    def refused(question: Question) -> Tensor:
        raise TrainingError("Expected more.")

    PENALTIES["wrong"], PENALTIES["refused"] = wrong, refused
    place = wrong.__code__.co_firstlineno + 1
    with pytest.raises(
        ModelError, match=rf"'wrong' .* level 'person'; .*test_further.py, line {place}: RuntimeError: "
    ):
        total(model, Objective(further={"wrong": 1.0}))
    with pytest.raises(TrainingError, match="^Expected more.$"):
        total(model, Objective(further={"refused": 1.0}))


def test_runs_resume_with_it_and_without_it_are_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, person = torch.rand(60, 6, generator=torch.Generator().manual_seed(0)), np.arange(60) // 6
    data = GroupedData.from_arrays(x, person, by="person")
    objective = Objective(further={"size": Ramp(0.0, 2.0)})

    def run(name: str, epochs: int, resume: bool = False, asked: Objective = objective) -> MLVAE:
        torch.manual_seed(0)
        model = MLVAE.for_data(data, width=8)
        fit(model, data, tmp_path / name, objective=asked, epochs=epochs, progress=False, resume=resume)
        return model

    whole = run("a", 2)
    stopped = mlvae.steps.Step.forward, []

    def interrupted(self: object, *arguments: object) -> object:
        stopped[1].append(1)
        if len(stopped[1]) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return stopped[0](self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(mlvae.steps.Step, "forward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run("b", 2)
    resumed = run("b", 2, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert options_of(tmp_path / "a")["objective"] == replace(objective, kl_weight={"content": 0.2})
    assert "size" in (tmp_path / "a" / "log.csv").read_text().splitlines()[0]
    for asked, said in ((Objective(further={"size": 1.0}), "size=1.0"), (Objective(), "none")):
        with pytest.raises(TrainingError, match=f"penalties of one's own .* got {said}. Name the same with --penalty"):
            run("a", 2, resume=True, asked=asked)
    assert "further" not in Objective().settings() and Objective.from_settings(Objective().settings()) == Objective()


def test_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ours.py").write_text(
        "def narrow(question):\n    return question.alone.mean.abs().mean() if question.level.by is None else None\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    run = str(tmp_path / "run")
    train = ["train", "digits", "--epochs", "1", "--width", "8", "--network", "mlp"]
    main([*train, "--penalty", "ours:narrow=0.5", "--out", run])
    assert f"mlvae evaluate {run} digits --penalty ours:narrow=0.5" in capsys.readouterr().out
    assert options_of(run)["objective"].further == {"narrow": 0.5}
    PENALTIES.clear()  # as another process begins
    with pytest.raises(SystemExit):
        main(["evaluate", run, "digits", "--controls", "all"])
    assert "got 'narrow'" in capsys.readouterr().err
    for text in ("ours:narow=1", "ours:narrow=much", "narrow=1", "ours:narrow=nan", "ours:__doc__=1"):
        with pytest.raises(SystemExit):
            main([*train, "--penalty", text, "--out", str(tmp_path / "no")])
        assert not (tmp_path / "no").exists()
    assert "package.module:name=weight" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*train, "--penalty", "ours:narrow=1", "--penalty", "ours:narrow=2", "--out", str(tmp_path / "no")])
    assert "different names" in capsys.readouterr().err
