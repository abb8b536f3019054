"""Results show themselves as short tables in Python, as files, as pictures, as data frames."""

import io
import json
import shutil
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import serpipe as package
from PIL import Image
from serpipe.artifacts.models.prediction import Prediction, Window
from serpipe.artifacts.report.timeline import draw_timeline
from serpipe.artifacts.run.results import read_results
from serpipe.errors import UserError
from serpipe.features.cache import open_cache

from .conftest import Command, write_wav
from .messages import raises_about

LONG = Prediction(
    "call.wav",
    40.0,
    "sad",
    {"happy": 0.25, "sad": 0.75},
    tuple(
        Window(n, n + 1.0, "sad" if n % 2 else "", {"happy": 0.2, "sad": 0.8} if n % 2 else {})
        for n in range(40)
    ),
)


def test_results_show_the_scores_of_every_head(fitted_once: Path, serpipe: Command) -> None:
    shutil.copytree(fitted_once, ".", dirs_exist_ok=True)
    (run,) = Path("artifacts/runs").iterdir()
    results = read_results(run).called("mine")
    shown = repr(results).splitlines()
    assert shown[0].startswith("mine: RAVDESS speech") and shown[-1] == str(run)
    for head, line in zip(("lr", "svm"), shown[2:4], strict=True):
        assert line.split()[:2] == [head, f"{100 * results.scores(head)['uar'].value:.1f}"]
    report = package.report(results)
    assert f"{100 * results.scores('svm')['uar'].value:.1f}" in repr(report)
    assert len(repr(report).splitlines()) < 15


def test_a_prediction_shows_its_scores_or_its_timeline() -> None:
    whole = Prediction("a.wav", 2.0, "sad", {"happy": 0.25, "sad": 0.75}, ())
    assert [line.split() for line in repr(whole).splitlines()] == [
        ["a.wav,", "2.00", "s:", "sad"],
        ["label", "probability"],
        ["sad", "0.750"],
        ["happy", "0.250"],
    ]
    shown = repr(LONG).splitlines()
    assert len(shown) < 20 and shown[-1] == "... and 28 more"
    rating = Prediction("a.wav", 2.0, "", {"valence": 3.5}, (Window(0, 2, "", {"valence": 3.5}),))
    assert "3.500" in repr(rating)


class Tags(HTMLParser):
    """The tags, attributes and texts of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.attributes: list[object] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_notebooks_display_results_as_plain_tables_with_all_text_escaped(
    fitted_once: Path, serpipe: Command
) -> None:
    shutil.copytree(fitted_once, ".", dirs_exist_ok=True)
    (run,) = Path("artifacts/runs").iterdir()
    results = read_results(run)
    report = package.report(results)
    cache = open_cache(next(Path("features/cache").glob("*.h5")))
    attack = "<script>alert(1)</script>"
    first = report.tables[0]
    changed = replace(first, title=attack, header=(attack, *first.header[1:]))
    for shown in (
        results,
        replace(results, summary=replace(results.summary, corpus=attack, warnings=[attack])),
        report,
        replace(report, tables=(changed, *report.tables[1:]), warnings=(attack,), notes=(attack,)),
        cache,
        replace(cache, key={**cache.key, "encoder": attack}),
        LONG,
        replace(LONG, source=attack),
    ):
        page = Tags(shown._repr_html_())
        assert {"table", "td"} <= set(page.tags)
        assert set(page.tags) <= {"p", "b", "table", "thead", "tbody", "tr", "th", "td"}
        assert page.attributes == []
    texts = Tags(report._repr_html_()).texts
    for head in results.heads:
        score = f"{100 * results.scores(head)['uar'].value:.1f}"
        assert any(text.startswith(score) for text in texts)
        assert any(text.startswith(score) for text in Tags(results._repr_html_()).texts)
    assert {table.title for table in report.printed} <= set(texts)


def test_a_cache_shows_what_its_embeddings_can_be_read_by(fitted_once: Path) -> None:
    cache = open_cache(next((fitted_once / "features" / "cache").glob("*.h5")))
    table = cache.short_table()
    assert [row[0] for row in table.rows] == list(cache.layers)
    for layer, pooling, features in table.rows:
        assert cache.embeddings(layer, pooling).shape == (len(cache), int(features))
    assert len(repr(cache).splitlines()) == 2 + len(cache.layers)


def test_data_frames_need_pandas_and_say_so(
    fitted_once: Path, serpipe: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(fitted_once, ".", dirs_exist_ok=True)
    (run,) = Path("artifacts/runs").iterdir()
    results = read_results(run)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pandas", None)
        for of in (results, LONG):
            with raises_about(UserError, "pip install pandas"):
                of.to_pandas()
    pytest.importorskip("pandas")
    frame = results.to_pandas()
    assert frame["predicted svm"].tolist() == results.predicted["svm"]["nested"].tolist()
    report = package.report(results)
    assert report.to_pandas()["uar"].tolist() == [
        results.scores(head)["uar"].value for head in results.heads
    ]
    assert len(report.to_pandas("classes")) == 2 * len(results.summary.labels)
    windows = LONG.to_pandas()
    assert windows["part"].tolist() == ["whole"] + 40 * ["window"]
    assert np.isnan(windows["score_sad"][1]) and windows["score_sad"][2] == 0.8


def test_numbers_of_a_run_are_numbers_and_ids_keep_their_zeros(
    fitted_once: Path, serpipe: Command
) -> None:
    shutil.copytree(fitted_once, ".", dirs_exist_ok=True)
    (run,) = Path("artifacts/runs").iterdir()
    results = read_results(run)
    cache = open_cache(next(Path("features/cache").glob("*.h5"))).clips
    columns = results.columns()
    for name, kind in (
        ("seconds", "f"),
        ("loudness", "f"),
        ("sampling_rate", "i"),
        ("channels", "i"),
    ):
        assert columns[name].dtype.kind == kind
        assert columns[name].tolist() == cache[name].tolist()
    assert columns["speaker"].tolist() == cache["speaker"].tolist()
    assert (
        set(columns["speaker"]) == {f"0{n}" for n in range(1, 6)}
        and columns["repetition"].dtype.kind == "U"
    )
    more = {
        "valence": np.array(["3.5", "nan", "2.0"] * 13 + ["1e-07"]),
        "room": np.array(["1", "2"] * 20),
    }
    rated = replace(results, clips={**results.clips, **more}).columns()
    assert rated["valence"].dtype.kind == "f" and rated["valence"][39] == 1e-7
    assert rated["room"].tolist() == ["1", "2"] * 20


def test_predictions_are_written_as_the_suffix_says(
    serpipe: Command, sample: Path, fitted_once: Path, small_encoder: Path, tmp_path: Path
) -> None:
    (bundle,) = fitted_once.glob("artifacts/runs/*/bundles/lr")
    clip = sorted(sample.rglob("*.flac"))[0]
    model = ("--model", bundle, "--encoder", small_encoder, "--device", "cpu")
    predict = ("predict", clip, *model, "--window", 1)
    for suffix in ("csv", "json", "jsonl"):
        out = tmp_path / "new" / f"said.{suffix}"
        written = serpipe(*predict, "--out", out)
        assert written.code == 0 and written.out == "", written.err
        assert out.read_text() == serpipe(*predict, "--format", suffix).out
    picture = ("--plot", tmp_path / "said.png")
    table = serpipe(*predict, "--out", tmp_path / "said.txt", "--format", "table", *picture)
    assert table.code == 0 and table.out == ""
    assert Image.open(tmp_path / "said.png").size[0] > 1000
    assert (tmp_path / "said.txt").read_text() == serpipe(*predict).out
    same = tmp_path / "same.png"
    for wrong in (("--out", tmp_path), ("--out", clip), ("--plot", tmp_path / "a.bmp"),
                  ("--out", same, "--format", "csv", "--plot", same)):  # fmt: skip
        assert serpipe(*predict, *wrong).code == 2
    before = (tmp_path / "said.txt").read_text()
    silent = write_wav(tmp_path / "silent.wav", np.zeros(16000))
    done = serpipe("predict", silent, *model, "--out", tmp_path / "said.txt")
    assert done.code == 2 and (tmp_path / "said.txt").read_text() == before
    assert clip.stat().st_size > 10_000
    (tmp_path / "blocked.json.unfinished").mkdir()  # so that it cannot be written in the end
    failed = serpipe(*predict, "--out", tmp_path / "blocked.json")
    assert failed.code == 1
    assert json.loads(failed.out)["predictions"][0]["source"] == str(clip)  # not lost


def test_the_picture_shows_each_window_where_it_is() -> None:
    figure = draw_timeline(LONG, "a model", "calibrated")
    axes = figure.axes[0]
    assert axes.get_xlim() == (0, 40)
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["happy", "sad"]
    marks = axes.collections[-1].get_offsets()
    assert np.asarray(marks).tolist() == [[n + 0.5, 1] for n in range(1, 40, 2)]
    ratings = {"valence": 3.0, "arousal": 2.0}
    rated = Prediction("a.wav", 2.0, "", ratings, (Window(0, 2, "", ratings),))
    drawn = draw_timeline(rated, "a model", "")
    assert len(drawn.axes[0].lines) == 2
    content = io.BytesIO()
    drawn.savefig(content, format="png")
    assert Image.open(io.BytesIO(content.getvalue())).size[0] > 500
    with pytest.raises(UserError):
        draw_timeline(Prediction("a.wav", 2.0, "sad", {"sad": 1.0}, ()), "a model", "")
