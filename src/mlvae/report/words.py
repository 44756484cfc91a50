"""What was learned, in three sentences."""

from __future__ import annotations

from collections.abc import Mapping

from mlvae.model import MLVAE

Numbers = Mapping[str, float]


def learned(model: MLVAE, m: Numbers, speaker: str | None = None) -> list[str]:
    """What content knows, what style knows, and what evidence adds: a sentence each, from what was measured.

    Args:
        model: that was measured.
        m: as `Findings.numbers` and the protocol's.
        speaker: whose groups speak for those of the first shared level, where others are nested in it.
    """
    if not model.group_levels:
        return [f"A plain VAE, without anything that groups share: {m['elbo']:,.1f} nats per observation (ELBO)."]
    return [text for text in (_content(model, m), _style(model, m), _evidence(model, m, speaker)) if text]


def _content(model: MLVAE, m: Numbers) -> str:
    level = model.group_levels[0]
    by = _joined(level.by)
    start = (
        f"From {m['report.train.observations']:,.0f} observations of {m['report.train.groups']:,.0f} groups,"
        f" {level.name} was to learn what {_article(by)} {by} shares: "
    )
    if (key := "probe.content.k1.linear") in m:
        base, beside = "observations kept out of training", f"chance {_percent(m['probe.chance'])}"
        named = (
            f"a single one of {m['report.new.observations']:,.0f} {base} names its {by} in {_percent(m[key])} of cases"
        )
    elif (key := "unseen.shots.1.accuracy") in m:
        way = m["unseen.way"]
        named = f"one example of each of {way:.0f} groups never seen names them in {_percent(m[key])} of cases"
        beside = f"chance {_percent(1 / way)}"
    elif (key := f"probe.{level.name}.{level.name}.k1.linear") in m:
        named = f"a single observation kept out of training names its {by} in {_percent(m[key])} of cases"
        beside = f"chance {_percent(m[f'probe.{level.name}.chance'])}"
    elif (key := f"unseen.{level.name}.{level.name}.shots.1.accuracy") in m:
        way = m[f"unseen.{level.name}.way"]
        named = f"one example of each of {way:.0f} groups never seen names them in {_percent(m[key])} of cases"
        beside = f"chance {_percent(1 / way)}"
    else:
        return f"{start}how well was not measured{''.join(_further(model, m))}."
    if (control := f"control.untrained.{key}") in m:
        beside += f", an untrained network {_percent(m[control])}"
    return f"{start}{named} ({beside}){''.join(_further(model, m))}."


def _further(model: MLVAE, m: Numbers) -> list[str]:
    """What the other shared levels know of their own groups."""
    return [
        f"; {level.name} names its {_joined(level.by)} in {_percent(m[key])} (chance"
        f" {_percent(m[f'probe.{level.name}.chance'])})"
        for level in model.group_levels[1:]
        if (key := f"probe.{level.name}.{level.name}.k1.linear") in m
    ]


def _joined(by: str | tuple[str, ...] | None) -> str:
    return by if isinstance(by, str) else " and ".join(by or ())


def _article(word: str) -> str:
    return "an" if word[:1].lower() in "aeiou" else "a"


def _style(model: MLVAE, m: Numbers) -> str:
    own = [level for level in model.levels if level.by is None]
    if not own:
        return ""
    start = f"{own[-1].name.capitalize()}, an observation's own, costs {_nats(m[f'kl.{own[-1].name}'])} nats"
    if (key := "probe.style.sample.mlp") in m:
        known = f"its samples name the group in {_percent(m[key])} of cases (chance {_percent(m['probe.chance'])})"
    elif (key := "unseen.style.shots.5.accuracy") in m:
        known = f"it names groups never seen in {_percent(m[key])} of cases (chance {_percent(1 / m['unseen.way'])})"
    else:
        return f"{start} per observation."
    return f"{start} per observation, and {known}."


def _evidence(model: MLVAE, m: Numbers, speaker: str | None) -> str:
    ks = sorted(int(key.split(".")[2]) for key in m if key.startswith("report.posterior."))
    if not ks:
        return ""
    by = model.group_levels[0].by
    first, last = (m[f"report.posterior.{k}.variance"] for k in (ks[0], ks[-1]))
    of = "a group" if len(model.group_levels) == 1 else f"{_article(_joined(by))} {_joined(by)}"
    text = (
        f"Evidence adds up: the variance of {of}'s posterior falls from {first:.3f} after one"
        f" {speaker or 'observation'} to {last:.3f} after {ks[-1]}{', one observation of each' if speaker else ''}"
        " (before any it is 1)"
    )
    if len(model.group_levels) == 1 and "calibration.coverage90" in m:
        text += f", and 90 % intervals after one observation hold in {_percent(m['calibration.coverage90'])} of cases"
    return text + "."


def _nats(nats: float) -> str:
    """Little is not nothing: below a tenth it has two digits of its own."""
    return f"{nats:.1f}" if abs(nats) >= 0.1 or nats == 0 else f"{nats:.2g}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
