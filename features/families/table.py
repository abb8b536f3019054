"""The table of families in the documentation: ``python -m serpipe.features.families.table``."""

from . import FAMILIES, Family


def families_table() -> str:
    """Return the table of docs/how-to/use-an-encoder.md, in Markdown."""
    titles = (
        *("family", "class in transformers", "input", "frames/s", "layers", "clips"),
        *("fine-tune", "ONNX", "error below"),
    )
    lines = (*("---",) * 3, "---:", *("---",) * 4, "---:")
    rows = [titles, lines, *(_row(family) for family in FAMILIES)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _row(family: Family) -> tuple[str, ...]:
    longest = f" to {family.window_seconds:g} s" if family.window_seconds else ""
    return (
        family.title,
        ", ".join(f"`{name}`" for name in family.classes),
        family.input,
        f"{family.frames_per_second:g}",
        family.layers,
        f"from {family.shortest_milliseconds} ms{longest}",
        "yes" if family.is_trainable else "no",
        "yes" if family.is_exportable else "no",
        f"{family.tolerance:.0e}".replace("e-0", "e-"),
    )


if __name__ == "__main__":
    print(families_table(), end="")
