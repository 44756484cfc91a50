"""Stops training in every way that training is stopped, and looks whether anything was lost.

    python tools/torture.py --kills 50 --terms 10 --full 10 --nans 10

Runs end at random instants by SIGKILL, by SIGTERM, by a file that can grow no further (as on a full disk), and by a
batch whose loss or whose gradient is no number. After each stop what is on the disk must be whole; then the run is
resumed. A run that gets to its end must have the weights of one that was never stopped, bit for bit. Half of the runs
stop early on validation groups, whose best weights must be the same too. Exit code 1 where anything differs.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch

import mlvae
from mlvae import checkpoint, states, steps, training
from mlvae.errors import CheckpointError, TrainingError

EPOCHS = 6


def train(folder: Path, early: bool) -> mlvae.MLVAE:
    """The run: begun, or gone on with where its folder holds a state."""
    data = mlvae.read("digits").subset(range(300))
    part, valid = data.split(by="group", test=0.3, seed=0)
    torch.manual_seed(0)
    model = mlvae.MLVAE.for_data(part, content_dim=4, style_dim=3, width=16)
    options: dict[str, Any] = {"valid": valid, "patience": 2, "lr": 0.02} if early else {}
    resume = (folder / checkpoint.TRAINING_FILE).exists()
    if not resume:
        (folder / checkpoint.MODEL_FILE).unlink(missing_ok=True)  # of an epoch whose state was not yet written
    training.SAVE_EVERY = 0.0  # at the end of every short epoch, so that kills meet savings
    mlvae.fit(model, part, folder, epochs=EPOCHS, groups=6, progress=False, resume=resume, **options)
    return model


def child(folder: Path, early: bool, fault: str, dice: random.Random) -> int:
    """Trains in a process of its own, with a fault built in; returns its number."""
    number = os.fork()
    if number:
        return number
    code = 3
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if fault == "full":
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            limit = dice.choice([0, 100, 4096, 16_384, 32_768])
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        if fault == "nan":
            poison(dice.randrange(1, 40), dice.random() < 0.5)
        train(folder, early)
        code = 0
    except (CheckpointError, TrainingError, KeyboardInterrupt):
        code = 2
    except BaseException as error:
        print(f"unexpected: {type(error).__name__}: {error}", flush=True)
    finally:
        os._exit(code)


def poison(at: int, gradient: bool) -> None:
    """Makes the loss of a step no number, or only its gradient."""
    forward, taken = steps.Step.forward, 0

    def poisoned(self: Any, *arguments: Any) -> Any:
        nonlocal taken
        taken += 1
        total, log = forward(self, *arguments)
        return (_poisoned(total, gradient) if taken == at else total), log

    steps.Step.forward = poisoned  # type: ignore[method-assign]


def _poisoned(total: torch.Tensor, gradient: bool) -> torch.Tensor:
    if not gradient:
        return total * float("nan")
    zero = total * 0
    return total + torch.sqrt(zero)  # a number, whose gradient is 0 times infinity


def whole(folder: Path) -> str | None:
    """What is wrong with the files of a run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            if (folder / checkpoint.TRAINING_FILE).exists():
                tensors, _ = states.latest(folder)
                if not all(value.isfinite().all() for value in tensors.values() if value.is_floating_point()):
                    return "a saved weight is no number"
            elif any(folder.glob("training.*")):
                return "the latest state is gone"
            if (folder / checkpoint.MODEL_FILE).exists():
                mlvae.load(folder)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def weights(model: mlvae.MLVAE) -> torch.Tensor:
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--terms", type=int, default=10)
    parser.add_argument("--full", type=int, default=10)
    parser.add_argument("--nans", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    dice = random.Random(asked.seed)
    faults = ["kill"] * asked.kills + ["term"] * asked.terms + ["full"] * asked.full + ["nan"] * asked.nans
    dice.shuffle(faults)
    wrong: list[str] = []
    hit = dict.fromkeys(("kill", "term", "full", "nan"), 0)
    with tempfile.TemporaryDirectory() as place:
        expected, seconds = {}, {}
        for early in (False, True):
            (folder := Path(place) / f"whole-{early}").mkdir()
            started = time.monotonic()
            expected[early] = weights(train(folder, early))
            seconds[early] = time.monotonic() - started
        run = finished = 0
        while faults:
            early = bool(run % 2)
            (folder := Path(place) / str(run)).mkdir()
            ended = False
            while not ended:
                fault = faults.pop() if faults else "none"
                number = child(folder, early, fault, random.Random(dice.random()))
                if fault in ("kill", "term"):
                    time.sleep(dice.random() * seconds[early] * 0.6)
                    os.kill(number, signal.SIGKILL if fault == "kill" else signal.SIGTERM)
                _, status = os.waitpid(number, 0)
                stopped = os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 2
                if not stopped and os.WEXITSTATUS(status):
                    wrong.append(f"run {run}, {fault}: ended with {os.WEXITSTATUS(status)}")
                if stopped and fault != "none":
                    hit[fault] += 1
                elif fault in ("kill", "term"):
                    faults.append(fault)  # it was over before; again
                if trouble := whole(folder):
                    wrong.append(f"run {run}, {fault}: {trouble}")
                ended = not stopped
            finished += 1
            found = weights(mlvae.load(folder))
            if not torch.equal(found, expected[early]):
                wrong.append(f"run {run}: other weights, by {(found - expected[early]).abs().max():.3g}")
            if left := [file.name for file in folder.iterdir() if file.name.startswith(".")]:
                wrong.append(f"run {run}: left behind {left}")
            run += 1
    told = ", ".join(f"{count} by {name}" for name, count in hit.items())
    print(f"{finished} runs to their end, stopped {told}; {len(wrong)} wrong")
    for line in wrong[:20]:
        print("  " + line)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
