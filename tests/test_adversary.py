from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from mlvae import MLVAE, GroupBatch, GroupedData, Level, Objective, Ramp, fit, load, loss
from mlvae.asked import NAMING, weighs
from mlvae.cli import main
from mlvae.errors import ModelError, TrainingError
from mlvae.penalties import Adversaries, Adversary
from mlvae.runs import options_of

LEVELS = [Level("content", 3, by="group"), Level("style", 2)]
NAMED = Objective(adversary=2.0)


def data(groups: int = 6, members: int = 8) -> GroupedData:
    random = np.random.default_rng(0)
    group = np.repeat(np.arange(groups), members)
    centres = random.random((groups, 6))
    return GroupedData.from_arrays(np.clip(centres[group] + 0.1 * random.normal(size=(len(group), 6)), 0, 1), group)


def model() -> MLVAE:
    torch.manual_seed(0)
    return MLVAE((6,), LEVELS, width=8)


def learn(out: Path | None = None, **options: object) -> MLVAE:
    learned = model()
    settings = {"objective": NAMED, "epochs": 4, "groups": 4, "progress": False, "device": "cpu", **options}
    fit(learned, data(), out, **settings)  # type: ignore[arg-type]
    return learned


def test_samples_give_up_what_it_can_name_by() -> None:
    """Two groups a standard deviation apart in one direction, in which nothing else holds them."""
    torch.manual_seed(0)
    ids = torch.arange(400) % 2
    places = torch.tensor([[-1.0, 0.5], [1.0, 0.5]]).requires_grad_()
    adversary = Adversary(2, members=torch.tensor([200, 200]))
    solver = torch.optim.Adam([places, *adversary.parameters()], lr=5e-3)

    def apart() -> float:
        return (places[0] - places[1]).norm().item()

    for _ in range(300):
        solver.zero_grad()
        adversary(places[ids] + torch.randn(400, 2), ids).backward()
        solver.step()
    assert apart() < 0.5, "2 at first"
    with torch.no_grad():
        assert adversary(places[ids] + torch.randn(400, 2), ids).item() == pytest.approx(np.log(2), abs=0.05)


def test_it_is_asked_of_own_levels_about_every_group_they_should_not_know() -> None:
    levels = [Level("speaker", 2, by="s"), Level("word", 3, by="w"), Level("style", 2), Level("pose", 4)]
    model, sizes = MLVAE((5,), levels, width=8), {"speaker": torch.full((3,), 9), "word": torch.full((5,), 6)}
    beside = Adversaries(levels, sizes, apart={"pose": ("word",)})
    assert [f"{level}.{other}" for level in beside for other in beside.get_submodule(level)._modules] == [
        "style.speaker", "style.word", "pose.word",
    ]  # fmt: skip
    found = beside.of(levels[3], "word")
    assert found.names[0].in_features == 4 and found.names[-1].out_features == 5
    for level, other in ((levels[3], "speaker"), (Level("pose", 5), "word"), (Level("voice", 2), "word")):
        with pytest.raises(ModelError, match=f"names groups of '{other}' from samples of '{level.name}', {level.dim}"):
            beside.of(level, other)

    batch = GroupBatch.of(torch.rand(30, 5), {"speaker": torch.arange(30) % 3, "word": torch.arange(30) // 3 % 5})
    objective = Objective(adversary={"pose": 1.0}, apart={"pose": ("word",)})
    result = loss(model, batch, objective, adversaries=beside)
    assert result.penalties["adversary"].item() == pytest.approx(np.log(5), abs=0.3)
    result.total.backward()
    assert all(p.grad is None for p in beside.get_submodule("style").parameters())
    assert all(p.grad is not None for p in beside.get_submodule("pose").parameters())


def test_it_counts_as_nats_an_observation_and_grows() -> None:
    torch.manual_seed(1)
    batch, beside = (
        GroupBatch.of(torch.rand(12, 6), {"content": torch.arange(12) % 4}),
        Adversaries(LEVELS, {"content": torch.full((4,), 3)}),
    )

    def total(objective: Objective, progress: float = 1.0) -> Tensor:
        torch.manual_seed(2)
        return loss(model(), batch, objective, progress=progress, adversaries=beside).total

    torch.manual_seed(2)
    nats = loss(model(), batch, NAMED, adversaries=beside).penalties["adversary"]
    torch.testing.assert_close(total(NAMED) - total(Objective()), 2 * nats * 12 / 4, atol=1e-4, rtol=0)
    growing = Objective(adversary=Ramp(0.0, 8.0))
    torch.testing.assert_close(total(growing, 0.25) - total(Objective(), 0.25), 2 * nats * 3, atol=1e-4, rtol=0)


def test_without_those_that_learn_it_cannot_be_asked() -> None:
    batch = GroupBatch.of(torch.rand(6, 6), {"content": [0, 0, 1, 1, 2, 2]})
    with pytest.raises(ModelError, match=r"adversaries=Adversaries\(model.levels"):
        loss(model(), batch, NAMED)


def test_of_a_level_that_is_no_grouping_it_says_what_to_do() -> None:
    with pytest.raises(ModelError, match="Expected levels that groups share"):
        learn(objective=Objective(adversary=2.0, apart={"style": ("style",)}))
    with pytest.raises(ModelError, match="Expected adversary of levels of an observation's own; got it of 'content'"):
        learn(objective=Objective(adversary={"content": 2.0}))
    with pytest.raises(ModelError, match="Expected identification of levels that groups share; got it of 'style'"):
        learn(objective=Objective(identification={"style": 2.0}))


def test_it_is_not_asked_of_who_is_alone() -> None:
    adversary = Adversary(2, members=torch.tensor([3, 1, 2]))
    sample = torch.randn(4, 2, requires_grad=True)
    nats = adversary(sample, torch.tensor([0, 1, 2, 1]))
    nats.backward()
    assert sample.grad is not None and (sample.grad[[1, 3]] == 0).all() and (sample.grad[[0, 2]] != 0).any()
    with torch.no_grad():
        assert nats.item() == pytest.approx(adversary(sample[[0, 2]], torch.tensor([0, 2])).item() / 2)


def test_it_learns_from_the_first_step_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of weight 0 it would be as it was made when it begins to count."""
    moved = []

    class Watched(Adversary):
        def forward(self, sample: Tensor, ids: Tensor) -> Tensor:
            moved.append(self.names[0].weight.detach().clone())
            return super().forward(sample, ids)

    monkeypatch.setattr("mlvae.penalties.adversary.Adversary", Watched)
    learn(objective=Objective.for_groups(6), epochs=1, groups=2)
    assert len(moved) > 2 and not torch.equal(moved[0], moved[1])


def test_a_model_of_any_type_learns_beside_it() -> None:
    double = model().double()
    assert "adversary" in fit(double, data(), epochs=1, progress=False).epochs[0]


def test_up_to_a_hundred_groups_it_is_the_default() -> None:
    few, many = Objective.for_groups(100), Objective.for_groups(101)
    assert many == Objective() and many.adversary == 0
    assert few.adversary == Ramp(0.1, 10.0, since=0.1) and few.independence.least.end == 300  # type: ignore[union-attr]
    assert "adversary" not in many.settings(), "runs begun before there was one go on"
    assert Objective.from_settings(json.loads(json.dumps(few.settings()))) == few
    assert few.changed(independence=10.0).adversary == 0, "one's own weight takes its place"
    assert few.changed(adversary=0.0) == Objective(), "independence weighs what it does alone"
    assert few.changed(adversary={"style": 0.0}).independence == many.independence, "nor of any level"
    assert many.changed(adversary=10.0) == few
    assert many.changed(adversary={"style": 3.0}).independence == few.independence
    assert few.changed(independence=10.0, adversary=4.0).adversary == Ramp(0.04, 4.0, since=0.1)
    assert few.changed(identification=1.0).adversary == few.adversary

    learned = {}
    for groups in (100, 101):
        history = fit(model(), data(groups, 2), epochs=1, progress=False)
        learned[groups] = "adversary" in history.epochs[0]
    assert learned == {100: True, 101: False}
    alone = GroupedData.from_arrays(np.random.default_rng(0).random((130, 6)), [*[0, 1, 2, 3, 4] * 2, *range(5, 125)])
    assert "adversary" in fit(model(), alone, epochs=1, progress=False).epochs[0], "five groups share something"


def test_a_stopped_run_goes_on_to_the_same_numbers_and_its_model_knows_nothing_of_it(tmp_path: Path) -> None:
    at_once = learn(tmp_path / "one")

    class Stop:
        """A logger that stops training after two epochs."""

        name = version = "stop"

        def log_metrics(self, metrics: object, step: int | None = None) -> None:
            if step == 3:
                raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlvae.training.SAVE_EVERY", 0.0)
        with pytest.raises(KeyboardInterrupt):
            learn(tmp_path / "two", logger=Stop())
    with safe_open(tmp_path / "two" / "training.safetensors", "pt") as state:
        kept = {name for name in state.keys() if name.startswith("beside.")}  # noqa: SIM118
    assert len(kept) == 6
    gone_on = learn(tmp_path / "two", resume=True)
    for name, value in at_once.state_dict().items():
        assert torch.equal(value, gone_on.state_dict()[name]), name
    assert load(tmp_path / "two").state_dict().keys() == model().state_dict().keys()
    with pytest.raises(TrainingError, match="objective"):
        learn(tmp_path / "two", resume=True, objective=Objective())


def test_the_loss_on_validation_groups_which_it_cannot_name_is_without_it() -> None:
    found = {}
    for weight in (1e-9, 0.0):
        objective = Objective(adversary=Ramp(weight, 1e3 * weight, since=0.999))
        found[weight] = fit(model(), data(), valid=data(9, 8), objective=objective, epochs=1, progress=False).epochs[0]
    assert "adversary" in found[1e-9], "nine groups, of which training had six"
    assert found[1e-9]["valid"] == pytest.approx(found[0.0]["valid"], rel=1e-4)


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = data()
    np.savez(tmp_path / "few.npz", x=few.x.numpy(), group=few.groups)

    def asked(name: str, *options: str) -> Objective:
        main(["train", str(tmp_path / "few.npz"), "--by", "group", "--out", str(tmp_path / name), "--epochs", "1",
              "--validation", "0", *options])  # fmt: skip
        objective = options_of(tmp_path / name)["objective"]
        assert isinstance(objective, Objective)
        learned = "adversary" in (tmp_path / name / "log.csv").read_text().splitlines()[0]
        assert learned == weighs(objective.adversary, "style")
        return objective

    few_groups, many = Objective.for_groups(6), Objective()
    assert asked("default") == few_groups
    told = asked("told", "--told", ".05")
    assert told.independence == replace(few_groups.independence, end=0.05) and told.adversary == few_groups.adversary
    assert asked("alone", "--told", ".05", "--adversary", "0").independence == replace(many.independence, end=0.05)
    assert asked("none", "--adversary", "0") == many
    assert asked("style", "--adversary", "style:0").independence == many.independence
    assert asked("own", "--independence", "20").adversary == 0
    assert asked("both", "--independence", "20", "--adversary", "3").adversary == NAMING.ending(3.0)
    assert asked("vae", "--objective", "vae") == Objective.plain()
    with pytest.raises(SystemExit):
        asked("wrong", "--adversary", "content:3")
    assert "--adversary" in capsys.readouterr().err
