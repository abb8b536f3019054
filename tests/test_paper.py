"""The paper: its citations are in the bibliography, and its scores are those of the results."""

import re

import yaml

from .conftest import ROOT

PAPER = (ROOT / "paper" / "paper.md").read_text(encoding="utf-8")
ENTRIES = {
    entry[1]: entry[0]
    for entry in re.finditer(
        r"^@\w+\{([^,]+),.*?^\}$",
        (ROOT / "paper" / "paper.bib").read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
}


def test_every_citation_has_an_entry_and_every_entry_is_cited() -> None:
    assert set(re.findall(r"@([a-z]\w+)", PAPER)) == set(ENTRIES)


def test_every_entry_has_a_well_formed_doi_or_an_address() -> None:
    for key, entry in ENTRIES.items():
        doi = re.search(r"^  doi +=.*$", entry, re.MULTILINE)
        field = doi or re.search(r"^  url +=.*$", entry, re.MULTILINE)
        assert field, key
        value = r"10\.\d{4,9}/[\w.()/;:-]+" if doi else r"https://[^\s{}]+"
        assert re.fullmatch(rf"  \w+ += \{{{value}\}},?", field[0]), key


def test_the_scores_of_the_paper_are_in_the_results() -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    results = page.replace("**", "")
    scores = re.findall(r"\d+\.\d \[\d[^\]]+\]", PAPER)
    assert len(scores) > 5
    for score in scores:
        assert score in results, score


def test_the_paper_has_the_form_of_the_journal() -> None:
    _, header, body = PAPER.split("---\n", 2)
    metadata = yaml.safe_load(header)
    assert {"title", "tags", "authors", "affiliations", "date", "bibliography"} <= set(metadata)
    assert (ROOT / "paper" / metadata["bibliography"]).is_file()
    sections = re.findall(r"^# (.+)$", body, re.MULTILINE)
    assert {"Summary", "Statement of need", "State of the field", "References"} <= set(sections)
    assert 750 <= len(body.split()) <= 1750
