"""Fitted heads as torch modules, for export.

They compute in float64, as libsvm and LightGBM do, and use plain operators alone, so that runtimes
need none for scikit-learn's models and for trees.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...errors import UserError, first_line
from ...pipeline import calibration
from ...pipeline.heads import Head
from ...pipeline.heads.fused import SMALLEST, FusedMember

#: Scores, float64, shape (n_clips, n_outputs); and the index of the chosen label, int64, shape
#: (n_clips,), or None for ratings.
HeadOutput = tuple[torch.Tensor, torch.Tensor | None]


def head_module(name: str, fitted: Head, temperature: float | None = None) -> nn.Module:
    """Convert a fitted head, and the temperature of its bundle, to a module.

    From embeddings, float32, shape (n_clips, n_features), it computes :data:`HeadOutput`: up to
    rounding, what the bundle predicts. Raise UserError if serpipe does not fit such a head.
    """
    try:
        module = _MAKERS[name](fitted.model)
        return module if temperature is None else Tempered(module, temperature)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"head {name}: cannot be converted to a graph ({first_line(error)}); fit it again"
        ) from None


def check_exportable(name: str) -> None:
    """Raise a UserError if a head cannot be converted, with the names of those that can."""
    if name not in _MAKERS:
        raise UserError(
            f"head {name}: cannot be exported; fit one of {', '.join(_MAKERS)}, or use this one "
            "with serpipe"
        )


class Chain(nn.Module):
    """Modules in sequence; the largest of the resulting scores is chosen, or none for ratings."""

    def __init__(self, *parts: nn.Module, is_rating: bool = False) -> None:
        super().__init__()
        self.parts, self.is_rating = nn.Sequential(*parts), is_rating

    def forward(self, X: torch.Tensor) -> HeadOutput:
        """Score embeddings, float32, shape (n_clips, n_features)."""
        scores = self.parts(X.double())
        return scores, None if self.is_rating else scores.argmax(dim=1)


class Affine(nn.Module):
    """``(x - shift) / scale @ weights + bias``; without weights only the scaling."""

    def __init__(self, shift: Any, scale: Any, weights: Any = None, bias: Any = None) -> None:
        super().__init__()
        self.keep = _keep(self, shift=shift, scale=scale, weights=weights, bias=bias)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Return float64, shape (n_clips, n_outputs)."""
        X = (X - self.get_buffer("shift")) / self.get_buffer("scale")
        if "weights" not in self.keep:
            return X
        return X @ self.get_buffer("weights") + self.get_buffer("bias")


class Logistic(nn.Module):
    """A fitted logistic regression: from features to probabilities."""

    def __init__(self, regression: Any) -> None:
        super().__init__()
        _keep(self, weights=regression.coef_.T, bias=regression.intercept_)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Return probabilities, shape (n_clips, n_classes)."""
        logits = X @ self.get_buffer("weights") + self.get_buffer("bias")
        if logits.shape[1] == 1:  # two classes share one vector
            return torch.cat([torch.sigmoid(-logits), torch.sigmoid(logits)], dim=1)
        return logits.softmax(dim=1)


class OneAgainstRest(nn.Module):
    """A logistic regression for each label against the others, with normalised probabilities.

    Scaler and regression are as :mod:`serpipe.pipeline.heads.sgd` fits them.
    """

    def __init__(self, classifier: Any) -> None:
        super().__init__()
        scaler, machine = classifier
        weights, bias = machine.coef_, machine.intercept_
        if len(bias) == 1:  # two classes share one vector
            weights, bias = np.concatenate([-weights, weights]), np.concatenate([-bias, bias])
        self.decide = Affine(scaler.mean_, scaler.scale_, weights.T, bias)

    def forward(self, X: torch.Tensor) -> HeadOutput:
        """Score embeddings, float32, shape (n_clips, n_features)."""
        values = self.decide(X.double())
        each = torch.sigmoid(values)
        return each / each.sum(dim=1, keepdim=True), values.argmax(dim=1)


class Machine(nn.Module):
    """A support vector machine: from standardised features to sums over its kernel, RBF or linear.

    ``coefficients``, float64, shape (n_sums, n_support_vectors), are those of each sum, to which
    ``bias``, shape (n_sums,), is added.
    """

    def __init__(
        self, machine: Any, coefficients: NDArray[np.float64], bias: NDArray[np.float64]
    ) -> None:
        super().__init__()
        vectors = np.asarray(machine.support_vectors_, np.float64)
        self.gamma = -1.0
        if machine.kernel == "linear":
            _keep(self, weights=(coefficients @ vectors).T, bias=bias)
            return
        if machine.kernel != "rbf":
            raise ValueError(f"kernel {machine.kernel!r}")
        self.gamma = float(machine._gamma)
        squares = (vectors**2).sum(axis=1)
        _keep(self, vectors=vectors.T, squares=squares, weights=coefficients.T, bias=bias)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Return sums, shape (n_clips, n_sums)."""
        if self.gamma >= 0:
            inner = X @ self.get_buffer("vectors")
            distances = X.square().sum(dim=1, keepdim=True) + self.get_buffer("squares") - 2 * inner
            X = torch.exp(-self.gamma * distances)
        return X @ self.get_buffer("weights") + self.get_buffer("bias")


class VotingMachine(nn.Module):
    """An SVM, which chooses by the votes of pairs of labels.

    ``classifier`` has ``machine`` and, if an earlier version fitted it, ``calibration``, see
    :mod:`serpipe.pipeline.heads.svm`.
    """

    def __init__(self, classifier: Mapping[str, Any]) -> None:
        super().__init__()
        scaler, machine = classifier["machine"]
        n_classes = len(machine.classes_)
        pairs = list(combinations(range(n_classes), 2))
        # As libsvm stores them: scikit-learn flips the signs in public for two classes.
        dual, bias = machine._dual_coef_, machine._intercept_
        ends = np.cumsum(machine.n_support_)
        of_class = [slice(end - n, end) for end, n in zip(ends, machine.n_support_, strict=True)]
        coefficients = np.zeros((len(pairs), dual.shape[1]))
        sides = np.zeros((len(pairs), n_classes))
        for number, (one, other) in enumerate(pairs):
            coefficients[number, of_class[one]] = dual[other - 1, of_class[one]]
            coefficients[number, of_class[other]] = dual[one, of_class[other]]
            sides[number, one], sides[number, other] = 1, -1
        self.scale = Affine(scaler.mean_, scaler.scale_)
        self.machine = Machine(machine, coefficients, bias)
        fitted = classifier.get("calibration")
        self.calibration = Logistic(fitted) if fitted else nn.Softmax(dim=1)
        self.is_binary = n_classes == 2
        _keep(self, sides=sides, won=np.maximum(sides, 0), lost=np.maximum(-sides, 0))

    def forward(self, X: torch.Tensor) -> HeadOutput:
        """Score embeddings, float32, shape (n_clips, n_features)."""
        values, votes = self.decide(X)
        return self.calibration(values), votes.argmax(dim=1)

    def decide(self, X: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return decision values and votes, shape (n_clips, n_classes)."""
        decisions = self.machine(self.scale(X.double()))
        first = (decisions > 0).double()
        votes = first @ self.get_buffer("won") + (1 - first) @ self.get_buffer("lost")
        # scikit-learn's decision_function_shape "ovr", which differs for two classes.
        values = decisions @ self.get_buffer("sides")
        if not self.is_binary:
            values = votes + values / (3 * (values.abs() + 1))
        return values, votes


class Fusion(nn.Module):
    """The softmax of a weighted sum of log-probabilities of other heads.

    Parameters
    ----------
    members : sequence of FusedMember
        Fitted.
    """

    def __init__(self, members: Sequence[FusedMember]) -> None:
        super().__init__()
        self.spans = [(member.start, member.stop) for member in members]
        self.weights = [member.weight for member in members]
        self.heads = nn.ModuleList(head_module(each.head.name, each.head) for each in members)

    def forward(self, X: torch.Tensor) -> HeadOutput:
        """Score embeddings, float32, shape (n_clips, n_features)."""
        total = torch.zeros(1, dtype=torch.float64)
        for (start, stop), weight, head in zip(self.spans, self.weights, self.heads, strict=True):
            features = X[:, start:stop]
            if isinstance(head, VotingMachine):
                probabilities = head.decide(features)[0].softmax(dim=1)
            else:
                probabilities = head(features)[0]
            total = total + weight * probabilities.clamp_min(SMALLEST).log()
        return total.softmax(dim=1), total.argmax(dim=1)


class Tempered(nn.Module):
    """A head whose probabilities are calibrated by a temperature; its choice of label is kept."""

    def __init__(self, head: nn.Module, temperature: float) -> None:
        super().__init__()
        self.head, self.temperature = head, temperature

    def forward(self, X: torch.Tensor) -> HeadOutput:
        """Score embeddings, float32, shape (n_clips, n_features)."""
        if isinstance(self.head, VotingMachine):
            logits, votes = self.head.decide(X)
            chosen: torch.Tensor = votes.argmax(dim=1)
        else:
            probabilities, chosen = self.head(X)
            logits = probabilities.clamp_min(calibration.SMALLEST).log()
        return (logits / self.temperature).softmax(dim=1), chosen


class Trees(nn.Module):
    """Boosted trees of LightGBM, all evaluated at once."""

    def __init__(self, booster: Any) -> None:
        super().__init__()
        dump = booster.dump_model()
        name, *settings = dump["objective"].split()
        self.n_scores = int(dump["num_tree_per_iteration"])
        self.slope = 1.0
        if name == "binary":
            self.slope = float(dict(each.split(":") for each in settings)["sigmoid"])
        if name not in ("binary", "multiclass", "regression") or dump["average_output"]:
            raise ValueError(f"objective {dump['objective']}")
        self.objective = name
        nodes: list[tuple[int, float, int, int, float]] = []
        roots: list[int] = []
        self.depth = 0
        for tree in dump["tree_info"]:
            roots.append(len(nodes))
            self.depth = max(self.depth, _add_tree(tree["tree_structure"], nodes))
        table = np.array(nodes, np.float64).reshape(len(nodes), 5)
        _keep(self, thresholds=table[:, 1], values=table[:, 4])
        for column, kind in ((0, "features"), (2, "lefts"), (3, "rights")):
            self.register_buffer(kind, torch.from_numpy(table[:, column].astype(np.int64)))
        self.register_buffer("roots", torch.tensor(roots))

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Return probabilities or ratings, shape (n_clips, n_outputs)."""
        at = self.get_buffer("roots").expand(X.shape[0], -1)
        for _ in range(self.depth):
            values = X.gather(1, self.get_buffer("features")[at])
            is_left = values <= self.get_buffer("thresholds")[at]
            at = torch.where(is_left, self.get_buffer("lefts")[at], self.get_buffer("rights")[at])
        leaves = self.get_buffer("values")[at]
        sums = leaves.reshape(X.shape[0], -1, self.n_scores).sum(dim=1)
        if self.objective == "multiclass":
            return sums.softmax(dim=1)
        if self.objective == "binary":
            return torch.cat(
                [torch.sigmoid(-self.slope * sums), torch.sigmoid(self.slope * sums)], dim=1
            )
        return sums


def _add_tree(root: Mapping[str, Any], nodes: list[tuple[int, float, int, int, float]]) -> int:
    """Append the nodes of a tree, whose leaves lead to themselves, and return its depth."""
    waiting, deepest, first = [(root, 0)], 0, len(nodes)
    index = 0
    while index < len(waiting):
        node, depth = waiting[index]
        own = first + index
        if "leaf_value" in node:
            nodes.append((0, 0.0, own, own, float(node["leaf_value"])))
        else:
            if node["decision_type"] != "<=" or node["missing_type"] == "Zero":
                raise ValueError(f"a node of type {node['decision_type']!r}")
            left = first + len(waiting)
            waiting += [(node["left_child"], depth + 1), (node["right_child"], depth + 1)]
            feature, threshold = int(node["split_feature"]), float(node["threshold"])
            nodes.append((feature, threshold, left, left + 1, 0.0))
        deepest, index = max(deepest, depth), index + 1
    return deepest


def _keep(module: nn.Module, **arrays: Any) -> tuple[str, ...]:
    """Register constants of a module in float64; return the names of those that are not None."""
    given = {name: array for name, array in arrays.items() if array is not None}
    for name, array in given.items():
        values = np.ascontiguousarray(array, dtype=np.float64)
        module.register_buffer(name, torch.from_numpy(values.copy()))
    return tuple(given)


def _lr(classifier: Any) -> nn.Module:
    scaler, regression = classifier
    return Chain(Affine(scaler.mean_, scaler.scale_), Logistic(regression))


def _ridge(regressor: Any) -> nn.Module:
    scaler, ridge = regressor
    weights, bias = np.reshape(ridge.coef_, (-1, 1)), np.reshape(ridge.intercept_, 1)
    return Chain(Affine(scaler.mean_, scaler.scale_, weights, bias), is_rating=True)


def _svr(regressor: Any) -> nn.Module:
    scaler, transformed = regressor
    machine, ratings = transformed.regressor_, transformed.transformer_
    return Chain(
        Affine(scaler.mean_, scaler.scale_),
        Machine(machine, machine.dual_coef_, machine.intercept_),
        Affine(-ratings.mean_ / ratings.scale_, 1 / ratings.scale_),  # back to ratings
        is_rating=True,
    )


_MAKERS: Mapping[str, Callable[[Any], nn.Module]] = {
    "lda": lambda discriminant: Chain(Logistic(discriminant)),
    "lr": _lr,
    "svm": VotingMachine,
    "svm-linear": VotingMachine,
    "sgd": OneAgainstRest,
    "lgbm": lambda classifier: Chain(Trees(classifier.booster)),
    "ridge": _ridge,
    "svr": _svr,
    "lgbm-regressor": lambda regressor: Chain(Trees(regressor.booster), is_rating=True),
    "fuse": Fusion,
}
