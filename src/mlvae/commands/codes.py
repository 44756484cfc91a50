"""What a trained model makes of data: codes, evidence, pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mlvae.commands.common import grouped, grouped_like, listed, load_run, opened, read_like, refuse_seed, say
from mlvae.errors import DataError, nearest


def encode(
    run: str,
    data: str,
    out: str | None = None,
    evidence: str | None = None,
    by: str | None = None,
    missing: Literal["error", "drop", "own"] | None = None,
    cache: str | None = None,
    folders: str | None = None,
    on_bad_file: Literal["error", "skip"] = "error",
    network: str | None = None,
    likelihood: str | None = None,
    workers: int | None = None,
) -> None:
    """Write codes, and evidence of groups. Example: mlvae encode runs/faces faces.npz --out codes.parquet

    Args:
        run: the folder that training wrote
        data: what `mlvae train` takes, or a folder of .npz files; files are read a part at a time
        out: Parquet, a row an observation: group, mean and variance of each level, understood alone
        evidence: Parquet, a row a group of each shared level: count, precision and information, which add; a job that
            was killed goes on when started again
        by: the grouping column (default: the run's own, "group", or the only one)
        missing: rows without a group: error, drop, or own (default: as in training)
        cache: the folder that decoded pictures and large tables are kept in (default: .mlvae beside the data)
        folders: names of the levels of folders of pictures, outermost first: country,person (default: as in training)
        on_bad_file: error, or skip and go on
        network: package.module:name of the network that the run was trained with, where it is one's own
        likelihood: likewise of the likelihood
        workers: encode with as many processes of a Ray cluster, that RAY_ADDRESS names (default: in this process)
    """
    for target in (out, evidence):
        if target is not None and Path(target).suffix not in ("", ".parquet"):
            raise DataError(f"Expected a .parquet file to write; got {target}. Codes and evidence are kept as Parquet.")
    usual = read_like(run)
    if missing is None:
        missing = usual["missing"]
        if missing == "own" and evidence is not None:
            missing = "drop"
            say("Rows without a label are left out: groups of their own would be called as those in another file are")
        elif missing == "drop":
            kept = "" if evidence is not None else ": --missing own would keep them"
            say(f"Rows without a label are left out, as in training{kept}")
    reading = {"cache": cache, "folders": listed(folders) or usual["folders"], "on_bad_file": on_bad_file,
               "features": usual["features"]}  # fmt: skip
    model = load_run(run, network, likelihood)
    by = by or grouped_like(run, model)
    if workers is None:
        from mlvae.store import jobs

        jobs.encode(model, data, out=out, evidence=evidence, by=by, missing=missing, reading=reading, say=say)
    else:
        from mlvae.store import cluster

        cluster.encode(
            run, data, out=out, evidence=evidence, by=by, missing=missing, reading=reading, workers=workers, say=say,
            network=network, likelihood=likelihood,
        )  # fmt: skip
    say("Wrote " + " and ".join(str(target) for target in (out, evidence) if target is not None))


def draw(
    kind: str,
    run: str,
    data: str,
    out: str | None = None,
    by: str | None = None,
    split_column: str | None = None,
    count: int = 8,
    levels: str | None = None,
    seed: int = 0,
    cache: str | None = None,
    on_bad_file: Literal["error", "skip"] = "error",
    network: str | None = None,
    likelihood: str | None = None,
) -> None:
    """Draw a grid of pictures. Example: mlvae draw swap runs/faces faces.npz --out swap.png

    Args:
        kind: swap, generate, reconstruct, or interpolate: in the first third of its rows all codes move from left to
            right, in the second what groups share, in the last what is an observation's own
        run: the folder that training wrote
        data: what `mlvae train` takes
        out: the PNG to write; of a table, `draw generate` writes .csv or .parquet
        by: the grouping column (default: the run's own, "group", or the only one)
        split_column: pictures come from rows where it is not 0 or "train" (default: as in training, or "split")
        count: pictures a row, or rows of a table
        levels: by commas, of a swap the levels that the side gives (default: all that groups share), of interpolate
            those that move (default: all, what groups share, and the rest, a third of the rows each)
        seed: of the choice
        cache: the folder that decoded pictures and large tables are kept in (default: .mlvae beside the data)
        on_bad_file: error, or skip and go on
        network: package.module:name of the network that the run was trained with, where it is one's own
        likelihood: likewise of the likelihood
    """
    from mlvae import tables
    from mlvae.data.sources import refuse_among
    from mlvae.depict import Depiction
    from mlvae.draw import DRAWINGS, picture_file, save_grid

    if kind not in DRAWINGS:
        raise DataError(f"Expected a kind of picture; got {kind!r}. {nearest(kind, DRAWINGS)}")
    if out is None:
        raise DataError("Expected a file to write; got none. Add --out grid.png.")
    if count < 2:
        raise DataError(f"Expected at least 2 pictures a row; got {count}.")
    refuse_seed(seed)
    refuse_among(data, out)
    if levels is not None and kind not in ("swap", "interpolate"):
        raise DataError(f"Expected --levels with a swap or interpolate; got {kind!r}. Leave it out.")
    if Path(out).suffix in (".csv", ".parquet"):
        if kind != "generate":
            raise DataError(f"Expected a .png for {kind}; got {out}. Only `draw generate` writes tables.")
        if split_column is not None:
            raise DataError("Expected --split-column with pictures; rows are drawn anew. Leave it out.")
        model = load_run(run, network, likelihood)
        by = by or grouped_like(run, model)
        members = grouped(data, by, "own", model.levels, like=model, cache=cache, on_bad_file=on_bad_file)
        say(f"Wrote {tables.write_generated(model, members, out, count, seed)}: {count:,} rows")
        return
    picture_file(out)
    model, part, held, _ = opened(
        run, data, by, split_column, network, likelihood, cache=cache, on_bad_file=on_bad_file
    )
    chosen = {"levels": [name.strip() for name in levels.split(",")]} if levels is not None else {}
    drawn = DRAWINGS[kind](model, held or part, count, seed, **chosen)
    say(f"Wrote {save_grid(drawn, out, Depiction.of(model, part))}")
