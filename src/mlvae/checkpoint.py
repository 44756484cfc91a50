"""Saved models: safetensors with a JSON description in the header. Files are data; nothing in them runs.

Every file is written beside its place, flushed to the disk and renamed, so a kill at any instant leaves the old or the
new one; it carries a hash of all that is in it, so a disk that lost a bit is noticed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mlvae import atomic
from mlvae.errors import CheckpointError
from mlvae.levels import Level
from mlvae.likelihoods import LIKELIHOODS, Likelihood
from mlvae.model import MLVAE, OWN
from mlvae.networks import Network
from mlvae.schema import Schema
from mlvae.untrusted import plain_json, reading

SCHEMA = 1
"""Raised when a file of before can no longer be read as it is."""

MODEL_FILE = "model.safetensors"
TRAINING_FILE = "training.safetensors"

SPARE = 2**25
"""Numbers that making a saved model may take beyond its weights: an observation is at most half of it."""

ADVICE = "The file is damaged. Use an earlier copy."


def save(model: MLVAE, path: str | Path) -> Path:
    """Writes weights and description of a model into one file.

    Args:
        model: on any device.
        path: the file, or a folder, in which it is called ``model.safetensors``.

    Returns:
        The file.
    """
    path = Path(path)
    path = path if path.suffix == ".safetensors" else path / MODEL_FILE
    write(path, model.state_dict(), {"kind": "model", "model": describe(model)})
    return path


def load(
    path: str | Path,
    *,
    encoder: nn.Module | None = None,
    decoder: nn.Module | None = None,
    likelihood: Likelihood | type[Likelihood] | None = None,
    network: Network | None = None,
) -> MLVAE:
    """Makes a saved model again, on the CPU and in evaluation mode.

    Args:
        path: a run's folder or a ``.safetensors`` file.
        encoder: needed where the model was made with a module of the user's own.
        decoder: likewise.
        likelihood: likewise; a class is made again with the settings that were saved.
        network: likewise.

    Raises:
        CheckpointError: no such file, truncated, of another schema, or a module of the user's own is missing.
    """
    path = Path(path)
    path = path / MODEL_FILE if path.is_dir() else path
    tensors, about = read(path, "model")
    own = {"encoder": encoder, "decoder": decoder, "likelihood": likelihood, "network": network}
    there = sum(value.numel() for value in tensors.values())
    with reading("description of a model", path, CheckpointError, ADVICE), _Bounded(there + SPARE, path):
        model = rebuild(about["model"], path, own)
    try:
        model.load_state_dict(tensors)
    except (RuntimeError, TypeError) as error:
        raise CheckpointError(
            f"Expected the weights that {path} describes; got others: {error}. The file is damaged, or the module"
            " passed in differs from the one that was trained."
        ) from error
    return model.eval()


class _Bounded(TorchFunctionMode):
    """Tensors that are made within it may have so many numbers together; a description of a few bytes asks for any."""

    def __init__(self, most: int, path: Path) -> None:
        super().__init__()
        self.most, self.made, self.path = most, 0, path

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        if function in (torch.empty, torch.zeros, torch.ones, torch.full):
            size = arguments[0] if arguments and not isinstance(arguments[0], int) else arguments
            self.made += math.prod(int(n) for n in size)
            if self.made > self.most:
                raise CheckpointError(
                    f"Expected the weights that {self.path} describes; it holds fewer, and the model it describes would"
                    f" be larger than that. {ADVICE}"
                )
        return function(*arguments, **(options or {}))


def describe(model: MLVAE) -> dict[str, Any]:
    """What it takes to make the model again, but for its weights, as JSON values."""
    kind = next((name for name, kind in LIKELIHOODS.items() if type(model.likelihood) is kind), None)
    return {
        "shape": list(model.shape),
        "levels": [asdict(level) for level in model.levels],
        "network": model.network,
        "width": model.width,
        "likelihood": kind,
        "likelihood_settings": model.likelihood.settings(),
        "replaced": model.replaced,
        "layout": model.layout,
        **({"schema": schema} if (schema := model.schema.description()) else {}),
    }


def rebuild(about: Mapping[str, Any], path: Path, modules: Mapping[str, Any]) -> MLVAE:
    """A model with fresh weights from its description; ``modules`` are the user's own parts, or None."""
    own = {name for name, replaced in about["replaced"].items() if replaced}
    if about["likelihood"] is None:
        own.add("likelihood")
    if about["network"] == OWN:
        own.add("network")
    if missing := sorted(name for name in own if modules.get(name) is None):
        raise CheckpointError(
            f"Expected the {' and the '.join(missing)} that {path} was trained with, which was not one of mlvae's own."
            f" Pass load(..., {missing[0]}=YourModule()); from the command line, --{missing[0]} package.module:name."
        )
    given = {name: modules[name] for name in own}
    if isinstance(given.get("likelihood"), type):
        given["likelihood"] = given["likelihood"](**about["likelihood_settings"])
    if "likelihood" not in given:
        given["likelihood"] = LIKELIHOODS[about["likelihood"]](**about["likelihood_settings"])
    levels = [_level(saved) for saved in about["levels"]]
    schema = Schema.from_description(about.get("schema", {}))
    given.setdefault("network", about["network"])
    return MLVAE(about["shape"], levels, width=about["width"], schema=schema, layout=about.get("layout", 1), **given)


def _level(saved: Mapping[str, Any]) -> Level:
    """A level from JSON, which knows lists where a level has tuples."""
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in saved.items()}
    return Level(**values)


def write(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Writes tensors and a description, whole or not at all."""
    from safetensors.torch import save as to_bytes

    from mlvae import __version__

    # As JSON has it, so that the hash is the same when it is read.
    whole = json.loads(json.dumps({"schema": SCHEMA, "version": __version__, **about}))
    # A copy each: safetensors refuses tensors that share memory, as tied weights do.
    copies = {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}
    whole["sha256"] = _hash(whole, copies)
    atomic.write(path, to_bytes(copies, {"mlvae": json.dumps(whole)}))


def description(path: Path, kind: str) -> dict[str, Any]:
    """Of a file that `write` made, without its tensors, which may be damaged.

    Raises:
        CheckpointError: no such file, or of another kind or schema.
    """
    from safetensors import safe_open

    with (
        reading("safetensors file", path, CheckpointError, "It is truncated or damaged. Use an earlier copy."),
        safe_open(path, framework="pt") as file,
    ):
        about = plain_json((file.metadata() or {}).get("mlvae", "null"))
    return _of_kind(about, path, kind)


def read(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and description of a file that `write` made.

    Raises:
        CheckpointError: no such file, damaged, of another kind or schema.
    """
    from safetensors import safe_open

    if not path.is_file():
        raise CheckpointError(f"Expected a saved {kind} at {path}; there is none. Name the folder that training wrote.")
    with (
        reading("safetensors file", path, CheckpointError, "It is truncated or damaged. Use an earlier copy."),
        safe_open(path, framework="pt") as file,
    ):
        about = plain_json((file.metadata() or {}).get("mlvae", "null"))
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        said = about.pop("sha256", None) if isinstance(about, dict) else None
        if said is not None and said != _hash(about, tensors):  # files of before have none
            raise ValueError("its content is not what was written")
    return tensors, _of_kind(about, path, kind)


def _of_kind(about: Any, path: Path, kind: str) -> dict[str, Any]:
    if not isinstance(about, dict) or about.get("kind") != kind:
        found = about.get("kind") if isinstance(about, dict) else "no description by mlvae"
        raise CheckpointError(f"Expected a saved {kind}; {path} holds: {found}. Name the file that mlvae wrote.")
    if about.get("schema") != SCHEMA:
        raise CheckpointError(
            f"Expected a file of schema {SCHEMA}; {path} has {about.get('schema')} (written by mlvae"
            f" {about.get('version')}). Read it with that version."
        )
    return about


def fingerprint(model: MLVAE) -> str:
    """What tells a model's votes from every other's: a hash of its description, weights and calibrations.

    Evidence is a sum of one model's votes, so it carries this: votes of two models do not add. Populations take no part
    in votes, nor in this.

    Example:
        >>> model = MLVAE((4,), [Level("style", 2)])
        >>> len(fingerprint(model)), fingerprint(model) == fingerprint(model.double())
        (32, False)
    """
    votes = {name: value for name, value in model.state_dict().items() if not name.startswith("populations.")}
    return _hash(describe(model), votes)[:32]


def _hash(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
