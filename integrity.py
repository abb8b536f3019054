"""Detect files that were damaged or changed after they were written, by their SHA-256 hashes.

A *sealed* JSON file ends with the hash of its own text, and its entry ``files`` lists the hashes of
the files that belong to it. This detects damage and edits. It is not a signature: anyone who
changes a file on purpose can also change its hash.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .errors import UserError
from .files import open_regular, read_bytes, write_text

#: Entry of a sealed file that holds the hash of its text.
_OWN_HASH = "sha256"
#: The hash is the last entry, so that it can be located without a JSON parser.
_SEAL = re.compile(rb'"sha256": "([0-9a-f]{64})"\n\}\n\Z')
#: Maximum size of a sealed JSON file: enough for hundreds of thousands of speakers and folds.
MAX_JSON_BYTES = 256 << 20
#: Maximum size of a file that is read at once: predictions of millions of clips.
MAX_FILE_BYTES = 4 << 30
#: Name of the sealed file of a model folder, which has no other JSON file of serpipe.
MODEL_HASHES = "files.json"


def write_sealed_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object, not empty and without an entry ``sha256``, with the hash of its text."""
    write_text(path, seal_json(content))


def seal_json(content: Mapping[str, Any]) -> str:
    """Return the text that :func:`write_sealed_json` writes."""
    unsealed = json.dumps({**content, _OWN_HASH: ""}, indent=1, allow_nan=False) + "\n"
    digest = hashlib.sha256(unsealed.encode()).hexdigest()
    before, _, after = unsealed.rpartition('""')
    return f'{before}"{digest}"{after}'


def read_sealed_json(path: Path) -> tuple[dict[str, Any], bool]:
    """Read a JSON object without its hash, and return whether it had one, which is then checked.

    Raise OSError if the file cannot be read, and ValueError if it is not a JSON object, or its hash
    does not match.
    """
    text = read_bytes(path, MAX_JSON_BYTES)
    content = parse_json(text)
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    if _OWN_HASH not in content:
        return content, False
    seal = _SEAL.search(text)
    unsealed = text[: seal.start(1)] + text[seal.end(1) :] if seal else b""
    if not seal or hashlib.sha256(unsealed).hexdigest().encode() != seal.group(1):
        raise ValueError("it was changed or damaged since it was written")
    del content[_OWN_HASH]
    return content, True


def read_record_json(
    path: Path, kind: str, version: int, unhashed_version: int, remedy: str
) -> dict[str, Any]:
    """Read the JSON object of a run or bundle, which is sealed unless its format is old.

    Its entry ``serpipe_KIND`` is the version of the format: ``version``, or the last one without
    hashes, ``unhashed_version``. Return it without version and hash; with ``files`` if and only if
    it is sealed. Raise UserError, with the ``remedy``, if it has another format, and otherwise as
    :func:`read_sealed_json` does; also ValueError if hashes are missing.
    """
    content, is_sealed = read_sealed_json(path)
    written = content.pop(f"serpipe_{kind}", None)
    if written is None:
        raise ValueError(f"it has no entry serpipe_{kind}")
    if written not in (unhashed_version, version):
        raise UserError(f"{path}: {kind} format {written}; expected {version}; {remedy}")
    if not is_sealed == (written == version) == (content.get("files") is not None):
        raise ValueError("its checksum is missing")
    return content


def parse_json(text: bytes | str) -> Any:
    """Parse JSON from an untrusted file.

    Raise ValueError if it is not JSON in UTF-8, is nested too deeply, or holds a number that is not
    finite, an integer of more than 64 bits, or text that cannot be encoded.
    """

    def finite(digits: str) -> float:
        number = float(digits)
        if not math.isfinite(number):
            raise ValueError(f"{digits[:40]} is not a finite number")
        return number

    def whole(digits: str) -> int:
        if len(digits) > 20 or abs(number := int(digits)) >= 2**63:
            raise ValueError(f"{digits[:40]} is too large an integer")
        return number

    try:
        value = json.loads(text, parse_constant=finite, parse_float=finite, parse_int=whole)
        json.dumps(value, ensure_ascii=False).encode()  # an unpaired surrogate cannot be printed
        return value
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def hash_file(path: Path) -> str:
    """Return the SHA-256 hash of a regular file, in hexadecimal digits."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the hashes of files of a folder by path, sorted; missing files are omitted."""
    return {name: hash_file(folder / name) for name in sorted(names) if (folder / name).is_file()}


def read_checked(folder: Path, name: str, files: Mapping[str, str] | None, remedy: str) -> bytes:
    """Read a file of a folder and check it against its hash.

    ``name`` is its path in the folder, with forward slashes, and ``files`` are hashes by path; None
    for old folders without hashes, where nothing is checked. Raise UserError, with the ``remedy``,
    if the file is missing, has no hash, or has another one.
    """
    path = folder / name
    try:
        content = read_bytes(path, MAX_FILE_BYTES)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    if files is not None and hashlib.sha256(content).hexdigest() != files.get(name):
        raise UserError(f"{path}: has been changed or damaged since it was written; {remedy}")
    return content


def check_files(folder: Path, files: Mapping[str, str] | None, remedy: str) -> None:
    """Check all listed files of a folder against their hashes.

    Raise UserError if one is missing, has another hash, or its name leads out of the folder.
    """
    for name, expected in (files or {}).items():
        if not is_file_name(name):
            raise UserError(f"{folder}: lists {name!r}, which is not a file in it; {remedy}")
        path = folder / name
        try:
            digest = hash_file(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
        if digest != expected:
            raise UserError(f"{path}: has been changed or damaged since it was written; {remedy}")


def check_listed(folder: Path, name: str, remedy: str) -> None:
    """Check a file of a folder against the ``run.json`` in the folder, if there is one.

    A bundle or model copied from another run is intact, but is not the one that this run scored.
    Raise UserError if the run lists the file with another hash.
    """
    try:
        content, _ = read_sealed_json(folder / "run.json")
        expected = (content.get("files") or {}).get(name)
    except (OSError, ValueError, AttributeError):
        return  # not a run, or a damaged one, which is reported elsewhere
    if expected is not None and hash_file(folder / name) != expected:
        raise UserError(f"{folder / name}: belongs to another run; {remedy}")


def write_model_hashes(folder: Path) -> None:
    """Write ``files.json`` into a model's folder: the hashes of all other files in it."""
    names = {path.name for path in folder.iterdir()} - {MODEL_HASHES}
    files = hash_files(folder, names)
    write_sealed_json(folder / MODEL_HASHES, {"serpipe_files": 1, "files": files})


def check_model_files(folder: Path) -> tuple[str, ...]:
    """Check a model's folder against its ``files.json``, if serpipe wrote one.

    Return the names of the files that it lists; none if there is no such file. Raise UserError if
    ``files.json`` is damaged, or a file that it lists is missing or was changed.
    """
    path = folder / MODEL_HASHES
    if not path.is_file():
        return ()
    remedy = f"get the model again, or, if it was changed on purpose, delete {MODEL_HASHES}"
    if folder.resolve().name == "model":  # the model of a run, which lists it
        check_listed(folder.resolve().parent, f"model/{MODEL_HASHES}", remedy)
    try:
        content, is_sealed = read_sealed_json(path)
        if "serpipe_files" not in content:
            return ()  # another program's file of that name
        files = content.get("files")
        if not is_sealed or not isinstance(files, dict):
            raise ValueError("it has no sealed list of hashes")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be used ({error}); {remedy}") from None
    check_files(folder, files, remedy)
    return tuple(files)


def is_file_name(name: object) -> bool:
    """Whether a name from a file is a path inside its folder, without ``..``."""
    return (
        isinstance(name, str)
        and re.fullmatch(r"[\w.+-]+(/[\w.+-]+)*", name) is not None
        and (".." not in name.split("/"))
    )
