"""List the packages and make the readme for PyPI, neither of which pyproject.toml can express.

The repository root is the package ``serpipe``.
"""

import re
import tomllib
from pathlib import Path

from setuptools import find_packages, setup  # type: ignore[import-untyped]

HERE = Path(__file__).parent
LINK = re.compile(r"(!?)\[([^]]*)\]\((?!https?:|#)([^)]+)\)")


def make_readme() -> str:
    """Return README.md with absolute links: PyPI shows none of the files beside it."""
    project = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = project["urls"]["Homepage"]
    folders = {"": f"{page}/blob/main", "!": f"{page}/raw/main"}  # links and images
    return LINK.sub(
        lambda link: f"{link[1]}[{link[2]}]({folders[link[1]]}/{link[3]})",
        (HERE / "README.md").read_text(encoding="utf-8"),
    )


subpackages = find_packages(exclude=["tests*", "benchmarks*", "docs*"])
setup(
    packages=["serpipe", *(f"serpipe.{name}" for name in subpackages)],
    package_dir={"serpipe": "."},
    long_description=make_readme(),
    long_description_content_type="text/markdown",
    script_name="setup.py",  # what build frontends do not set, and so would put into the wheel
)
