"""The model card of a saved model, with the metadata that the Hugging Face hub reads."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...corpora.licence import ModelLicence, model_licence
from ...errors import UserError, counted
from ...pipeline.measures import Measure
from ...pipeline.split_kind import SplitKind
from ...pipeline.statistics import Interval
from ..models.bundle import BundleSummary
from ..models.outputs import SOFTMAX
from ..run.encoder_key import is_on_hub
from ..run.results import RunResults, chosen
from ..run.summary import HeadSummary, RunSummary
from ..score_text import interval_text
from .checks import Check, run_checks
from .report import markdown_table, score_note
from .result_tables import classes_table, groups_table
from .table import Table, escape_markdown

#: Checks whose findings end with names of clips or speakers, which a published card must not show.
_WITH_NAMES = frozenset({"SER008", "SER022", "SER023", "SER026", "SER029"})
#: Text that precedes these names.
_BEFORE_NAMES = re.compile(r": |, such as |, the first ")


@dataclass(frozen=True)
class Publication:
    """How a model is published, for its card."""

    repository: str  #: On the hub: ``USER/NAME``.
    #: Whether its publisher states that the terms of the training corpora allow it.
    licence_checked: bool = False


@dataclass(frozen=True)
class _Facts:
    """What the template of a card shows."""

    target: str
    encoder: str
    head: str
    is_on_hub: bool  #: Whether the encoder is a model of the hub.
    warnings: Sequence[str]
    description: str  #: What the model predicts, and how.
    data: str
    licence: str  #: Licence of the clips, with their citation.
    protocol: str  #: The protocol, and which head it tested.
    split: str  #: The split in words.
    corpus: str  #: Corpus of the tested clips.
    chosen: str  #: How the headline was chosen, in a word or two; may be empty.
    scores: Mapping[str, Interval]  #: By key.
    measure: Measure
    note: str  #: Text below the scores.
    probabilities: str
    limit: str
    command: str
    model_licence: ModelLicence
    tables: Sequence[Table] = ()
    checks: Sequence[Check] = ()


def card(
    results: RunResults,
    head: str,
    bundle: BundleSummary | None,
    publication: Publication | None = None,
) -> str:
    """Return the model card of a head's bundle as Markdown with a YAML header.

    It states data, protocol, scores with intervals, limits and licence. Without a bundle, it is the
    card of the model that the run trained end to end.
    """
    fitted = results.summary.heads[head]
    summary = replace(results.summary, heads={head: fitted}, planned=[head])
    results = replace(results, summary=summary, predicted={head: results.predicted[head]})
    tables = [classes_table(results)] if summary.labels else []
    if results.group_columns:
        tables.append(groups_table(results))
    choices = "; ".join(
        f"{name} " + ", ".join(f"{value} in {n}" for value, n in counter.most_common())
        for name, counter in chosen(fitted).items()
    )
    if bundle:
        what, corpus = _bundle_text(bundle, fitted.title), bundle.corpus
        licence, citation, probabilities = bundle.licence, bundle.citation, bundle.probabilities
    else:
        cache = summary.provenance.get("cache", {})
        corpus, licence, citation = (
            str(cache.get(name, "")) for name in ("corpus", "licence", "citation")
        )
        what, probabilities = _trained_text(summary, fitted), SOFTMAX if summary.labels else ""
    data, tested, limit = _data_sentences(summary, corpus, choices, is_head=bundle is not None)
    changes = f" Labels: {', '.join(summary.changes)}." if summary.changes else ""
    facts = _Facts(
        target=summary.target,
        encoder=summary.encoder["encoder"],
        head=head,
        is_on_hub=is_on_hub(summary.encoder),
        warnings=summary.warnings,
        description=_predicts(summary.labels, summary.target) + what,
        data=data + changes,
        licence=f"{citation}. Licence of the clips: {licence}.",
        protocol=f"{summary.split_title}; {summary.inner}. {tested}",
        split=summary.split_title,
        corpus=summary.corpus,
        chosen=results.result_kind,
        scores=results.scores(head),
        measure=results.measure,
        note=score_note(summary),
        probabilities=probabilities,
        limit=limit,
        command=str(summary.provenance.get("command", "")),
        model_licence=model_licence(corpus, licence),
        tables=tables,
        checks=_without_names(run_checks(results)) if publication else run_checks(results),
    )
    return _render(facts, publication)


def bundle_card(bundle: BundleSummary, publication: Publication, source: str) -> str:
    """Return the card of a bundle that is not in the folder of its run: it has no tables.

    ``source`` is its file, for messages. Raise UserError if the bundle does not state its scores.
    """
    measure = bundle.measure
    try:
        scores = {key: bundle.interval(key) for key in measure.scores.values()}
        split = str(bundle.result["split"])
        speakers = counted(int(bundle.result["speakers"]), "speaker")
        clips = f"{counted(int(bundle.result['clips']), 'clip')} of {speakers}"
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(
            f"{source}: does not state how its head scored; publish the bundle from the folder of "
            "its run"
        ) from None
    facts = _Facts(
        target=bundle.target,
        encoder=str(bundle.encoder.get("encoder")),
        head=bundle.head,
        is_on_hub=is_on_hub(bundle.encoder),
        warnings=bundle.warnings,
        description=_predicts(bundle.labels, bundle.target) + _bundle_text(bundle, bundle.head),
        data=f"{bundle.corpus}; tested: {clips}.",
        licence=f"{bundle.citation}. Licence of the clips: {bundle.licence}.",
        protocol=f"{split}. These are scores on speakers who were not in training.",
        split=split,
        corpus=bundle.corpus,
        chosen="",
        scores=scores,
        measure=measure,
        note=f"{measure.definition}. In brackets: 95 % intervals for other speakers.",
        probabilities=bundle.probabilities,
        limit=f"It was fitted on the speakers of {bundle.corpus} alone.",
        command=str(bundle.provenance.get("command", "")),
        model_licence=model_licence(bundle.corpus, bundle.licence),
    )
    return _render(facts, publication)


def _render(facts: _Facts, publication: Publication | None) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"md": escape_markdown, "table": markdown_table}
    environment.keep_trailing_newline = True
    template = (Path(__file__).parent / "card.md.jinja").read_text(encoding="utf-8")
    measure = facts.measure
    text: str = environment.from_string(template).render(
        metadata=_metadata(facts),
        facts=facts,
        scores=[
            (title, f"{interval_text(facts.scores[key], measure)}{measure.unit}")
            for title, key in measure.scores.items()
        ],
        model_licence=_licence_text(facts.model_licence, publication),
        publication=publication,
    )
    return text


def _without_names(checks: Sequence[Check]) -> list[Check]:
    """Return checks without the names of single clips and speakers in their findings."""
    return [
        replace(each, finding=_BEFORE_NAMES.split(each.finding, maxsplit=1)[0])
        if each.code in _WITH_NAMES
        else each
        for each in checks
    ]


def _predicts(labels: Sequence[str], target: str) -> str:
    return f"It predicts {', '.join(labels) or f'{target}, a number'}, by "


def _bundle_text(bundle: BundleSummary, title: str) -> str:
    """Return what a bundle consists of, as the end of a sentence."""
    parameters = ", ".join(f"{key} = {value:g}" for key, value in bundle.parameters.items())
    weights = str(bundle.encoder.get("weights_sha256", ""))[:12]
    return (
        f"{title}{f' ({parameters})' if parameters else ''} on layer {bundle.layer['name']} of a "
        f"frozen `{bundle.encoder.get('encoder')}` (weights {weights}), {bundle.pooling} pooling "
        "over time." + (f" It was trained on {bundle.trained_on}." if bundle.trained_on else "")
    )


def _trained_text(summary: RunSummary, fitted: HeadSummary) -> str:
    """Return what a model that was trained end to end is, as the end of a sentence."""
    epochs = int(fitted.final["parameters"]["epoch"])
    return f"`{summary.encoder['encoder']}`, {fitted.title} for {counted(epochs, 'epoch')}."


def _licence_text(licence: ModelLicence, publication: Publication | None) -> str:
    """Return what the licence of the clips means for the model."""
    name = licence.name or licence.identifier
    if not licence.obstacles:
        return f"This model is published under the licence of these clips: {name}."
    obstacles = "; ".join(licence.obstacles)
    if publication and publication.licence_checked:
        return f"Licence of this model: {name}. {obstacles}. Its publisher has checked these terms."
    return f"Not to be published without the consent of the owners of the clips. {obstacles}."


def _data_sentences(
    summary: RunSummary, corpus: str, choices: str, *, is_head: bool
) -> tuple[str, str, str]:
    """Return sentences on the training data, on what was tested, and on the limits of both.

    ``corpus`` is the title of the training corpora; ``is_head`` is False for a model that was
    trained end to end.
    """
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
            f"Fitted on {corpus}, {summary.split_title}: {clips}.",
            f"This very head was tested: none of these clips was in its training ({choices}).",
            f"It was fitted on the speakers of {corpus} alone.",
        )
    if not is_head:
        return (
            f"{summary.corpus}: {clips}.",
            "These are scores of models trained in the same way without the test speakers; this "
            f"one was trained on all of them (in the folds: {choices}).",
            f"It was trained on {speakers} of one recording set-up.",
        )
    return (
        f"{summary.corpus}: {clips}.",
        "These are scores of heads fitted in the same way without the test speakers; the saved "
        "head was fitted on all of them, and its layer and hyper-parameters were chosen on all of "
        f"them (in the folds: {choices}).",
        f"It was fitted on {speakers} of one recording set-up.",
    )


def _metadata(facts: _Facts) -> str:
    """Return the YAML header."""
    from huggingface_hub import EvalResult, ModelCardData

    measure, licence = facts.measure, facts.model_licence

    def rounded(value: float) -> float:
        return round(measure.scale * value, 1 if measure.in_percent else 3)

    def with_interval(title: str, key: str) -> str:
        low, high = facts.scores[key].low, facts.scores[key].high
        return title if math.isnan(low) else f"{title} [95 %: {rounded(low)} to {rounded(high)}]"

    split = facts.split.replace("leave one speaker out", "leave one speaker out (LOSO)")
    data = ModelCardData(
        license=licence.identifier,
        license_name=licence.name or None,
        library_name="serpipe",
        pipeline_tag="audio-classification",
        tags=["speech-emotion-recognition", "speaker-independent"],
        base_model=facts.encoder if facts.is_on_hub else None,
        model_name=f"{facts.encoder} + {facts.head}",
        eval_results=[
            EvalResult(
                task_type="audio-classification",
                dataset_type=facts.corpus,
                dataset_name=f"{facts.corpus}, {split}",
                dataset_split=split,
                metric_type=key,
                metric_name=", ".join(
                    each for each in (with_interval(title, key), facts.chosen, split) if each
                ),
                metric_value=rounded(facts.scores[key].value),
            )
            for title, key in measure.scores.items()
        ],
    )
    text: str = data.to_yaml()
    return text
