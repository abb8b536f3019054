"""List the packages: the repository root is ``serpipe``, which pyproject.toml cannot express."""

from setuptools import find_packages, setup  # type: ignore[import-untyped]

subpackages = find_packages(exclude=["tests*", "benchmarks*", "docs*"])
setup(
    packages=["serpipe", *(f"serpipe.{name}" for name in subpackages)],
    package_dir={"serpipe": "."},
    script_name="setup.py",  # what build frontends do not set, and so would put into the wheel
)
