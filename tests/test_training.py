"""fit: it learns, it resumes to the same numbers, it loses nothing."""

from __future__ import annotations

import copy
import csv
import os
import shutil
import signal
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import mlvae
from mlvae import states
from mlvae.asked import Objective
from mlvae.augment import Augmentation
from mlvae.batch import GroupBatch
from mlvae.errors import CheckpointError, DataError, TrainingError
from mlvae.normal import Normal
from mlvae.objective import loss
from mlvae.runs import options_of, unfinished
from mlvae.schema import Feature, Schema
from mlvae.steps import CUBLAS, Step, changed, finite, learning, one_order
from mlvae.training import History, fit
from mlvae.weights import Ramp


def small() -> mlvae.GroupedData:
    return mlvae.read("digits").subset(range(240))


def model(data: mlvae.GroupedData, **options: object) -> mlvae.MLVAE:
    torch.manual_seed(0)
    return mlvae.MLVAE.for_data(data, content_dim=4, style_dim=3, width=16, **options)


def weights(trained: mlvae.MLVAE) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trained.parameters()])


def run(data: mlvae.GroupedData, out: Path | None = None, **options: object) -> tuple[mlvae.MLVAE, History]:
    trained = model(data)
    return trained, fit(trained, data, out, progress=False, **{"epochs": 2, "groups": 10, **options})  # type: ignore[arg-type]


def test_it_learns_and_writes_a_run(tmp_path: Path) -> None:
    trained, history = run(small(), tmp_path / "run", epochs=5)
    assert history.epochs[-1]["log_likelihood"] > history.epochs[0]["log_likelihood"] + 1
    rows = list(csv.DictReader((tmp_path / "run" / "log.csv").open()))
    assert [float(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5]
    assert torch.equal(weights(mlvae.load(tmp_path / "run")), weights(trained))


def test_the_same_seed_gives_the_same_weights_and_leaves_the_callers_random_state() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, second, other = weights(run(small())[0]), weights(run(small())[0]), weights(run(small(), seed=1)[0])
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    torch.manual_seed(7)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("steps", [3, 8])  # within the first epoch and within the second
def test_ctrl_c_saves_and_resuming_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    strict = Objective(independence=mlvae.Held(1e-3, 1e-3))  # its weight leaves its least, and must be kept
    whole, history = run(small(), epochs=3, objective=strict)
    taken = 0
    original = Step.forward

    def interrupted(self: object, *arguments: object) -> object:
        nonlocal taken
        taken += 1
        if taken == steps:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *arguments)  # type: ignore[arg-type]

    assert threading.current_thread() is threading.main_thread()
    monkeypatch.setattr(Step, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt, match="--resume"):
        run(small(), tmp_path, epochs=3, objective=strict)
    assert unfinished(tmp_path, mlvae.load(tmp_path)).startswith(f"Training stopped in epoch {1 + steps // 8} of 3")
    monkeypatch.undo()
    resumed, continued = run(small(), tmp_path, epochs=3, objective=strict, resume=True)
    assert unfinished(tmp_path, resumed) is None
    assert torch.equal(weights(whole), weights(resumed))
    for one, other in zip(history.epochs, continued.epochs, strict=True):
        assert {k: v for k, v in one.items() if "second" not in k} == {k: other[k] for k in one if "second" not in k}
    assert history.epochs[-1]["held_style"] > 1.5 * strict.independence.least.end


def test_a_long_epoch_is_saved_before_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlvae.training, "MIDWAY", 0.0)
    monkeypatch.setattr(mlvae.training, "CHECK_EVERY", 2)
    original, taken = Step.forward, 0

    def killed(self: object, *arguments: object) -> object:
        nonlocal taken
        taken += 1
        if taken == 4:
            raise RuntimeError("killed")
        return original(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Step, "forward", killed)
    with pytest.raises(RuntimeError, match="killed"):
        run(small(), tmp_path, epochs=3)
    state = mlvae.states.read(tmp_path / "training.safetensors")[1]["state"]
    assert (state["epoch"], state["batch"]) == (0, 2)
    monkeypatch.undo()
    assert torch.equal(weights(run(small(), epochs=3)[0]), weights(run(small(), tmp_path, epochs=3, resume=True)[0]))


def test_short_epochs_are_saved_at_the_end_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    monkeypatch.setattr(mlvae.runs.Run, "save", lambda self, optimizer, state, *, weights: saved.append(state["epoch"]))
    monkeypatch.setattr(mlvae.training, "SAVE_EVERY", 1e9)
    run(small(), tmp_path, epochs=4)
    assert saved == [4]
    monkeypatch.setattr(mlvae.training, "SAVE_EVERY", 0.0)
    run(small(), tmp_path, epochs=4)
    assert saved == [4, 1, 2, 3, 4]


def test_a_folder_that_holds_a_run_is_refused_and_kept(tmp_path: Path) -> None:
    run(small(), tmp_path)
    before = (tmp_path / "training.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match="Resume it .*, or name another folder"):
        run(small(), tmp_path)
    assert (tmp_path / "training.safetensors").read_bytes() == before


def test_resuming_with_other_settings_is_refused(tmp_path: Path) -> None:
    run(small(), tmp_path)
    with pytest.raises(TrainingError, match="lr"):
        run(small(), tmp_path, lr=0.1, resume=True)
    with pytest.raises(CheckpointError, match="there is none"):
        run(small(), tmp_path / "elsewhere", resume=True)


def test_resuming_with_other_observations_or_groups_is_refused(tmp_path: Path) -> None:
    data = small()
    run(data, tmp_path)
    x, groups = data.x.clone(), data.groups.copy()
    x[100, 0, 0] += 1
    groups[100] += 1
    for other in (replace(data, x=x), replace(data, columns={**data.columns, "group": groups})):
        with pytest.raises(TrainingError, match="got others"):
            run(other, tmp_path, resume=True)
    run(data, tmp_path, resume=True)
    before_digests(tmp_path)
    run(replace(data, x=x), tmp_path, resume=True)


def before_digests(folder: Path) -> None:
    """Makes of a run one that was begun before its data were kept."""
    tensors, about = states.latest(folder)
    for name in ("train", "valid"):
        del about["settings"][name]
    states.write(folder, tensors, about)


def temperature(trained: mlvae.MLVAE) -> torch.Tensor:
    return trained.calibration("content").temperature


def test_a_run_that_has_ended_stays_as_it_was(tmp_path: Path) -> None:
    data = small()
    train, valid = data.split(by="observation", test=0.3, seed=0)
    trained, _ = run(train, tmp_path / "with", valid=valid)
    again, history = run(train, tmp_path / "with", valid=valid.subset(range(60)), resume=True)
    assert len(history.epochs) == 2 and not torch.equal(temperature(again), torch.ones(4))
    for one in (again, mlvae.load(tmp_path / "with")):
        assert torch.equal(temperature(one), temperature(trained)) and torch.equal(weights(one), weights(trained))
    before_digests(tmp_path / "with")
    again, _ = run(train, tmp_path / "with", resume=True)
    assert torch.equal(temperature(again), temperature(trained))
    run(train, tmp_path / "without")
    with pytest.raises(TrainingError, match="valid is False, not True"):
        run(train, tmp_path / "without", valid=valid, resume=True)


def test_a_run_stopped_before_its_calibration_is_calibrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, valid = small().split(by="observation", test=0.3, seed=0)
    trained, _ = run(train, valid=valid)
    with monkeypatch.context() as stopping:
        stopping.setattr("mlvae.training.temper", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(train, tmp_path, valid=valid)
    run(train, tmp_path, valid=valid, resume=True)
    assert torch.equal(temperature(mlvae.load(tmp_path)), temperature(trained))


@pytest.mark.usefixtures("every_epoch")
def test_nan_is_explained_and_the_last_checkpoint_is_intact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Step.forward
    taken = 0

    def poisoned(self: object, *arguments: object) -> object:
        nonlocal taken
        taken += 1
        total, log = original(self, *arguments)  # type: ignore[arg-type]
        return (total * float("nan"), log) if taken == 8 else (total, log)

    monkeypatch.setattr(Step, "forward", poisoned)
    with pytest.raises(TrainingError, match=r"finite loss.*saved before is intact"):
        run(small(), tmp_path, epochs=3)
    assert torch.isfinite(weights(mlvae.load(tmp_path))).all()


def test_early_stopping_keeps_the_best_weights(tmp_path: Path) -> None:
    data = small()
    train, valid = data.split(by="group", test=0.3, seed=0)
    trained = model(train)
    history = fit(trained, train, tmp_path, valid=valid, patience=2, epochs=60, lr=0.05, groups=10, progress=False)
    losses = [row["valid"] for row in history.epochs]
    assert history.stopped_early and len(losses) < 60
    assert len(losses) - 1 - losses.index(min(losses)) == 2
    assert torch.equal(weights(mlvae.load(tmp_path)), weights(trained))
    held = model(train)
    fit(held, train, valid=valid, patience=2, epochs=60, lr=0.05, groups=10, progress=False)
    assert torch.equal(weights(held), weights(trained)), "the same without a folder"
    latest = model(train)
    fit(latest, train, epochs=len(losses), lr=0.05, groups=10, progress=False)
    assert not torch.equal(weights(latest), weights(trained))


@pytest.mark.parametrize(
    ("precision", "said"), [("16-mixed", "'bf16-mixed'"), ("fp32", "'32-true'"), (32, "'32-true'")]
)
def test_other_precisions_are_refused(precision: object, said: str) -> None:
    with pytest.raises(TrainingError, match=f"got {precision!r}.*{said}"):
        run(small(), precision=precision, device="cpu")


@pytest.mark.parametrize("whole", [False, True], ids=["in training mode", "in evaluation mode as a whole"])
def test_parts_that_are_frozen_stay_so(monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    data, seen = small(), []
    train, valid = data.split(by="group", test=0.3, seed=0)
    trained = model(train, encoder=nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Dropout(0.5)))
    trained.encoder.eval()
    if whole:
        trained.encoder.requires_grad_(False)
        trained.eval()
    original = Step.forward

    def watched(self: Step, *arguments: object) -> object:
        seen.append([part.training for part in (self.model, *self.model.encoder, self.model.decoder)])
        return original(self, *arguments)

    monkeypatch.setattr(Step, "forward", watched)
    fit(trained, train, valid=valid, epochs=2, groups=10, progress=False)
    assert {tuple(each) for each in seen} == {(True, False, False, False, True)}


def test_a_model_that_was_loaded_trains_as_a_whole() -> None:
    again = model(small(), encoder=nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Dropout(0.5))).eval()
    learning(again)
    assert all(part.training for part in again.modules())


def test_weights_are_looked_at_by_their_sums() -> None:
    weights = nn.Linear(4, 4)
    weights.weight.data.fill_(3e38)
    assert weights.weight.sum().isinf() and finite(weights), "a sum that overflows is no weight that is none"
    weights.bias.data[1] = torch.nan
    assert not finite(weights)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"epochs": 1.5}, "at least one epoch, a whole number; got 1.5"),
        ({"epochs": "3"}, "at least one epoch, a whole number; got '3'"),
        ({"patience": 1.5}, "at least one epoch, a whole number; got 1.5"),
        ({"lr": "much"}, "learning rate above 0; got 'much'"),
        ({"objective": "paper"}, r"an Objective; got 'paper'. Pass Objective.plain\(\)"),
        ({"valid": 0.1}, r"GroupedData as `valid`; got 0.1. .*train.split\("),
    ],
    ids=str,
)
def test_arguments_of_another_type_are_named(options: dict[str, object], said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        run(small(), **options)


def test_patience_without_validation_groups_is_an_error() -> None:
    with pytest.raises(TrainingError, match="validation groups"):
        run(small(), patience=1)


@pytest.mark.parametrize(
    "options",
    [
        {"objective": Objective.plain()},
        {"objective": Objective(kl_weight={"content": Ramp(4, 1, until=0.5)}, draw="group", evidence="all")},
        {"objective": Objective(subsampling="scaled")},
        {"members": "all", "groups": 4},
        {"members": 3, "resample": True},
        {"precision": "bf16-mixed"},
    ],
    ids=str,
)
def test_every_option_trains(options: dict[str, object]) -> None:
    trained, _ = run(small(), **options)
    assert torch.isfinite(weights(trained)).all()
    assert not torch.equal(weights(trained), weights(model(small())))


def test_a_plain_vae_trains_without_groups() -> None:
    data = small()
    vae = mlvae.MLVAE.for_data(data, content_dim=0, style_dim=6, width=16)
    history = fit(vae, data, objective=Objective.plain(), epochs=2, groups=10, progress=False)
    assert history.epochs[1]["log_likelihood"] > history.epochs[0]["log_likelihood"]


def test_data_outside_the_domain_are_refused_before_training() -> None:
    data = mlvae.GroupedData.from_arrays(torch.full((6, 4), 2.0), [0, 0, 1, 1, 2, 2])
    with pytest.raises(DataError, match=r"\[0, 1\]"):
        fit(mlvae.MLVAE.for_data(data, likelihood="bernoulli"), data, epochs=1, progress=False)


def test_loggers_of_fabric_see_every_epoch(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    from lightning_fabric.loggers import CSVLogger, TensorBoardLogger

    data = mlvae.read("digits").subset(slice(0, 100))
    loggers = [CSVLogger(tmp_path, "csv"), TensorBoardLogger(tmp_path, "board")]
    history = mlvae.fit(
        mlvae.MLVAE.for_data(data, content_dim=2, style_dim=2, width=8), data, epochs=2, progress=False, logger=loggers
    )
    for logger in loggers:
        logger.finalize("success")
    lines = next((tmp_path / "csv").rglob("metrics.csv")).read_text().splitlines()
    assert len(lines) == 3 and "kl_content" in lines[0] and str(history.epochs[-1]["loss"]) in lines[-1]
    assert next((tmp_path / "board").rglob("events*")).stat().st_size > 200


def test_bf16_is_recorded_and_close_and_refused_where_the_device_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact, other = run(small(), epochs=4), run(small(), tmp_path / "run", epochs=4, precision="bf16-mixed")
    for name, value in exact[1].epochs[-1].items():
        if name in ("loss", "log_likelihood", "kl_content", "kl_style"):
            assert other[1].epochs[-1][name] == pytest.approx(value, rel=0.05), name
    assert options_of(tmp_path / "run")["precision"] == "bf16-mixed"
    assert {p.dtype for p in other[0].parameters()} == {torch.float32}
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    with pytest.raises(TrainingError, match="bfloat16"):
        run(small(), device="cuda", precision="bf16-mixed")


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.slow
def test_compiled_steps_learn_the_same_and_models_keep_their_names(tmp_path: Path) -> None:
    from torch._dynamo.utils import counters

    plain = run(small())
    counters.clear()
    compiled = run(small(), tmp_path / "run", compile=True)
    # Of any size; another where pairs of one group are not laid out in blocks, or are a handful.
    assert 1 <= counters["stats"]["unique_graphs"] <= 3 and not counters["graph_break"]
    for name in ("loss", "log_likelihood", "kl_content", "kl_style", "identification"):
        assert compiled[1].epochs[-1][name] == pytest.approx(plain[1].epochs[-1][name], rel=1e-3), name
    assert mlvae.load(tmp_path / "run").state_dict().keys() == plain[0].state_dict().keys()


def test_a_gpu_that_was_used_before_cannot_be_told_to_compute_in_one_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CUBLAS, ":0:0")
    with pytest.raises(TrainingError, match="before Python starts"), one_order(True, used=True):
        pass
    with one_order(True):
        assert torch.are_deterministic_algorithms_enabled()
    monkeypatch.setenv(CUBLAS, ":16:8")
    with one_order(True, used=True):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    monkeypatch.delenv(CUBLAS)
    with one_order(True):
        assert os.environ[CUBLAS] == ":4096:8"


def test_a_run_that_has_ended_makes_its_model_file_again(tmp_path: Path) -> None:
    first, _ = run(small(), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    again, _ = run(small(), tmp_path, resume=True)
    assert torch.equal(weights(first), weights(again)) and torch.equal(weights(mlvae.load(tmp_path)), weights(first))


def test_a_resumed_run_is_told_where_its_settings_differ(tmp_path: Path) -> None:
    fit(model(small()), small(), tmp_path / "run", epochs=1, progress=False)
    other = mlvae.MLVAE.for_data(small(), content_dim=7, style_dim=2, width=16)
    with pytest.raises(TrainingError) as error:
        fit(other, small(), tmp_path / "run", epochs=1, resume=True, progress=False)
    assert len(str(error.value)) < 300 and "model." in str(error.value) and "not 7" in str(error.value)


CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_step_is_near_a_float64_one_on_the_cpu(precision: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Normal, "rsample", lambda self, generator=None: self.mean)  # devices have their own noise
    data, trained = small(), model(small())
    reference = copy.deepcopy(trained).double()
    groups = {"content": torch.arange(240) % 12}
    expected = loss(reference, GroupBatch.of(reference.prepare(data.x), groups), Objective()).total
    trained.to(device)
    batch = GroupBatch.of(reference.prepare(data.x).float(), groups).to(device)
    with torch.autocast(device, torch.bfloat16, enabled=precision != "32-true"):
        value = loss(trained, batch, Objective()).total
    value.backward()
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-4 if precision == "32-true" else 2e-2)
    ours, theirs = (torch.cat([p.grad.cpu().double().flatten() for p in m.parameters()]) for m in (trained, reference))
    assert torch.cosine_similarity(ours, theirs, 0) > (1 - 1e-6 if precision == "32-true" else 0.99)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])
def test_the_same_seed_gives_the_same_weights_on_any_device_when_asked(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, seen = Step.forward, set()

    def watched(self, *arguments):
        seen.add(torch.are_deterministic_algorithms_enabled())
        return original(self, *arguments)

    monkeypatch.setattr(Step, "forward", watched)
    first, second = (
        run(small(), tmp_path / name, device=device, deterministic=True)[0].cpu() for name in ("one", "two")
    )
    assert torch.equal(weights(first), weights(second))
    assert seen == {True} and not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(TrainingError, match="its deterministic is True"):
        run(small(), tmp_path / "one", device=device, resume=True)


def test_a_stop_leaves_the_order_of_sums_as_it_was() -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with pytest.raises(ZeroDivisionError), one_order(True):
            raise ZeroDivisionError
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_what_a_run_was_trained_with_trains_another_likewise(tmp_path: Path) -> None:
    first, _ = run(small(), tmp_path, augment=Augmentation(noise=0.1))
    other = model(small())
    fit(other, small(), progress=False, **options_of(tmp_path))
    assert torch.equal(weights(first), weights(other))


@pytest.mark.parametrize("patience", [None, 5])
def test_a_run_killed_while_it_was_first_saved_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: int | None
) -> None:
    """Weights without a training state could neither be gone on from nor begun over."""
    train, valid = small().split(by="group", test=0.2)
    options = {"epochs": 2, "valid": valid, "patience": patience}
    whole, _ = run(train, **options)

    def killed(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("mlvae.runs.checkpoint.save", killed)
    monkeypatch.setattr("mlvae.training.SAVE_EVERY", 0.0)
    with pytest.raises(MemoryError):
        run(train, tmp_path, **options)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["training.safetensors"]
    monkeypatch.undo()
    resumed, _ = run(train, tmp_path, resume=True, **options)
    assert torch.equal(weights(whole), weights(resumed))
    assert torch.equal(weights(whole), weights(mlvae.load(tmp_path)))


def test_patience_is_not_asked_of_a_run_that_kept_no_best_weights(tmp_path: Path) -> None:
    train, valid = small().split(by="group", test=0.2)
    run(train, tmp_path, epochs=2, valid=valid)
    with pytest.raises(TrainingError, match="began without: its best weights were not kept"):
        run(train, tmp_path, epochs=2, valid=valid, patience=2, resume=True)


@pytest.mark.parametrize("loss", [float("inf"), float("nan")])
def test_a_validation_loss_that_is_no_number_is_never_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: float
) -> None:
    train, valid = small().split(by="group", test=0.2)
    losses = iter([loss, loss])
    monkeypatch.setattr("mlvae.training._validation_loss", lambda *_: next(losses))
    last, _ = run(train, tmp_path / "all", epochs=2, valid=valid, patience=3)
    assert torch.equal(weights(last), weights(mlvae.load(tmp_path / "all")))
    losses = iter([loss, 1.0, 2.0])
    run(train, tmp_path / "one", epochs=3, valid=valid, patience=3)
    assert states.read(tmp_path / "one" / "training.safetensors")[1]["state"]["best"] == 1.0


def test_what_a_stopped_run_says_of_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, valid = small().split(by="group", test=0.2)

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mlvae.training.temper", stopped)
    with pytest.raises(KeyboardInterrupt, match="--resume"):
        run(train, tmp_path, epochs=1, valid=valid)
    monkeypatch.undo()
    found = unfinished(tmp_path, mlvae.load(tmp_path))
    assert found is not None and found.startswith("Training ended, and levels are not calibrated")
    calibrated, _ = run(train, tmp_path, epochs=1, valid=valid, resume=True)
    assert unfinished(tmp_path, calibrated) is None
    file = tmp_path / "training.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    found = unfinished(tmp_path, calibrated)
    assert found is not None and "is damaged, the model is not" in found


def test_an_epochs_seconds_are_those_before_a_stop_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken, original = 0, Step.forward

    def interrupted(self: object, *arguments: object) -> object:
        nonlocal taken
        taken += 1
        if taken == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Step, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(small(), tmp_path, epochs=1)
    before = states.read(tmp_path / "training.safetensors")[1]["state"]["seconds"]
    monkeypatch.undo()
    _, history = run(small(), tmp_path, epochs=1, resume=True)
    assert history.epochs[0]["seconds"] > before > 0


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    one, _ = run(
        small(), tmp_path, epochs=np.int64(1), groups=np.int64(10), seed=np.int64(3), lr=np.float32(2**-9),
        members=(np.int64(2), np.int64(4)),
    )  # fmt: skip
    two, _ = run(small(), epochs=1, groups=10, seed=3, members=(2, 4), lr=2**-9)
    assert torch.equal(weights(one), weights(two))


def test_changes_that_make_other_data_are_refused() -> None:
    x, ids = torch.randint(0, 4, (60, 3)).float(), torch.arange(60) % 6
    data = mlvae.GroupedData.from_arrays(x.numpy(), ids.numpy())
    counts = mlvae.MLVAE.for_data(data, likelihood="poisson", network="mlp", width=8)
    with pytest.raises(DataError, match=r"leave data as the likelihood takes them.*Expected counts.*--augment"):
        fit(counts, data, epochs=1, progress=False, augment=Augmentation(noise=0.3))
    features = (Feature("a"), Feature("b"), Feature("c", "category", ("x", "y", "z", "u")))
    table = mlvae.GroupedData.from_arrays(x.numpy(), ids.numpy())
    table = replace(table, schema=Schema(features))
    mixed = mlvae.MLVAE.for_data(table, width=8)
    with pytest.raises(DataError, match=r"series \(channels, steps\)"):
        fit(mixed, table, epochs=1, progress=False, augment=Augmentation(time=1))
    fit(mixed, table, epochs=1, progress=False, augment=Augmentation(noise=0.3))
    words = replace(table, x=table.x[:, 2:], schema=Schema(features[2:]))
    with pytest.raises(DataError, match="Expected numbers among the columns for noise"):
        fit(mlvae.MLVAE.for_data(words, width=8), words, epochs=1, progress=False, augment=Augmentation(noise=0.3))
    moved = changed(mixed, Augmentation(noise=0.3), x)
    assert (moved[:, :2] != x[:, :2]).float().mean() > 0.5 and torch.equal(moved[:, 2], x[:, 2]), "words stay"
    with pytest.raises(DataError, match="at least 0"):
        Augmentation(shift=float("nan"))
    pictures = mlvae.GroupedData.from_arrays(torch.rand(60, 8, 8).round().numpy(), ids.numpy())
    grey = mlvae.MLVAE.for_data(pictures, network="mlp", width=8)
    state = torch.get_rng_state()
    fit(grey, pictures, epochs=1, progress=False, augment=Augmentation(rotate=10, noise=0.1))  # within [0, 1] yet
    assert torch.equal(state, torch.get_rng_state())
