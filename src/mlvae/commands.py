"""The commands, one function each: its arguments are the options, its docstring the help.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

from mlvae.errors import CheckpointError, DataError, nearest

CONFIG_FILE = "config.yaml"


def train(
    data: str,
    out: str | None = None,
    by: str | None = None,
    split_column: str | None = None,
    epochs: int | None = None,
    content_dim: int = 16,
    style_dim: int = 16,
    objective: str = "default",
    independence: float | None = None,
    identification: float | None = None,
    content_kl: float | None = None,
    style_kl: float | None = None,
    network: str | None = None,
    width: int | None = None,
    likelihood: str | None = None,
    style_given_content: bool = False,
    quarter_turns: bool = False,
    missing: Literal["error", "drop", "own"] = "error",
    groups: int = 50,
    members: tuple[int, int] = (2, 8),
    whole_groups: bool = False,
    resample: bool = False,
    lr: float = 2e-3,
    validation: float = 0.0,
    patience: int | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
    resume: bool = False,
) -> None:
    """Train a model. Example: mlvae train faces.npz --by person --out runs/faces

    Args:
        data: an .npz file, or a built-in set: digits, avatars
        out: the folder that the run is written to
        by: the grouping column (default: "group", or the only one)
        split_column: rows where it is not 0 are never trained on (default: "split", where there is one)
        epochs: passes over the data (default: as many as make 4,000 steps)
        content_dim: dimensions that a group shares
        style_dim: dimensions of an observation's own
        objective: default, paper (Bouchacourt et al. 2018) or vae (no groups)
        independence: weight at the end of training of style's dependence on the group (default: the objective's, 1000)
        identification: weight of naming the group from content (default: the objective's, 5)
        content_kl: weight of content's KL (default: the objective's, 0.2)
        style_kl: weight of style's KL (default: 1)
        network: conv or mlp (default: by the data's shape)
        width: of the network
        likelihood: bernoulli or normal (default: bernoulli for data in [0, 1])
        style_given_content: let the style head see the content, q(s | x, c)
        quarter_turns: add every group turned by 90, 180 and 270 degrees, as new groups
        missing: rows without a group: error, drop, or own (a group of its own)
        groups: sub-groups in a batch
        members: fewest and most observations of a sub-group
        whole_groups: every sub-group is a whole group
        resample: draw groups with equal probability
        lr: highest learning rate
        validation: share of the training groups kept to watch the loss on
        patience: epochs without a better validation loss before stopping
        seed: of everything random
        device: auto, cpu, cuda or mps
        precision: of the networks
        resume: go on with the run in --out
    """
    arguments = dict(locals())
    import torch

    from mlvae.settings import setting
    from mlvae.training import fit

    if out is None:
        raise CheckpointError("Expected a folder for the run; got none. Add --out runs/NAME.")
    chosen = setting(objective)
    part, held = _read(data, by, split_column, missing)
    if quarter_turns:
        part = part.quarter_turns()
    valid = None
    if validation:
        part, valid = part.split(by="group", test=validation, seed=seed)
    asked = chosen.objective().changed(
        independence=independence, identification=identification, content=content_kl, style=style_kl
    )
    options = {"network": network, "width": width, **({"likelihood": likelihood} if likelihood else {})}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = chosen.model(
            part, content_dim=content_dim, style_dim=style_dim, style_given_content=style_given_content, **options
        )
    _say(f"{part!r}" + (f"; {len(held):,} rows kept out" if held is not None else ""))
    parameters = sum(p.numel() for p in model.parameters())
    _say(f"{model.network} of {parameters:,} parameters, {objective} objective, writing to {out}")
    if not resume and not (Path(out) / CONFIG_FILE).exists():
        _write_config(Path(out), arguments)
    fit(
        model, part, out, valid=valid, objective=asked, epochs=epochs, groups=groups,
        members="all" if whole_groups else members, resample=resample, lr=lr, seed=seed, patience=patience,
        device=device, precision=precision, resume=resume,
    )  # fmt: skip
    _say(f"Wrote {out}. Next: mlvae draw swap {out} {data} --out swap.png")


def encode(
    run: str,
    data: str,
    out: str | None = None,
    evidence: str | None = None,
    by: str | None = None,
    missing: Literal["error", "drop", "own"] = "error",
) -> None:
    """Write codes, and evidence of groups. Example: mlvae encode runs/faces faces.npz --out codes.parquet

    Args:
        run: the folder that training wrote
        data: an .npz file, or a built-in set
        out: Parquet, a row an observation: group, mean and variance of each level, understood alone
        evidence: Parquet, a row a group of each shared level: count, precision and information, which add
        by: the grouping column (default: "group", or the only one)
        missing: rows without a group: error, drop, or own
    """
    from mlvae import tables
    from mlvae.checkpoint import load

    if out is None and evidence is None:
        raise DataError("Expected a file to write; got none. Add --out codes.parquet, --evidence evidence.parquet.")
    model = load(run)
    grouped = _data(data, by, missing)
    if out is not None:
        _say(f"Wrote {tables.write_codes(model, grouped, out)}: {len(grouped):,} observations")
    if evidence is not None:
        _say(f"Wrote {tables.write_evidence(model, grouped, evidence)}: {grouped.num_groups:,} groups")


def draw(
    kind: str,
    run: str,
    data: str,
    out: str | None = None,
    by: str | None = None,
    split_column: str | None = None,
    count: int = 8,
    seed: int = 0,
) -> None:
    """Draw a grid of pictures. Example: mlvae draw swap runs/faces faces.npz --out swap.png

    Args:
        kind: swap, interpolate, generate or reconstruct
        run: the folder that training wrote
        data: an .npz file, or a built-in set
        out: the PNG to write
        by: the grouping column (default: "group", or the only one)
        split_column: pictures come from rows where it is not 0 (default: "split", where there is one)
        count: pictures a row
        seed: of the choice
    """
    from mlvae.checkpoint import load
    from mlvae.draw import DRAWINGS, save_grid

    if kind not in DRAWINGS:
        raise DataError(f"Expected a kind of picture; got {kind!r}. {nearest(kind, DRAWINGS)}")
    if out is None:
        raise DataError("Expected a file to write; got none. Add --out grid.png.")
    if count < 2:
        raise DataError(f"Expected at least 2 pictures a row; got {count}.")
    part, held = _read(data, by, split_column, "error")
    _say(f"Wrote {save_grid(DRAWINGS[kind](load(run), held or part, count, seed), out)}")


def measure(
    run: str,
    data: str,
    by: str | None = None,
    split_column: str | None = None,
    factors: str | None = None,
    controls: Literal["all", "untrained", "none"] = "all",
    controls_folder: str | None = None,
    quick: bool = False,
    out: str | None = None,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Measure what was learned. Example: mlvae evaluate runs/faces faces.npz --by person --out metrics.json

    Args:
        run: the folder that training wrote
        data: an .npz file, or a built-in set
        by: the grouping column (default: "group", or the only one)
        split_column: 0 for the training part, else kept out (default: "split", where there is one)
        factors: further columns to read from the codes, by commas: mouth:label,eyes:label,tilt
        controls: all trains a plain VAE and the model on shuffled labels once, as long as the run; untrained is quick
        controls_folder: where they are kept (default: "controls" beside the run)
        quick: leave out what takes minutes, and trained controls
        out: JSON to write
        seed: of probes and episodes
        device: that controls are trained on: auto, cpu, cuda or mps
    """
    import json

    from mlvae.checkpoint import load, replace
    from mlvae.evaluate import Controls, diagnose, evaluate, table

    part, held = _read(data, by, split_column, "error")
    if held is None:
        raise DataError("Expected a column that keeps rows out of training; found none. Name it with --split-column.")
    model = load(run)
    beside: bool | Controls = controls != "none"
    if controls == "all" and not quick:
        from mlvae.runs import options_of

        folder = Path(controls_folder) if controls_folder else Path(run).resolve().parent / "controls"
        turned = part.quarter_turns() if _config(run).get("quarter_turns") else None
        beside = Controls(folder, {**options_of(run), "device": device}, turned)
    metrics = evaluate(
        model, part, held, factors=factors.split(",") if factors else (), controls=beside, quick=quick, seed=seed
    )
    print(table(metrics))
    for text in diagnose(metrics):
        print(f"! {text}")
    if out is not None:
        replace(Path(out), json.dumps(metrics, indent=2).encode())
        _say(f"Wrote {out}")


def demo(out: str = "demo", epochs: int = 30, seed: int = 0, device: str = "auto") -> None:
    """Train on the built-in avatars and draw identities never seen. Example: mlvae demo --out demo

    Args:
        out: the folder to write
        epochs: passes over the data
        seed: of everything random
        device: auto, cpu, cuda or mps
    """
    started = time.perf_counter()
    folder = Path(out)
    train("avatars", out=out, epochs=epochs, seed=seed, device=device)
    encode(out, "avatars", out=str(folder / "codes.parquet"), evidence=str(folder / "evidence.parquet"))
    for kind in ("swap", "interpolate", "generate", "reconstruct"):
        draw(kind, out, "avatars", out=str(folder / f"{kind}.png"))
    measure(out, "avatars", quick=True, out=str(folder / "metrics.json"))
    _say(
        f"Done in {time.perf_counter() - started:.0f} s. Open {folder / 'swap.png'}: identities never seen in training,"
    )
    _say("who gives content down the side, who gives style along the top.")


def info(run: str | None = None) -> None:
    """Print versions and device, and what a run holds. Example: mlvae info runs/faces

    Args:
        run: the folder that training wrote
    """
    import platform

    import torch

    from mlvae import __version__

    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    print(f"mlvae {__version__}, torch {torch.__version__}, Python {platform.python_version()}, device {device}")
    if run is not None:
        from mlvae.checkpoint import load

        model = load(run)
        shape = " x ".join(map(str, model.shape))
        parameters = sum(p.numel() for p in model.parameters())
        print(f"{run}: {model.network} of width {model.width}, {parameters:,} parameters, observations {shape}")
        for level in model.levels:
            by = "each observation its own" if level.by is None else f"shared by {level.by}"
            given = f", given {', '.join(level.given)}" if level.given else ""
            print(f"  {level.name}: {level.dim} dimensions, {by}, {level.readout}{given}")
        print(f"  likelihood: {type(model.likelihood).__name__} {model.likelihood.settings()}")


def _data(source: str, by: str | None, missing: str) -> Any:  # GroupedData; the parser would import what it names
    from mlvae.data import read

    return read(source, by, missing=missing)


def _read(source: str, by: str | None, split_column: str | None, missing: str) -> tuple[Any, Any]:
    """The training part, and the rows kept out of it where a column says so."""
    data = _data(source, by, missing)
    column = split_column or ("split" if "split" in data.columns else None)
    return data.split(column=column) if column is not None else (data, None)


def _write_config(folder: Path, arguments: dict[str, Any]) -> None:
    """The resolved options, to be run again with --config."""
    import yaml

    from mlvae.checkpoint import replace

    values = {k: list(v) if isinstance(v, tuple) else v for k, v in arguments.items() if k not in ("resume",)}
    replace(folder / CONFIG_FILE, yaml.safe_dump(values, sort_keys=False).encode())


def _config(run: str) -> dict[str, Any]:
    """The options that a run of the command line was made with; none where it was made otherwise."""
    import yaml

    file = Path(run) / CONFIG_FILE
    try:
        options = yaml.safe_load(file.read_text()) if file.exists() else {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"Expected the options of a run in {file}; it is damaged. Restore or remove it."
        ) from error
    return options if isinstance(options, dict) else {}


def _say(text: str) -> None:
    print(text, flush=True)


# Not called `evaluate`: the parser would look that name up in the package, and import torch for --help.
COMMANDS: dict[str, Any] = {
    "demo": demo, "train": train, "encode": encode, "draw": draw, "evaluate": measure, "info": info,
}  # fmt: skip
