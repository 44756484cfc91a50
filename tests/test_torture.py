"""Nothing is lost when training is stopped, whatever stops it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from mlvae import checkpoint, load, states, steps
from mlvae.data import GroupSampler
from mlvae.errors import CheckpointError, TrainingError
from test_training import run, small, weights

HOUSE = Path(__file__).parents[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks its runs, to load torch once")
def test_stopped_in_every_way_a_run_ends_with_the_same_weights() -> None:
    """A short run of `tools/torture.py`, which stops training 80 times."""
    found = subprocess.run(
        [sys.executable, HOUSE / "tools" / "torture.py", "--kills", "4", "--terms", "1", "--full", "2", "--nans", "2"],
        env={**os.environ, "PYTHONPATH": str(HOUSE / "src")}, capture_output=True, text=True,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
    said = re.search(r"stopped (\d+) by kill, (\d+) by term, (\d+) by full, (\d+) by nan; 0 wrong", found.stdout)
    assert said and int(said[1]) == 4 and int(said[2]) == 1


@pytest.mark.usefixtures("every_epoch")
def test_a_damaged_state_is_gone_back_from(tmp_path: Path) -> None:
    whole, _ = run(small(), epochs=3)
    run(small(), tmp_path, epochs=3, keep=3)
    assert sorted(path.name for path in tmp_path.glob("training*")) == [
        "training.1.safetensors", "training.2.safetensors", "training.safetensors",
    ]  # fmt: skip
    epochs = [states.read(path)[1]["state"]["epoch"] for path in sorted(tmp_path.glob("training*"))]
    assert epochs == [2, 1, 3]
    for damaged in ("training.safetensors", "training.1.safetensors"):
        content = (tmp_path / damaged).read_bytes()
        (tmp_path / damaged).write_bytes(content[:-9] + b"x" + content[-8:])
    with pytest.warns(UserWarning, match=r"training.safetensors.*not what was written.*Going on from .*training.2"):
        resumed, _ = run(small(), tmp_path, epochs=3, resume=True)
    assert torch.equal(weights(whole), weights(resumed))
    for path in tmp_path.glob("training*"):
        path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"training\.safetensors"):
        run(small(), tmp_path, epochs=3, resume=True)


@pytest.mark.usefixtures("every_epoch")
def test_as_many_states_are_kept_as_asked(tmp_path: Path) -> None:
    run(small(), tmp_path / "one", epochs=3, keep=1)
    run(small(), tmp_path / "two", epochs=3)
    assert [path.name for path in (tmp_path / "one").glob("training*")] == ["training.safetensors"]
    assert len(list((tmp_path / "two").glob("training*"))) == 2


@pytest.mark.usefixtures("every_epoch")
def test_weights_that_are_no_numbers_are_never_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of the last step of an epoch is a number, its gradient is not."""
    data = small()
    sampler = GroupSampler(data.codes("group"), 10, (2, 8), seed=0)
    last = sampler.batches(0) + sampler.batches(1)
    forward, taken = steps.Step.forward, 0

    def poisoned(self: object, *arguments: object) -> object:
        nonlocal taken
        taken += 1
        total, log = forward(self, *arguments)  # type: ignore[arg-type]
        return (total + torch.sqrt(total * 0), log) if taken == last else (total, log)

    monkeypatch.setattr(steps.Step, "forward", poisoned)
    with pytest.raises(TrainingError, match="its gradient first"):
        run(small(), tmp_path, epochs=3)
    assert torch.isfinite(weights(load(tmp_path))).all()
    assert states.read(tmp_path / "training.safetensors")[1]["state"]["epoch"] == 1
    monkeypatch.undo()
    assert torch.equal(weights(run(small(), tmp_path, epochs=3, resume=True)[0]), weights(run(small(), epochs=3)[0]))


def test_a_state_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    run(small(), tmp_path, epochs=2)
    path = tmp_path / checkpoint.TRAINING_FILE
    tensors, about = states.read(path)
    for name in ("optimizer.0.exp_avg", "random.cpu", "model.heads.style.weight"):
        checkpoint.write(path, {**tensors, name: torch.zeros(2, 3)}, about)
        with pytest.raises(CheckpointError, match="training state"):
            run(small(), tmp_path, epochs=2, resume=True)
    for state in ({"epoch": -1}, {"best": float("nan")}, {"batch": "x"}):
        checkpoint.write(path, tensors, {**about, "state": {**about["state"], **state}})
        (tmp_path / "training.1.safetensors").unlink(missing_ok=True)
        with pytest.raises(CheckpointError, match="where training stood"):
            run(small(), tmp_path, epochs=2, resume=True)
    checkpoint.write(path, tensors, about)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(small(), tmp_path, epochs=2, resume=True)
