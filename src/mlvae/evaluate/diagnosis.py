"""What the numbers say is wrong, in words, and what to try."""

from __future__ import annotations

import math
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
CHECKS: tuple[Check, ...] = (_content, _style, _leak, _confounded, _posterior, _swap, _by_heart)
