"""Two processes on one machine are one: the same weights, the same log, one writer."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mlvae import MLVAE, GroupedData, Level, Objective, fit, load
from mlvae.normal import Normal
from mlvae.penalties import PENALTIES, Question
from mlvae.ranks import Ranks


def far(question: Question) -> Tensor:
    """A penalty of one's own that asks all that a question has of groups: they are those of the whole batch."""
    latent, grouping = question.latent, question.batch.grouping(question.level.name)
    assert len(latent.posterior.mean) == len(latent.evidence) == grouping.num_groups
    gap = latent.sample - grouping.expand(latent.posterior.mean)
    return gap.square().sum(1).mean() + grouping.expand(latent.evidence.log_evidence()).mean()


PENALTIES["far"] = far
OBJECTIVES = {
    "default": Objective(), "plain": Objective.plain(), "few": Objective.for_groups(11),
    "own": Objective(further={"far": 0.3}),
}  # fmt: skip


def data() -> GroupedData:
    """Groups of one to nine members: unequal shares, and a last batch of fewer groups than processes."""
    random = np.random.default_rng(0)
    group = np.repeat(np.arange(11), random.integers(1, 10, 11))
    return GroupedData.from_arrays(random.random((len(group), 6)), group)


def model() -> MLVAE:
    torch.manual_seed(0)
    return MLVAE((6,), [Level("content", 3, by="group"), Level("style", 2)], width=8).double()


def without_noise(self: Normal, generator: object = None) -> torch.Tensor:
    """A sample that does not depend on which process draws it."""
    return self.mean + torch.rsqrt(self.precision) * torch.sin(1000 * self.mean.detach())


def train(folder: Path, objective: str, resume: bool = False) -> MLVAE:
    Normal.rsample = without_noise  # type: ignore[method-assign]
    torch.set_num_threads(1)
    trained = model()
    fit(
        trained, data(), folder, objective=OBJECTIVES[objective], epochs=3, groups=5, members=(1, 4), device="cpu",
        precision="64-true", progress=False, resume=resume,
    )  # fmt: skip
    return trained


def launched(folder: Path, code: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    (folder / "run.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(folder / "run.py")],
        env={**environment, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_processes_train_as_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Normal, "rsample", without_noise)
    launched(
        tmp_path,
        f"""
from pathlib import Path
from test_ranks import OBJECTIVES, train
for name in OBJECTIVES:
    train(Path({str(tmp_path)!r}) / ("two-" + name), name)
""",
    )
    for name in OBJECTIVES:
        one = train(tmp_path / f"one-{name}", name)
        two = load(tmp_path / f"two-{name}")
        moved = model().state_dict()
        for key, value in one.state_dict().items():
            assert torch.allclose(value, two.state_dict()[key].double(), rtol=1e-6, atol=1e-7), (name, key)
        assert not torch.allclose(moved["encoder.1.weight"], one.state_dict()["encoder.1.weight"], atol=1e-3)
        logs = [list(csv.DictReader((tmp_path / f"{n}-{name}" / "log.csv").open())) for n in ("one", "two")]
        for a, b in zip(*logs, strict=True):
            for term in a:
                if "second" not in term:
                    assert float(a[term]) == pytest.approx(float(b[term]), rel=1e-6, abs=1e-9), term


def test_one_process_is_all_there_is_without_a_launcher() -> None:
    rows, index = torch.arange(6), torch.tensor([0, 0, 1, 2, 2, 2])
    assert Ranks.launched() == Ranks(0, 1)
    mine = Ranks().share(rows, index)
    assert mine is not None and torch.equal(mine[0], rows) and torch.equal(mine[1], index)


def test_shares_are_whole_groups_and_together_the_batch() -> None:
    rows, index = torch.arange(9) + 10, torch.tensor([0, 0, 1, 2, 2, 2, 3, 4, 4])
    shares = [Ranks(rank, 2).share(rows, index) for rank in range(2)]
    assert [share[1].tolist() for share in shares if share] == [[0, 0, 1, 1, 1, 2, 2], [0, 1]]
    assert sorted(torch.cat([share[0] for share in shares if share]).tolist()) == rows.tolist()
    assert Ranks(0, 6).share(rows, index) is None


def test_a_run_that_has_ended_is_taken_up_by_all_processes_with_its_population(tmp_path: Path) -> None:
    """Only the first reads what was kept for use, and only there is a population yet."""
    launched(
        tmp_path,
        f"""
import torch
from mlvae import MLVAE, fit, read
train, valid = read("digits").split(by="observation", test=0.2, seed=0)
for resume in (False, True):
    torch.manual_seed(0)
    model = MLVAE.for_data(train, content_dim=4, style_dim=4, width=32)
    fit(model, train, {str(tmp_path / "run")!r}, valid=valid, epochs=2, device="cpu", progress=False, resume=resume)
    found = model.population("content").mixture
    sums = torch.stack([value.double().sum() for value in model.state_dict().values()]).sum()
    torch.save((len(found.weight), sums), {str(tmp_path)!r} + f"/{{torch.distributed.get_rank()}}-{{resume}}.pt")
""",
    )
    said = {
        f"{rank}-{resume}": torch.load(tmp_path / f"{rank}-{resume}.pt") for rank in (0, 1) for resume in (False, True)
    }
    assert len({(parts, float(total)) for parts, total in said.values()}) == 1, said
