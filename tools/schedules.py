"""Adds, takes back, merges and reads in random order, with faults at random writes: is any evidence lost or doubled?

    python tools/schedules.py --count 1000

A schedule is a dozen calls of an `EvidenceStore`. Some fail: a statement of the database is refused. After every call a
reader must see the votes of exactly the observations that are in by then, each once: what failed changed nothing, what
did not fail is there. In every fifth schedule each call and each reader opens the file anew; in the others the file
stays open (`with store:`), and is read anew at the end. Before that, some calls are made with a fault at each of their
statements in turn.
Exit code 1 where anything differs.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mlvae
from mlvae import EvidenceStore, Level
from mlvae.store import files, living

PEOPLE = [f"g{i}" for i in range(5)]


class PlantedError(Exception):
    """What is planted."""


class Failing:
    """A connection that refuses the statement that is next after so many that write."""

    left, hit = 10**9, 0

    def __init__(self, real: Any) -> None:
        self.real = real

    def execute(self, text: str, *values: Any) -> Any:
        if not text.lstrip().lower().startswith(("select", "rollback")):
            Failing.left -= 1
            if Failing.left < 0:
                Failing.left, Failing.hit = 10**9, Failing.hit + 1
                raise PlantedError
        return self.real.execute(text, *values)

    def cursor(self) -> Failing:
        return Failing(self.real.cursor())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


@contextmanager
def failing() -> Iterator[None]:
    """Within it, the store's statements can fail. Opening the file is dear: readers share one until the next write."""
    original, reader = living.EvidenceStore._connect, list[Any]()

    def connect(self: EvidenceStore, *, read: bool) -> Any:
        if read and not reader:
            reader.append(original(self, read=True))
        while reader and not read:
            reader.pop().close()
        return Failing(original(self, read=read))

    living.EvidenceStore._connect = connect  # type: ignore[method-assign]
    try:
        yield
    finally:
        living.EvidenceStore._connect = original  # type: ignore[method-assign]


class World:
    """A store, and what should be in it."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        torch.manual_seed(seed)
        levels = [Level("content", 2, by="group"), Level("style", 2)]
        self.model = mlvae.MLVAE((4,), levels, width=8, likelihood="normal").double().eval()
        random_ = np.random.default_rng(seed)
        self.x = torch.from_numpy(random_.standard_normal((60, 4)))
        self.group = np.array([PEOPLE[i] for i in random_.integers(0, len(PEOPLE), 60)])
        self.votes = self.model.evidence(self.x, np.arange(60)).levels["content"]
        self.store = EvidenceStore(folder / "s.duckdb", self.model)
        self.folder, self.inside, self.merged = folder, set[int](), dict[str, list[int]]()
        self.parts: list[tuple[Path, list[int]]] = []
        for number in range(4):
            rows = sorted(random_.choice(60, 6, replace=False).tolist())
            evidence = self.model.evidence(self.x[rows], self.group[rows])
            self.parts.append((files.write(evidence, self.model, folder / f"{number}.parquet"), rows))

    def step(self, dice: random.Random, after: int | None) -> None:
        """One call, which may be made to fail."""
        kind, rows = dice.random(), dice.sample(range(60), dice.randint(1, 8))
        name: str | None
        Failing.left = 10**9 if after is None else after
        try:
            if kind < 0.5:
                twice = rows + rows[:1]
                self.store.add([f"id{i}" for i in twice], self.x[twice], self.group[twice])
                self.inside |= set(rows)
            elif kind < 0.75:
                self.store.retract([f"id{i}" for i in rows])
                self.inside -= set(rows)
            elif kind < 0.9 or not self.merged:
                path, held = dice.choice(self.parts)
                if (name := self.store.merge(path)) is not None:
                    self.merged[name] = held
            else:
                name = dice.choice(sorted(self.merged))
                self.store.retract([name])
                del self.merged[name]
        except PlantedError:
            pass
        finally:
            Failing.left = 10**9

    def wrong(self, *, held: bool = False) -> str | None:
        """What a reader sees that should not be so; of the store that is held open, or of the file."""
        rows = sorted(self.inside) + [row for held in self.merged.values() for row in held]
        found = (self.store if held else EvidenceStore(self.store.path)).get(PEOPLE)
        for place, name in enumerate(PEOPLE):
            mine = torch.tensor([row for row in rows if self.group[row] == name], dtype=torch.int64)
            if found.count()[place] != len(mine):
                return f"{name} has {int(found.count()[place])} votes, not {len(mine)}"
            for part in ("precision", "information"):
                terms = getattr(self.votes, part)[mine]
                gap = (getattr(found.levels["content"], part)[place] - terms.sum(0)).abs()
                if (gap > 1e-11 * terms.abs().sum(0)).any():
                    return f"{part} of {name} is off by {gap.max():.2g}"
        return None


def schedule(world: World, seed: int, calls: int = 12) -> str | None:
    """A random schedule; what went wrong in it. In four of five the store's file stays open throughout."""
    dice, held = random.Random(seed), seed % 5 > 0
    with world.store if held else nullcontext():
        for call in range(calls):
            world.step(dice, dice.randrange(20) if dice.random() < 0.3 else None)
            if trouble := world.wrong(held=held):
                return f"schedule {seed}, call {call}: {trouble}"
    return f"schedule {seed}, its file: {trouble}" if (trouble := world.wrong()) else None


def every_fault(world: World, calls: int) -> tuple[int, list[str]]:
    """Each call with a fault at each of its statements; how many there were, and what went wrong."""
    tried, wrong = 0, []
    for seed in range(calls):
        after = 0
        while True:
            before = (set(world.inside), dict(world.merged))
            dice = random.Random(seed)
            world.step(dice, after)
            tried += 1
            if trouble := world.wrong():
                wrong.append(f"call {seed}, fault {after}: {trouble}")
            if (world.inside, world.merged) != before or after > 25:
                break
            after += 1
    return tried, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--calls", type=int, default=8, help="with a fault at each of their statements")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder, failing():
        world = World(Path(folder))
        tried, found = every_fault(world, asked.calls)
        wrong += found
        Failing.hit = 0
        for seed in range(asked.first, asked.first + asked.count):
            if trouble := schedule(world, seed):
                wrong.append(trouble)
                break
    told = f"{asked.count} schedules, {Failing.hit} of whose calls failed; faults at {tried} single statements"
    print(f"{told}; {len(wrong)} wrong")
    for line in wrong[:20]:
        print("  " + line)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
