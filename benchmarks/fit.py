"""Nested fitting against the plain scikit-learn loop of the same protocol, in one run.

python benchmarks/fit.py --head lr

Both choose by the same inner folds over the same grid, in as many processes, with one BLAS thread
each. The plain loop fits every combination by itself, as GridSearchCV does. It may do part of the
work only (--units: every n-th layer and fold); the ratio is then over that part, which serpipe does
once more by itself, so that both have the same to do. Embeddings are drawn at random in the layout
of RAVDESS: correlated features, speakers that differ, emotions that the middle layers tell best.

For logistic regression both are also compared with the exact optimum (scikit-learn's Newton-CG in
64 bits, tolerance 1e-10) at every C, with --exactness alone, and LightGBM with its usual setting:
200 rounds, all features, nothing searched.

With --cache: the embeddings of a cache instead, of its first pooling or of --pool. With --scale:
seconds per layer and fold for other numbers of clips and widths.
"""

import argparse
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed, parallel_config
from numpy.typing import NDArray
from scipy.special import logsumexp
from serpipe.features.cache import open_cache
from serpipe.pipeline.fit import Problem, fit_head
from serpipe.pipeline.folds import Fold, inner_folds, make_split
from serpipe.pipeline.heads import HEADS, Grid, combinations, paths
from serpipe.pipeline.heads.lr import LR
from serpipe.pipeline.layers import Candidate
from serpipe.pipeline.metrics import score
from serpipe.pipeline.search import FoldResult, search_fold
from serpipe.provenance import cores, provenance
from sklearn.utils.class_weight import compute_sample_weight

EMOTIONS = ("angry", "calm", "disgust", "fearful", "happy", "neutral", "sad", "surprised")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--head", default="lr", choices=HEADS)
    parser.add_argument("--clips", type=int, default=1440)
    parser.add_argument("--layers", type=int, default=13)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--units", type=int, default=1, help="plain does every n-th layer and fold")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--pool", choices=("mean", "std"), help="by default the cache's first")
    parser.add_argument("--jobs", type=int, default=cores())
    parser.add_argument("--scale", action="store_true")
    parser.add_argument("--exactness", action="store_true", help="lr against its optimum, alone")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with parallel_config(backend="loky", inner_max_num_threads=1):
        Parallel(n_jobs=arguments.jobs)(delayed(_warm)() for _ in range(4 * arguments.jobs))
    if arguments.exactness:
        measured = exactness(*problem_of(arguments))
    else:
        measured = scale(arguments) if arguments.scale else against_plain(arguments)
    for name, value in measured.items():
        print(f"{name:<32} {value:.4g}" if isinstance(value, float) else f"{name:<32} {value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(measured | provenance(), indent=1) + "\n")


def against_plain(arguments: argparse.Namespace) -> dict[str, Any]:
    """Fit all by serpipe, and a part of it by the plain loop and by serpipe."""
    head, grid = HEADS[arguments.head], HEADS[arguments.head].grid
    layers, problem = problem_of(arguments)
    candidates = [Candidate(name, (name,)) for name in layers]

    start = time.perf_counter()
    fit = fit_head(head, grid, candidates, lambda c: layers[c.name], problem, jobs=arguments.jobs)
    whole = time.perf_counter() - start

    units = [(layer, fold) for layer in layers for fold in problem.folds][:: arguments.units]
    found: dict[str, list[FoldResult]] = {}
    seconds = {}
    for way, one in (("plain", plain_fold), ("serpipe", serpipe_fold)):
        start = time.perf_counter()
        with parallel_config(backend="loky", inner_max_num_threads=1):
            found[way] = list(
                Parallel(n_jobs=arguments.jobs)(
                    delayed(one)(head.name, grid, layers[layer], problem, fold)
                    for layer, fold in units
                )
            )
        seconds[way] = time.perf_counter() - start
    said = {way: np.concatenate([each.predicted for each in found[way]]) for way in found}
    truth = np.concatenate([problem.labels[fold.test] for _, fold in units])
    inner = {way: np.array([each.inner for each in found[way]]) for way in found}
    clips, width = next(iter(layers.values())).shape
    return {
        "head": head.name,
        "clips x layers x width": f"{clips} x {len(layers)} x {width}",
        "grid": json.dumps({name: values for name, values in grid.items() if len(values) > 1}),
        "processes": arguments.jobs,
        "serpipe, whole, seconds": whole,
        "serpipe, whole, nested UAR %": 100 * float(
            score(problem.labels, fit.nested.predicted).uar
        ),
        "layers and folds by both": f"{len(units)} of {len(layers) * len(problem.folds)}",
        "plain, seconds": seconds["plain"],
        "serpipe, seconds": seconds["serpipe"],
        "times as fast": seconds["plain"] / seconds["serpipe"],
        "plain UAR %": 100 * float(score(truth, said["plain"]).uar),
        "serpipe UAR %": 100 * float(score(truth, said["serpipe"]).uar),
        "same predictions %": 100 * float(np.mean(said["plain"] == said["serpipe"])),
        "same choice %": 100 * float(
            np.mean([a.chosen == b.chosen for a, b in zip(*found.values(), strict=True)])
        ),
        "inner UAR, largest difference": 100 * float(
            np.nanmax(np.abs(inner["plain"] - inner["serpipe"]))
        ),
        "left out by serpipe %": 100 * float(np.isnan(inner["serpipe"]).mean()),
        **(exactness(layers, problem) if head.name == "lr" else {}),
        **(usual_trees(layers, problem, units, arguments.jobs) if head.name == "lgbm" else {}),
    }  # fmt: skip


def problem_of(arguments: argparse.Namespace) -> tuple[dict[str, NDArray[np.float32]], Problem]:
    """Return the embeddings and labels to fit: of a cache, or drawn."""
    if arguments.cache:
        return cached(arguments.cache, arguments.pool)
    return corpus(arguments.clips, arguments.layers, arguments.width)


def exactness(layers: dict[str, NDArray[np.float32]], problem: Problem) -> dict[str, Any]:
    """Compare heads with the exact optimum on the test clips of a fold, for two layers and all C.

    For serpipe that is the tested head, and whether the kept one says the same.
    """
    head, (path,) = LR, paths(LR.grid)
    middle, fold = len(layers) // 2, problem.folds[0]
    measured: dict[str, Any] = {}
    for params in path:
        same: dict[str, list[bool]] = {"plain": [], "serpipe": [], "kept": []}
        far, above = {"plain": 0.0, "serpipe": 0.0, "kept": 0.0}, {"plain": 0.0, "kept": 0.0}
        for layer in (*layers,)[middle - 1 : middle + 1]:
            X, labels = layers[layer][fold.train], problem.labels[fold.train]
            X_test, everyone = layers[layer][fold.test], np.arange(len(X))
            speakers = problem.speakers[fold.train]
            fit_path = head.path_fitter(X, labels, speakers, 0)
            (tested,) = fit_path(everyone, X_test, [params])
            kept = head(params).fit(X, labels, speakers).model
            plain = head(params).estimator().fit(X, labels)
            exact = (
                head(params)
                .estimator()
                .set_params(
                    logisticregression__solver="newton-cg",
                    logisticregression__tol=1e-10,
                    logisticregression__max_iter=10**4,
                )
            )
            exact.fit(X.astype(float), labels)
            truth = exact.predict_proba(X_test.astype(float))
            for way, probability in (
                ("plain", plain.predict_proba(X_test)),
                ("serpipe", tested.scores),
                ("kept", kept.predict_proba(X_test)),
            ):
                same[way] += (probability.argmax(axis=1) == truth.argmax(axis=1)).tolist()
                far[way] = max(far[way], float(np.abs(probability - truth).max()))
            lowest = objective(exact, X, labels, params["C"])
            for way, classifier in (("plain", plain), ("kept", kept)):
                above[way] = max(above[way], objective(classifier, X, labels, params["C"]) - lowest)
        for way in same:
            measured[f"C = {params['C']:g}, {way}"] = (
                f"{100 * float(np.mean(same[way])):.1f} % of predictions as at the optimum, "
                f"probabilities within {far[way]:.1e}"
                + (f", loss above it {above[way]:.1e}" if way in above else "")
            )
    return measured


def objective(classifier: Any, X: NDArray[np.float32], labels: NDArray[Any], C: float) -> float:
    """Return what a fitted logistic regression minimises, per clip, in 64 bits."""
    scaler, regression = classifier[0], classifier[-1]
    standard = (X.astype(float) - scaler.mean_) / scaler.scale_
    logits = standard @ regression.coef_.T.astype(float) + regression.intercept_
    codes = np.searchsorted(regression.classes_, labels)
    loss = logsumexp(logits, axis=1) - logits[np.arange(len(codes)), codes]
    weight = compute_sample_weight("balanced", labels)
    penalty = float((regression.coef_.astype(float) ** 2).sum()) / (2 * C)
    return float(weight @ loss + penalty) / len(labels)


def usual_trees(
    layers: dict[str, NDArray[np.float32]],
    problem: Problem,
    units: list[tuple[str, Fold]],
    jobs: int,
) -> dict[str, float]:
    """Score LightGBM with 200 rounds and all features on the same layers and folds."""
    from lightgbm import LGBMClassifier

    def predict(layer: str, fold: Fold) -> NDArray[np.str_]:
        trees = LGBMClassifier(n_estimators=200, class_weight="balanced", n_jobs=1, verbose=-1)
        trees.fit(layers[layer][fold.train], problem.labels[fold.train])
        return np.asarray(trees.predict(layers[layer][fold.test]))

    start = time.perf_counter()
    with parallel_config(backend="loky", inner_max_num_threads=1):
        said = list(Parallel(n_jobs=jobs)(delayed(predict)(*unit) for unit in units))
    truth = np.concatenate([problem.labels[fold.test] for _, fold in units])
    return {
        "usual setting, fitted once, seconds": time.perf_counter() - start,
        "usual setting, UAR %": 100 * float(score(truth, np.concatenate(said)).uar),
    }


def cached(path: Path, pooling: str | None) -> tuple[dict[str, NDArray[np.float32]], Problem]:
    """Take the embeddings and labels of a cache."""
    cache = open_cache(path)
    labels = cache.clips["emotion"]
    folds = make_split("loso", cache.clips, labels).folds
    pooling = pooling or cache.poolings[0]
    layers = {layer: cache.embeddings(layer, pooling) for layer in cache.layers}
    return layers, Problem(labels, cache.clips["speaker"], folds)


def scale(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time one layer and fold for sizes around the usual one, each in a process by itself."""
    head = HEADS[arguments.head]
    measured: dict[str, Any] = {"head": head.name}
    for clips, width in (
        (720, 768), (1440, 768), (2880, 768), (5760, 768), (1440, 384), (1440, 1024), (1440, 1536),
    ):  # fmt: skip
        layers, problem = corpus(clips, 3, width)
        fold = problem.folds[0]
        seconds = []
        for layer in ("1", "2"):
            start = time.perf_counter()
            with parallel_config(backend="loky", inner_max_num_threads=1):
                Parallel(n_jobs=2)(
                    [delayed(serpipe_fold)(head.name, head.grid, layers[layer], problem, fold)]
                )
            seconds.append(time.perf_counter() - start)
        measured[f"{clips} clips, width {width}: s"] = min(seconds)
        print(f"{clips} clips, width {width}: {min(seconds):.2f} s", file=sys.stderr, flush=True)
    return measured


def corpus(clips: int, n_layers: int, width: int) -> tuple[dict[str, NDArray[np.float32]], Problem]:
    """Draw embeddings of 24 speakers who say 8 emotions."""
    draw = np.random.default_rng(0)
    speaker = np.arange(clips) % 24
    emotion = (np.arange(clips) // 24) % len(EMOTIONS)
    # Emotions lie in few directions, as in real embeddings; the others are there to overfit.
    telling = (np.arange(width) < 40).astype(np.float32)
    spectrum = (1 / np.arange(1, width + 1) ** 0.8).astype(np.float32)
    layers = {}
    for layer in range(n_layers):
        told = 0.2 + 0.3 * np.sin(np.pi * (layer + 1) / (n_layers + 1))
        rotation = np.linalg.qr(draw.standard_normal((width, width)))[0].astype(np.float32)
        X = draw.standard_normal((clips, width)).astype(np.float32)
        means = draw.standard_normal((len(EMOTIONS), width)).astype(np.float32)
        X += told * (means * telling)[emotion]
        X += draw.standard_normal((24, width)).astype(np.float32)[speaker]
        own = draw.standard_normal((24, len(EMOTIONS), width)).astype(np.float32)
        X += 0.4 * own[speaker, emotion]  # each has a way of saying it
        layers[str(layer)] = (X * np.sqrt(spectrum)) @ rotation
    labels, speakers = np.array(EMOTIONS)[emotion], np.array([f"{n:02d}" for n in speaker])
    names = np.array([str(number) for number in range(clips)])
    table = {"speaker": speakers, "sha256": names, "path": names}
    return layers, Problem(labels, speakers, make_split("loso", table, labels).folds)


def plain_fold(
    head_name: str, grid: Grid, X: NDArray[np.float32], problem: Problem, fold: Fold
) -> FoldResult:
    """Do what search_fold does with the head's estimator, fitted again for every combination."""
    head: Any = HEADS[head_name]
    params = combinations(grid)
    train, said = X[fold.train], problem.labels[fold.train]
    inner = inner_folds(said, problem.speakers[fold.train])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scores = []
        for each in params:
            predicted = np.empty_like(said)
            for part in inner:
                classifier = _plain(head(each), train[part.train], said[part.train])
                predicted[part.test] = classifier.predict(train[part.test])
            scores.append(float(score(said, predicted).uar))
        chosen = int(np.argmax(scores))
        tested = _plain(head(params[chosen]), train, said).predict(X[fold.test])
    return FoldResult(tuple(scores), chosen, 0, tested, np.empty((0, 0)), True)


def _plain(head: Any, X: NDArray[np.float32], labels: NDArray[np.str_]) -> Any:
    """Fit scikit-learn's estimator of a head."""
    priors = (len(np.unique(labels)),) if head.name == "lda" else ()
    return head.estimator(*priors).fit(X, labels)


def serpipe_fold(
    head_name: str, grid: Grid, X: NDArray[np.float32], problem: Problem, fold: Fold
) -> FoldResult:
    """Do it as serpipe does."""
    return search_fold(
        HEADS[head_name], grid, X, problem.labels, problem.speakers, fold, choose=True, seed=0
    )


def _warm() -> None:
    """Let a process import what it needs, before the clock runs."""
    import lightgbm  # noqa: F401

    time.sleep(0.2)


if __name__ == "__main__":
    main()
