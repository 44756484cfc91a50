"""The protocol's numbers as a short table of plain text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

ROWS = {
    "probe.content.k1.linear": "group from {content}, linear probe (k = 1)",
    "probe.content.k1.mlp": "group from {content}, MLP probe (k = 1)",
    "k_curve.5.accuracy": "group from {content} of 5, pooled by label",
    "probe.style.sample.mlp": "group from {style} samples, MLP probe",
    "probe.style.sample.nats": "group in {style} samples (nats)",
    "probe.style.mean.mlp": "group from {style} means, MLP probe",
    "unseen.shots.1.accuracy": "unseen groups, {way}-way, 1 shot",
    "unseen.shots.5.accuracy": "unseen groups, {way}-way, 5 shots",
    "unseen.style.shots.5.accuracy": "unseen groups from {style}, 5 shots",
    "verification.auc": "same group or not, AUC",
    "verification.eer": "same group or not, equal error rate",
    "open_set.auc": "known group or new, AUC",
    "swap.content_of_donor": "swaps that show the {content} giver's group",
    "swap.content_of_style_giver": "swaps that show the {style} giver's group",
    "swap.k5.content_of_donor": "swaps with the {content} of five that show its givers' group",
    "swap.reconstructed": "own reconstructions that show their group",
    "swap.cross_member_mse_ratio": "error through another member / plain VAE",
    "calibration.ratio": "calibration of {content} at k = 1 (1 is right)",
    "calibration.coverage90": "coverage of its 90 % intervals",
    "generation.coverage": "coverage of generated samples",
    "amortisation.gap": "amortisation gap (nats per group)",
    "elbo": "ELBO (nats per observation)",
    "iwae": "importance-weighted bound, k = 1 (nats)",
    "reconstruction.mse": "reconstruction, squared error per feature",
    "reconstruction.mse_of_mean": "the same of the training part's mean",
}
NAMED = r"unseen\.[^.]+\.[^.]+\.shots\.\d+\.accuracy"
"""New groups of one of several levels, by the code of one."""
PROMISES = {
    "ratio": "calibration of {level} at k = 1 (1 is right)",
    "coverage90": "coverage of {level}'s 90 % intervals",
}
"""Of one of several shared levels; where there is one, its rows above say it."""
CONTROLS = {"untrained": "untrained", "vae": "plain VAE", "permuted": "shuffled"}
PLAIN = ("elbo", "iwae", "amortisation.gap", "calibration.ratio", "swap.cross_member_mse_ratio")
"""Numbers that are shown as they are; the others are shares, in percent."""


def table(metrics: Mapping[str, float], content: str = "content", style: str = "style") -> str:
    """Aligned rows: the number, what chance and raw pixels give, what the controls give.

    Shares are in percent, with their 95 % interval where there is one. Columns of controls that were not measured are
    left out; so are rows.

    Args:
        metrics: as `evaluate` gives them.
        content: the name of the first level that groups share.
        style: the name of the last level that none shares.

    Example:
        >>> print(table({"probe.style.sample.mlp": 0.15, "probe.chance": 0.114, "elbo": -98.76}))
                                             model  chance / pixels
        group from style samples, MLP probe   15.0             11.4
        ELBO (nats per observation)         -98.76
    """
    first, *others = zip(*rows(metrics, content, style), strict=True)
    columns = [_padded(first, str.ljust), *(_padded(column, str.rjust) for column in others)]
    return "\n".join("  ".join(cells).rstrip() for cells in zip(*columns, strict=True))


def rows(metrics: Mapping[str, float], content: str = "content", style: str = "style") -> list[tuple[str, ...]]:
    """The table's cells as text, the first row its head."""
    controls = [name for name in CONTROLS if any(key.startswith(f"control.{name}.") for key in metrics)]
    found = [("", "model", "chance / pixels", *(CONTROLS[name] for name in controls))]
    several = [level for level in calibrations(metrics) if f"calibration.{level}.k1.ratio" in metrics]
    for key, text in ROWS.items():
        if key in metrics and not (several and key.startswith("calibration.")):
            label = text.format(way=round(metrics.get("unseen.way", 0)), content=content, style=style)
            beside = (_number(metrics, f"control.{name}.{key}") for name in controls)
            found.append((label, _value(metrics, key), _floor(metrics, key), *beside))
    for level in several:
        for name, text in PROMISES.items():
            key = f"calibration.{level}.k1.{name}"
            beside = (_number(metrics, f"control.{name}.{key}") for name in controls)
            found.append((text.format(level=level), _value(metrics, key), "", *beside))
    for key in sorted(metrics):
        # Factors have names of their own: they come last, as their keys.
        probe = key.startswith("probe.") and key.endswith((".k1.linear", ".mlp", ".mlp.r2"))
        if (probe or re.fullmatch(NAMED, key)) and key not in ROWS:
            beside = (_number(metrics, f"control.{name}.{key}") for name in controls)
            found.append(
                (
                    key.removeprefix("probe.").removesuffix(".accuracy"),
                    _value(metrics, key),
                    _floor(metrics, key),
                    *beside,
                )
            )
    return found


def calibrations(metrics: Mapping[str, float]) -> dict[str, list[tuple[int, float, float]]]:
    """What posteriors after k observations keep of their promise, (k, ratio, coverage): of content, or by level.

    Example:
        >>> calibrations({"calibration.k5.ratio": 1.1, "calibration.k5.coverage90": 0.88})
        {'content': [(5, 1.1, 0.88)]}
    """
    found: dict[str, list[tuple[int, float, float]]] = {}
    keys = [match for key in metrics if (match := re.fullmatch(r"calibration\.(?:([^.]+)\.)?k(\d+)\.ratio", key))]
    several = any(match[1] for match in keys)
    for match in keys:
        if bool(match[1]) == several:
            point = int(match[2]), metrics[match[0]], metrics[match[0].removesuffix("ratio") + "coverage90"]
            found.setdefault(match[1] or "content", []).append(point)
    return found


def _padded(cells: Sequence[str], adjust: Callable[[str, int], str]) -> list[str]:
    return [adjust(cell, max(map(len, cells))) for cell in cells]


def _number(metrics: Mapping[str, float], key: str) -> str:
    if key not in metrics:
        return ""
    value = metrics[key]
    if key.endswith(PLAIN) or key.endswith(".k1.ratio"):
        return f"{value:.2f}"
    return f"{value:.4f}" if key.endswith((".nats", ".mse", ".mse_of_mean", ".r2")) else f"{100 * value:.1f}"


def _value(metrics: Mapping[str, float], key: str) -> str:
    ends = [key.replace(".accuracy", end) for end in (".low", ".high")]
    if key.endswith(".accuracy") and all(end in metrics for end in ends):
        low, high = (_number(metrics, end) for end in ends)
        return f"{_number(metrics, key)} ({low}-{high})"
    return _number(metrics, key)


def _floor(metrics: Mapping[str, float], key: str) -> str:
    if key.endswith(".r2"):
        return "0"
    if key.startswith("probe.") and not key.endswith(".nats"):
        return _number(metrics, "probe.chance" if key in ROWS else f"probe.{key.split('.')[2]}.chance")
    if key.startswith("unseen."):
        way = metrics.get(f"unseen.{key.split('.')[1]}.way" if re.fullmatch(NAMED, key) else "unseen.way")
        chance = f"{100 / way:.1f}" if way else ""
        pixels = _number(metrics, "unseen.pixels.shots.1.accuracy") if key == "unseen.shots.1.accuracy" else ""
        return " / ".join(part for part in (chance, pixels) if part)
    return "0" if key.endswith(".nats") else ""
