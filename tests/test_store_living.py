"""A living store: idempotent adds, retraction by id, one writer and many readers, nothing half done after a kill."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from mlvae import MLVAE, EvidenceStore, Level, save
from mlvae.errors import CheckpointError, DataError, EvidenceError
from mlvae.likelihoods import Normal
from mlvae.store import adding, files
from test_store import close


def model(seed: int = 0) -> MLVAE:
    torch.manual_seed(seed)
    return MLVAE((4,), [Level("content", 3, by="group"), Level("style", 2)], width=8, likelihood="normal")


X = torch.randn(60, 4, generator=torch.Generator().manual_seed(1))
GROUP = np.array([f"g{i % 7}" for i in range(60)])
IDS = [f"id{i}" for i in range(60)]


def same(store: EvidenceStore, rows: list[int], tolerance: float = 1e-5) -> bool:
    """The store holds just these observations. Votes of other batches differ by the network's float32 rounding."""
    store_labels = store.get().groups["content"]
    assert store_labels is not None
    if not rows:
        return len(store_labels) == 0
    return close(store.get(), model().evidence(X[rows], GROUP[rows]), tolerance)


def test_observations_count_once_and_go_by_id(tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path / "s.duckdb", model())
    assert store.add(IDS[:20], X[:20], GROUP[:20]) == 20
    assert store.add(IDS[10:30], X[10:30], GROUP[10:30]) == 10
    assert store.add(["a", "a"], X[:2], ["x", "x"]) == 1
    assert store.retract(["a", "never seen"]) == 1
    assert same(store, [*range(30)])
    assert store.retract(IDS[5:25]) == 20 and store.retract(IDS[5:25]) == 0
    assert same(store, [*range(5), *range(25, 30)])
    assert store.add(IDS[5:10], X[5:10], GROUP[5:10]) == 5
    again = EvidenceStore(tmp_path / "s.duckdb")
    assert same(again, [*range(10), *range(25, 30)])
    assert store.retract(IDS) == 15 and same(store, [])
    with pytest.raises(EvidenceError, match="a model to encode"):
        again.add(["b"], X[:1], ["x"])
    with pytest.raises(EvidenceError, match="2 for 1"):
        store.add(["b", "c"], X[:1], ["x"])
    with pytest.raises(DataError, match="got 1 without one"):
        store.add(["b", "c"], X[:2], ["x", None])


def test_in_any_order_the_evidence_is_the_sum_of_what_is_left(tmp_path: Path) -> None:
    """Against a float64 sum of the very votes, to 1e-12 of their magnitude."""
    double = model().double()
    with EvidenceStore(tmp_path / "s", double) as store:
        inside: set[int] = set()
        dice = random.Random(0)
        for _ in range(25):
            rows = dice.sample(range(60), dice.randint(1, 12))
            if dice.random() < 0.55:
                assert store.add([IDS[i] for i in rows], X[rows], GROUP[rows]) == len(set(rows) - inside)
                inside |= set(rows)
            else:
                assert store.retract([IDS[i] for i in rows]) == len(set(rows) & inside)
                inside -= set(rows)
        left = sorted(inside)
        votes = double.evidence(X[left], [IDS[i] for i in left])
        total = store.get(sorted(set(GROUP)))
        for row, name in enumerate(sorted(set(GROUP))):
            mine = torch.tensor([GROUP[int(i[2:])] == name for i in votes.groups["content"]])  # type: ignore[union-attr]
            assert total.count()[row] == mine.sum()
            for part in ("precision", "information"):
                terms = getattr(votes.levels["content"], part)[mine]
                gap = (getattr(total.levels["content"], part)[row] - terms.sum(0)).abs()
                assert (gap <= 1e-12 * terms.abs().sum(0)).all()


def test_an_observation_without_a_value_is_entered_and_says_nothing(tmp_path: Path) -> None:
    knows_gaps = MLVAE(
        (4,), [Level("content", 3, by="group"), Level("style", 2)], width=8, likelihood=Normal(missing=True)
    )
    x = X[:3].clone()
    x[2] = torch.nan
    store = EvidenceStore(tmp_path / "s.duckdb", knows_gaps)
    with pytest.warns(UserWarning, match="no value"):
        assert store.add(["a", "b", "c"], x, ["ann", "bob", "cat"]) == 3
    assert store.get().groups["content"].tolist() == ["ann", "bob"]
    assert store.get(["cat", "ann"]).count().tolist() == [0, 1]
    with pytest.warns(UserWarning, match="no value"):
        assert store.add(["d"], x[2:], ["ann"]) == 1
    assert store.get(["ann"]).count().tolist() == [1]
    assert files.read(store.export(tmp_path / "all.parquet")).groups["content"].tolist() == ["ann", "bob"]
    assert store.retract(["c", "d"]) == 2
    with pytest.raises(EvidenceError, match="groups share"):
        EvidenceStore(tmp_path / "v.duckdb", MLVAE((4,), [Level("code", 2)], width=8))


def test_files_are_merged_once_and_taken_back(tmp_path: Path) -> None:
    net = model()
    store = EvidenceStore(tmp_path / "s", net)
    store.add(IDS[:5], X[:5], GROUP[:5])
    for name, rows in (("a", slice(5, 20)), ("b", slice(20, 40))):
        files.write(net.evidence(X[rows], GROUP[rows]), net, tmp_path / name)
    part = store.merge(tmp_path / "a")
    assert part is not None and store.merge(tmp_path / "a") is None and store.merge(tmp_path / "b")
    assert same(store, [*range(40)])
    files.write(net.evidence(X[:1], ["z"]), net, tmp_path / "c")
    overlapping = adding.merge([tmp_path / "a", tmp_path / "c"], tmp_path / "ac")
    with pytest.raises(EvidenceError, match="were added before"):
        store.merge(overlapping)
    assert store.retract([part]) == 1
    assert same(store, [*range(5), *range(20, 40)])
    assert close(files.read(store.export(tmp_path / "out")), store.get())
    elsewhere = EvidenceStore(tmp_path / "elsewhere", net)
    elsewhere.merge(tmp_path / "b")
    with pytest.raises(EvidenceError, match="were added before"):
        elsewhere.merge(tmp_path / "out")  # which holds b
    assert elsewhere.merge(tmp_path / "a") and close(elsewhere.get(), net.evidence(X[5:40], GROUP[5:40]))
    other = model(seed=1)
    with pytest.raises(EvidenceError, match=r"one model; .*/s is of model"):
        store.merge(files.write(other.evidence(X[:1], ["a"]), other, tmp_path / "other"))
    with pytest.raises(EvidenceError, match="one model"):
        EvidenceStore(tmp_path / "s", other)


def test_groups_are_looked_up_and_asked_for(tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path / "s", model())
    assert store.get(["g1"]).count().tolist() == [0]
    store.add(IDS, X, GROUP)
    assert store.get(["g1", "nobody", "g0"]).count().tolist() == [9, 0, 9]
    query = model().evidence(X[:3], GROUP[:3])
    assert torch.allclose(store.query(query, 2).log_odds, query.log_bayes_factor(store.get()).topk(2).values)
    with pytest.raises(EvidenceError, match="Did you mean 'content'"):
        store.get(level="contnet")


def test_a_text_is_no_list_and_whole_numbers_are_one_name(tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path / "s", model())
    store.add(["a", "b"], X[:2].tolist(), [1.0, 2.0])
    for call in (lambda: store.retract("a"), lambda: store.get("1"), lambda: store.add("c", X[:1], [1])):
        with pytest.raises(EvidenceError, match=r"got the text .*\. Write \['.'\]"):
            call()
    store.add(["c"], X[2:3], [1])
    assert store.get([1, 2]).count().tolist() == [2, 1] == store.get(["1", "2"]).count().tolist()


def test_several_levels(tmp_path: Path) -> None:
    levels = [Level("speaker", 3, by="speaker"), Level("word", 2, by="word"), Level("style", 2)]
    crossed = MLVAE((4,), levels, width=8, likelihood="normal").double()
    store = EvidenceStore(tmp_path / "s", crossed)
    word = np.array(list("xy") * 30)
    store.add(IDS, X, {"speaker": GROUP, "word": word})
    store.retract(IDS[40:])
    expected = crossed.evidence(X[:40], {"speaker": GROUP[:40], "word": word[:40]})
    for level in ("speaker", "word"):
        assert torch.allclose(
            store.get(expected.groups[level], level).posterior(level).mean, expected.posterior(level).mean
        )
    with pytest.raises(EvidenceError, match="sees another"):
        EvidenceStore(tmp_path / "t", MLVAE((4,), [levels[0], Level("word", 2, by="word", given=("speaker",))]))


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is none"):
        EvidenceStore(tmp_path / "nowhere")
    (tmp_path / "text").write_text("hello" * 1000)
    with pytest.raises(EvidenceError, match="cannot be opened"):
        EvidenceStore(tmp_path / "text")
    import duckdb

    duckdb.connect(str(tmp_path / "other")).close()
    with pytest.raises(EvidenceError, match="another database"):
        EvidenceStore(tmp_path / "other")


WRITE = """
import sys
import torch
from mlvae import EvidenceStore, load
from test_store_living import GROUP, IDS, X
store = EvidenceStore(sys.argv[1], load(sys.argv[2]), wait=60)
for i in range(0, 60, 3):
    store.add(IDS[i:i + 3], X[i:i + 3], GROUP[i:i + 3])
    print(i, flush=True)
    if i % 12 == 9:
        store.retract([IDS[i]])
        print(-i, flush=True)
"""


def writer(folder: Path) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    return subprocess.Popen(
        [sys.executable, "-c", WRITE, str(folder / "s"), str(folder / "run")],
        env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1])
def test_a_writer_killed_at_a_random_instant_leaves_whole_calls_and_all_that_it_confirmed(
    tmp_path: Path, seed: int
) -> None:
    save(model(), tmp_path / "run")
    process = writer(tmp_path)
    assert process.stdout is not None
    dice = random.Random(seed)
    for _ in range(dice.randint(1, 8)):
        process.stdout.readline()
    time.sleep(dice.random() * 0.05)
    process.send_signal(signal.SIGKILL)
    confirmed = [int(line) for line in process.stdout.read().split()]
    process.wait()
    store = EvidenceStore(tmp_path / "s", model())
    count = int(store.get().count().sum())
    possible, held = [], 0
    for i in range(0, 60, 3):
        held += 3
        possible.append(held)
        if i % 12 == 9:
            held -= 1
            possible.append(held)
    assert count in possible
    assert not confirmed or count >= possible[0]
    store.add(IDS, X, GROUP)
    assert same(store, [*range(60)])


def test_readers_in_other_processes_see_whole_states_while_one_writes(tmp_path: Path) -> None:
    save(model(), tmp_path / "run")
    process = writer(tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    seen = []
    while process.poll() is None:
        seen.append(int(EvidenceStore(tmp_path / "s", wait=30).get().count().sum()))
    assert process.returncode == 0 and len(seen) > 3
    assert int(EvidenceStore(tmp_path / "s").get().count().sum()) == 55
    with EvidenceStore(tmp_path / "s", model()) as held:
        held.retract(IDS[:1])
        assert int(held.get().count().sum()) == 54


def test_in_random_schedules_with_faults_no_evidence_is_lost_or_doubled() -> None:
    """A short run of `tools/schedules.py`, which does 1,000."""
    script = Path(__file__).parents[1] / "tools" / "schedules.py"
    paths = os.pathsep.join([str(script.parents[1] / "src"), *sys.path])
    command = [sys.executable, str(script), "--count", "3", "--calls", "2"]
    found = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.startswith("3 schedules, ") and found.stdout.endswith(" 0 wrong\n")


def test_a_file_that_is_no_database_and_evidence_of_another_model_are_refused(tmp_path: Path) -> None:
    (tmp_path / "readings.csv").write_text("device,a\nx,1\n")
    with pytest.raises(EvidenceError, match=r"evidence store; .*readings.csv is another kind of file|cannot be opened"):
        EvidenceStore(tmp_path / "readings.csv", model()).get(["x"])
    store = EvidenceStore(tmp_path / "store.duckdb", model())
    store.add(IDS, X, GROUP)
    assert store.query(model().evidence(X[:2]), 2).groups.shape == (1, 2)
    with pytest.raises(EvidenceError, match="one model; got that of two"):
        store.query(model(1).evidence(X[:2]), 2)
    with pytest.raises(EvidenceError, match="one model; got that of two"):
        files.write(model(1).evidence(X, GROUP), model(), tmp_path / "mixed.parquet")
