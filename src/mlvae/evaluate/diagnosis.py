"""What the numbers say is wrong, in words, and what to try."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

from mlvae.evaluate.report import calibrations

Metrics = Mapping[str, float]


def diagnose(metrics: Metrics, content: str = "content", style: str = "style") -> list[str]:
    """The troubles that the protocol's numbers show, worst first; none where all is well.

    Args:
        metrics: as `evaluate` gives them; a question whose numbers are missing is not asked.
        content: the name of the first level that groups share.
        style: the name of the last level that none shares.

    Returns:
        A sentence a trouble: what is seen, in numbers, and what to try.

    Example:
        >>> for text in diagnose({"kl.style": 0.002, "kl.content": 3.0}):
        ...     print(text)
        Style collapsed: 0.002 nats an observation. Ask less of `independence` (a number, as 100), train longer, or lower its KL weight.
    """  # noqa: E501
    found = []
    for check in CHECKS:
        try:
            text = check(metrics, content, style)
        except KeyError:
            continue
        if text:
            found.append(text)
    return found


def _capital(name: str) -> str:
    return name[:1].upper() + name[1:]


def _content(m: Metrics, content: str, style: str) -> str | None:
    key = "probe.content.k1.linear" if "probe.content.k1.linear" in m else "unseen.shots.1.accuracy"
    value, control = m[key], m[f"control.untrained.{key}"]
    if value > control + 0.05 or m.get(f"kl.{content}", 0.0) > 0.5:  # easy groups are named by any network
        return None
    return (
        f"{_capital(content)} collapsed: it names the group in {value:.0%}, an untrained network in {control:.0%}."
        " Lower its KL weight, raise `identification`, and see that groups have several members in a batch."
    )


def _style(m: Metrics, content: str, style: str) -> str | None:
    if m[f"kl.{style}"] > 0.5:
        return None
    return (
        f"{_capital(style)} collapsed: {m[f'kl.{style}']:.3f} nats an observation. Ask less of `independence` (a"
        " number, as 100), train longer, or lower its KL weight."
    )


def _leak(m: Metrics, content: str, style: str) -> str | None:
    if "probe.style.sample.nats" in m:
        value, nats = m["probe.style.sample.mlp"], m["probe.style.sample.nats"]
        leaks, where = nats > 0.1, f"{value:.0%} of groups are named from {style} samples ({nats:.2f} nats)"
    else:
        value, chance = m["unseen.style.shots.5.accuracy"], 1 / m["unseen.way"]
        leaks = value > chance + min(chance, (1 - chance) / 2)
        where = f"{style} names unseen groups in {value:.0%} of cases, chance {chance:.0%}"
    if not leaks:
        return None
    return (
        f"{_capital(style)} knows the group: {where}. Let it tell less (`--told`, `Held(end=...)`), or make it"
        " narrower."
    )


def _own_groups(m: Metrics, content: str, style: str) -> str | None:
    """As `_content`, of every level that has groups; of content only where that is not asked."""
    asked = {content} if {"probe.content.k1.linear", "unseen.shots.1.accuracy"} & m.keys() else set()
    found = []
    for level in sorted(_factors(m) - asked):
        probe = f"probe.{level}.{level}.k1.linear"
        key = probe if probe in m else f"unseen.{level}.{level}.shots.1.accuracy"
        value, control = m.get(key, math.inf), m.get(f"control.untrained.{key}", -math.inf)
        if value <= control + 0.05 and m.get(f"kl.{level}", 0.0) <= 0.5:
            found.append(f"{level!r} names its own groups in {value:.0%}, an untrained network in {control:.0%}")
    if not found:
        return None
    return (
        f"Levels collapsed: {'; '.join(found)}. Lower their KL weight, raise `identification`, and see that their"
        " groups have several members in a batch."
    )


def _others_groups(m: Metrics, content: str, style: str) -> str | None:
    """Levels that tell the groups of others, of several that are shared. Of those nested in each other one may."""
    asked = {(style, content)} if {"probe.style.sample.nats", "unseen.style.shots.5.accuracy"} & m.keys() else set()
    factors = _factors(m)
    pairs = {(match[1] or match[4], match[2] or match[3]) for key in m if (match := PAIR.fullmatch(key))}
    found, advice = [], set()
    for level, factor in sorted(pairs - asked):
        nested = m.get(f"probe.{level}.{factor}.of_groups") or m.get(f"probe.{factor}.{level}.of_groups")
        if factor in factors and factor != level and not nested and (seen := _told(m, level, factor)):
            found.append(f"{level!r} tells {factor!r} ({seen})")
            advice.add(LEAKING if level in factors else TELLING)
    return f"Levels know groups of others: {'; '.join(found)}. {' '.join(sorted(advice))}" if found else None


PAIR = re.compile(
    r"probe\.([^.]+)\.([^.]+)\.(?:k1\.linear|sample\.nats)|unseen\.([^.]+)\.((?!pixels\.)[^.]+)\.shots\.\d+\.accuracy"
)
"""A level, and another whose groups are asked of it; turned round for groups that training never saw."""
LEAKING = "Let levels that groups share tell less: raise `leakage`."
TELLING = "Let an observation's own tell less (`--told`, `Held(end=...)`), or make it narrower."


def _factors(m: Metrics) -> set[str]:
    """Levels that are asked what they tell of their own groups, which with several shared levels each is."""
    found = (re.fullmatch(r"(?:probe|unseen)\.([^.]+)\.\1\.(?:k1\.\w+|shots\.\d+\.accuracy)", key) for key in m)
    return {match[1] for match in found if match}


def _told(m: Metrics, level: str, factor: str) -> str | None:
    """What a level tells of another's groups, if that is too much: more than chance and an untrained network."""
    key = f"probe.{level}.{factor}"
    if (nats := m.get(f"{key}.sample.nats", 0.0)) > 0.1:
        return f"{m.get(f'{key}.sample.mlp', math.nan):.0%} from samples, {nats:.2f} nats"
    unseen = [f"unseen.{factor}.{level}.shots.{shots}.accuracy" for shots in (5, 1)]
    for place in (f"{key}.k1.linear", *unseen):
        if place not in m or m[place] <= m.get(f"control.untrained.{place}", -math.inf):
            continue
        chance = 1 / m[f"unseen.{factor}.way"] if place in unseen else m[f"probe.{factor}.chance"]
        if m[place] > chance + (min(chance, (1 - chance) / 2) if place in unseen else 0.1):
            return f"{m[place]:.0%}{' of new ones' if place in unseen else ''}, chance {chance:.0%}"
    return None


def _confounded(m: Metrics, content: str, style: str) -> str | None:
    """A factor that content tells although it is no property of the group; more than a network that learned nothing."""
    for key, value in m.items():
        if not key.startswith("probe.content.") or key.startswith("probe.content.k1"):
            continue
        if value <= m.get(f"control.untrained.{key}", -math.inf):
            continue
        factor = key.removeprefix("probe.content.").partition(".k1.")[0]
        # A level of its own is no factor of the style, and the first is what content should tell.
        if m.get(f"probe.{factor}.of_groups") or f"probe.{factor}.{factor}.k1.mlp" in m:
            continue
        if key.endswith(".r2") and value > 0.1:
            seen = f"R² {value:.2f}"
        elif key.endswith(".mlp") and value > m[f"probe.{factor}.chance"] + 0.1:
            seen = f"{value:.0%}, chance {m[f'probe.{factor}.chance']:.0%}"
        else:
            continue
        return (
            f"Groups are confounded with {style}: {content} tells {factor!r} ({seen}). Either it is a property of the"
            " groups, or each group was observed under few of its values: collect or resample more, or make it a level."
        )
    return None


def _posterior(m: Metrics, content: str, style: str) -> str | None:
    ratios = {level: ratio for level, points in calibrations(m).items() for k, ratio, _ in points if k == 1}
    ratios = {content if level == "content" else level: ratio for level, ratio in ratios.items()}
    ratios = ratios or {content: m["calibration.ratio"]}
    name, ratio = max(ratios.items(), key=lambda item: abs(math.log(max(item[1], 1e-6))))
    if ratio > 1.5:
        how, what = (
            "over-confident",
            "Calibrate it on groups like these (`mlvae.temper`), or raise its KL weight.",
        )
    elif ratio < 0.67:
        how, what = "under-confident", "Calibrate it (`mlvae.temper`), train longer, or lower its KL weight."
    else:
        return None
    return f"The posterior of {name!r} is {how}: squared errors are {ratio:.2f} of what it promises. {what}"


def _swap(m: Metrics, content: str, style: str) -> str | None:
    if m["swap.content_of_style_giver"] < max(0.1, 1.5 * m.get("probe.chance", 0.0)):
        return None
    return (
        f"Swaps show the {style} giver's group in {m['swap.content_of_style_giver']:.0%} of pictures."
        f" {_capital(style)} carries {content}, or the decoder ignores {content}: see the probes and the KL."
    )


def _by_heart(m: Metrics, content: str, style: str) -> str | None:
    value, blind = m["reconstruction.mse"], m["reconstruction.mse_of_mean"]
    if value < 0.9 * blind:
        return None
    return (
        f"Observations that are new lie {value:.3g} from what their own codes show, squared, and {blind:.3g} from the"
        " mean of all: codes show nothing of them. Where training was short, train longer; where the training part is"
        " small, the network knows it by heart: stop earlier (`--patience 10`), take a smaller network (`--network"
        " mlp-small`), or collect more. Else see"
        f" whether {style} collapsed."
    )


Check = Callable[[Metrics, str, str], str | None]
CHECKS: tuple[Check, ...] = (
    _content,
    _own_groups,
    _style,
    _leak,
    _others_groups,
    _confounded,
    _posterior,
    _swap,
    _by_heart,
)
