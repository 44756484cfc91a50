"""A look at data before training."""

from __future__ import annotations

import shlex
from typing import Literal

from mlvae.commands.common import levels_asked, listed, parts, refuse_idle, say, warn_of_forgotten


# Not called `inspect`: the name is the standard library's.
def look(
    data: str,
    by: str | None = None,
    split_column: str | None = None,
    level: list[str] | None = None,
    features: str | None = None,
    covariates: str | None = None,
    missing: Literal["error", "drop", "own"] = "error",
    gaps: bool = False,
    size: int | None = None,
    mode: Literal["L", "RGB"] | None = None,
    folders: str | None = None,
    cache: str | None = None,
    on_bad_file: Literal["error", "skip"] = "error",
    out: str | None = None,
) -> None:
    """Look at data before training, and say what to run. Example: mlvae inspect faces/ --by group --out faces.png

    Args:
        data: what `mlvae train` takes
        by: the grouping column (default: "group", or the only one)
        split_column: rows where it is not 0 or "train" are never trained on (default: "split", where there is one)
        level: levels to be learned, as for `mlvae train`: what their groups are, and whether data can tell them apart
        features: columns of a table that are the observation, as for `mlvae train`
        covariates: known columns that encoder and decoder are told, by commas
        missing: rows without a group: error, drop, or own (a group of its own)
        gaps: NaN in arrays is a value that was not observed; in tables it always is
        size: pixels, high and wide, that pictures are brought to
        mode: L (grey) or RGB for pictures
        folders: names of the levels of folders of pictures, outermost first
        cache: the folder that decoded pictures and large tables are kept in
        on_bad_file: error, or skip and go on
        out: a PNG to write: group sizes, and members of some groups
    """
    from mlvae.data.sources import refuse_among
    from mlvae.inspection import inspect, save_picture

    if out is not None:
        refuse_among(data, out)
    typed, (levels, by) = by, levels_asked(level, by)
    part, held, how = parts(
        data, by, split_column, missing, levels, gaps=gaps, features=features, covariates=listed(covariates),
        size=size, mode=mode, folders=listed(folders), cache=cache, on_bad_file=on_bad_file,
    )  # fmt: skip
    refuse_idle(part, data, features, size, mode, folders)
    warn_of_forgotten(levels, part)
    found = inspect(part, held, split=(how or {}).get("column"), features=features, levels=levels)
    print(found.text())
    asked = {
        "by": typed if levels else part.by,
        "split-column": split_column,
        "features": features,
        "covariates": covariates,
        "missing": None if missing == "error" else missing,
        "gaps": "" if gaps else None,
        "size": size,
        "mode": mode,
        "folders": folders,
        "cache": cache,
        "on-bad-file": None if on_bad_file == "error" else on_bad_file,
        **found.options,
    }
    given = {name: str(value) for name, value in asked.items() if value is not None}
    options = [text for name, value in given.items() for text in (f"--{name}", value) if text]  # a switch has no value
    options = [*(text for each in level or () for text in ("--level", each)), *options]
    say(f"\nNext: {shlex.join(['mlvae', 'train', data, *options, '--out', f'runs/{part.name}'])}")
    if out is not None:
        say(f"Wrote {save_picture(found, out)}")
