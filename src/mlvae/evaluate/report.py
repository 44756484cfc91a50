"""The protocol's numbers as a short table of plain text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

CONTROL = "control.untrained."
ROWS = {
    "probe.content.k1.linear": "group from content, linear probe (k = 1)",
    "probe.content.k1.mlp": "group from content, MLP probe (k = 1)",
    "probe.style.sample.mlp": "group from style samples, MLP probe",
    "probe.style.sample.nats": "group in style samples (nats)",
    "probe.style.mean.mlp": "group from style means, MLP probe",
    "unseen.shots.1.accuracy": "unseen groups, {way}-way, 1 shot",
    "unseen.shots.5.accuracy": "unseen groups, {way}-way, 5 shots",
    "unseen.style.shots.5.accuracy": "unseen groups from style, 5 shots",
    "elbo": "ELBO (nats per observation)",
    "reconstruction.mse": "reconstruction, squared error per feature",
}


def table(metrics: Mapping[str, float]) -> str:
    """Aligned rows: the number, what chance and raw pixels give, what an untrained copy gives.

    Accuracies are in percent, with their 95 % interval where there is one.

    Example:
        >>> print(table({"probe.style.sample.mlp": 0.15, "probe.chance": 0.114, "elbo": -98.76}))
                                             model  chance / pixels  untrained
        group from style samples, MLP probe   15.0             11.4
        ELBO (nats per observation)         -98.76
    """
    rows = [("", "model", "chance / pixels", "untrained")]
    for key, text in ROWS.items():
        if key in metrics:
            label = text.format(way=round(metrics.get("unseen.way", 0)))
            rows.append((label, _value(metrics, key), _floor(metrics, key), _number(metrics, CONTROL + key)))
    first, *others = zip(*rows, strict=True)
    columns = [_padded(first, str.ljust), *(_padded(column, str.rjust) for column in others)]
    return "\n".join("  ".join(cells).rstrip() for cells in zip(*columns, strict=True))


def _padded(cells: Sequence[str], adjust: Callable[[str, int], str]) -> list[str]:
    return [adjust(cell, max(map(len, cells))) for cell in cells]


def _number(metrics: Mapping[str, float], key: str) -> str:
    if key not in metrics:
        return ""
    value = metrics[key]
    if key == "elbo":
        return f"{value:.2f}"
    return f"{value:.4f}" if key.endswith((".nats", ".mse")) else f"{100 * value:.1f}"


def _value(metrics: Mapping[str, float], key: str) -> str:
    ends = [key.replace(".accuracy", end) for end in (".low", ".high")]
    if key.endswith(".accuracy") and all(end in metrics for end in ends):
        low, high = (_number(metrics, end) for end in ends)
        return f"{_number(metrics, key)} ({low}-{high})"
    return _number(metrics, key)


def _floor(metrics: Mapping[str, float], key: str) -> str:
    if key.startswith("probe.") and not key.endswith(".nats"):
        return _number(metrics, "probe.chance")
    if key.startswith("unseen."):
        chance = f"{100 / metrics['unseen.way']:.1f}" if metrics.get("unseen.way") else ""
        pixels = _number(metrics, "unseen.pixels.shots.1.accuracy") if key == "unseen.shots.1.accuracy" else ""
        return " / ".join(part for part in (chance, pixels) if part)
    return "0" if key.endswith(".nats") else ""
