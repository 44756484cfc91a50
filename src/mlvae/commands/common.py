"""What commands share: reading the data, a run's options on disk, saying things."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlvae.commands.keeping import KEPT_OUT_FILE, kept_out, note_of, trained_on
from mlvae.errors import CheckpointError, DataError, ModelError, row
from mlvae.untrusted import plain_yaml, reading

CONFIG_FILE = "config.yaml"


def grouped(source: str, by: str | None, missing: str, levels: Any = (), **reading: Any) -> Any:
    """The data, a GroupedData (the parser would import it, if named); says what bad files and rows were left out.

    Where levels name several columns they are grouped by the first of these, unless something else is asked for; rows
    without a label in any of the columns are dealt with as ``missing`` says.
    """
    from mlvae.data import read

    keys = [(level.by,) if isinstance(level.by, str) else level.by for level in levels if level.by]
    named = list(dict.fromkeys(column for key in keys for column in key))
    columns = named if len(keys) > 1 or len(named) > 1 else []  # one alone is what the data are grouped by
    labels = (*reading.pop("labels", ()), *columns)
    data = read(source, by or next(iter(columns), None), missing=missing, labels=labels, **reading)
    if data.skipped:
        say(f"Skipped {len(data.skipped):,} files that cannot be read, the first {data.skipped[0]}")
    for column in columns:
        data = data.grouped_by(column, missing=missing)
    if data.dropped:
        say(f"Left out {data.dropped:,} rows without a label; {len(data):,} stay (--missing own would keep all)")
    return data.grouped_by(by or columns[0]) if columns else data


def levels_asked(
    level: list[str] | None, by: str | None, readout: str = "product_with_prior"
) -> tuple[list[Any], str | None]:
    """The `Level`s that options name, and what data are grouped by: the column of the only one that groups share."""
    from mlvae.levels import Level

    levels = [Level.parse(text, readout) for text in level or ()]
    keys = [level.by for level in levels if level.by]
    if len(keys) != 1 or not isinstance(keys[0], str):
        return levels, by
    if by not in (None, keys[0]):
        raise ModelError(f"Expected --by as the level's own column, {keys[0]!r}; got {by!r}. Leave --by out.")
    return levels, keys[0]


def warn_of_forgotten(levels: Any, data: Any) -> None:
    """Says which levels have no column, though there is one of their name."""
    for level in levels:
        if level.by is None and level.name in data.columns:
            say(
                f"! Level {level.name!r} has no column, so each observation has its own. For groups of the column of"
                f" that name: --level {level.name}:{level.dim}:{level.name}"
            )


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
    source: str, by: str | None, split_column: str | None, missing: str, levels: Any = (),
    kept: Callable[[Any], dict[str, Any] | None] = lambda data: None, usual: tuple[str, ...] = ("split",),
    trained: bool = False, whole: Callable[[Any], None] = lambda data: None, **reading: Any,
) -> tuple[Any, Any, dict[str, Any] | None]:  # fmt: skip
    """The training part, the rows kept out of it, and the arguments of `GroupedData.split` that part them.

    Rows are kept out where a column says so: ``split_column``, or the first of the ``usual`` ones that there is; else
    as ``kept`` says of the whole data, or not at all. Of a run that is ``trained``, a column that says otherwise than
    ``kept`` does is told of; ``whole`` is told of the data.
    """
    asked = tuple(name for name in (split_column, *usual) if name)
    data = grouped(source, by, missing, levels, labels=asked, **reading)
    column = split_column or next((name for name in usual if name in data.columns), None)
    if trained and column is not None and (warning := trained_on(data, column, kept)):
        say(warning)
    whole(data)
    how = {"column": column} if column is not None else kept(data)
    return (*data.split(**how), how) if how else (data, None, None)


def opened(
    run: str, data: str, by: str | None, split_column: str | None, network: str | None, likelihood: str | None,
    new: bool = False, **reading: Any,
) -> tuple[Any, Any, Any, dict[str, Any] | None]:  # fmt: skip
    """A trained model with its training part, the rows kept out of it, and how (`parts`); None where there are none.

    Raises:
        DataError: there are no such rows, and ``new`` asks for them.
    """
    from mlvae.runs import unfinished

    model = load_run(run, network, likelihood)
    if left := unfinished(run, model):
        say(f"! {left}")
    by = by or grouped_like(run, model)
    part, held, how = parts(
        data, by, split_column, like=model, levels=model.levels, kept=kept_out(run), trained=True, **read_like(run),
        **reading,
    )  # fmt: skip
    if held is not None and split_column is None and not (Path(run) / CONFIG_FILE).exists():
        say(
            f"! {run} was made in Python and does not say which rows it was trained on. {len(held):,} are new if a"
            " column is right: if it was trained on some of them, what is measured on them says nothing. Name the"
            " column that it was trained by with --split-column, or measure it in Python: mlvae.evaluate(model, train,"
            " new)."
        )
    if new and held is None:
        raise DataError(
            "Expected rows kept out of training to measure on; there are none. Train with --test 0.2, which keeps a"
            " fifth out, or name a column that is 0 in the rows that training saw and 1 in new ones: --split-column."
        )
    return model, part, held, how


def refuse_idle(
    part: Any, data: str, features: str | None, size: int | None, mode: str | None, folders: str | None
) -> None:
    """Raises DataError for an option that reading such data passed over."""
    from mlvae.data.builtin import BUILTIN
    from mlvae.data.sources import READERS

    pictures = part.schema.image_size is not None
    table = data not in BUILTIN and Path(data).suffix.lower() not in READERS and not pictures
    for name, value, what, works in (
        ("size", size, "pictures in files", pictures),
        ("mode", mode, "pictures in files", pictures),
        ("folders", folders, "a folder of pictures", pictures and set(listed(folders)) <= set(part.columns)),
        ("features", features, "a table", table),
    ):
        if value is not None and not works:
            raise DataError(f"Expected {what} for --{name}; got {data!r}. Leave the option out.")


def refuse_seed(seed: int) -> None:
    """Raises DataError where a seed is none."""
    if not 0 <= seed < 2**63:
        raise DataError(f"Expected a seed from 0 on; got {seed}. Any such number gives a repeatable result.")


def warn_of_leaks(part: Any, held: Any) -> None:
    """Says how many observations of the kept part training sees too."""
    from mlvae.data.checks import leaks

    if held is not None and len(found := leaks(part, held)):
        say(
            f"! {len(found):,} of {len(held):,} rows kept out of training are in it too, the first in"
            f" {row(found[0, 1])} of them; what is measured on them says nothing. Drop them: mlvae"
            " inspect shows where they are."
        )


def write_options(folder: Path, arguments: dict[str, Any], kept: dict[str, Any]) -> None:
    """The resolved options, to be run again with --config; and how rows were kept out, for `kept_out`."""
    import json

    import yaml

    from mlvae.atomic import write

    values = {k: list(v) if isinstance(v, tuple) else v for k, v in arguments.items() if k not in ("resume",)}
    write(folder / CONFIG_FILE, yaml.safe_dump(values, sort_keys=False).encode())
    write(folder / KEPT_OUT_FILE, json.dumps(kept).encode())


def config_of(run: str) -> dict[str, Any]:
    """The options that a run of the command line was made with; none where it was made otherwise."""
    file = Path(run) / CONFIG_FILE
    with reading("file of a run's options", file, CheckpointError, "It is damaged. Restore or remove it."):
        options = plain_yaml(file) if file.exists() else {}
        if not isinstance(options, dict) or not all(isinstance(name, str) for name in options):
            raise ValueError("it is no list of options by name")
    return options


def grouped_like(run: str, model: Any) -> str | None:
    """What a run grouped its data by, where its levels do not say: of none, of several, of one by several columns."""
    keys = [level.by for level in model.group_levels]
    return None if len(keys) == 1 and isinstance(keys[0], str) else config_of(run).get("by")


def read_like(run: str) -> dict[str, Any]:
    """How a run of the command line read its data, as `parts` takes it."""
    options = config_of(run)
    # A run that took its share by itself knows better than a column which rows it kept out.
    usual = () if "test" in (note_of(run) or {}) else (options.get("split_column"), "split")
    return {
        "missing": options.get("missing", "error"),
        "folders": listed(options.get("folders")),
        "features": options.get("features"),
        "usual": tuple(name for name in usual if name),
    }


def multiplied(part: Any, quarter_turns: bool, copies: int, seed: int) -> Any:
    """A training part, a GroupedData, with the new groups that options ask for."""
    if quarter_turns:
        part = part.quarter_turns()
    return part.deformed(copies, seed=seed) if copies else part


def say(text: str) -> None:
    """Prints; of several processes that torchrun started, the first one does."""
    if os.environ.get("RANK", "0") == "0":
        print(text, flush=True)
