"""Save and load scikit-learn classifiers with skops: no pickle, no code run on load."""

import io
import pickle
import re
import sys
import zipfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import UserError, first_line
from ...files import check_regular, write_bytes

#: Limit of a saved head that comes from elsewhere, in bytes.
MAX_HEAD_BYTES = 1 << 30


def save(classifier: Any, path: Path) -> None:
    """Write a fitted classifier; the same classifier gives the same bytes."""
    with _quick_skops_import():
        from skops.io import dumps

    content = io.BytesIO()
    # A round trip first: which equal objects are one object depends on where it was fitted.
    fitted = pickle.loads(pickle.dumps(classifier))  # noqa: S301 (our own object)
    with (
        zipfile.ZipFile(io.BytesIO(dumps(fitted))) as members,
        zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        schema = members.read("schema.json").decode()
        # skops names objects by their address in memory: number them by their order instead.
        address_pattern = r'(?<="__id__": )\d+|\d+(?=\.npy")'
        addresses = dict.fromkeys(re.findall(address_pattern, schema))
        numbers = {address: str(number) for number, address in enumerate(addresses)}
        schema = re.sub(address_pattern, lambda match: numbers[match[0]], schema)
        # ZipInfo without a date: an archive would carry the time of day for every member.
        archive.writestr(zipfile.ZipInfo("schema.json"), schema, zipfile.ZIP_DEFLATED)
        for address, number in numbers.items():
            if f"{address}.npy" in members.namelist():
                array = members.read(f"{address}.npy")
                archive.writestr(zipfile.ZipInfo(f"{number}.npy"), array, zipfile.ZIP_DEFLATED)
    write_bytes(path, content.getvalue())


def load(path: Path, trusted: Sequence[str] = ()) -> Any:
    """Read a classifier that :func:`save` wrote.

    Parameters
    ----------
    path : Path
        The file.
    trusted : sequence of str
        Types that the file may contain besides those of scikit-learn and numpy, such as
        ``"my_package.MyClassifier"``. They must never come from a file.

    Returns
    -------
    object
        The classifier.

    Raises
    ------
    UserError
        If the file requests any other type, or is damaged.
    """
    with _quick_skops_import():
        from skops.io import load as skops_load
        from skops.io.exceptions import UntrustedTypesFoundException

    try:
        check_regular(path, MAX_HEAD_BYTES)
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_HEAD_BYTES:
                raise ValueError(f"it unpacks to more than {MAX_HEAD_BYTES >> 20} MiB")
        return skops_load(path, trusted=list(trusted))
    except UntrustedTypesFoundException as error:
        raise UserError(
            f"{path}: requests code that this head does not use ({error}), so it was not saved "
            "by serpipe; do not use this file"
        ) from None
    except Exception as error:  # whatever a damaged archive makes the reader raise
        raise UserError(
            f"{path}: cannot be read as a head saved by serpipe ({first_line(error)}); "
            "run `serpipe fit` again"
        ) from error


@contextmanager
def _quick_skops_import() -> Generator[None]:
    """Let skops be imported in half a second instead of two and a half.

    It lists all estimators of scikit-learn, which imports all its modules, among them adapters that
    import torch and dask for arrays that no head has. The listing skips modules that are missing.
    """
    adapters = [f"sklearn.externals.array_api_compat.{name}" for name in ("torch", "dask.array")]
    hidden = [name for name in adapters if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: missing
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
