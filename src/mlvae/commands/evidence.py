"""Evidence on disk: added up, taken back, read out, and asked who is who."""

from __future__ import annotations

import math
import warnings
from typing import Any

from mlvae.commands.common import say
from mlvae.errors import DataError, EvidenceError

COMPARED = 2000
"""Groups, at most, whose pairs a calibration is fitted on."""


def merge(inputs: list[str], out: str | None = None) -> None:
    """Add evidence up, group by group. Example: mlvae evidence merge monday.parquet tuesday.parquet --out both.parquet

    Args:
        inputs: files that mlvae encode --evidence wrote, of one model; one piece of evidence in two of them is refused
        out: the file to write; a file that is there is refused
    """
    from mlvae.store import adding

    say(f"Wrote {adding.merge(inputs, _out(out))}")


def retract(everything: str, part: str, out: str | None = None) -> None:
    """Take evidence back out. The network does not forget what it was trained on: this takes votes out of sums.

    Example: mlvae evidence retract all.parquet one-site.parquet --out rest.parquet

    Args:
        everything: a file of evidence
        part: what was added to it, or the evidence of observations that were
        out: the file to write; a file that is there is refused
    """
    from mlvae.store import adding

    say(f"Wrote {adding.retract(everything, part, _out(out))}. The network is as before: it does not forget.")


def posterior(evidence: str, out: str | None = None) -> None:
    """Write every group's posterior. Example: mlvae evidence posterior all.parquet --out posterior.parquet

    Args:
        evidence: a file of evidence
        out: Parquet, a row a group: level, group, count, mean and variance
    """
    from mlvae.store import files

    say(f"Wrote {files.posterior(evidence, _out(out))}")


def identify(
    gallery: str,
    query: str,
    k: int = 5,
    new: float = 0.0,
    level: str = "content",
    calibration: str | None = None,
    out: str | None = None,
) -> None:
    """Who is it? The likeliest groups by exact Bayes factor. Example: mlvae evidence identify known.parquet q.parquet

    Args:
        gallery: evidence of the known groups; it is read once, a part at a time
        query: evidence of the groups to name
        k: how many to name
        new: prior probability of none of these
        level: whose groups
        calibration: JSON that mlvae evidence calibrate wrote
        out: Parquet to write instead of printing: a row a query and rank
    """
    from mlvae.gallery import Gallery, Ranking
    from mlvae.store import files
    from mlvae.store.adding import check_unique

    asked, mended = _pair(gallery, query, level), _calibration(calibration, gallery, level)
    check_unique(gallery)
    ranking: Ranking | None = None
    for part in files.batches(gallery, level):
        found = Gallery(part, level).identify(asked, k, new=new, calibration=mended)
        ranking = found if ranking is None else ranking + found
    if ranking is None:
        raise EvidenceError(f"Expected groups of {level!r} in {gallery}; there are none.")
    names, chance, odds, none = asked.groups[level], ranking.probability, ranking.log_odds, ranking.none
    assert names is not None
    if out is not None:
        ranks = chance.shape[1]
        _write(
            out, query=names.repeat(ranks), rank=[*range(1, ranks + 1)] * len(names), group=ranking.groups.flatten(),
            probability=chance.flatten().numpy(), log_odds=odds.flatten().numpy(), none=none.numpy().repeat(ranks),
        )  # fmt: skip
        return
    for row, name in enumerate(names):
        named = [
            f"{g} {p:.3f} ({o:+.1f} nats)" for g, p, o in zip(ranking.groups[row], chance[row], odds[row], strict=True)
        ]
        say(f"{name}: {', '.join(named)}; none of these {none[row]:.3f}")


def verify(
    gallery: str,
    query: str,
    prior: float = 0.5,
    level: str = "content",
    calibration: str | None = None,
    out: str | None = None,
) -> None:
    """Is each group the known one of the same name? Example: mlvae evidence verify known.parquet claimed.parquet

    Args:
        gallery: evidence of the known groups
        query: evidence of groups that claim to be known ones, under the same labels
        prior: probability of a true claim before looking
        level: whose groups
        calibration: JSON that mlvae evidence calibrate wrote
        out: Parquet to write instead of printing: a row a group
    """
    import math

    from mlvae.identification import verify as compare
    from mlvae.store import files

    if not 0 < prior < 1:
        raise EvidenceError(f"Expected a prior between 0 and 1; got {prior}.")
    asked = _pair(gallery, query, level)
    labels, odds = compare(files.read(gallery), asked, level, calibration=_calibration(calibration, gallery, level))
    chance = (odds + math.log(prior / (1 - prior))).sigmoid()
    if out is not None:
        _write(out, group=labels, probability=chance.numpy(), log_odds=odds.numpy())
        return
    for name, p, o in zip(labels, chance.tolist(), odds.tolist(), strict=True):
        say(f"{name}: {p:.3f} ({o:+.1f} nats)")


def calibrate(gallery: str, query: str, level: str = "content", out: str | None = None) -> None:
    """Fit what Bayes factors are worth, on groups kept out of training.

    Example: mlvae evidence calibrate first.parquet second.parquet --out calibration.json

    Args:
        gallery: evidence of groups that training has not seen
        query: evidence of further observations of the same groups, under the same labels; of more than 2,000 groups as
            many are looked at, drawn at random
        level: whose groups
        out: JSON to write, for --calibration of identify and verify
    """
    import json
    from dataclasses import asdict

    import numpy as np
    import torch

    from mlvae.atomic import write
    from mlvae.group_evidence import GroupEvidence
    from mlvae.identification import Odds
    from mlvae.store import files
    from mlvae.store.layout import free, layout_of

    target = free(_out(out))
    asked, known = _pair(gallery, query, level), files.read(gallery)
    mine, theirs = asked.groups[level], known.groups[level]
    assert mine is not None and theirs is not None
    labels = np.random.default_rng(0).permutation(np.intersect1d(mine, theirs))[:COMPARED]
    if len(labels) < 2:
        raise EvidenceError(
            f"Expected two groups at least that are in both {gallery} and {query}; got {len(labels)}. Give both the"
            " same labels."
        )
    here, there = (
        GroupEvidence({level: each.of(level, labels, len(labels))}, each.readouts, {level: labels}, each.model)
        for each in (asked, known)
    )
    same = torch.eye(len(labels), dtype=torch.bool)
    factors = here.log_bayes_factor(there, level)
    pairs = factors[same], factors[~same]
    fitted = Odds.fit(*pairs)
    about = {"level": level, "model": layout_of(gallery).model, **asdict(fitted)}
    write(target, json.dumps(about, indent=2).encode())
    say(
        f"Fitted on {len(pairs[0]):,} pairs of one group and {len(pairs[1]):,} of two: {fitted.nats(*pairs):.3f} nats a"
        f" pair, {Odds().nats(*pairs):.3f} as they were, {math.log(2):.3f} by chance"
    )
    say(f"Wrote {target}: log-odds = {fitted.scale:.3f} x log Bayes factor {fitted.offset:+.3f}")


EVIDENCE: dict[str, Any] = {
    "merge": merge, "retract": retract, "posterior": posterior,
    "identify": identify, "verify": verify, "calibrate": calibrate,
}  # fmt: skip


def _pair(gallery: str, query: str, level: str) -> Any:  # GroupEvidence
    """The evidence of the query, once it is sure that it compares with the gallery's."""
    from mlvae.store import files
    from mlvae.store.layout import layout_of

    known, asked = layout_of(gallery), layout_of(query)
    known.check_adds(asked, gallery, query)
    files.level_of(asked, level, query)
    if known.ledger.keys() & asked.ledger.keys():
        warnings.warn(
            f"{query} is in {gallery} already: it is compared with itself, and its odds are too good. Retract it.",
            stacklevel=2,
        )
    return files.read(query)


def _calibration(path: str | None, gallery: str, level: str) -> Any:  # Odds, or None
    """What odds of the gallery's level are worth.

    Raises:
        EvidenceError: it was fitted on another model's evidence, or on another level's.
    """
    from pathlib import Path

    from mlvae.identification import Odds
    from mlvae.store.layout import layout_of
    from mlvae.untrusted import plain_json, reading

    if path is None:
        return None
    with reading("calibration", path, EvidenceError, "`mlvae evidence calibrate` makes one."):
        about = plain_json(Path(path).read_bytes())
        found = Odds(float(about["scale"]), float(about["offset"]))
        fitted = about.get("model"), about.get("level")
    if fitted != (layout_of(gallery).model, level):
        raise EvidenceError(
            f"Expected a calibration of this model's level {level!r}; {path} was fitted on"
            f" {'that level of another model' if fitted[1] == level else f'level {fitted[1]!r}'}. Make one with mlvae"
            " evidence calibrate."
        )
    return found


def _write(out: str, **columns: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mlvae.atomic import replacing
    from mlvae.store.layout import free

    path = free(out)
    with replacing(path) as beside:
        pq.write_table(pa.table({name: pa.array(values) for name, values in columns.items()}), beside)
    say(f"Wrote {out}")


def _out(out: str | None) -> Any:  # Path
    from pathlib import Path

    if out is None:
        raise DataError("Expected a file to write; got none. Add --out FILE.")
    return Path(out)
