"""What commands share: reading the data, a run's options on disk, saying things."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlvae.errors import CheckpointError

CONFIG_FILE = "config.yaml"


def grouped(source: str, by: str | None, missing: str) -> Any:  # GroupedData; the parser would import what it names
    from mlvae.data import read

    return read(source, by, missing=missing)


def parts(source: str, by: str | None, split_column: str | None, missing: str) -> tuple[Any, Any]:
    """The training part, and the rows kept out of it where a column says so."""
    data = grouped(source, by, missing)
    column = split_column or ("split" if "split" in data.columns else None)
    return data.split(column=column) if column is not None else (data, None)


def write_config(folder: Path, arguments: dict[str, Any]) -> None:
    """The resolved options, to be run again with --config."""
    import yaml

    from mlvae.checkpoint import replace

    values = {k: list(v) if isinstance(v, tuple) else v for k, v in arguments.items() if k not in ("resume",)}
    replace(folder / CONFIG_FILE, yaml.safe_dump(values, sort_keys=False).encode())


def config_of(run: str) -> dict[str, Any]:
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


def say(text: str) -> None:
    print(text, flush=True)
