"""The scikit-learn face: its own checks, groups by metadata routing, frames, names, galleries."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import mlvae
from mlvae.errors import DataError, ModelError
from mlvae.group_evidence import GroupEvidence
from mlvae.sklearn import MLVAEIdentifier, MLVAETransformer, identifier

PIXELS, DIGIT = (array[:400] for array in load_digits(return_X_y=True))
PIXELS = PIXELS / 16
WRITER = np.arange(400) // 10
"""A made-up grouping with many groups, for folds that split by group."""


def small(**options: object) -> MLVAETransformer:
    return MLVAETransformer(3, 2, **{"width": 16, "epochs": 1, "random_state": 0, "shape": (8, 8), **options})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def fitted() -> MLVAETransformer:
    return small(output="both", epochs=20, lr=0.01).fit(PIXELS, groups=DIGIT)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "estimator",
    [
        MLVAETransformer(2, 2, width=8, epochs=1),
        MLVAEIdentifier(MLVAETransformer(2, 2, width=16, epochs=10, lr=0.03, random_state=0)),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_scikit_learns_own_checks(estimator: MLVAETransformer | MLVAEIdentifier) -> None:
    """All of them: no check is expected to fail. They give no groups, so each observation is its own."""
    results = check_estimator(estimator, on_fail=None)
    assert len(results) > 40
    assert {result["check_name"]: str(result["exception"]) for result in results if result["status"] == "failed"} == {}
    # It needs SCIPY_ARRAY_API=1 before SciPy is imported, and skips for every estimator that takes NumPy arrays only.
    assert {result["check_name"] for result in results if result["status"] == "skipped"} <= {"check_array_api_input"}


def test_codes_of_observations_whose_groups_are_new(fitted: MLVAETransformer) -> None:
    new = load_digits().data[400:420] / 16
    both = fitted.transform(new)
    codes = fitted.model_.codes(new.reshape(-1, 8, 8).astype(np.float32))
    assert both.shape == (20, 5) and both.dtype == np.float64
    np.testing.assert_allclose(both[:, :3], codes["content"].mean, atol=1e-5)
    np.testing.assert_allclose(both[:, 3:], codes["style"].mean, atol=1e-5)
    assert fitted.transform(new.astype(np.float32)).dtype == np.float32
    pooled = fitted.transform(new, pool=np.arange(20) // 5)
    assert np.unique(pooled[:, 0]).size == 4 and np.unique(pooled[:, 4]).size == 20


def test_there_and_back(fitted: MLVAETransformer) -> None:
    again = fitted.inverse_transform(fitted.transform(PIXELS[:5]))
    expected = fitted.model_.reconstruct(PIXELS[:5].reshape(-1, 8, 8).astype(np.float32)).flatten(1)
    np.testing.assert_allclose(again, expected, atol=1e-5)
    content = copy.copy(fitted).set_params(output="content")
    codes = content.transform(PIXELS[:5])
    from_content = content.inverse_transform(codes)
    padded = np.hstack([codes, np.zeros((5, 2))])
    np.testing.assert_allclose(from_content, fitted.inverse_transform(padded), atol=1e-5)
    with pytest.raises(DataError, match=r"shape \(N, 5\)"):
        fitted.inverse_transform(np.zeros((2, 4)))


def test_a_table_keeps_its_units_and_its_gaps() -> None:
    random = np.random.default_rng(0)
    X = random.normal([1e3, 0.0], [10.0, 1e-2], (200, 2))  # noqa: N806
    X[::7, 1] = np.nan
    table = MLVAETransformer(1, 1, output="both", width=8, epochs=2, random_state=0).fit(X, groups=np.arange(200) // 4)
    made = table.inverse_transform(table.transform(X))
    assert 950 < made[:, 0].mean() < 1050 and np.isfinite(made).all()
    # Its scale is learned in standard deviations, so a column in thousandths has log p larger by log 1000 each.
    thousandths = MLVAETransformer(1, 1, width=8, epochs=2, random_state=0).fit(X / 1e3, groups=np.arange(200) // 4)
    gain = thousandths.score_samples(X / 1e3) - table.score_samples(X)
    np.testing.assert_allclose(gain, np.log(1e3) * (~np.isnan(X)).sum(1), atol=0.05)


def test_the_score_is_a_bound_of_each_observation_alone(fitted: MLVAETransformer) -> None:
    x = PIXELS[:40].reshape(-1, 8, 8).astype(np.float32)
    batch = mlvae.GroupBatch(fitted.model_.prepare(x))
    elbos = [mlvae.elbo(fitted.model_, batch).elbo_per_observation.item() for _ in range(50)]
    assert fitted.score(PIXELS[:40]) == pytest.approx(np.mean(elbos), abs=6 * np.std(elbos) / np.sqrt(16))
    noise = np.random.default_rng(0).random((40, 64))
    assert fitted.score(noise) < fitted.score(PIXELS[:40])


def test_without_groups_a_warning_says_what_to_pass() -> None:
    with pytest.warns(UserWarning, match=r"got none.*fit\(X, groups=...\)"):
        small().fit(PIXELS[:50])
    with pytest.raises(DataError, match="groups"):
        small().fit(PIXELS[:50], groups=DIGIT[:49])
    with pytest.raises(DataError, match="Expected rows of 16 numbers"):
        small(shape=(4, 4)).fit(PIXELS[:50], groups=DIGIT[:50])
    with pytest.raises(ModelError, match="'content', 'style' or 'both'"):
        small(output="contents").fit(PIXELS[:50], groups=DIGIT[:50])
    with pytest.raises(NotFittedError):
        small().transform(PIXELS)


@pytest.fixture
def routing() -> Iterator[None]:
    with sklearn.config_context(enable_metadata_routing=True):
        yield


@pytest.mark.usefixtures("routing")
def test_groups_find_their_way() -> None:
    """Through a pipeline, cross-validation and a grid, to the folds and to `fit` alike, and nothing warns of none."""
    pipeline = make_pipeline(StandardScaler(), small(shape=None), LogisticRegression())
    folds = GroupKFold(2)
    scores = cross_validate(pipeline, PIXELS, DIGIT, params={"groups": WRITER}, cv=folds)["test_score"]
    assert len(scores) == 2 and scores.min() > 0.1
    search = GridSearchCV(pipeline, {"mlvaetransformer__content_dim": [1, 4]}, cv=folds, refit=True)
    search.fit(PIXELS, DIGIT, groups=WRITER)
    assert search.best_estimator_[:-1].transform(PIXELS[:2]).shape == (2, search.best_params_.popitem()[1])
    bound = cross_validate(small(), PIXELS, params={"groups": WRITER}, cv=folds)["test_score"]
    assert np.isfinite(bound).all() and (bound < 0).all()


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames_in_and_out(library: str) -> None:
    frames = pytest.importorskip(library)
    names = [f"pixel {place}" for place in range(10, 16)]
    frame = frames.DataFrame(dict(zip(names, PIXELS[:100, 10:16].T, strict=True)))
    codes = MLVAETransformer(2, 1, output="both", width=8, epochs=1, random_state=0).set_output(transform=library)
    made = codes.fit_transform(frame, groups=frames.Series(DIGIT[:100]))
    assert list(made.columns) == ["content_0", "content_1", "style_0"] and isinstance(made, frames.DataFrame)
    assert codes.feature_names_in_.tolist() == names
    assert [feature.name for feature in codes.model_.schema.features] == names
    renamed = frames.DataFrame(dict(zip(names[::-1], PIXELS[:100, 10:16].T, strict=True)))
    with pytest.raises(ValueError, match="feature names"):
        codes.transform(renamed)


def test_it_draws_itself() -> None:
    assert "MLVAETransformer" in small()._repr_html_()


def test_a_gallery_by_a_trained_model(fitted: MLVAETransformer) -> None:
    model = fitted.model_
    who = MLVAEIdentifier(model).fit(PIXELS[:200], DIGIT[:200])
    assert who.model_ is model and who.classes_.tolist() == list(range(10))
    x = PIXELS.reshape(-1, 8, 8)
    gallery = model.evidence(x[:200], DIGIT[:200])
    expected = model.evidence(x[200:220], np.arange(20)).identify(gallery)[:, :-1]
    np.testing.assert_allclose(who.predict_proba(PIXELS[200:220]), expected, atol=1e-4)
    assert who.score(PIXELS[200:], DIGIT[200:]) > 0.5
    frozen = MLVAEIdentifier(FrozenEstimator(fitted))
    assert clone(frozen).fit(PIXELS[:200], DIGIT[:200]).model_ is model


def test_evidence_that_comes_in_parts_is_the_same_gallery(fitted: MLVAETransformer) -> None:
    names = np.array(["ann", "bob", "cy"])[DIGIT % 3]
    whole = MLVAEIdentifier(fitted.model_).fit(PIXELS[:200], names[:200])
    parts = MLVAEIdentifier(fitted.model_)
    for start in range(0, 200, 50):
        parts.partial_fit(PIXELS[start : start + 50], names[start : start + 50], classes=["ann", "bob", "cy", "dee"])
    assert parts.classes_.tolist() == ["ann", "bob", "cy", "dee"]
    assert parts.gallery_.count("content").tolist() == [*whole.gallery_.count("content").tolist(), 0]
    np.testing.assert_allclose(
        parts.gallery_.levels["content"].information[:3], whole.gallery_.levels["content"].information, rtol=1e-9
    )
    parts.partial_fit(PIXELS[:3], ["eve"] * 3)
    assert parts.classes_[-1] == "eve"


def test_none_of_these(fitted: MLVAETransformer) -> None:
    known = DIGIT[:200] < 3
    who = MLVAEIdentifier(fitted.model_, new=0.3).fit(PIXELS[:200][known], DIGIT[:200][known])
    assert who.classes_.tolist() == [-1, 0, 1, 2]
    found = who.predict_proba(PIXELS[200:])
    np.testing.assert_allclose(found.sum(1), 1)
    plain = fitted.model_.evidence(PIXELS[200:].reshape(-1, 8, 8), np.arange(200)).identify(who.gallery_, new=0.3)
    np.testing.assert_allclose(found, plain[:, [3, 0, 1, 2]], atol=1e-4)
    always = MLVAEIdentifier(fitted.model_, new=1.0, unknown="none").fit(PIXELS[:9], ["a", "b", "c"] * 3)
    assert set(always.predict(PIXELS[200:])) == {"none"}
    for unknown in (-1, "a"):
        with pytest.raises(ModelError, match="that no group has"):
            MLVAEIdentifier(fitted.model_, new=0.5, unknown=unknown).fit(PIXELS[:9], ["a", "b", "c"] * 3)


def test_several_pictures_of_one_person_are_named_together(fitted: MLVAETransformer) -> None:
    who = MLVAEIdentifier(fitted.model_).fit(PIXELS[:200], DIGIT[:200])
    found = who.predict_proba(PIXELS[200:], pool=DIGIT[200:])
    together = fitted.model_.evidence(PIXELS[200:].reshape(-1, 8, 8), DIGIT[200:]).identify(who.gallery_)[:, :-1]
    np.testing.assert_allclose(found, together[DIGIT[200:]], atol=1e-4)


@pytest.mark.parametrize("new", [0.0, 0.3])
def test_naming_holds_few_probabilities_at_a_time(
    new: float, fitted: MLVAETransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = MLVAEIdentifier(FrozenEstimator(fitted), new=new).fit(PIXELS[:200], DIGIT[:200])
    pools = (None, np.arange(100) // 3 % 20)
    expected = [who.classes_[who.predict_proba(PIXELS[200:300], pool=pool).argmax(1)] for pool in pools]
    monkeypatch.setattr(identifier, "SCORES", 7 * len(who.classes_))
    rows, original = [], GroupEvidence.identify
    monkeypatch.setattr(
        GroupEvidence, "identify", lambda self, *a, **k: rows.append(len(self.count())) or original(self, *a, **k)
    )
    for pool, names in zip(pools, expected, strict=True):
        np.testing.assert_array_equal(who.predict(PIXELS[200:300], pool=pool), names)
    assert max(rows) == 7 and sum(rows) == 100 + 20


def test_an_encoder_of_another_kind_is_refused() -> None:
    with pytest.raises(ModelError, match=r"FrozenEstimator\(fitted transformer\); got LogisticRegression"):
        MLVAEIdentifier(LogisticRegression()).fit(PIXELS[:20], DIGIT[:20])


def test_a_level_that_is_not_there_is_told_before_anything_is_encoded(
    fitted: MLVAETransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlvae.MLVAE, "evidence", lambda *_: pytest.fail("encoded"))
    for level, message in (("contnet", "Did you mean 'content'"), ("style", "that groups share in this model")):
        with pytest.raises(ModelError, match=message):
            MLVAEIdentifier(fitted.model_, level=level).fit(PIXELS[:20], DIGIT[:20])
        with pytest.raises(ModelError, match=message):
            MLVAEIdentifier(small(), level=level).fit(PIXELS[:20], DIGIT[:20])
