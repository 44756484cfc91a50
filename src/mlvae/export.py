"""A model for other runtimes: ONNX and `torch.export` programs, each checked against PyTorch before it is kept.

    encoder               x [, covariates] -> features, and the votes of each level that is given no other
    votes_LEVEL           features, codes of the levels it is given -> the votes of a level that is given others
    posterior_LEVEL       votes, the group of each, groups -> the posterior of each group
    decoder               codes of every level [, covariates] -> the likelihood's mean

Votes are precision and information, tempered. N observations and G groups are free in every graph.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mlvae import checkpoint
from mlvae.errors import CheckpointError, ExportError, MissingExtraError
from mlvae.evidence import READOUTS, Evidence
from mlvae.grouping import Grouping
from mlvae.levels import Level
from mlvae.model import MLVAE

TOLERANCE = 1e-4
"""How far an exported graph may be from PyTorch, of numbers of size one; of larger ones, relatively."""

SIZES = ((7, 3), (1, 1), (12, 5))
"""Observations and groups that every graph is checked with; none is what it was traced with."""

DESCRIPTION = "export.json"


@dataclass(frozen=True, eq=False)
class Graph:
    """One thing to export.

    Args:
        module: what it computes.
        inputs: by name, what the first axis counts: "N" or "G".
        outputs: names.
        example: inputs for N observations in G groups.
        oracle: what the graph's numbers must be; None takes the module's.
    """

    module: nn.Module
    inputs: Mapping[str, str]
    outputs: tuple[str, ...]
    example: Callable[[int, int], tuple[Tensor, ...]]
    oracle: Callable[..., tuple[Tensor, ...]] | None = None


def export(model: MLVAE, out: str | Path) -> dict[str, float]:
    """Writes every graph as ``NAME.onnx`` and ``NAME.pt2``, and ``export.json``, which describes them.

    Args:
        model: on any device.
        out: a folder that holds no export yet.

    Returns:
        For each graph the largest difference between PyTorch and onnxruntime, on sizes it was not traced with.

    Raises:
        ExportError: a graph cannot be traced, or differs by more than 1e-4, or a readout is one's own; nothing is kept.
        CheckpointError: the folder is not empty.
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
    """
    import copy
    import os
    import tempfile

    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"Expected an empty folder; {out} holds something. Name another with --out.")
    runtime = _runtime()
    model = copy.deepcopy(model).to("cpu", torch.float32).eval()
    out.parent.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory(dir=out.parent) as beside:
        torch.manual_seed(0)
        parts = graphs(model)
        gaps = {name: _export(name, graph, Path(beside), runtime) for name, graph in parts.items()}
        text = json.dumps(describe(model, parts, gaps), indent=2)
        (Path(beside) / DESCRIPTION).write_text(text, encoding="utf-8")
        out.mkdir(exist_ok=True)
        for file in sorted(Path(beside).iterdir(), key=lambda file: file.name == DESCRIPTION):
            os.replace(file, out / file.name)  # the description last: a folder with one is whole
    return gaps


def graphs(model: MLVAE) -> dict[str, Graph]:
    """What there is to export of a model on the CPU in float32."""
    first = [level for level in model.levels if not level.given]
    known = ("covariates",) if model.schema.covariates else ()

    def covariates(n: int) -> tuple[Tensor, ...]:
        return (torch.rand(n, model.schema.covariate_dim),) if known else ()

    def codes(n: int, names: tuple[str, ...]) -> tuple[Tensor, ...]:
        return tuple(torch.randn(n, model.level(name).dim) for name in names)

    def votes(level: Level) -> tuple[str, str]:
        return f"{level.name}_precision", f"{level.name}_information"

    names = tuple(level.name for level in model.levels)
    found = {
        "encoder": Graph(
            _Encoder(model, first),
            dict.fromkeys(("x", *known), "N"),
            ("features", *(name for level in first for name in votes(level))),
            lambda n, _: (_observations(model, n, codes(n, names), covariates(n)), *covariates(n)),
        ),
        "decoder": Graph(
            _Decoder(model),
            dict.fromkeys((*names, *known), "N"),
            ("mean",),
            lambda n, _: (*codes(n, names), *covariates(n)),
        ),
    }
    for level in model.levels:
        if level.given:
            found[f"votes_{level.name}"] = Graph(
                _Votes(model, level.name),
                dict.fromkeys(("features", *level.given), "N"),
                votes(level),
                lambda n, _, level=level: (  # type: ignore[misc]  # the default binds this turn's level
                    torch.randn(n, _seen(model, level)),
                    *codes(n, level.given),
                ),
            )
        found[f"posterior_{level.name}"] = Graph(
            _Posterior(level.readout),
            {"precision": "N", "information": "N", "group": "N", "groups": "G"},
            ("mean", "posterior_precision"),
            lambda n, g, level=level: (  # type: ignore[misc]
                torch.rand(n, level.dim) + 0.1, torch.randn(n, level.dim), torch.arange(n) % g, torch.arange(g),
            ),
            partial(_read, level.readout),
        )  # fmt: skip
    return found


def describe(model: MLVAE, parts: Mapping[str, Graph], gaps: Mapping[str, float]) -> dict[str, Any]:
    """What a program that runs the graphs must know, as JSON values."""
    from mlvae import __version__

    return {
        "version": __version__,
        "fingerprint": checkpoint.fingerprint(model),
        "shape": list(model.shape),
        "levels": [asdict(level) for level in model.levels],
        "likelihood": type(model.likelihood).__name__,
        "graphs": {
            name: {"inputs": dict(graph.inputs), "outputs": list(graph.outputs), "difference": gaps[name]}
            for name, graph in parts.items()
        },
        "preprocessing": {
            "uint8": "as they are" if model.likelihood.whole else "divide by 255",
            "gaps": model.likelihood.missing,
            "how": {
                "gaps": "NaN in x is a value that was not observed; an observation of NaN alone is no vote, and what"
                " votes_LEVEL says of it is to be left out."
                if model.likelihood.missing
                else "x has no NaN.",
                "features": "In this order x = (column - mean) / scale; a category is its place in `categories`; NaN"
                " where missing, in no vocabulary or among `unseen`. The decoder's mean is brought back by mean + scale"
                " x.",
                "covariates": "In this order: a number is (value - mean) / scale, 0 where missing; a category is"
                " one-hot over `categories`, all zeros where missing or among `unseen`.",
            },
            **model.schema.description(),
        },
    }


class _Encoder(nn.Module):
    def __init__(self, model: MLVAE, levels: list[Level]) -> None:
        super().__init__()
        self.model = model
        self.levels = levels

    def forward(self, x: Tensor, covariates: Tensor | None = None) -> tuple[Tensor, ...]:
        features = self.model.features(x, covariates)
        made = [features]
        heard = (~torch.isnan(x)).flatten(1).any(1, keepdim=True) if self.model.likelihood.missing else None
        for level in self.levels:
            votes = self.model.votes(level.name, features)
            parts = [votes.precision, votes.information]
            # As `heads.Heads`: what has no value is no vote.
            if heard is not None and level.by is not None and level.readout == "product_with_prior":
                parts = [part * heard for part in parts]
            made += parts
        return tuple(made)


class _Votes(nn.Module):
    def __init__(self, model: MLVAE, level: str) -> None:
        super().__init__()
        self.model = model
        self.level = level

    def forward(self, features: Tensor, *given: Tensor) -> tuple[Tensor, Tensor]:
        votes = self.model.votes(self.level, features, given)
        return votes.precision, votes.information


def _read(readout: str, precision: Tensor, information: Tensor, group: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    votes = Evidence(precision, information, torch.ones_like(group))
    posterior = READOUTS[readout](votes.sum(Grouping(group, len(groups))))
    return posterior.mean, posterior.precision


class _Posterior(nn.Module):
    KNOWN = "product_with_prior", "product", "average"

    def __init__(self, readout: str) -> None:
        super().__init__()
        if readout not in self.KNOWN:
            raise ExportError(
                f"Expected a readout whose formula graphs have ({', '.join(self.KNOWN)}); got {readout!r}. Add it to"
                " `_Posterior` in mlvae/export.py."
            )
        self.readout = readout

    def forward(self, precision: Tensor, information: Tensor, group: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
        zero = precision.new_zeros(groups.shape[0], precision.shape[1])
        total, eta = zero.index_add(0, group, precision), zero.index_add(0, group, information)
        if self.readout == "product_with_prior":
            return eta / (1 + total), 1 + total
        # The others' own functions refuse empty evidence, which a graph cannot: here it gives NaN.
        count = zero[:, :1].index_add(0, group, torch.ones_like(precision[:, :1]))
        return eta / total, total if self.readout == "product" else total / count


class _Decoder(nn.Module):
    def __init__(self, model: MLVAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, *parts: Tensor) -> Tensor:
        covariates = parts[-1] if self.model.schema.covariates else None
        codes = {level.name: part for level, part in zip(self.model.levels, parts, strict=False)}
        return self.model.likelihood.mean(self.model.decode(codes, covariates))


@torch.no_grad()
def _observations(model: MLVAE, n: int, codes: tuple[Tensor, ...], covariates: tuple[Tensor, ...]) -> Tensor:
    """Draws from the model itself, which lie in the likelihood's domain; some unobserved where it knows gaps."""
    named = {level.name: code for level, code in zip(model.levels, codes, strict=True)}
    x = model.likelihood.sample(model.decode(named, *covariates)).float()
    return torch.where(torch.rand_like(x) < 0.2, torch.nan, x) if model.likelihood.missing else x


@torch.no_grad()
def _export(name: str, graph: Graph, folder: Path, runtime: Any) -> float:
    """Writes a graph in both forms; the largest difference from PyTorch."""
    axes = {"N": torch.export.Dim("N", min=1, max=2**31), "G": torch.export.Dim("G", min=1, max=2**31)}
    variadic = name == "decoder" or name.startswith("votes_")
    shapes = [{0: axes[axis]} for axis in graph.inputs.values()]
    if name.startswith("votes_"):
        dynamic: Any = (shapes[0], tuple(shapes[1:]))
    else:
        dynamic = (tuple(shapes),) if variadic else tuple(shapes)
    example = graph.example(4, 2)
    quiet = logging.root.manager.disable
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.disable(logging.WARNING)  # of operators of torchvision, once a graph
            program = torch.export.export(graph.module, example, dynamic_shapes=dynamic)
            torch.export.save(program, folder / f"{name}.pt2")
            onnx = torch.onnx.export(
                program, (), dynamo=True, external_data=False, verbose=False,
                input_names=list(graph.inputs), output_names=list(graph.outputs),
            )  # fmt: skip
        assert onnx is not None
        onnx.save(str(folder / f"{name}.onnx"), external_data=False)
    except Exception as error:  # whatever tracing meets, its traceback says no more than this
        said = (str(error).strip() or repr(error)).splitlines()[0]
        raise ExportError(
            f"Expected {name} to be a graph; torch.export says: {said} Networks of one's own must not branch on values,"
            " nor fix the number of observations."
        ) from error
    finally:
        logging.disable(quiet)
    session = runtime.InferenceSession(str(folder / f"{name}.onnx"), providers=["CPUExecutionProvider"])
    again = torch.export.load(folder / f"{name}.pt2").module()
    worst = 0.0
    for n, g in SIZES:
        given = graph.example(n, g)
        expected = _as_tuple((graph.oracle or graph.module)(*given))
        made = session.run(list(graph.outputs), dict(zip(graph.inputs, (part.numpy() for part in given), strict=True)))
        for other in ([torch.from_numpy(part) for part in made], _as_tuple(again(*given))):
            for mine, theirs in zip(expected, other, strict=True):
                worst = max(worst, _difference(mine, theirs))
    if not worst <= TOLERANCE:
        raise ExportError(
            f"Expected {name} to give PyTorch's numbers to {TOLERANCE}; they differ by {worst:.2g}. Nothing was kept;"
            " please report it, with `mlvae info RUN`."
        )
    return worst


def _seen(model: MLVAE, level: Level) -> int:
    """How many features the level's head sees."""
    head = model.heads[level.name]
    assert isinstance(head, nn.Linear)
    return head.in_features - sum(model.level(name).dim for name in level.given)


def _difference(a: Tensor, b: Tensor) -> float:
    """The largest, of numbers above one relatively; what is no number in one alone is infinitely far from the other."""
    if a.shape != b.shape or not torch.equal(a.isfinite(), b.isfinite()):
        return torch.inf
    known = a.isfinite()
    return float(((a - b).abs() / a.abs().clamp_min(1))[known].max()) if known.any() else 0.0


def _as_tuple(value: Any) -> tuple[Tensor, ...]:
    return (value,) if isinstance(value, Tensor) else tuple(value)


def _runtime() -> Any:
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"Expected onnx, onnxscript and onnxruntime to export; {error}. pip install 'mlvae[export]'"
        ) from error
    return onnxruntime
