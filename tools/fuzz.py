"""Feeds damaged files to every loader: an error of ours, or what the file says; nothing else.

    python tools/fuzz.py --count 10000                     # every kind of file
    python tools/fuzz.py --kinds npz,images --count 500
    python tools/fuzz.py --kinds mixed --count 300         # all kinds in one process: quick

Inputs are mutated in a child process with a limit on its memory; the parent ends it where one input takes too long, and
says which inputs failed: a crash, a hang, another error than ours, memory, or files left behind. Input i of a kind is a
function of the seed and i, so a failure is made again with --first i --count 1. Exit code 1 where anything failed.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import resource
import select
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

Load = Callable[[Path], Any]
KINDS = ("checkpoint", "training", "evidence", "npz", "npy", "images", "uploads", "config", "parquet", "csv")

MIXED = "mixed"
"""All of them in one process."""

MEMORY = 2 * 2**30
"""Bytes of address space beyond what the child has once everything is imported."""

GROWTH = 512 * 2**20
"""Bytes that the resident memory may grow by for one of these small files."""

VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    7,
    2**31,
    2**63,
    10**30,
    1e308,
    -0.5,
    float("nan"),
    "",
    "x" * 3000,
    "product",
]
VALUES += [[], {}, [1, 2], {"a": 1}, [[[[[[[[1]]]]]]]]]


def mutated(seed: bytes, dice: random.Random) -> bytes:
    """The bytes with a few things wrong."""
    data = bytearray(seed)
    for _ in range(dice.choice([1, 1, 1, 2, 4, 16])):
        kind = dice.randrange(8)
        at = dice.randrange(len(data)) if data else 0
        # Heads and tails hold the lengths and the offsets.
        at = dice.choice([at, at, min(at, 200), max(0, len(data) - 1 - min(at, 200))]) if data else 0
        run = dice.choice([1, 2, 4, 8, 64])
        if kind == 0 and data:
            data[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            data[at : at + run] = dice.randbytes(run)
        elif kind == 2:
            data[at : at + run] = dice.choice([b"\0", b"\xff", b"\x7f", b"[", b"-", b"9"]) * run
        elif kind == 3:
            del data[at : at + run * dice.choice([1, 16])]
        elif kind == 4:
            data[at:at] = dice.randbytes(run)
        elif kind == 5:
            data = data[: dice.randrange(len(data) + 1)]
        elif kind == 6:
            start = dice.randrange(len(data) + 1)
            data[at:at] = data[start : start + run * 8]
        else:
            number = dice.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**64 - 1])
            data[at : at + 8] = struct.pack("<Q", number)
    return bytes(data)


def mutated_value(value: Any, dice: random.Random) -> Any:
    """A JSON value with one part replaced, removed, or repeated."""
    if isinstance(value, (dict, list)) and value and dice.random() < 0.8:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key, copy = dice.choice(keys), (dict(value) if isinstance(value, dict) else list(value))
        if dice.random() < 0.15:
            del copy[key]
        elif dice.random() < 0.05 and isinstance(copy, list):
            copy.extend(copy * 50)
        else:
            copy[key] = mutated_value(value[key], dice)
        return copy
    if isinstance(value, str) and dice.random() < 0.3:
        return value + dice.choice(["x", "\0", "../../etc/passwd", "é" * 10])
    return dice.choice(VALUES)


def with_description(data: bytes, dice: random.Random) -> bytes:
    """A safetensors file whose JSON says something else; the hash is left out, as a forger would leave it."""
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    if dice.random() < 0.8:
        about = json.loads(header["__metadata__"]["mlvae"])
        about.pop("sha256", None)
        for _ in range(dice.choice([1, 1, 2, 3])):
            about = mutated_value(about, dice)
        header["__metadata__"]["mlvae"] = json.dumps(about)
    else:
        header = mutated_value(header, dice)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def with_header(data: bytes, dice: random.Random) -> bytes:
    """An archive of arrays, one of which says something else of its shape and type."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as out:
        chosen = dice.choice(source.namelist())
        for name in source.namelist():
            content = source.read(name)
            if name == chosen:
                size = struct.unpack("<H", content[8:10])[0]
                shape = dice.choice(["(99999999999,)", "(-1, 5)", "()", "(2**60, 2)", "(0, 4)", "(3, 3)", "(" * 900])
                kind = dice.choice(["<f8", "<f4", "|O", "<U9999999", "|V99999999", "<M8[s]", "|b1", "<c16", "junk"])
                text = f"{{'descr': '{kind}', 'fortran_order': {dice.choice([True, False])}, 'shape': {shape}, }}\n"
                body = content[10 + size :] if dice.random() < 0.8 else dice.randbytes(50)
                content = content[:8] + struct.pack("<H", len(text)) + text.encode() + body
            out.writestr(name if dice.random() < 0.95 else "../../" + name, content)
    return target.getvalue()


def with_footer(data: bytes, dice: random.Random) -> bytes:
    """A Parquet file of evidence whose footer or rows say something else."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(data))
    about = json.loads(table.schema.metadata[b"mlvae"])
    if dice.random() < 0.6:
        text = json.dumps(mutated_value(about, dice))
        text = "[" * 10**5 if dice.random() < 0.02 else text
        table = table.replace_schema_metadata({"mlvae": text})
    else:
        name = dice.choice(table.column_names)
        values = table.column(name).to_pylist()
        values[dice.randrange(len(values))] = dice.choice([None, values[0]])
        if name in ("precision", "information"):
            odd = dice.choice([float("nan"), float("inf"), -1.0, 1e308, None])
            values[dice.randrange(len(values))] = dice.choice([[odd] * 3, [odd] * 2, [], None])
        elif name == "count":
            values[0] = dice.choice([-5, 0, 2**62, None])
        elif name == "group":
            values = [values[0]] * len(values)
        place = table.column_names.index(name)
        column = pa.array(values, table.schema.field(name).type)
        table = table.set_column(place, name, column).replace_schema_metadata({"mlvae": json.dumps(about)})
    target = io.BytesIO()
    pq.write_table(table, target)
    return target.getvalue()


def kinds(folder: Path) -> dict[str, tuple[list[bytes], str, Load, Callable[[bytes, random.Random], bytes]]]:
    """For each kind of file: good ones, what they are called, what loads them, and what is wrong with some."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch
    from PIL import Image

    import mlvae
    from mlvae import checkpoint
    from mlvae.commands.common import config_of
    from mlvae.data.sources.images import decode
    from mlvae.depict import Depiction
    from mlvae.explore.uploads import picture as uploaded
    from mlvae.likelihoods import Mixed
    from mlvae.model import MLVAE, Level
    from mlvae.runs import options_of
    from mlvae.store import files
    from mlvae.training import fit

    torch.manual_seed(0)
    random_ = np.random.default_rng(0)
    levels = [Level("content", 3, by="g"), Level("style", 2)]
    data = mlvae.GroupedData.from_arrays(random_.random((24, 5), np.float32), np.repeat(list("abcdef"), 4))
    model = MLVAE((5,), levels, width=4, likelihood="normal").eval()
    fit(MLVAE.for_data(data, content_dim=2, style_dim=2, width=4), data, folder / "run", epochs=1, progress=False)
    models = [
        model,
        MLVAE((16, 16), levels, width=8),
        MLVAE((3,), levels, width=4, likelihood=Mixed(["normal", 3, "poisson"])),
    ]
    checkpoints = [checkpoint.save(one, folder / f"{i}.safetensors").read_bytes() for i, one in enumerate(models)]

    def resumed(path: Path) -> None:
        (path.parent / "run").mkdir(exist_ok=True)
        target = path.parent / "run" / checkpoint.TRAINING_FILE
        target.write_bytes(path.read_bytes())
        try:
            options_of(target.parent)
            fresh = MLVAE.for_data(data, content_dim=2, style_dim=2, width=4)
            fit(fresh, data, target.parent, epochs=1, resume=True, progress=False)
        finally:
            for file in target.parent.iterdir():
                file.unlink()
            target.parent.rmdir()

    evidence = files.write(model.evidence(data.x, data.groups), model, folder / "e.parquet").read_bytes()
    strange = mlvae.GroupedData.from_arrays(random_.random((9, 5), np.float32), np.arange(9) // 3)
    numbers = files.write(model.evidence(strange.x, strange.groups), model, folder / "n.parquet").read_bytes()

    def evidence_read(path: Path) -> None:
        whole = files.read(path)
        for level in whole.levels:
            whole.posterior(level)
        files.posterior(path, path.with_name("out.parquet"))
        path.with_name("out.parquet").unlink()

    arrays = io.BytesIO()
    np.savez(arrays, x=data.x.numpy(), group=data.groups)
    packed = io.BytesIO()
    np.savez_compressed(packed, x=np.zeros((30, 4, 4), np.uint8), group=np.arange(30) // 5, note=np.array("a note"))
    single = io.BytesIO()
    np.save(single, data.x.numpy())

    pictures = []
    for kind, mode in (("PNG", "RGB"), ("JPEG", "RGB"), ("PNG", "L"), ("PNG", "P"), ("WEBP", "RGB"), ("BMP", "RGB")):
        file = io.BytesIO()
        Image.fromarray(random_.integers(0, 255, (20, 24, 3), np.uint8)).convert(mode).save(file, kind)
        pictures.append(file.getvalue())

    def picture(path: Path) -> None:
        decode(path.name, path.open("rb"), (16, 16), "RGB", convert=True)

    def upload(path: Path) -> None:
        uploaded(path.read_bytes(), (16, 16), shown)

    shown = Depiction.of(models[1], mlvae.GroupedData.from_arrays(torch.rand(4, 16, 16), list("aabb")))

    table = pa.table(
        {"group": list("aabbccdd") * 5, "age": random_.random(40), "n": np.arange(40), "w": list("xy") * 20}
    )
    parquet, zipped = io.BytesIO(), io.BytesIO()
    pq.write_table(table, parquet)
    pq.write_table(table.append_column("v", pa.array([[1.0, 2.0]] * 40)), zipped, compression="zstd")
    text = "group,age,word\n" + "\n".join(f"g{i // 4},{i / 3},{'ab'[i % 2]}" for i in range(40))
    config = (
        "data: faces.npz\nout: runs/faces\nby: person\nepochs: 20\nmembers:\n- 2\n- 8\nlr: 0.002\nresume: false\n"
        "network: null\nlevel:\n- content:16:person\n- style:8\n"
    )

    def options(path: Path) -> None:
        from mlvae.commands.show import _line

        _line("train", dict(config_of(str(path.parent))), "data")

    def read(path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mlvae.read(path, "group", cache=path.parent / "cache")

    return {
        "checkpoint": (checkpoints, "model.safetensors", mlvae.load, with_description),
        "training": ([(folder / "run" / checkpoint.TRAINING_FILE).read_bytes()], "state", resumed, with_description),
        "evidence": ([evidence, numbers], "e.parquet", evidence_read, with_footer),
        "npz": ([arrays.getvalue(), packed.getvalue()], "x.npz", read, with_header),
        "npy": ([single.getvalue()], "x.npy", lambda path: mlvae.data.read(path, groups=data.groups), mutated),
        "images": (pictures, "x.png", picture, mutated),
        "uploads": (pictures[:4], "x.png", upload, mutated),
        "config": ([config.encode()], "config.yaml", options, with_words),
        "parquet": ([parquet.getvalue(), zipped.getvalue()], "t.parquet", read, mutated),
        "csv": ([text.encode(), text.replace(",", ";").encode()], "t.csv", read, with_words),
    }


def with_words(data: bytes, dice: random.Random) -> bytes:
    """A text with words of its format where they do not belong."""
    words = [
        b"&a [*a, *a]",
        b"*a",
        b"&a",
        b"!!python/object/apply:os.system ['true']",
        b": ",
        b"- ",
        b"\t",
        b'"',
        b"'",
        b"{",
    ]
    words += [
        b"[" * 2000,
        b",",
        b"\n",
        b"\r\n",
        b";" * 500,
        b"\0",
        b"\xff\xfe",
        b"9" * 400,
        b"nan",
        b"1e999",
        b"|",
        b">",
    ]
    for _ in range(dice.choice([1, 2, 5])):
        at = dice.randrange(len(data) + 1)
        data = data[:at] + dice.choice(words) + data[at + dice.choice([0, 0, 3]) :]
    return data


def work(kind: str, first: int, count: int, seed: int) -> None:
    """The child: prints the number of each input before it is loaded, and what was wrong after."""
    from mlvae.errors import MLVAEError

    with tempfile.TemporaryDirectory() as made:
        known = kinds(Path(made))
    chosen = list(known.values()) if kind == MIXED else [known[kind]]
    folder = Path(tempfile.mkdtemp(dir=os.environ["FUZZ_FOLDER"]))
    for seeds, name, load, _ in chosen:
        for good in seeds:
            (folder / name).write_bytes(good)
            load(folder / name)  # what is good is read
            (folder / name).unlink()
    here = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (here + MEMORY, here + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print("ready", flush=True)
    refused = 0
    for i in range(first, first + count):
        seeds, name, load, special = chosen[i % len(chosen)]
        dice = random.Random(f"{kind} {seed} {i}")
        data = dice.choice(seeds)
        data = (special if dice.random() < 0.5 else mutated)(data, dice)
        (folder / name).write_bytes(data)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(i, flush=True)
        wrong = None
        try:
            load(folder / name)
        except MLVAEError:
            refused += 1
        except BaseException as error:
            wrong = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            import traceback

            wrong += f" at {traceback.extract_tb(error.__traceback__)[-1]}"
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - peak
        if wrong is None and grown > GROWTH:
            wrong = f"memory grew by {grown / 2**20:.0f} MiB"
        (folder / name).unlink()
        left = [file.name for file in folder.iterdir() if file.name != "cache"]
        if left:
            wrong = f"left behind {left}" + (f" after {wrong}" if wrong else "")
            for file in left:
                (folder / file).unlink()
        if wrong:
            print(json.dumps({"input": i, "wrong": wrong}), flush=True)
    print(f"done {refused}", flush=True)


def watch(kind: str, first: int, count: int, seed: int, seconds: float) -> tuple[int, list[str]]:
    """Runs children over a range of inputs; how many inputs were refused, and what went wrong."""
    failures, refused, end = [], 0, first + count
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "FUZZ_FOLDER": folder, "OMP_NUM_THREADS": "1"}
        while first < end:
            command = [sys.executable, __file__, "--work", kind, "--first", str(first), "--count", str(end - first)]
            child = subprocess.Popen(
                [*command, "--seed", str(seed)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
            )
            assert child.stdout is not None and child.stderr is not None
            current, started, finished, rest = first, False, False, b""
            os.set_blocking(child.stderr.fileno(), False)
            noise = b""
            limit, before = time.monotonic() + 120, 0.0  # imports
            while True:
                ready, _, _ = select.select([child.stdout], [], [], max(1.0, limit - time.monotonic()))
                noise = (noise + (child.stderr.read() or b""))[-2000:]
                if not ready and _worked(child.pid) - before < seconds and time.monotonic() < limit + 10 * seconds:
                    continue  # others have the processor
                if not ready:
                    child.kill()
                    failures.append(f"{kind} {current}: no answer within {seconds:g} s")
                    break
                chunk = os.read(child.stdout.fileno(), 65536)
                if not chunk:
                    break
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line.isdigit():
                        current, started = int(line), True
                    elif line.startswith(b"done"):
                        refused, finished = refused + int(line.split()[1]), True
                    elif line.startswith(b"{"):
                        found = json.loads(line)
                        failures.append(f"{kind} {found['input']}: {found['wrong']}")
                if finished:  # what it takes to end is no input's fault
                    child.kill()
                    break
                limit, before = time.monotonic() + (seconds if started else 120), _worked(child.pid)
            code = child.wait()
            if finished:
                break
            if code != -9:
                said = noise.decode(errors="replace").strip().splitlines()[-1:]
                failures.append(f"{kind} {current}: the process ended with {code} {said}")
            if not started:
                break
            first = current + 1
    return refused, failures


def _worked(process: int) -> float:
    """Seconds of processor time that a process has had."""
    user, system = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=20.0, help="of processor time, for one input")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work:
        work(asked.work, asked.first, asked.count, asked.seed)
        return
    if unknown := sorted({*asked.kinds.split(",")} - {*KINDS, MIXED}):
        parser.error(f"no kind {unknown[0]!r}; there are {', '.join([*KINDS, MIXED])}")
    failed = 0
    for kind in asked.kinds.split(","):
        started = time.monotonic()
        refused, failures = watch(kind, asked.first, asked.count, asked.seed, asked.seconds)
        took = time.monotonic() - started
        print(f"{kind}: {asked.count} inputs, {refused} refused, {len(failures)} failed, {took:.0f} s", flush=True)
        for failure in failures[:20]:
            print("  " + failure, flush=True)
        failed += len(failures)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
