"""The evaluation protocol from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mlvae.commands.common import config_of, listed, multiplied, opened, refuse_seed, say


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
    cache: str | None = None,
    on_bad_file: Literal["error", "skip"] = "error",
    network: str | None = None,
    likelihood: str | None = None,
    penalty: list[str] | None = None,
) -> None:
    """Measure what was learned. Example: mlvae evaluate runs/faces faces.npz --by person --out metrics.json

    Args:
        run: the folder that training wrote
        data: what `mlvae train` takes
        by: the grouping column (default: the run's own, "group", or the only one)
        split_column: rows where it is not 0 or "train" are measured (default: as in training, or "split")
        factors: further columns to read from the codes, by commas: mouth:label,eyes:label,tilt
        controls: all trains a plain VAE and the model on shuffled labels, once, together for 1.25 times as long as the
            run; untrained is quick
        controls_folder: where they are kept (default: "controls" beside the run)
        quick: leave out what takes minutes, and trained controls
        out: JSON to write
        seed: of probes and episodes
        device: that controls are trained on: auto, cpu, cuda or mps
        cache: the folder that decoded pictures and large tables are kept in (default: .mlvae beside the data)
        on_bad_file: error, or skip and go on
        network: package.module:name of the network that the run was trained with, where it is one's own
        likelihood: likewise of the likelihood
        penalty: likewise of each penalty of one's own, for the control of shuffled labels
    """
    import json

    from mlvae.atomic import write
    from mlvae.checkpoint import fingerprint
    from mlvae.evaluate import Controls, diagnose, evaluate, table
    from mlvae.evaluate.subject import roles

    refuse_seed(seed)
    model, part, held, _ = opened(
        run, data, by, split_column, network, likelihood, new=True, cache=cache, on_bad_file=on_bad_file
    )
    beside: bool | Controls = controls != "none"
    if controls == "all" and not quick:
        from mlvae.commands.weights import further_of
        from mlvae.runs import options_of

        for text in penalty or ():
            further_of(text)
        folder = Path(controls_folder) if controls_folder else Path(run).resolve().parent / "controls"
        config = config_of(run)
        turned, copies = config.get("quarter_turns", False), config.get("deformed", 0)
        learned = multiplied(part, turned, copies, config.get("seed", 0))
        beside = Controls(folder, {**options_of(run), "device": device}, learned)
    metrics = evaluate(model, part, held, factors=listed(factors), controls=beside, quick=quick, seed=seed, say=say)
    print(table(metrics, *roles(model)))
    for text in diagnose(metrics, *roles(model)):
        print(f"! {text}")
    if out is not None:
        write(Path(out), json.dumps({"model": fingerprint(model), **metrics}, indent=2).encode())
        say(f"Wrote {out}")
