"""Smartwatch motion as windows: six channels, two seconds each, by subject and exercise, as one `.npz` file.

    pip install seglearn
    python tools/make_motion.py motion.npz

The recordings (140 series of 10 subjects, 7 exercises and 2 sides; Burns et al. 2018, arXiv:1802.01489) come inside the
package seglearn, as a pickled array that its own `load_watch` opens.
"""

from __future__ import annotations

import argparse

import numpy as np

WINDOW, STEP = 100, 50
"""At 50 Hz: two seconds, begun every second."""
NEW = (9, 10)
"""Subjects kept out of training."""


def main(out: str) -> None:
    """Writes x (N, 6, 100), scaled by the training subjects' spread, subject, exercise, side, series and split."""
    from seglearn.datasets import load_watch

    data = load_watch()
    scale = np.concatenate([x for x, s in zip(data["X"], data["subject"], strict=True) if s not in NEW]).std(0)
    x, rows = [], []
    for number, series in enumerate(data["X"]):
        starts = range(0, len(series) - WINDOW + 1, STEP)
        x += [(series[start : start + WINDOW] / scale).T for start in starts]
        rows += [number] * len(starts)
    subject, exercise, side = (np.asarray(data[name])[rows] for name in ("subject", "y", "side"))
    np.savez_compressed(
        out, x=np.array(x, np.float32), subject=subject, exercise=np.array(data["y_labels"])[exercise], side=side,
        series=np.array(rows), split=np.isin(subject, NEW).astype(np.uint8),
    )  # fmt: skip
    print(f"Wrote {out}: {len(x)} windows")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", help="the windows to write, .npz")
    main(**vars(parser.parse_args()))
