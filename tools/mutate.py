"""Changes the core a little, many times over, and looks whether its tests notice.

    python tools/mutate.py --count 200                     # a sample of all changes
    python tools/mutate.py --modules evidence --count 0    # every change of one module

A change is one comparison, operator, number, condition or result of a module turned into another. The module's tests
run in a forked child, in which the module is the changed one; a change that no test notices has survived, and is
printed.
Exit code 1 below 90 %.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HOUSE = Path(__file__).parents[1]

TESTS: dict[str, list[str]] = {
    "grouping": ["test_grouping", "laws/test_grouping_laws", "test_batch"],
    "normal": ["test_normal", "laws/test_extreme_laws", "test_evidence"],
    "evidence": ["test_evidence", "laws/test_evidence_laws", "laws/test_extreme_laws"],
    "objective": ["test_objective", "test_penalties", "laws/test_extreme_laws"],
    "likelihoods/bernoulli": ["test_likelihoods"],
    "likelihoods/base": ["test_likelihoods"],
    "likelihoods/categories": ["test_likelihoods"],
    "likelihoods/counts": ["test_likelihoods"],
    "likelihoods/location": ["test_likelihoods"],
    "likelihoods/mixed": ["test_likelihoods"],
}

SWAPS: dict[type, list[type]] = {
    ast.Add: [ast.Sub], ast.Sub: [ast.Add], ast.Mult: [ast.Div], ast.Div: [ast.Mult], ast.Pow: [ast.Mult],
    ast.Lt: [ast.LtE, ast.Gt], ast.LtE: [ast.Lt], ast.Gt: [ast.GtE, ast.Lt], ast.GtE: [ast.Gt], ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq], ast.And: [ast.Or], ast.Or: [ast.And], ast.In: [ast.NotIn], ast.NotIn: [ast.In],
    ast.Is: [ast.IsNot], ast.IsNot: [ast.Is],
}  # fmt: skip


def changes(tree: ast.Module) -> Iterator[tuple[str, ast.Module]]:
    """Every changed module, with words for the change. Texts, annotations and messages of errors stay."""
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Raise, ast.Import, ast.ImportFrom)):
            skipped |= {id(inner) for inner in ast.walk(node)}
        if isinstance(node, (ast.FunctionDef, ast.arg, ast.AnnAssign)):
            for hint in (getattr(node, "annotation", None), getattr(node, "returns", None)):
                skipped |= {id(inner) for inner in ast.walk(hint)} if hint else set()
    places = [node for node in ast.walk(tree) if id(node) not in skipped]
    for node in places:
        for change in _of(node):
            twin = copy.deepcopy(tree)
            index = [id(inner) for inner in ast.walk(tree)].index(id(node))
            target = list(ast.walk(twin))[index]
            before = ast.unparse(node)
            change(target)
            line = getattr(node, "lineno", 0)
            yield f"line {line}: {before[:70]}  ->  {ast.unparse(target)[:70]}", ast.fix_missing_locations(twin)


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


def run(module: str, tree: ast.Module, seconds: float) -> bool:
    """Whether the module's tests notice, in a forked child in which it is the changed one."""
    child = os.fork()
    if not child:
        code = 1
        try:
            signal.alarm(int(seconds))
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            code = _tested(module, tree)
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return status != 0


def _tested(module: str, tree: ast.Module) -> int:
    import importlib.abc
    import importlib.machinery
    import importlib.util

    import pytest

    name = "mlvae." + module.replace("/", ".")
    path = str(HOUSE / "src" / "mlvae" / f"{module}.py")

    class Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
        def find_spec(self, asked: str, *_: object) -> importlib.machinery.ModuleSpec | None:
            return importlib.util.spec_from_file_location(asked, path, loader=self) if asked == name else None

        def create_module(self, spec: object) -> None:
            return None

        def exec_module(self, made: object) -> None:
            exec(compile(tree, path, "exec"), made.__dict__)

    sys.meta_path.insert(0, Changed())
    tests = [str(HOUSE / "tests" / f"{test}.py") for test in TESTS[module]]
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header", "-W", "ignore"]
    return int(pytest.main([*options, *tests]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modules", default=",".join(TESTS))
    parser.add_argument("--count", type=int, default=200, help="changes drawn at random; 0 takes all")
    parser.add_argument("--seconds", type=float, default=120.0, help="for one change's tests")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    # What is not changed is loaded once.
    import hypothesis
    import pytest
    import scipy.stats
    import torch

    assert hypothesis and pytest and scipy.stats
    torch.set_num_threads(1)
    os.chdir(HOUSE)
    os.environ["HYPOTHESIS_DERANDOMIZE"] = "1"
    every = []
    for module in asked.modules.split(","):
        tree = ast.parse((HOUSE / "src" / "mlvae" / f"{module}.py").read_text())
        if run(module, tree, asked.seconds):
            sys.exit(f"{module}: its tests fail, or take longer than {asked.seconds:g} s, without a change")
        every += [(module, words, changed) for words, changed in changes(tree)]
    chosen = every if not asked.count else random.Random(asked.seed).sample(every, min(asked.count, len(every)))
    survived, started = [], time.monotonic()
    for module, words, tree in chosen:
        if not run(module, tree, asked.seconds):
            survived.append(f"{module}, {words}")
            print(f"  survived: {survived[-1]}", flush=True)
    killed = len(chosen) - len(survived)
    took = time.monotonic() - started
    print(f"{killed} of {len(chosen)} changes noticed ({killed / len(chosen):.1%}) of {len(every)}; {took:.0f} s")
    sys.exit(killed < 0.9 * len(chosen))


if __name__ == "__main__":
    main()
