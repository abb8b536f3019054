"""The model card of a bundle, with the metadata that the Hugging Face hub reads."""

import re
from dataclasses import replace

from ..errors import counted
from ..pipeline.folds import SplitKind
from .bundle import BundleSummary
from .checks import run_checks
from .report import markdown_table, score_note
from .results import RunResults, chosen
from .table import escape_markdown, interval_text
from .tables import classes_table, groups_table


def card(results: RunResults, head: str, bundle: BundleSummary) -> str:
    """Return a model card: data, protocol, numbers with intervals, limits and licence.

    Parameters
    ----------
    results : RunResults
        The run.
    head : str
        The head of the bundle.
    bundle : BundleSummary
        What its ``bundle.json`` says.

    Returns
    -------
    str
        Markdown with a YAML head.
    """
    from huggingface_hub import EvalResult, ModelCardData

    alone = {head: results.summary.heads[head]}
    summary = replace(results.summary, heads=alone, planned=[head])
    results = replace(results, summary=summary, predicted={head: results.predicted[head]})
    tables = [classes_table(results)] if summary.labels else []
    if results.group_columns:
        tables.append(groups_table(results))
    measure, scores = results.measure, results.scores(head)
    what = ", ".join(summary.labels) or f"{summary.target}, a number"
    encoder = summary.encoder["encoder"]
    licence = re.sub(r"[^a-z0-9.]+", "-", str(bundle.licence).lower()).strip("-") or "other"
    name = f"{encoder} + {head}"
    data = ModelCardData(
        license=licence,
        library_name="serpipe",
        pipeline_tag="audio-classification",
        tags=["speech-emotion-recognition", "speaker-independent"],
        base_model=encoder if "/" in encoder else None,
        model_name=name,
        eval_results=[
            EvalResult(
                task_type="audio-classification",
                dataset_type=str(summary.corpus),
                dataset_name=str(summary.corpus),
                dataset_config=summary.split_title,
                metric_type=key,
                metric_name=f"{title}, {results.kind}",
                metric_value=round(
                    measure.scale * scores[key].value, 1 if measure.in_percent else 3
                ),
            )
            for title, key in measure.scores.items()
        ],
    )
    in_folds = "; ".join(
        f"{name} " + ", ".join(f"{value} in {n}" for value, n in counted.most_common())
        for name, counted in chosen(summary.heads[head]).items()
    )
    tested = f"{counted(summary.clips, 'clip')} of {counted(len(summary.speakers), 'speaker')}"
    if SplitKind.of(summary.split).holds_out:
        fitted_on = f"{summary.corpus}, {summary.split_title}; tested: {tested}."
        whose = f"This very head was tested: it never heard the tested clips ({in_folds})."
        limit = "- It was fitted on some speakers of one recording set-up, and tested on few. "
    elif SplitKind.of(summary.split) == SplitKind.CROSS_CORPUS:
        fitted_on = f"Fitted on {bundle.corpus}, {summary.split_title}: {tested}."
        whose = f"This very head was tested: it never heard them ({in_folds})."
        limit = f"- It was fitted on the speakers of {bundle.corpus} alone. "
    else:
        fitted_on = f"{summary.corpus}: {tested}."
        whose = (
            "These are scores of heads fitted in the same way without the test speakers; the saved "
            "head has heard all of them, and its layer and hyper-parameters were chosen by all of "
            f"them (in the folds: {in_folds})."
        )
        speakers = counted(len(summary.speakers), "speaker")
        limit = f"- It was fitted on {speakers} of one recording set-up. "
    weights = str(summary.encoder.get("weights_sha256", ""))[:12]
    parameters = ", ".join(f"{key} = {value:g}" for key, value in bundle.parameters.items())
    md = escape_markdown
    lines = [
        "---", data.to_yaml(), "---", "",
        md(f"# {summary.target} from {encoder}, {head}"), "",
        *(f"> **{md(warning)}.**\n" for warning in summary.warnings),
        md(
            f"Hears a frozen `{encoder}` (weights {weights}), layer "
            f"{bundle.layer['name']}, {summary.pooling} pooling over time; "
            f"{summary.heads[head].title} ({parameters}) tells {what}."
        ), "",
        "## Data", "",
        md(fitted_on + (f" Labels: {', '.join(summary.changes)}." if summary.changes else "")),
        md(f"{bundle.citation}. Licence of the clips: {bundle.licence}."), "",
        "## How it scores", "",
        md(f"{summary.split_title}; {summary.inner}. {whose}"), "",
        *(
            f"- {title}: {interval_text(scores[key], measure)}{measure.unit}"
            for title, key in measure.scores.items()
        ), "",
        md(score_note(summary)), "",
        *([md(f"Its probabilities: {bundle.probabilities}."), ""] if bundle.probabilities else []),
        *(f"{md(table.title)}\n\n{markdown_table(table)}" for table in tables),
        "## Limits", "",
        f"{md(limit)}Other "
        "languages, microphones, rooms and emotions that are felt, not acted, were not tested.",
        "- It tells how speech sounds, not what a person feels; do not judge people by it.",
        *(
            md(f"- {check.found}: {check.advice} ({check.code}).") for check in run_checks(results)
        ), "",
        "## Use", "",
        "```python",
        "from pathlib import Path",
        "",
        "from serpipe.artifacts.bundle import load_bundle",
        "",
        'bundle = load_bundle(Path("."))  # this folder',
        "```", "",
        md(f"Made by `{summary.provenance.get('command', '')}`."), "",
    ]  # fmt: skip
    return "\n".join(lines)
