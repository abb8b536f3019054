"""The model card of a bundle, with the metadata that the Hugging Face hub reads."""

import re
from dataclasses import replace
from pathlib import Path

from ...errors import counted
from ...pipeline.split_kind import SplitKind
from ..models.bundle import BundleSummary
from ..run.results import RunResults, chosen
from ..run.summary import RunSummary
from ..score_text import interval_text
from .checks import run_checks
from .report import markdown_table, score_note
from .result_tables import classes_table, groups_table
from .table import escape_markdown


def card(results: RunResults, head: str, bundle: BundleSummary) -> str:
    """Return the model card of a head's bundle as Markdown with a YAML header.

    It states data, protocol, scores with intervals, limits and licence.
    """
    from jinja2 import Environment, StrictUndefined

    fitted = results.summary.heads[head]
    summary = replace(results.summary, heads={head: fitted}, planned=[head])
    results = replace(results, summary=summary, predicted={head: results.predicted[head]})
    tables = [classes_table(results)] if summary.labels else []
    if results.group_columns:
        tables.append(groups_table(results))
    measure, scores = results.measure, results.scores(head)
    encoder = summary.encoder["encoder"]
    weights = str(summary.encoder.get("weights_sha256", ""))[:12]
    parameters = ", ".join(f"{key} = {value:g}" for key, value in bundle.parameters.items())
    chosen_head = f"{fitted.title} ({parameters})" if parameters else fitted.title
    predicts = ", ".join(summary.labels) or f"{summary.target}, a number"
    choices = "; ".join(
        f"{name} " + ", ".join(f"{value} in {n}" for value, n in counter.most_common())
        for name, counter in chosen(fitted).items()
    )
    data, tested, limit = _data_sentences(summary, bundle, choices)
    changes = f" Labels: {', '.join(summary.changes)}." if summary.changes else ""
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"md": escape_markdown, "table": markdown_table}
    environment.keep_trailing_newline = True
    template = (Path(__file__).parent / "card.md.jinja").read_text(encoding="utf-8")
    text: str = environment.from_string(template).render(
        metadata=_metadata(results, head, bundle),
        summary=summary,
        bundle=bundle,
        encoder=encoder,
        head=head,
        description=f"It predicts {predicts}, by {chosen_head} on layer "
        f"{bundle.layer['name']} of a frozen `{encoder}` (weights {weights}), {summary.pooling} "
        "pooling over time.",
        data=data + changes,
        licence=f"{bundle.citation}. Licence of the clips: {bundle.licence}.",
        protocol=f"{summary.split_title}; {summary.inner}. {tested}",
        scores=[
            (title, f"{interval_text(scores[key], measure)}{measure.unit}")
            for title, key in measure.scores.items()
        ],
        note=score_note(summary),
        tables=tables,
        limit=limit,
        checks=run_checks(results),
        command=summary.provenance.get("command", ""),
    )
    return text


def _data_sentences(
    summary: RunSummary, bundle: BundleSummary, choices: str
) -> tuple[str, str, str]:
    """Return sentences on the training data, on what was tested, and on the limits of both."""
    speakers = counted(len(summary.speakers), "speaker")
    clips = f"{counted(summary.clips, 'clip')} of {speakers}"
    if summary.split_kind.holds_out:
        return (
            f"{summary.corpus}, {summary.split_title}; tested: {clips}.",
            f"This very head was tested: none of the tested clips was in its training ({choices}).",
            "It was fitted on some speakers of one recording set-up, and tested on few."
            if summary.split_kind.draws_by_seed
            else "It was fitted and tested on the partitions of one corpus.",
        )
    if summary.split_kind is SplitKind.CROSS_CORPUS:
        return (
            f"Fitted on {bundle.corpus}, {summary.split_title}: {clips}.",
            f"This very head was tested: none of these clips was in its training ({choices}).",
            f"It was fitted on the speakers of {bundle.corpus} alone.",
        )
    return (
        f"{summary.corpus}: {clips}.",
        "These are scores of heads fitted in the same way without the test speakers; the saved "
        "head was fitted on all of them, and its layer and hyper-parameters were chosen on all of "
        f"them (in the folds: {choices}).",
        f"It was fitted on {speakers} of one recording set-up.",
    )


def _metadata(results: RunResults, head: str, bundle: BundleSummary) -> str:
    """Return the YAML header."""
    from huggingface_hub import EvalResult, ModelCardData

    summary, measure, scores = results.summary, results.measure, results.scores(head)
    encoder = summary.encoder["encoder"]
    licence = re.sub(r"[^a-z0-9.]+", "-", str(bundle.licence).lower()).strip("-") or "other"
    data = ModelCardData(
        license=licence,
        library_name="serpipe",
        pipeline_tag="audio-classification",
        tags=["speech-emotion-recognition", "speaker-independent"],
        base_model=encoder if "/" in encoder else None,
        model_name=f"{encoder} + {head}",
        eval_results=[
            EvalResult(
                task_type="audio-classification",
                dataset_type=str(summary.corpus),
                dataset_name=str(summary.corpus),
                dataset_config=summary.split_title,
                metric_type=key,
                metric_name=f"{title}, {results.result_kind}",
                metric_value=round(
                    measure.scale * scores[key].value, 1 if measure.in_percent else 3
                ),
            )
            for title, key in measure.scores.items()
        ],
    )
    text: str = data.to_yaml()
    return text
