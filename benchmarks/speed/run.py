"""What mlvae costs beside a plain VAE and beside others, as ratios within one run.

    python benchmarks/speed/run.py [--threads 1] [--rounds 30] [--only step,loop] [--out FILE.json] [--plot FILE.svg]
    python benchmarks/speed/run.py --check benchmarks/speed/committed.json      # `make bench-check`

All variants have a 784-500 MLP each way, 16 + 16 codes, Bernoulli, fused Adam, 256 observations of 10 groups, float32
where nothing else is said, and take turns; medians. With one thread times are of the processor. Rows:

step          one optimiser step: this library's and others' (peers.py) over the plain VAE's; also of 50 groups, in bf16
compiled      the step again, and what `--compile` makes of it, of the plain VAE and of the loop; only where asked for,
              as compiling takes minutes and a C++ compiler
loop          `fit` itself (sampler, index, step, bookkeeping, log), an observation, over the plain VAE's bare step on a
              batch that stays the same; that step on batches picked anew, and the authors' loop behind torch's
              DataLoader, likewise. Batches are of 260 observations there, so that 10 groups are of equal size
accumulation  the sum and its readout alone, forward and backward, beside a loop over groups: batch x groups x dims
use           evidence, samples and the bound beside bare passes of the same networks
start         processor seconds of imports and of --help; peak memory of a training process
floor         the step beside the least that the machine's measured matrix and memory rates allow
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from clock import child, interleaved, matrix_rate, memory_rate
from peers import CONTENT, PEERS, STYLE, Peer, decoder, encoder, looped, plain, pythae

from mlvae import MLVAE, GroupBatch, GroupedData, Grouping, Level, Objective, elbo, fit, loss
from mlvae.evidence import Evidence, product_with_prior
from mlvae.objective import Measure, measured
from mlvae.penalties import Adversaries
from mlvae.steps import compiled

LOST = 1.15
"""A ratio that grew by more has lost speed."""

COUNTED = {
    "step": (
        "mlvae, bound", "mlvae, default", "mlvae, default and adversary", "mlvae, bound, 50 groups",
        "mlvae, default, 50 groups", "authors / mlvae, bound",
    ),
    "loop": (
        "mlvae, bound", "mlvae, default", "mlvae, default and adversary", "mlvae, default, 50 groups of 2-8",
        "authors / mlvae, bound",
    ),
    "accumulation": (
        "loop / mlvae, 256 x 10 x 16", "loop / mlvae, 4096 x 10 x 16", "loop / mlvae, 4096 x 1000 x 16",
        "loop / mlvae, 4096 x 10 x 64", "loop / mlvae, 4096 x 1000 x 64", "4,096 groups / 10 groups, 4096 x 16",
    ),
    "use": ("evidence / forward", "generate / decoder", "elbo / plain bound"),
    "start": ("peak memory, mlvae / plain", "peak memory beyond imports, mlvae / plain"),
    "floor": ("mlvae, bound / floor",),
}  # fmt: skip
"""The rows of each part that are this library's and do not depend on the machine: what `--check` compares."""


def ours() -> MLVAE:
    """This library's model of the same networks."""
    levels = [Level("content", CONTENT, by="group"), Level("style", STYLE)]
    return MLVAE((28, 28), levels, encoder=encoder(), decoder=decoder())


def descending(model: torch.nn.Module, value: Callable[[], Any], half: bool = False) -> Callable[[], None]:
    """One optimiser step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            total = value()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()

    return step


def peer(name: str, x: torch.Tensor, groups: torch.Tensor, half: bool = False) -> Callable[[], None]:
    model = Peer()
    return descending(model, lambda: PEERS[name](model, x, groups), half)


def mine(
    objective: Objective, x: torch.Tensor, groups: torch.Tensor, half: bool = False, measure: Measure = measured
) -> Callable[[], None]:
    model = ours()
    beside = Adversaries(model.levels, {"content": groups.bincount()}) if objective.adversary else None

    def value() -> Any:  # groups are counted anew for each batch, as in training
        index = Grouping(groups, int(groups.max()) + 1)
        batch = GroupBatch(x, {"content": index}, {"content": groups})
        return loss(model, batch, objective, progress=0.5, adversaries=beside, measure=measure).total

    return descending(torch.nn.ModuleList([model, beside] if beside else [model]), value, half)


def over(seconds: dict[str, float], base: str) -> dict[str, float]:
    """As ratios to one of them, which stays in milliseconds."""
    return {f"{base}, ms": 1e3 * seconds[base]} | {k: v / seconds[base] for k, v in seconds.items() if k != base}


def step(rounds: int) -> dict[str, float]:
    x, ten, fifty = torch.rand(256, 28, 28), torch.arange(256) % 10, torch.arange(256) % 50
    variants = {name: peer(name, x, ten) for name in PEERS}
    variants |= {
        "mlvae, bound": mine(Objective.plain(), x, ten),
        "mlvae, default": mine(Objective(), x, ten),
        "mlvae, default and adversary": mine(Objective.for_groups(10), x, ten),
        "mlvae, bound, 50 groups": mine(Objective.plain(), x, fifty),
        "mlvae, default, 50 groups": mine(Objective(), x, fifty),
    }
    if importlib.util.find_spec("pythae"):
        other = pythae()
        variants["pythae"] = descending(other, lambda: other({"data": x}).loss)
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():  # elsewhere it is emulated, and says nothing
        variants |= {
            "plain, bf16": peer("plain", x, ten, True),
            "mlvae, bound, bf16": mine(Objective.plain(), x, ten, True),
        }
    result = over(interleaved(variants, rounds), "plain")
    result["authors / mlvae, bound"] = result["authors"] / result["mlvae, bound"]
    return result


def compiling(rounds: int) -> dict[str, float]:
    x, ten, fifty = torch.rand(256, 28, 28), torch.arange(256) % 10, torch.arange(256) % 50
    model = Peer()
    with compiled(True) as fast:
        value = torch.compile(lambda: PEERS["plain"](model, x, ten), options={"fallback_random": True})
        variants = {"plain": peer("plain", x, ten), "plain, compiled": descending(model, value)}
        objectives = {"bound": Objective.plain(), "default": Objective(), "and adversary": Objective.for_groups(10)}
        for name, objective in objectives.items():
            for groups, of in {"": ten, ", 50 groups": fifty}.items():
                variants[name + groups] = mine(objective, x, of)
                variants[f"{name}{groups}, compiled"] = mine(objective, x, of, measure=fast)
        steps = over(interleaved(variants, rounds), "plain")
    return steps | {f"loop: {name}": ratio for name, ratio in loop(rounds, compile=True).items() if "mlvae" in name}


class Turns:
    """A logger for `fit`: takes an epoch's time, and between epochs that of the others' steps."""

    def __init__(self, others: Callable[[], dict[str, float]]) -> None:
        self.others, self.ratios = others, []
        self.name = self.version = "turns"
        self.started = time.process_time()

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        seconds = time.process_time() - self.started
        base = self.others()
        if step and step > 1:  # the first epoch counts with what comes before it
            self.ratios.append({name: seconds / ROWS / value for name, value in base.items()})
        self.started = time.process_time()


ROWS, BATCH, MEMBERS = 15_600, 260, 26


def loop(rounds: int, compile: bool = False) -> dict[str, float]:
    pixels = torch.randint(0, 256, (ROWS, 28, 28), dtype=torch.uint8)
    groups = torch.arange(ROWS) % 10
    x, index = pixels[:BATCH].float() / 255, groups[:BATCH]
    bare = peer("plain", x, index)
    picking, theirs = Peer(), Peer()

    def picked() -> torch.Tensor:
        return pixels.index_select(0, torch.randint(0, ROWS, (BATCH,))).float().div_(255)

    fresh = descending(picking, lambda: PEERS["plain"](picking, picked(), index))

    class Items(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return ROWS

        def __getitem__(self, place: int) -> Any:
            return pixels[place].float() / 255, int(groups[place])

    items = iter(torch.utils.data.DataLoader(Items(), BATCH, shuffle=True))
    now: list[Any] = []
    theirs_step = descending(theirs, lambda: PEERS["authors"](theirs, *now))

    def authors_loop() -> None:
        nonlocal items
        batch = next(items, None)
        if batch is None:
            items = iter(torch.utils.data.DataLoader(Items(), BATCH, shuffle=True))
            batch = next(items)
        now[:] = batch
        theirs_step()

    def others() -> dict[str, float]:
        return {name: value / BATCH for name, value in
                interleaved({"plain": bare, "fresh": fresh, "authors": authors_loop}, 10).items()}  # fmt: skip

    result: dict[str, float] = {}
    data = GroupedData.from_arrays(pixels, groups.numpy())
    for name, objective, sizes in (
        ("bound", Objective.plain(), {"groups": 10, "members": MEMBERS}),
        ("default", Objective(), {"groups": 10, "members": MEMBERS}),
        ("default and adversary", Objective.for_groups(10), {"groups": 10, "members": MEMBERS}),
        ("default, 50 groups of 2-8", Objective(), {"groups": 50}),
    ):
        turns = Turns(others)
        with tempfile.TemporaryDirectory() as folder:
            fit(ours_for(data), data, Path(folder) / "run", objective=objective, epochs=1 + max(2, rounds // 6),
                progress=False, logger=turns, compile=compile, **sizes)  # fmt: skip
        median = {k: statistics.median(ratio[k] for ratio in turns.ratios) for k in ("plain", "authors")}
        result[f"mlvae, {name}"] = median["plain"]
        if name == "bound":
            result["authors / mlvae, bound"] = 1 / median["authors"]
    seconds = others()
    result["plain step, batches picked anew"] = seconds["fresh"] / seconds["plain"]
    result["plain step, images/s"] = 1 / seconds["plain"]
    return result


def ours_for(data: GroupedData) -> MLVAE:
    levels = [Level("content", CONTENT, by=data.by), Level("style", STYLE)]
    return MLVAE((28, 28), levels, encoder=encoder(), decoder=decoder())


def accumulation(rounds: int) -> dict[str, float]:
    def add_up(size: int, groups: int, dim: int, by_loop: bool) -> Callable[[], None]:
        mean, log_var = torch.randn(size, dim, requires_grad=True), torch.zeros(size, dim, requires_grad=True)
        ids = torch.arange(size) % groups

        def run() -> None:
            if by_loop:
                value = looped(mean, log_var, ids)[0].sum()
            else:
                votes = Evidence.votes(mean, torch.exp(-log_var))
                value = product_with_prior(votes.sum(Grouping(ids, groups))).mean.sum()
            torch.autograd.grad(value, (mean, log_var))

        return run

    result: dict[str, float] = {}
    for size, groups, dim in ((256, 10, 16), (4096, 10, 16), (4096, 1000, 16), (4096, 10, 64), (4096, 1000, 64)):
        variants = {"ours": add_up(size, groups, dim, False), "loop": add_up(size, groups, dim, True)}
        seconds = interleaved(variants, max(3, rounds // 5))
        result[f"loop / mlvae, {size} x {groups} x {dim}"] = seconds["loop"] / seconds["ours"]
        result[f"mlvae, {size} x {groups} x {dim}, ms"] = 1e3 * seconds["ours"]
    sizes = interleaved({str(groups): add_up(4096, groups, 16, False) for groups in (10, 4096)}, rounds)
    result["4,096 groups / 10 groups, 4096 x 16"] = sizes["4096"] / sizes["10"]
    return result


def use(rounds: int) -> dict[str, float]:
    model, other, x = ours().eval(), Peer(), torch.rand(1024, 28, 28)
    groups, codes = torch.arange(1024) % 100, torch.randn(1024, CONTENT + STYLE)
    batch = GroupBatch.of(x, {"content": groups})
    with torch.no_grad():
        seconds = interleaved(
            {
                "evidence": lambda: model.evidence(x, groups.numpy()),
                "forward": lambda: model.heads["content"](model.encoder(x)),
                "generate": lambda: model.generate(1024),
                "decoder": lambda: model.decoder(codes).sigmoid(),
                "elbo": lambda: elbo(model, batch),
                "plain bound": lambda: plain(other, x, groups),
            },
            rounds,
        )
    pairs = {"evidence": "forward", "generate": "decoder", "elbo": "plain bound"}
    return {f"{name} / {base}": seconds[name] / seconds[base] for name, base in pairs.items()}


TRAINS = """
import sys; sys.path.insert(0, {here!r})
import torch, mlvae.training, run
torch.set_num_threads(1)
x, groups = torch.rand(256, 28, 28), torch.arange(256) % 10
{variant}
for _ in range({steps}): step()
"""


def start(rounds: int) -> dict[str, float]:
    here = str(Path(__file__).parent)
    programs = {
        "python": "pass", "torch": "import torch", "torch, mlvae": "import torch, mlvae",
        "mlvae --help": "from mlvae.cli import main; main(['--help'])",
        "memory idle": TRAINS.format(here=here, variant="step = lambda: 0", steps=0),
        "memory plain": TRAINS.format(here=here, variant="step = run.peer('plain', x, groups)", steps=5),
        "memory mlvae": TRAINS.format(here=here, variant="step = run.mine(run.Objective(), x, groups)", steps=5),
    }  # fmt: skip
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    with tempfile.TemporaryDirectory() as compiled:  # as an installed package has them
        os.environ["PYTHONPYCACHEPREFIX"] = compiled
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        for turn in range(1 + max(1, rounds // 10)):
            for name, code in programs.items():
                if turn or not name.startswith("memory"):
                    taken[name].append(child(code))
    seconds = {name: statistics.median(value[0] for value in values[1:] or values) for name, values in taken.items()}
    memory = {name: statistics.median(value[1] for value in values) for name, values in taken.items()}
    idle, plain_mb, ours_mb = (memory[f"memory {name}"] for name in ("idle", "plain", "mlvae"))
    return {
        "import mlvae above torch, s": seconds["torch, mlvae"] - seconds["torch"],
        "import torch, s": seconds["torch"],
        "mlvae --help, s": seconds["mlvae --help"],
        "peak memory, plain, MB": plain_mb,
        "peak memory, mlvae / plain": ours_mb / plain_mb,
        "peak memory beyond imports, mlvae / plain": (ours_mb - idle) / (plain_mb - idle),
    }


def floor(rounds: int) -> dict[str, float]:
    model, x, groups = Peer(), torch.rand(256, 28, 28), torch.arange(256) % 10
    parameters = sum(p.numel() for p in model.parameters())
    matrix, memory = matrix_rate(rounds), memory_rate(max(3, rounds // 3))
    # Forward and two products backward, but for the gradient of the pixels; Adam reads 4 and writes 3 numbers each.
    least = 256 * (6 * parameters - 2 * 784 * 500) / matrix + 7 * 4 * parameters / memory
    variants = {"plain": peer("plain", x, groups), "mlvae, bound": mine(Objective.plain(), x, groups)}
    seconds = interleaved(variants, rounds)
    rates = {"matrix products, GFLOP/s": matrix / 1e9, "memory, GB/s": memory / 1e9, "floor, ms": 1e3 * least}
    return rates | {f"{name} / floor": value / least for name, value in seconds.items()}


PARTS = {"step": step, "loop": loop, "accumulation": accumulation, "use": use, "start": start, "floor": floor}
ASKED_FOR = {"compiled": compiling}


def plot(results: dict[str, dict[str, float]], path: Path) -> None:
    """The steps and loops over the plain VAE's step."""
    from matplotlib.figure import Figure

    bars = {f"{part}: {k}": v for part in ("step", "loop") for k, v in results.get(part, {}).items()
            if " / " not in k and not k.endswith(("ms", "/s"))}  # fmt: skip
    figure = Figure((7, 0.3 * len(bars) + 1), layout="constrained")
    axes = figure.subplots()
    axes.barh(
        list(bars)[::-1],
        list(bars.values())[::-1],
        color=["#4a7" if "mlvae" in k else "#999" for k in list(bars)[::-1]],
    )
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlabel("time over a plain VAE's step")
    figure.savefig(path)


def lost(now: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """The ratios of parts that ran which are worse than committed by more than 15 %, or gone.

    Of others' over ours less is worse. Rows that are new since are not compared.
    """
    found = []
    for part in (part for part in COUNTED if part in now):
        for name in (name for name in COUNTED[part] if name in before.get(part, {})):
            old, new = before[part][name], now[part].get(name)
            if new is None:
                found.append(f"{part}: {name} was {old:.3f}, is gone")
            elif (old / new if name.split(" / ")[-1].startswith("mlvae") else new / old) > LOST:
                found.append(f"{part}: {name} was {old:.3f}, is {new:.3f}")
    return found


def main() -> None:
    """Prints every ratio, and writes or compares them where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--check", type=Path, help="committed ratios; fails where one is worse by more than 15 %%")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    results = {}
    for part in options.only.split(","):
        results[part] = (PARTS | ASKED_FOR)[part](options.rounds)
        for name, value in results[part].items():
            print(f"{part:13} {name:48} {value:10.3f}", flush=True)
    about = {
        "torch": torch.__version__, "python": platform.python_version(), "processor": platform.machine(),
        "threads": options.threads, "rounds": options.rounds, "load": os.getloadavg()[0],
    }  # fmt: skip
    if options.out:
        options.out.write_text(json.dumps({"about": about, "results": results}, indent=2) + "\n")
    if options.plot:
        plot(results, options.plot)
    if options.check and (found := lost(results, json.loads(options.check.read_text())["results"])):
        raise SystemExit("Slower than what was committed:\n" + "\n".join(found))


if __name__ == "__main__":
    main()
