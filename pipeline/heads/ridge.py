"""Ridge regression of ratings on standardised embeddings."""

from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from . import sklearn_file
from .head import Head, Parameter, Point, fit_all, no_scores, one_by_one, predict_ratings


def build(point: Point, seed: int) -> Pipeline:
    """Scaler and ridge regression, solved by Cholesky: the same for any seed."""
    return make_pipeline(StandardScaler(), Ridge(alpha=point["alpha"], solver="cholesky"))


RIDGE = Head(
    name="ridge",
    title="ridge regression",
    # Standardised features sum to the number of clips each: alpha is on that scale.
    parameters={"alpha": Parameter((1e0, 1e1, 1e2, 1e3, 1e4, 1e5), 1e-8, 1e12)},
    build=build,
    open=one_by_one(build, no_scores, lambda regressor: True),
    scores_are="none",
    fit_final=fit_all(build),
    converged=lambda regressor: True,  # solved, not searched for
    predict=predict_ratings,
    suffix=".skops",
    save=sklearn_file.save,
    load=sklearn_file.load,
    task="regression",
)
