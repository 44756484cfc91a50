"""Which rows a run keeps out of training: to be measured on, and to calibrate levels on."""

from __future__ import annotations

from typing import Any

from mlvae.commands.common import say


def share_out(data: Any, share: float, seed: int, levels: Any = ()) -> dict[str, Any]:
    """How `GroupedData.split` takes a share out of data to measure on, as `Design.out` says."""
    from mlvae.data.designs import Design

    return Design.of(data, levels).out(share, seed).how(share, seed)


def validation_of(data: Any, share: float, seed: int, levels: Any, asked: bool) -> tuple[Any, Any]:
    """The training part and what is kept to calibrate levels on, None where too little; says what was done.

    A share that was not ``asked`` for is larger where groups nested in others need it, up to a fifth.

    Raises:
        DataError: the share is none.
    """
    from mlvae.data.designs import Design

    if not share:
        return data, None
    found = Design.of(data, levels).calibrating(share, seed, asked)
    if found.whole:
        say(f"To calibrate levels on, {found.share:.0%} of {found.whole} groups are kept out of training whole")
    if found.sure:
        say(f"! {found.sure}")
    if found.few:
        say(found.few)
    if found.how is None:
        return data, None
    rest, new = data.split(**found.how)
    return rest, new
