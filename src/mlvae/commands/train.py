"""Training from the command line."""

from __future__ import annotations

import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from mlvae.commands.common import (
    levels_asked,
    listed,
    multiplied,
    own,
    parts,
    refuse_idle,
    refuse_seed,
    say,
    warn_of_forgotten,
    warn_of_leaks,
    write_options,
)
from mlvae.commands.keeping import recognised_by
from mlvae.commands.sharing import share_out, validation_of
from mlvae.commands.weights import further_of, held_to, penalty_of, refuse_unasked, refuse_unweighed, weights_of
from mlvae.errors import CheckpointError, DataError, ModelError

FAR, STRANGERS = 3.0, 200
"""With deformed copies to learn from, levels are calibrated on about 200 groups deformed three times as far: strange to
the network as new groups are (docs/defaults.md), and nobody has to be kept out of a training part that has too few."""


def train(
    data: str,
    out: str | None = None,
    by: str | None = None,
    split_column: str | None = None,
    test: float | None = None,
    epochs: int | None = None,
    augment: str | None = None,
    quarter_turns: bool = False,
    deformed: int = 0,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    level: list[str] | None = None,
    content_dim: int = 16,
    style_dim: int = 16,
    network: str | None = None,
    width: int | None = None,
    likelihood: str | None = None,
    style_given_content: bool = False,
    objective: str = "default",
    told: float | None = None,
    independence: list[str | float] | float | None = None,
    leakage: list[str | float] | float | None = None,
    identification: list[str | float] | float | None = None,
    adversary: list[str | float] | float | None = None,
    penalty: list[str] | None = None,
    content_kl: float | None = None,
    style_kl: float | None = None,
    kl: list[str] | None = None,
    groups: int = 70,
    members: tuple[int, int] = (2, 8),
    whole_groups: bool = False,
    resample: bool = False,
    lr: float = 2e-3,
    validation: float | None = None,
    patience: int | None = None,
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
    deterministic: bool = False,
    compile: bool = False,
    keep: int = 2,
    missing: Literal["error", "drop", "own"] = "error",
    gaps: bool = False,
    features: str | None = None,
    covariates: str | None = None,
    size: int | None = None,
    mode: Literal["L", "RGB"] | None = None,
    folders: str | None = None,
    cache: str | None = None,
    in_memory: bool | None = None,
    on_bad_file: Literal["error", "skip"] = "error",
) -> None:
    """Train a model. Example: mlvae train faces.npz --by person --out runs/faces

    Args:
        data: .npz, .npy, .parquet, .csv (a file, a folder or a 'pattern'), a folder of pictures with a folder a group,
            a saved Hugging Face set, digits, avatars, or package.module:function of one's own
        out: the folder that the run is written to
        by: the grouping column (default: "group", or the only one)
        split_column: rows where it is not 0 or "train" are never trained on (default: "split", where there is one)
        test: without such a column, the share kept out of training for `mlvae evaluate`: whole groups, or with fewer
            than 20 groups observations of each; of levels nested in each other whole countries, or people of each; of
            levels that are only crossed observations
        epochs: passes over the data (default: as many as make 4,000 steps)
        augment: changes that keep a group's content, drawn anew in every step: of pictures
            shift:2,rotate:10,zoom:0.1,flip:0.5, of windows time:3, of either noise:0.1
        quarter_turns: add every group turned by 90, 180 and 270 degrees, as new groups
        deformed: add every group of pictures so many times bent, stretched, mirrored and shaded, as new groups: where
            there are few
        seed: of everything random
        device: auto, cpu, cuda or mps
        resume: go on with the run in --out, or begin it where there is none yet
        level: other levels in place of content and style, coarse to fine, one option each: name:dimensions:column,
            name:dimensions:column,column for a combination, name:dimensions for an observation's own
        content_dim: dimensions that a group shares
        style_dim: dimensions of an observation's own
        network: conv, mlp (default: by the shape; each also -small, -large), series for windows (channels, steps), or
            package.module:name of one's own
        width: of the network
        likelihood: bernoulli, normal, laplace, categorical, discretised_logistic, poisson, negative_binomial, mixed, or
            package.module:name of one's own (default: by the data, see docs/data.md)
        style_given_content: let the style head see the content, q(s | x, c)
        objective: default, paper (Bouchacourt et al. 2018) or vae (no groups)
        told: how much more often than chance style's means may name the group at the end; where they do, independence
            weighs more than its usual 3 to 1000, or 300 beside an adversary (default: the objective's, 0.012)
        independence: its weight at the end of training, fixed beforehand, in place of --told and of an adversary; like
            the next three a number for all levels, or name:weight for one, an option each
        leakage: weight of what a level's codes tell of levels crossed with it (default: the objective's, 20)
        identification: weight of naming the group from content (default: the objective's, 5)
        adversary: weight of what a network that learns beside the model can name groups by in style (default: 10 where
            no level has more than 100 groups, else 0)
        penalty: one of one's own, one option each: package.module:name=weight (docs/bring-your-own.md)
        content_kl: weight of content's KL, of all levels that groups share (default: the objective's, 0.2)
        style_kl: weight of style's KL, of all levels of an observation's own (default: 1)
        kl: weight of a level's KL, one option each: name:weight (default: as content's, or style's for an own level)
        groups: sub-groups in a batch
        members: fewest and most observations of a sub-group
        whole_groups: every sub-group is a whole group; a step's time and memory grow with the square of the largest
        resample: draw groups with equal probability
        lr: highest learning rate
        validation: share of the training part kept to calibrate levels, and for --patience, taken as for --test
            (default: 0.05, of nested groups up to 0.2; for paper and vae 0; with --deformed no share, but further
            copies, deformed three times as far)
        patience: epochs without a better validation loss before stopping
        precision: of the networks; bf16-mixed pays where the processor or GPU has bfloat16
        deterministic: compute in one order only: the same seed gives the same weights on a GPU too, which is slower
        compile: make steps faster with torch.compile (minutes of compiling first, needs a C++ compiler)
        keep: training states that --out holds, the latest and those before it, to go back to where a disk lost it
        missing: rows without a group: error, drop, or own (a group of its own)
        gaps: NaN in arrays is a value that was not observed; in tables it always is
        features: columns of a table that are the observation: names, patterns, numbers, categories, all; name:kind
            (number, count, binary, category); a minus leaves out: 'pixel_*,age:count,-id' (default: all numbers)
        covariates: known columns that encoder and decoder are told, by commas: site,device
        size: pixels, high and wide, that pictures are brought to (default: that of all of them)
        mode: L (grey) or RGB for pictures (default: that of all of them)
        folders: names of the levels of folders of pictures, outermost first: country,person
        cache: the folder that decoded pictures and large tables are kept in (default: .mlvae beside the data)
        in_memory: false reads rows from disk as they are needed (default: above 1 GiB)
        on_bad_file: error, or skip and go on; skipped files are counted in log.csv
    """
    arguments = dict(locals())
    import torch

    from mlvae.augment import Augmentation
    from mlvae.inspection.columns import levels_of
    from mlvae.runs import begun
    from mlvae.settings import setting
    from mlvae.training import fit

    if out is None:
        raise CheckpointError("Expected a folder for the run; got none. Add --out runs/NAME.")
    refuse_seed(seed)
    chosen = setting(objective)
    levels, by = levels_asked(level, by, chosen.readout)
    if levels and (content_dim, style_dim, style_given_content) != (16, 16, False):
        raise ModelError(
            "Expected --content-dim, --style-dim and --style-given-content without --level, which says the levels and"
            " their dimensions itself. Leave them out."
        )
    if not chosen.shared and style_given_content:
        raise ModelError(f"Expected no --style-given-content for {objective}, which has no content; leave it out.")
    if whole_groups and tuple(members) != (2, 8):
        raise ModelError("Expected one of --members and --whole-groups; got both. The second takes all members.")
    if keep < 1:
        raise CheckpointError(f"Expected to keep at least one training state (--keep); got {keep}.")
    if levels and (quarter_turns or deformed):
        raise ModelError(
            "Expected --quarter-turns and --deformed without --level; got both. Of which levels a changed picture has"
            " new groups is not known: change the data and their columns from Python, or leave the option out."
        )
    change = None if augment is None else Augmentation.parsed(augment)
    weighed = weights_of("kl", kl or ())
    if told is not None and independence is not None:
        raise ModelError("Expected one of --told and --independence; got both. The first finds the weight itself.")
    further = dict(map(further_of, penalty or ()))
    if len(further) < len(penalty or ()):
        raise ModelError(f"Expected penalties of different names; got {', '.join(penalty or ())}. Rename one.")
    options = {"network": own(network) or network, "width": width, "likelihood": own(likelihood) or likelihood}
    whole: dict[str, Any] = {}

    def taken_out(everything: Any) -> dict[str, Any] | None:
        return None if test is None else share_out(everything, test, seed, levels)

    def seen(everything: Any) -> None:
        whole.update(rows=len(everything), groups=everything.num_groups, digest=recognised_by(everything))

    part, held, how = parts(
        data, by, split_column, missing, levels, taken_out, whole=seen,
        gaps=gaps, features=features, covariates=listed(covariates), size=size, mode=mode, folders=listed(folders),
        cache=cache, in_memory=in_memory, on_bad_file=on_bad_file,
    )  # fmt: skip
    refuse_idle(part, data, features, size, mode, folders)
    if test is not None and how and "column" in how:
        raise DataError(
            f"Expected one of --test and a column that says which rows are kept out; got both, {how['column']!r}."
            " Leave --test out, or the column away."
        )
    kept = {**(how or {"column": None}), **whole}
    warn_of_leaks(part, held)
    warn_of_forgotten(levels, part)
    if deformed and validation is None and chosen.validation:
        valid = part.deformed(math.ceil(STRANGERS / part.num_groups), seed=seed + 1, amount=FAR, alone=True)
        copies = f"{valid.num_groups} copies deformed {FAR:g} times as far as those learned from"
        say(f"No {part.by} is kept out of training: levels are calibrated on {copies}")
    else:
        share = chosen.validation if validation is None else validation
        part, valid = validation_of(part, share, seed, levels, asked=validation is not None)
        if valid is not None:
            say(
                f"{len(valid):,} rows more are kept out, to calibrate levels and to be looked at while training (valid)"
            )
    part = multiplied(part, quarter_turns, deformed, seed)
    penalties = {
        "independence": independence, "leakage": leakage, "identification": identification, "adversary": adversary,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = chosen.model(
            part, content_dim=content_dim, style_dim=style_dim, style_given_content=style_given_content,
            levels=levels or None, **options,
        )  # fmt: skip
    refuse_unweighed(model.levels, weighed)
    refuse_unasked(model.levels, part, {**penalties, "told": told})
    base = chosen.objective(model, part)
    own_levels = [level.name for level in model.levels if level.by is None]
    asked = base.changed(
        **{kind: penalty_of(kind, asked, model.levels, getattr(base, kind)) for kind, asked in penalties.items()},
        further=further,
        **{"content": content_kl, **dict.fromkeys(own_levels or ["style"], style_kl), **weighed},
    ).over(model.levels)
    if told is not None:
        asked = replace(asked, independence=held_to(told, asked.independence))
    none = "no rows kept out, so `mlvae evaluate` will have none to measure on; --test 0.2 would keep a fifth"
    say(f"{part!r}; {none if held is None else f'{len(held):,} rows kept out'}")
    if len(model.group_levels) > 1:
        say("\n".join(levels_of(part, model.levels)[0]))
    parameters = sum(p.numel() for p in model.parameters())
    say(f"{model.network} of {parameters:,} parameters, {objective} objective, writing to {out}")
    there = begun(Path(out))
    if resume and not there:
        say(f"There is nothing in {out} to go on from yet: training begins")
        resume = False
    if not there:
        write_options(Path(out), arguments, kept)  # in place of those of an attempt that never came to a run
    fit(
        model, part, out, valid=valid, objective=asked, epochs=epochs, groups=groups,
        members="all" if whole_groups else members, resample=resample, lr=lr, seed=seed, patience=patience,
        device=device, precision=precision, deterministic=deterministic, compile=compile, resume=resume, keep=keep,
        augment=change,
    )  # fmt: skip
    pictures = len(model.shape) == 2 or (len(model.shape) == 3 and model.shape[0] in (1, 3))
    evidence = "codes.parquet --evidence evidence.parquet"
    what, file = ("draw swap", "swap.png") if pictures else ("encode", evidence)
    if not model.group_levels:
        what, file = ("draw reconstruct", "reconstruct.png") if pictures else ("encode", "codes.parquet")
    own_parts = (("network", network), ("likelihood", likelihood))
    again = "".join(f" --{name} {value}" for name, value in own_parts if own(value))
    named = "".join(f" --penalty {text}" for text in penalty or ())
    where = shlex.join([out, data])
    say(f"Wrote {out}. Next: mlvae {what} {where}{again} --out {file}")
    if held is not None:
        say(f"To measure it on what was kept out: mlvae evaluate {where}{again}{named} --out metrics.json")
