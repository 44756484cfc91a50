"""Settings chosen by a search that needs no labels but the grouping.

A run is worth what it does on validation groups, cut from the training part:

    named + kept - told

named: how far content names them, from one observation each; kept: the share of what tells observations apart that
their own codes bring back; told: how far samples of style name the group. Each is 0 for a model that does nothing of
the kind, and 1 at most. The test part takes no part.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mlvae.asked import HOLDING, Objective
from mlvae.data import GroupedData
from mlvae.data.splits import members_of_many
from mlvae.errors import DataError, MissingExtraError, TrainingError
from mlvae.evaluate.errors import errors, usual
from mlvae.evaluate.few_shot import few_shot
from mlvae.evaluate.probes import cross_probe
from mlvae.heads import Evaluating
from mlvae.inference import votes
from mlvae.likelihoods import Likelihood
from mlvae.model import MLVAE
from mlvae.resident import Resident
from mlvae.training import fit
from mlvae.weights import Ramp

if TYPE_CHECKING:
    import optuna

MANY = 40
"""Groups from which validation groups are whole ones; with fewer, they are other members of the same."""

VALIDATION = 0.2
"""Share of the training part."""

LOOKS = 3
"""Times that a run is looked at: after one and two thirds of its epochs, when it may be stopped, and at its end."""

MOST = 2000
"""Validation observations that are looked at."""


@dataclass(frozen=True)
class Worth:
    """What a model does on groups, from the grouping alone.

    Args:
        named: of episodes, how many more than by chance content names rightly, over how many more there could be.
        kept: 1 - errors of reconstructions / those of what observations usually are: squares, and of categories how
            many are others.
        told: accuracy over chance with which a probe names the group from style samples, over the most there could be.
    """

    named: float
    kept: float
    told: float

    @property
    def value(self) -> float:
        """named + kept - told: 2 at best, 0 for a model that does nothing."""
        return self.named + self.kept - self.told

    @classmethod
    def of(cls, model: MLVAE, data: GroupedData, seed: int = 0) -> Worth:
        """Asks a two-level model about observations that it was not trained on.

        Raises:
            DataError: fewer than two groups have two members.

        Example:
            >>> import mlvae
            >>> data = mlvae.read("digits").subset(range(300))
            >>> worth = Worth.of(mlvae.MLVAE.for_data(data, content_dim=4, style_dim=4), data)
            >>> worth.kept < 0.5, worth.value <= 2
            (True, True)
        """
        content, style = model.group_levels[0], model.levels[-1]
        ids = data.codes(content.by or ()).numpy()
        part = data.subset(members_of_many(ids, MOST, np.random.default_rng(seed)))
        groups = part.codes(content.by or ()).numpy()
        asked = few_shot(votes(model, part.x, groups, part.columns)[content.name][0], groups, episodes=500, seed=seed)
        chance = 1 / asked.way
        codes = model.codes(part.x, covariates=part.columns)
        sample = codes[style.name].rsample(torch.Generator(model.device).manual_seed(seed))
        read = cross_probe(sample, groups, "mlp", seed)
        if read is None:
            raise DataError("Expected at least two groups of two members to validate on. Keep more observations out.")
        x = model.prepare(part.x)
        made = model.pictures({name: code.mean for name, code in codes.items()}, part.columns)
        missed, at_most = (errors(model, shown, x).sum() for shown in (made, usual(model, part.x)))
        return cls(
            named=max(0.0, (asked.accuracy - chance) / (1 - chance)),
            kept=max(0.0, 1 - float(missed / at_most)),
            told=max(0.0, (read.accuracy - read.chance) / (1 - read.chance)),
        )


@dataclass(frozen=True)
class Choice:
    """The settings of one run.

    Args:
        content_dim: dimensions that groups share.
        style_dim: dimensions of an observation's own.
        content_weight: of content's KL.
        independence: the least that what style tells of the group weighs at the end of training (`Held.least`).
        told: what its means may tell then, for which it weighs more (`Held.end`).
        identification: weight of the model's failure to name groups.
        groups: sub-groups in a batch.
        lr: the highest learning rate.
    """

    content_dim: int = 16
    style_dim: int = 16
    content_weight: float = 0.2
    independence: float = HOLDING.least.end
    told: float = HOLDING.end
    identification: float = 5.0
    groups: int = 70
    lr: float = 2e-3

    @classmethod
    def suggested(cls, trial: optuna.Trial) -> Choice:
        """The space: sizes by powers of two, weights on a logarithmic scale around the defaults."""
        return cls(
            content_dim=2 ** trial.suggest_int("content_dim_log2", 2, 6),
            style_dim=2 ** trial.suggest_int("style_dim_log2", 2, 5),
            content_weight=trial.suggest_float("content_weight", 0.05, 1.0, log=True),
            independence=trial.suggest_float("independence", 3.0, 6000.0, log=True),
            told=trial.suggest_float("told", 4e-3, 0.1, log=True),
            identification=trial.suggest_float("identification", 0.5, 20.0, log=True),
            groups=trial.suggest_categorical("groups", [15, 35, 70]),
            lr=trial.suggest_float("lr", 5e-4, 5e-3, log=True),
        )

    def objective(self) -> Objective:
        """What a run with these settings descends."""
        least = HOLDING.least.ending(self.independence)
        assert isinstance(least, Ramp)  # as it does not end at 0
        return Objective().changed(
            independence=replace(HOLDING, end=self.told, least=least),
            identification=self.identification,
            content=self.content_weight,
        )

    def model(self, data: GroupedData, **options: Any) -> MLVAE:
        """A two-level model of these sizes."""
        return MLVAE.for_data(data, content_dim=self.content_dim, style_dim=self.style_dim, **options)


def cut(train: GroupedData, seed: int = 0) -> tuple[GroupedData, GroupedData]:
    """What a search trains on, and what it looks at: whole groups kept out where there are many, else members."""
    return train.split(by="group" if train.num_groups >= MANY else "observation", test=VALIDATION, seed=seed)


def run(
    choice: Choice, fitted: GroupedData, valid: GroupedData, *, epochs: int, seed: int = 0, watch: Any = None,
    **options: Any,
) -> tuple[MLVAE, Worth]:  # fmt: skip
    """One run, and its worth.

    Args:
        choice: its settings.
        fitted: what is trained on.
        valid: what is looked at.
        epochs: of training.
        seed: of everything random.
        watch: called with the number of a look and the worth; what it raises ends the run.
        options: of `MLVAE.for_data`: network, width, likelihood.
    """
    from lightning_fabric.loggers.logger import Logger

    torch.manual_seed(seed)
    model = choice.model(fitted, **options)
    looks = {max(1, epochs * look // LOOKS): look for look in range(1, LOOKS)}

    class Looker(Logger):
        name, version = "looker", 0

        def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            if watch is not None and step in looks:
                with torch.random.fork_rng(), Evaluating(model):
                    watch(looks[step], Worth.of(model, valid, seed))

    fit(
        model, fitted, epochs=epochs, groups=choice.groups, lr=choice.lr, seed=seed, objective=choice.objective(),
        logger=Looker(), progress=False,
    )  # fmt: skip
    return model, Worth.of(model, valid, seed)


def search(
    train: GroupedData, journal: str | Path, *, trials: int = 20, epochs: int = 20, seed: int = 0, **options: Any
) -> optuna.Study:
    """A study of ``trials`` runs, kept in a file: killed, the same call goes on with what is missing.

    The first run has the default's settings; the others are chosen by what is known so far (TPE). A run that after a
    third or two thirds of its epochs is worth less than the median of the others at that time is stopped.

    Args:
        train: the training part; a fifth of it is only looked at. Keep the test part out.
        journal: the file, Optuna's own format: one line an event, readable by its dashboard.
        trials: runs in all, those already in the journal included.
        epochs: of each.
        seed: of everything random.
        options: of `MLVAE.for_data`: network, width, likelihood.

    Returns:
        The study: ``study.best_params``, ``study.trials_dataframe()``. `best` makes a `Choice` of it.

    Raises:
        MissingExtraError: Optuna is not installed.
        TrainingError: the journal is of other data or settings.
    """
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
        from optuna.trial import TrialState
    except ImportError as error:
        raise MissingExtraError(
            "Expected Optuna for a search; it is not installed. Install the extra: pip install 'mlvae[tune]'."
        ) from error

    about = {
        "data": f"{train.name}, {len(train)} observations, {train.num_groups} groups", "epochs": epochs, "seed": seed,
        "digest": Resident(Choice().model(train, **options), train).digest(),
        "options": {name: _known(value) for name, value in options.items()},
    }  # fmt: skip
    study = optuna.create_study(
        study_name="mlvae", storage=JournalStorage(JournalFileBackend(str(journal))), direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4), load_if_exists=True,
    )  # fmt: skip
    if (was := study.user_attrs.get("about", about)) != about:
        raise TrainingError(f"Expected a journal of these data and settings, {about}; got one of {was}. Name another.")
    study.set_user_attr("about", about)
    # Else each call would draw what the first one drew.
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
    done = [trial for trial in study.trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    if not done:
        usual = Choice()
        study.enqueue_trial(
            {"content_dim_log2": 4, "style_dim_log2": 4, "content_weight": usual.content_weight,
             "independence": usual.independence, "told": usual.told, "identification": usual.identification,
             "groups": usual.groups, "lr": usual.lr}
        )  # fmt: skip
    fitted, valid = cut(train, seed)

    def one(trial: optuna.Trial) -> float:
        def watch(look: int, worth: Worth) -> None:
            trial.report(worth.value, look)
            if trial.should_prune():
                raise optuna.TrialPruned

        _, worth = run(
            Choice.suggested(trial), fitted, valid, epochs=epochs, seed=seed, watch=watch, **options
        )  # fmt: skip
        trial.set_user_attr("worth", {"named": worth.named, "kept": worth.kept, "told": worth.told})
        return worth.value

    study.optimize(one, n_trials=max(0, trials - len(done)), catch=(TrainingError,))
    return study


def _known(option: Any) -> str:
    """An option as a journal keeps it: the same in another process, where functions have other addresses."""
    if isinstance(option, Likelihood):
        return f"{type(option).__name__} {option.settings()}"
    if isinstance(option, type) or inspect.isroutine(option):
        return f"{option.__module__}:{option.__qualname__}"
    return re.sub(r" at 0x[0-9a-f]+", "", str(option))


def best(study: optuna.Study) -> Choice:
    """The settings of the run that was worth most."""
    import optuna

    return Choice.suggested(optuna.trial.FixedTrial(study.best_params))  # type: ignore[arg-type]
