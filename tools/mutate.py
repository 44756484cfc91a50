"""Changes the core a little, many times over, and looks whether its tests notice.

    python tools/mutate.py --done changes.json                     # a sample: 50 changes of each module
    python tools/mutate.py --modules evidence --count 0            # every change of one module
    python tools/mutate.py --done changes.json --again             # what survived, after tests were added

A change is one comparison, operator, number, condition or result of a module turned into another. The tests of all
modules are collected once; for each change a forked child puts the changed code into the functions as they are, and
runs the module's tests, the quickest first, until one fails. A change that no test notices has survived, and is
printed. What was found is kept in the file `--done`, so that a run that was cut goes on where it was.
Exit code 1 below 90 %.
"""

from __future__ import annotations

import argparse
import ast
import copy
import functools
import hashlib
import importlib
import json
import os
import random
import resource
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HOUSE = Path(__file__).parents[1]

MODULES: dict[str, tuple[list[str], list[str]]] = {
    "grouping": (["grouping"], ["test_grouping", "test_batch", "laws/test_grouping_laws"]),
    "normal": (["normal"], ["test_normal", "test_notebook", "test_evidence", "laws/test_extreme_laws"]),
    "evidence": (["evidence"], ["test_evidence", "laws/test_evidence_laws", "laws/test_extreme_laws"]),
    "objective": (["objective"], ["test_objective", "test_penalties", "laws/test_extreme_laws"]),
    "penalties": (
        [f"penalties/{name}" for name in ("asking", "independence", "leaking", "identification")],
        ["test_penalties", "test_objective", "test_mathematics"],
    ),
    "likelihoods": (
        [f"likelihoods/{name}" for name in ("base", "bernoulli", "categories", "counts", "location", "mixed")],
        ["test_likelihoods", "test_covariates", "laws/test_extreme_laws"],
    ),
}
"""For each: its files, and those of its tests."""

SWAPS: dict[type, list[type]] = {
    ast.Add: [ast.Sub], ast.Sub: [ast.Add], ast.Mult: [ast.Div], ast.Div: [ast.Mult], ast.Pow: [ast.Mult],
    ast.Lt: [ast.LtE, ast.Gt], ast.LtE: [ast.Lt], ast.Gt: [ast.GtE, ast.Lt], ast.GtE: [ast.Gt], ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq], ast.And: [ast.Or], ast.Or: [ast.And], ast.In: [ast.NotIn], ast.NotIn: [ast.In],
    ast.Is: [ast.IsNot], ast.IsNot: [ast.Is],
}  # fmt: skip


def changes(source: str) -> Iterator[tuple[str, Callable[[], ast.Module]]]:
    """Every change, in words, and what makes the module with it.

    Texts, annotations, decorators, the defaults of fields, and messages of errors stay.
    """
    tree = ast.parse(source)
    skipped: set[int] = set()
    for node in ast.walk(tree):
        parts = [
            *getattr(node, "decorator_list", []),
            getattr(node, "annotation", None),
            getattr(node, "returns", None),
        ]
        if isinstance(node, ast.ClassDef):
            parts += [field for field in node.body if isinstance(field, ast.AnnAssign)]
        if isinstance(node, (ast.Raise, ast.Import, ast.ImportFrom)):
            parts.append(node)
        skipped |= {id(inner) for part in parts if part for inner in ast.walk(part)}
    for index, node in enumerate(ast.walk(tree)):
        for number, change in enumerate(_of(node) if id(node) not in skipped else ()):
            twin = copy.deepcopy(node)
            change(twin)
            before, after = ast.unparse(node).splitlines()[0], ast.unparse(twin).splitlines()[0]

            def made(index: int = index, change: Callable[[Any], None] = change) -> ast.Module:
                changed = ast.parse(source)
                change([*ast.walk(changed)][index])
                return ast.fix_missing_locations(changed)

            yield f"line {getattr(node, 'lineno', 0)}: {before[:70]}  ->  {after[:70]} ({index}.{number})", made


def _of(node: ast.AST) -> Iterator[Callable[[Any], None]]:
    if isinstance(node, (ast.BinOp, ast.AugAssign, ast.BoolOp)):
        for other in SWAPS.get(type(node.op), []):
            yield lambda target, other=other: setattr(target, "op", other())
    if isinstance(node, ast.Compare):
        for other in SWAPS.get(type(node.ops[0]), []):
            yield lambda target, other=other: setattr(target, "ops", [other(), *target.ops[1:]])
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        value = not node.value if isinstance(node.value, bool) else node.value + 1
        yield lambda target: setattr(target, "value", value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield lambda target: setattr(target, "op", ast.UAdd())
    if isinstance(node, ast.IfExp):
        yield lambda target: setattr(target, "test", ast.UnaryOp(ast.Not(), target.test))
    if isinstance(node, ast.If):
        yield lambda target: setattr(target, "test", ast.UnaryOp(ast.Not(), target.test))
    if isinstance(node, ast.Return) and node.value is not None:
        yield lambda target: setattr(target, "value", ast.Constant(None))


def install(name: str, tree: ast.Module) -> None:
    """Puts a changed module's code and constants into the module as it is, wherever it is used already."""
    live = importlib.import_module(name)
    fresh = types.ModuleType(name)
    exec(compile(tree, str(live.__file__), "exec"), fresh.__dict__)
    _graft(vars(live), vars(fresh), name)


def _graft(live: Any, fresh: Any, name: str) -> None:
    for key, new in list(fresh.items()):
        old, new = _plain(live.get(key)), _plain(new)
        if isinstance(old, types.FunctionType) and isinstance(new, types.FunctionType):
            # What a dataclass generates holds the defaults of its fields, objects of the changed classes.
            written = old.__module__ == name and old.__code__.co_filename == new.__code__.co_filename != "<string>"
            if written and len(old.__code__.co_freevars) == len(new.__code__.co_freevars):
                old.__code__ = new.__code__
                old.__defaults__ = _defaults(old.__defaults__, new.__defaults__)
                kept, told = old.__kwdefaults__ or {}, new.__kwdefaults__ or {}
                old.__kwdefaults__ = dict(
                    zip(told, _defaults(tuple(kept.values()), tuple(told.values())) or (), strict=True)
                )
        elif isinstance(old, type) and isinstance(new, type) and old.__module__ == name:
            _graft(vars(old), vars(new), name)
            for attribute, value in vars(new).items():
                was = vars(old).get(attribute)
                if (
                    isinstance(value, types.FunctionType)
                    and isinstance(was, types.FunctionType)
                    and (was.__code__.co_freevars and not value.__code__.co_freevars)
                ):  # `super()` is gone from it, so that its code does not fit
                    setattr(
                        old, attribute, types.FunctionType(value.__code__, was.__globals__, attribute, was.__defaults__)
                    )
                if isinstance(value, (bool, int, float, tuple)) and vars(old).get(attribute) != value:
                    setattr(old, attribute, value)
        elif isinstance(live, dict) and isinstance(new, (bool, int, float)) and not key.startswith("__") and new != old:
            for module in [other for of, other in sys.modules.items() if of.startswith("mlvae")]:
                if vars(module).get(key) == old:
                    setattr(module, key, new)


def _defaults(old: tuple[Any, ...] | None, new: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    """New numbers and flags; objects stay those that there are."""
    simple = (bool, int, float, str, type(None))
    return new and tuple(b if isinstance(b, simple) else a for a, b in zip(old or (), new, strict=True))


def _plain(value: Any) -> Any:
    """The function in a method, property or decorator."""
    while True:
        found = [getattr(value, name, None) for name in ("__func__", "fget", "__wrapped__")]
        found += [value.func] if isinstance(value, functools.cached_property) else []
        if not (inner := next(filter(None, found), None)) or isinstance(value, type):
            break
        value = inner
    return value


class Changes:
    """A pytest plugin: instead of running the tests once, runs them for each change."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked, self.path = asked, Path(asked.done) if asked.done else None
        self.known: dict[str, Any] = {}
        if self.path and self.path.exists():
            self.known = json.loads(self.path.read_text())

    def keep(self, key: str, value: Any) -> None:
        self.known[key] = value
        if self.path:
            part = self.path.with_name(self.path.name + ".part")
            part.write_text(json.dumps(self.known, indent=0))
            part.replace(self.path)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        killed = total = every = 0
        for module in self.asked.modules.split(","):
            files, tests = MODULES[module]
            paths = {HOUSE / "tests" / f"{test}.py" for test in tests}
            paths |= {HOUSE / "src" / "mlvae" / f"{file}.py" for file in files}  # their doctests
            items = [item for item in session.items if item.path in paths]
            items = self.ordered(module, items, files)
            found = []
            for file in files:
                source = (HOUSE / "src" / "mlvae" / f"{file}.py").read_text()
                mark = hashlib.sha256(source.encode()).hexdigest()[:8]
                found += [(f"{file} {mark}, {words}", file, made) for words, made in changes(source)]
            every += len(found)
            chosen = random.Random(f"{self.asked.seed} {module}").sample(found, len(found))
            chosen = chosen[: self.asked.count or None]
            for key, file, made in chosen:
                if key not in self.known or (self.asked.again and not self.known[key]):
                    self.keep(key, noticed(items, f"mlvae.{file.replace('/', '.')}", made, self.asked.seconds))
                if not self.known[key]:
                    print(f"  survived: {key}", flush=True)
            mine = sum(self.known[key] for key, _, _ in chosen)
            print(f"{module}: {mine} of {len(chosen)} changes noticed, of {len(found)}", flush=True)
            killed, total = killed + mine, total + len(chosen)
        print(f"{killed} of {total} changes noticed ({killed / total:.1%}), of {every}", flush=True)
        session.exitstatus = int(killed < 0.9 * total)
        os._exit(session.exitstatus)

    def ordered(self, module: str, items: list[pytest.Item], files: list[str]) -> list[pytest.Item]:
        """The tests by how long they take where the same code was put in; all of them must pass then."""
        if self.known.get(f"seconds {module}", {}).keys() != {item.nodeid for item in items}:
            reading, writing = os.pipe()
            if not os.fork():
                quiet()
                for file in files:
                    install(
                        f"mlvae.{file.replace('/', '.')}", ast.parse((HOUSE / "src/mlvae" / f"{file}.py").read_text())
                    )
                seconds = {}
                for item in items:
                    started = time.process_time()
                    if failed([item]):
                        seconds = {"failed": item.nodeid}
                        break
                    seconds[item.nodeid] = round(time.process_time() - started, 3)
                os.write(writing, json.dumps(seconds).encode())
                os._exit(0)
            os.close(writing)
            said = b""
            while part := os.read(reading, 65536):
                said += part
            os.wait()
            os.close(reading)
            seconds = json.loads(said)
            if "failed" in seconds:
                sys.exit(f"{seconds['failed']} fails without a change")
            self.keep(f"seconds {module}", seconds)
        known = self.known[f"seconds {module}"]
        quick = [item for item in items if known[item.nodeid] <= self.asked.slowest]
        return sorted(quick, key=lambda item: known[item.nodeid])


def failed(items: list[pytest.Item]) -> bool:
    """Runs tests until one fails."""
    for item in items:
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
        if item.session.testsfailed:
            return True
    return False


def noticed(items: list[pytest.Item], name: str, made: Callable[[], ast.Module], seconds: int) -> bool:
    """Whether a module's tests notice a change: one fails, or they need more processor time than is given."""
    child = os.fork()
    if not child:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            quiet()
            install(name, made())
            code = int(failed(items))
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] != 0


def quiet() -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modules", default=",".join(MODULES))
    parser.add_argument("--count", type=int, default=50, help="changes of each module, drawn at random; 0 takes all")
    parser.add_argument("--seconds", type=int, default=60, help="of processor time for one change's tests")
    parser.add_argument("--slowest", type=float, default=0.5, help="tests that need more processor time are left out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--done", help="a JSON file of what was found, made or gone on with")
    parser.add_argument("--again", action="store_true", help="what survived is tried once more")
    asked = parser.parse_args()
    import hypothesis
    import torch

    torch.set_num_threads(1)
    os.chdir(HOUSE)
    # The same examples each time; none are kept, and what fails need not be made small.
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile("mutate", database=None, derandomize=True, deadline=None, phases=phases)
    hypothesis.settings.load_profile("mutate")
    files, tests = zip(*(MODULES[module] for module in asked.modules.split(",")), strict=True)
    paths = {f"src/mlvae/{file}.py" for some in files for file in some}
    paths |= {f"tests/{test}.py" for some in tests for test in some}
    options = ["-q", "-s", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header", "--tb=no", "-W", "ignore"]
    sys.exit(pytest.main([*options, *sorted(paths)], plugins=[Changes(asked)]))


if __name__ == "__main__":
    main()
