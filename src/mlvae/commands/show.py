"""What was learned, to be seen: a report to send, a page to play with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from mlvae.commands.common import config_of, listed, opened, read_like, refuse_seed, say
from mlvae.errors import DataError, MissingExtraError
from mlvae.untrusted import plain_json, reading


# Not called `report`: the parser would look that name up in the package, and import torch for --help.
def tell(
    run: str,
    data: str,
    out: str = "report.html",
    by: str | None = None,
    metrics: str | None = None,
    split_column: str | None = None,
    factors: str | None = None,
    seed: int = 0,
    cache: str | None = None,
    on_bad_file: Literal["error", "skip"] = "error",
    network: str | None = None,
    likelihood: str | None = None,
) -> None:
    """Write what was learned as one page to send. Example: mlvae report runs/faces faces.npz --out report.html

    Args:
        run: the folder that training wrote
        data: what `mlvae train` takes
        out: the HTML file to write; its numbers are written beside it, to report.json for report.html
        by: the grouping column (default: the run's own, "group", or the only one)
        metrics: JSON that `mlvae evaluate` wrote (default: the quick protocol is run)
        split_column: rows where it is not 0 or "train" are measured (default: as in training, or "split")
        factors: further columns to read from the codes and to colour maps by, by commas: mouth:label,tilt
        seed: of what is measured, chosen and drawn
        cache: the folder that decoded pictures and large tables are kept in (default: .mlvae beside the data)
        on_bad_file: error, or skip and go on
        network: package.module:name of the network that the run was trained with, where it is one's own
        likelihood: likewise of the likelihood
    """
    from mlvae.report import require, write

    require()
    refuse_seed(seed)
    model, part, held, _ = opened(
        run, data, by, split_column, network, likelihood, new=True, cache=cache, on_bad_file=on_bad_file
    )
    names = listed(factors)
    if metrics is not None:
        if Path(metrics).resolve() == (beside := Path(out).with_suffix(".json")).resolve():
            raise DataError(
                f"Expected another name for the page than {out}: its numbers are written to {beside}, which is the file"
                " of metrics. Name the page anew with --out."
            )
        numbers = _numbers(Path(metrics), model)
    else:
        from mlvae.evaluate import evaluate

        say("Measuring (the quick protocol; --metrics takes what `mlvae evaluate` wrote)")
        numbers = evaluate(model, part, held, factors=names, quick=True, seed=seed)
    trained = trained_options(config_of(run))
    lines = [_line("train", trained, str(trained.pop("data", data)))] if trained else []
    if metrics is not None:
        lines.append(_line("evaluate", {"by": by, "split_column": split_column, "out": metrics}, run, data))
    options = {"by": by, "metrics": metrics, "split_column": split_column, "factors": factors, "seed": seed or None}
    lines.append(_line("report", {**options, "out": out}, run, data))
    page, beside = write(model, part, held, numbers, out, run=run, factors=names, commands=lines, seed=seed)
    say(f"Wrote {page} and {beside}")


def _numbers(file: Path, model: Any) -> dict[str, float]:
    """What `mlvae evaluate --out` wrote of this model, an MLVAE."""
    from mlvae.checkpoint import fingerprint

    if not file.is_file():
        raise DataError(f"Expected a file of metrics; {file} is none. Make it with `mlvae evaluate --out {file}`.")
    advice = "It is what `mlvae evaluate --out` writes. Make it again, or leave --metrics out."
    with reading("JSON file of metrics", file, advice=advice):
        found = plain_json(file.read_bytes())
    said = found.pop("model", None) if isinstance(found, dict) else None
    if said is not None and said != fingerprint(model):
        raise DataError(
            f"Expected metrics of this model; those in {file} are of another ({str(said)[:8]}). Measure this one with"
            " `mlvae evaluate --out`, or leave --metrics out."
        )
    if not isinstance(found, dict) or not all(isinstance(value, (int, float)) for value in found.values()):
        raise DataError(
            f"Expected a number by name in {file}; got something else. Make it with `mlvae evaluate --out`."
        )
    return found


def trained_options(config: dict[str, Any]) -> dict[str, Any]:
    """Of a run's options those that say something, as `_line` takes them."""
    said = {name: value for name, value in config.items() if value is not None and value is not False}
    if (in_memory := config.get("in_memory")) is not None:  # which is no switch
        said["in_memory"] = str(in_memory).lower()
    return said


def _line(command: str, options: dict[str, Any], *first: str) -> str:
    """A command as it is typed."""
    import shlex

    words = ["mlvae", command, *first]
    for name, value in options.items():
        if value is True:
            words.append(f"--{name.replace('_', '-')}")
        elif value is not None:
            if name == "members" and isinstance(value, list):  # numbers of one option; other lists are an option each
                value = ",".join(map(str, value))
            for each in value if isinstance(value, (list, tuple)) else [value]:
                words += [f"--{name.replace('_', '-')}", str(each)]
    return shlex.join(words)


# Not called `explore`: see above.
def serve(
    run: str,
    data: str,
    by: str | None = None,
    split_column: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8765,
    cache: str | None = None,
    on_bad_file: Literal["error", "skip"] = "error",
    network: str | None = None,
    likelihood: str | None = None,
) -> None:
    """Play with a trained model in the browser. Example: mlvae explore runs/faces faces.npz

    Args:
        run: the folder that training wrote
        data: what `mlvae train` takes
        by: the grouping column (default: the run's own, "group", or the only one)
        split_column: observations come from rows where it is not 0 or "train" (default: as in training, or "split")
        host: the address to listen at; another than this machine's own lets others see the data who have the token
        port: of the page; 0 takes a free one
        cache: the folder that decoded pictures and large tables are kept in (default: .mlvae beside the data)
        on_bad_file: error, or skip and go on
        network: package.module:name of the network that the run was trained with, where it is one's own
        likelihood: likewise of the likelihood
    """
    import secrets

    try:
        from mlvae.explore.app import app
        from mlvae.explore.serving import listen, loopback, server
    except ImportError as error:
        raise MissingExtraError(
            f"Expected {error.name} for the page; it is not installed. Install the extra: pip install 'mlvae[explore]'."
        ) from error
    from mlvae.explore.session import Session

    model, part, held, how = opened(
        run, data, by, split_column, network, likelihood, cache=cache, on_bad_file=on_bad_file
    )
    like = read_like(run).items()
    read = {name: value for name, value in like if name != "usual" and value not in (None, (), "error")}
    session = Session(model, part if held is None else held, run=run, source=data, split=how, reading=read)
    try:
        listening = listen(host, port)
    except (OSError, OverflowError) as error:
        raise DataError(
            f"Expected to listen at {host}:{port}; {error}. Choose another with --port, or --port 0."
        ) from error
    named = f"[{host}]" if ":" in host else host
    token = None if loopback(host) else secrets.token_urlsafe(24)
    shown = f"?token={token}" if token else ""
    say(f"Open http://{named}:{listening.getsockname()[1]}/{shown} in a browser. Stop with Ctrl-C.")
    if token:
        say("! Other machines can reach this page: whoever has the address with its token sees the data, unencrypted.")
    server(app(session, ("127.0.0.1", "localhost", "[::1]", named), token)).run(sockets=[listening])
