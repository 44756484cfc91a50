"""Selects the avatars that ship with the package from the full set.

    python tools/make_avatars.py avatars_lorelei_64.npz src/mlvae/data/avatars.npz

Where the full set comes from: docs/avatars.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

TRAINING, UNSEEN = 168, 42  # as many identities as fit into LIMIT, a fifth of them unseen
LIMIT = 2_900_000  # bytes
STEPS = 32  # grey levels
COLUMNS = ("eyes", "eyebrows", "mouth", "rotate_deg", "flip", "tx", "ty")


def main(source: str, target: str) -> None:
    """Writes `target`: the first identities of both parts of `source`, renumbered from 0."""
    full = np.load(source, allow_pickle=False)
    group, split = full["group"], full["split"]
    chosen = np.concatenate([np.unique(group[split == 0])[:TRAINING], np.unique(group[split == 1])[:UNSEEN]])
    rows = np.flatnonzero(np.isin(group, chosen))
    # Fewer greys compress better: a fifth more identities for a change of 4 in 255 at most.
    grey = np.rint(np.rint(full["x"][rows] * ((STEPS - 1) / 255)) * (255 / (STEPS - 1))).astype(np.uint8)
    np.savez_compressed(
        target,
        x=grey,
        group=np.searchsorted(chosen, group[rows]).astype(np.int16),
        split=split[rows],
        **{name: full[name][rows] for name in COLUMNS},
    )
    size = Path(target).stat().st_size
    print(f"{target}: {len(rows)} pictures of {len(chosen)} identities, {size:,} bytes")
    if size > LIMIT:
        sys.exit(f"Expected at most {LIMIT:,} bytes; lower TRAINING and UNSEEN.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", help="the full set, .npz")
    parser.add_argument("target", help="the selection to write, .npz")
    main(**vars(parser.parse_args()))
