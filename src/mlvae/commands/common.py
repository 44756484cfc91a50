"""What commands share: reading the data, a run's options on disk, saying things."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mlvae.errors import CheckpointError, DataError
from mlvae.untrusted import plain_yaml, reading

CONFIG_FILE = "config.yaml"


def grouped(source: str, by: str | None, missing: str, levels: Any = (), **reading: Any) -> Any:
    """The data, a GroupedData (the parser would import it, if named); says what bad files were skipped.

    With several shared levels they are grouped by the first column that these name, where nothing else is asked for;
    rows without a label in any of the columns are dealt with as ``missing`` says.
    """
    from mlvae.data import read

    keys = [(level.by,) if isinstance(level.by, str) else level.by for level in levels if level.by]
    columns = list(dict.fromkeys(column for key in keys for column in key)) if len(keys) > 1 else []
    labels = (*reading.pop("labels", ()), *columns)
    data = read(source, by or next(iter(columns), None), missing=missing, labels=labels, **reading)
    if data.skipped:
        say(f"Skipped {len(data.skipped):,} files that cannot be read, the first {data.skipped[0]}")
    for column in columns:
        data = data.grouped_by(column, missing=missing)
    return data.grouped_by(by or columns[0]) if columns else data


def load_run(run: str, network: str | None = None, likelihood: str | None = None) -> Any:
    """A trained model, with the user's own parts where it was trained with some."""
    from mlvae.checkpoint import load

    return load(run, network=own(network), likelihood=own(likelihood))


def own(name: str | None) -> Any:
    """What "package.module:name" names; None for nothing, or for a name of mlvae's."""
    from mlvae.data.sources import called

    return None if name is None else called(name)


def listed(text: str | None) -> tuple[str, ...]:
    """A text with commas as its parts."""
    return tuple(part.strip() for part in text.split(",") if part.strip()) if text else ()


def parts(
    source: str, by: str | None, split_column: str | None, missing: str, levels: Any = (), **reading: Any
) -> tuple[Any, Any]:
    """The training part, and the rows kept out of it where a column says so."""
    data = grouped(source, by, missing, levels, labels=(split_column,) if split_column else (), **reading)
    column = split_column or ("split" if "split" in data.columns else None)
    return data.split(column=column) if column is not None else (data, None)


def opened(
    run: str, data: str, by: str | None, split_column: str | None, network: str | None, likelihood: str | None,
    new: bool = False, **reading: Any,
) -> tuple[Any, Any, Any]:  # fmt: skip
    """A trained model with its training part and the rows kept out of it, None where no column says so.

    Raises:
        DataError: there are no such rows, and ``new`` asks for them.
    """
    model = load_run(run, network, likelihood)
    part, held = parts(data, by, split_column, "error", model.levels, like=model, **reading)
    if new and held is None:
        raise DataError("Expected a column that keeps rows out of training; found none. Name it with --split-column.")
    return model, part, held


def warn_of_leaks(part: Any, held: Any) -> None:
    """Says how many observations of the kept part training sees too."""
    from mlvae.data.checks import leaks

    if held is not None and len(found := leaks(part, held)):
        say(
            f"! {len(found):,} of {len(held):,} rows kept out of training are in it too, the first in row"
            f" {found[0, 1]} of"
            f" them; what is measured on them says nothing. Drop them: mlvae inspect shows where they are."
        )


def write_config(folder: Path, arguments: dict[str, Any]) -> None:
    """The resolved options, to be run again with --config."""
    import yaml

    from mlvae.checkpoint import replace

    values = {k: list(v) if isinstance(v, tuple) else v for k, v in arguments.items() if k not in ("resume",)}
    replace(folder / CONFIG_FILE, yaml.safe_dump(values, sort_keys=False).encode())


def config_of(run: str) -> dict[str, Any]:
    """The options that a run of the command line was made with; none where it was made otherwise."""
    file = Path(run) / CONFIG_FILE
    with reading("file of a run's options", file, CheckpointError, "It is damaged. Restore or remove it."):
        options = plain_yaml(file) if file.exists() else {}
        if not isinstance(options, dict) or not all(isinstance(name, str) for name in options):
            raise ValueError("it is no list of options by name")
    return options


def multiplied(part: Any, quarter_turns: bool, copies: int, seed: int) -> Any:
    """A training part, a GroupedData, with the new groups that options ask for."""
    if quarter_turns:
        part = part.quarter_turns()
    return part.deformed(copies, seed=seed) if copies else part


def say(text: str) -> None:
    """Prints; of several processes that torchrun started, the first one does."""
    if os.environ.get("RANK", "0") == "0":
        print(text, flush=True)
