"""Damaged and hostile files of a cache end in one line; nothing hangs, crashes or is destroyed."""

import hashlib
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from safetensors.numpy import save
from serpipe.errors import UserError
from serpipe.features import cache_child
from serpipe.features.cache import Cache, open_cache, verify_cache
from serpipe.features.cache_write import write_cache, write_shards
from serpipe.features.parts import Parts
from serpipe.files import write_text

from .conftest import ROOT, Command, run_python
from .messages import raises_about

N, WIDTH = 40, 48
KEY: dict[str, Any] = {
    "encoder": "none", "layers": ["0", "1"], "width": WIDTH, "poolings": ["mean", "std"],
    "dtype": "float32",
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small cache."""
    path, draw = tmp_path_factory.mktemp("whole") / "c.h5", np.random.default_rng(0)
    names = np.array([f"clip-{row:04d}" for row in range(N)])
    text = dict.fromkeys(("path", "name", "speaker", "emotion", "sha256", "statement"), names)
    clips = {
        **text,
        "corpus": np.full(N, "own"),
        "sex": np.full(N, ""),
        "seconds": draw.uniform(1, 3, N),
        "sampling_rate": np.full(N, 16000),
    }
    rows = draw.standard_normal((N, WIDTH), np.float32)
    write_cache(path, KEY, {"corpus": "own"}, clips, [(np.arange(N), lambda *layer: rows)])
    return path


def same(one: Cache, other: Cache) -> bool:
    return (
        (one.key, one.provenance, one.clips.keys())
        == (other.key, other.provenance, other.clips.keys())
        and all(np.array_equal(one.clips[name], other.clips[name]) for name in one.clips)
        and all(
            np.array_equal(one.embeddings(layer, "mean,std"), other.embeddings(layer, "mean,std"))
            for layer in one.layers
        )
    )


def test_a_file_that_hdf5_never_finishes_with_is_refused(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_child, "subprocess", subprocess)  # a reader that is not forked
    monkeypatch.setattr(cache_child, "SILENCE_SECONDS", 2.0)
    content = bytearray(whole.read_bytes())
    heap = content.index(b"GCOL")  # the strings: HDF5 steps through them by the sizes they state
    content[heap + 512 : heap + 1024] = bytes(512)
    damaged = tmp_path / "c.h5"
    damaged.write_bytes(content)
    for read in (open_cache, verify_cache):
        with raises_about(UserError, damaged, "2 s"):
            read(damaged)


def test_a_cache_opens_where_serpipe_comes_from_the_working_folder(
    whole: Path, tmp_path: Path
) -> None:
    (tmp_path / "serpipe").symlink_to(ROOT)
    packages = str(Path(h5py.__file__).parents[1])
    code = (
        "import sys, pathlib\n"
        f"sys.path = [*sys.path, {packages!r}, '', pathlib.Path('a')]\n"
        "from serpipe.features import cache\n"
        f"assert cache.__file__.startswith({str(tmp_path)!r})\n"
        f"print(len(cache.open_cache(pathlib.Path({str(whole)!r}))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )  # without the package that is installed
    assert done.stdout == f"{N}\n", done.stderr


def test_no_random_damage_hangs_crashes_or_goes_unnoticed(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_child, "SILENCE_SECONDS", 1.0)
    reference, content = open_cache(whole), whole.read_bytes()
    rows = [layer.offset for layer in reference.row_map.shards[0].layers.values()]
    structure = [
        place
        for place in range(len(content))
        if not any(offset <= place < offset + N * WIDTH * 4 for offset in rows)
    ]
    draw = random.Random(0)
    for attempt in range(15):
        damaged, place = bytearray(content), draw.choice(structure)
        if attempt % 3 == 0:
            damaged[place] ^= 1 << draw.randrange(8)
        elif attempt % 3 == 1:
            damaged[place : place + 8] = draw.randbytes(8)
        else:
            del damaged[draw.randrange(len(content)) :]
        path = tmp_path / "c.h5"
        path.write_bytes(damaged)
        try:
            unnoticed = not verify_cache(path)
        except UserError:
            continue
        if unnoticed:  # what was hit is not used, or says the same in another way
            assert same(open_cache(path), reference), (attempt, place)


def column(name: str, data: Any, **options: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[f"clips/{name}"]
        file.create_dataset(f"clips/{name}", data=data, **options)

    return change


def attribute(name: str, value: Any) -> Callable[[h5py.File], None]:
    return lambda file: file.attrs.create(name, value)


def in_key(**fields: Any) -> Callable[[h5py.File], None]:
    return attribute("key", json.dumps(KEY | fields))


def reference(file: h5py.File) -> None:
    column("sex", np.array([file["clips"].ref] * N, h5py.ref_dtype))(file)


def unwritten(file: h5py.File) -> None:
    del file["clips/seconds"]
    file.create_dataset("clips/seconds", (2**40,), "f8")


def one_text_for_all(file: h5py.File) -> None:
    """Let every clip have the same long text: more in memory than there is in the file."""
    column("sex", ["x" * 100_000, *[""] * (N - 1)], dtype=h5py.string_dtype())(file)
    file.flush()
    offset = file["clips/sex"].id.get_offset()
    with Path(file.filename).open("r+b") as plain:
        plain.seek(offset)
        text = plain.read(16)
        plain.seek(offset)
        plain.write(text * N)


def chunked_layer(file: h5py.File) -> None:
    layer = file["embeddings/mean/1"]
    rows, sha256 = layer[:], layer.attrs["sha256"]
    del file["embeddings/mean/1"]
    file.create_dataset("embeddings/mean/1", data=rows, chunks=(8, WIDTH), compression="gzip")
    file["embeddings/mean/1"].attrs["sha256"] = sha256


HOSTILE: dict[str, Callable[[h5py.File], object]] = {
    "compound": column("emotion", np.zeros(N, [("a", "f4"), ("b", "i4")])),
    "reference": reference,
    "enum": column("emotion", np.zeros(N, "i4"), dtype=h5py.enum_dtype({"a": 0})),
    "opaque": column("emotion", np.zeros(N, "V8")),
    "complex": column("seconds", np.zeros(N, complex)),
    "text for numbers": column("seconds", ["1"] * N),
    "numbers for text": column("emotion", np.zeros(N)),
    "not a column": column("sex", np.zeros((N, 2))),
    "not durations": column("seconds", np.full(N, np.nan)),
    "not UTF-8": column("sex", [b"\xff"] * N, dtype=h5py.string_dtype()),
    "compressed": column("seconds", np.zeros(N), chunks=(10,), compression="gzip"),
    "never written": unwritten,
    "one text for all": one_text_for_all,
    "a type": lambda file: file.__setitem__("clips/other", np.dtype("f8")),
    "a layer in chunks": chunked_layer,
    "a checksum that is a number": lambda file: file["embeddings/std/0"].attrs.create("sha256", 3),
    "key null": attribute("key", "null"),
    "key of bytes": attribute("key", b"\xff"),
    "key nested": attribute("key", "[" * 50_000),
    "key twice": attribute("key", ["{}", "{}"]),
    "key NaN": attribute("key", json.dumps(KEY | {"max_seconds": float("nan")})),
    "key with an object": in_key(device={"a": 1}),
    "key that cannot be printed": in_key(device="\ud800"),
    "width huge": in_key(width=10**30),
    "width true": in_key(width=True),
    "dtype object": in_key(dtype="O"),
    "layers of numbers": in_key(layers=[0, 1]),
    "poolings of lists": in_key(poolings=[["mean"]]),
    "versions a number": attribute("provenance", '{"versions": 3}'),
    "provenance changed": attribute("provenance", '{"corpus": "other"}'),
    "two formats": attribute("serpipe_cache", [1, 1]),
    "hashes for one": attribute("clips_sha256", [1, 2]),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_invalid_content_is_refused_in_one_line(kind: str, whole: Path, serpipe: Command) -> None:
    shutil.copy(whole, "c.h5")
    with h5py.File("c.h5", "r+") as file:
        HOSTILE[kind](file)
    done = serpipe("cache", "verify", "c.h5")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert done.err.startswith("serpipe: c.h5: ")


def test_a_damaged_index_of_shards_is_refused_in_one_line(whole: Path, tmp_path: Path) -> None:
    single = open_cache(whole)
    rows = np.arange(N)
    out = tmp_path / "i.h5"
    sources = [(rows, partial(single.read_rows, rows=rows))]
    write_shards(out, single.key, single.provenance, single.clips, sources, 15)
    assert same(open_cache(out), single)
    index = out.read_bytes()
    for name, values in (
        ("rows/row", np.zeros(N, [("a", "i8")])),
        ("shards/number", np.array([0.0, 1.0, 2.0])),
        ("shards/sha256", np.zeros(3)),
        ("rows/shard", np.zeros((N, 1), "i4")),
    ):
        out.write_bytes(index)
        with h5py.File(out, "r+") as file:
            del file[name]
            file.create_dataset(name, data=values)
        with raises_about(UserError, out, name):
            open_cache(out)


# --- Parts of an extraction that was stopped ------------------------------------------------------

HASHES = ["a", "b"]
TENSORS = {pooling: np.ones((2, 2, WIDTH), np.float32) for pooling in ("mean", "std")}


def part_of(tensors: dict[str, Any], metadata: dict[str, str] | None) -> bytes:
    return save(tensors, metadata)


GOOD = part_of(TENSORS, {"sha256": json.dumps(HASHES)})
BAD_PARTS = {
    "no metadata": part_of(TENSORS, None),
    "not JSON": part_of(TENSORS, {"sha256": "["}),
    "not a list": part_of(TENSORS, {"sha256": "null"}),
    "not text": part_of(TENSORS, {"sha256": "[1, 2]"}),
    "too few hashes": part_of(TENSORS, {"sha256": '["a"]'}),
    "no std": part_of({"mean": TENSORS["mean"]}, {"sha256": json.dumps(HASHES)}),
    "float16": part_of(
        {name: array.astype(np.float16) for name, array in TENSORS.items()},
        {"sha256": json.dumps(HASHES)},
    ),
    "truncated": GOOD[:-40],
    "header too long": b"\xff" * 8 + GOOD[8:],
    "empty": b"",
}


def test_parts_that_do_not_match_the_key_are_dropped_and_named(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "c.h5")
    parts.begin(KEY)
    rows = np.ones((len(KEY["layers"]), 2, KEY["width"]), np.float32)
    parts.add(["a", "b"], dict.fromkeys(KEY["poolings"], rows))
    parts.flush()
    (whole,) = parts.files()
    draw = random.Random(0)
    damaged = {f"random {n}": bytearray(GOOD) for n in range(20)}
    for broken in damaged.values():  # with the checksum of the damaged content in the name
        place = draw.randrange(int.from_bytes(GOOD[:8], "little") + 8)
        broken[place : place + 4] = draw.randbytes(4)
    names = []
    contents = [*BAD_PARTS.values(), *map(bytes, damaged.values())]
    for number, content in enumerate(contents, 1):
        checksum = hashlib.sha256(content).hexdigest()[:16]
        names.append(f"{number:06d}-{checksum}.safetensors")
        (parts.folder / names[-1]).write_bytes(content)
    (parts.folder / "folder.safetensors").mkdir()
    dropped = parts.drop_damaged(KEY)
    assert whole.name not in dropped
    assert {*names[: len(BAD_PARTS)], "folder.safetensors"} <= set(dropped)
    for _, hashes in parts.hashes():  # random damage may have left a header that is valid
        assert len(hashes) == 2


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b'"text"', b"1e400", b"\xff\xfe", b"[" * 60_000, b"{}"]
    + [b" " * 2**21]
    + [json.dumps(KEY | change).encode() for change in ({"width": "4"}, {"layers": 3})],
)  # fmt: skip
def test_a_damaged_key_of_the_parts_is_named_and_not_used(content: bytes, tmp_path: Path) -> None:
    parts = Parts(tmp_path / "c.h5")
    parts.begin(KEY)
    (parts.folder / "key.json").write_bytes(content)
    with raises_about(UserError, parts.folder / "key.json", "--overwrite"):
        parts.begin(KEY)
    assert not parts.is_of(KEY)


# --- Writing --------------------------------------------------------------------------------------

FULL_DISK = """
import os, resource, signal, sys
from functools import partial
from pathlib import Path
import numpy as np
from serpipe.errors import MachineError
from serpipe.features.cache_write import write_cache, write_shards

out, n, draw = Path(sys.argv[1]), 200, np.random.default_rng(0)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
key = {"layers": list("012345"), "width": 384, "poolings": ["mean"], "dtype": "float32"}
names = np.array([f"{row:064d}" for row in range(n)])
clips = {name: names for name in ("sha256", *"abcdefghijklmn")}
rows, values = np.arange(n), draw.standard_normal((n, 384), np.float32)
limits = [*range(0, 400_000, 15_000), *range(400_000, 1_800_000, 200_000)]
for write in (write_cache, partial(write_shards, shard_clips=n)):
    for limit in limits:
        child = os.fork()
        if child == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            try:
                write(out, key, {}, clips, [(rows, lambda *layer: values)])
            except MachineError as error:
                os._exit(error.exit_code)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
def test_a_disk_that_is_full_at_any_byte_gives_an_error_without_a_crash(tmp_path: Path) -> None:
    done = run_python("-c", FULL_DISK, tmp_path / "c.h5")
    codes = done.stdout.split()
    assert len(codes) > 40
    assert set(codes) == {"1"}, codes
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_link_at_the_name_of_a_temporary_file_is_not_followed(
    whole: Path, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("do not overwrite")
    single, rows = open_cache(whole), np.arange(N)
    out = tmp_path / "c.h5"
    out.with_name("c.h5.shards").mkdir()
    links = ("c.h5.unfinished", "c.h5.shards/000000.h5.unfinished", "t.json.unfinished")
    for link in links:
        (tmp_path / link).symlink_to(precious)
    write_text(tmp_path / "t.json", "{}")
    sources = [(rows, partial(single.read_rows, rows=rows))]
    write_shards(out, single.key, single.provenance, single.clips, sources, 30)
    write_cache(out, single.key, single.provenance, single.clips, sources)
    assert precious.read_text() == "do not overwrite"
    assert same(open_cache(out), single)
    assert not out.is_symlink()
    assert not any((tmp_path / link).exists() for link in links)


@pytest.mark.skipif(sys.platform != "linux", reason="no folder that nobody can write to")
def test_a_folder_that_cannot_be_written_to_is_a_typed_error(
    few_clips: Path, small_encoder: Path
) -> None:
    import serpipe as package

    with raises_about(UserError, "/sys/c.h5", "--out"):
        package.extract(few_clips, package.ExtractOptions(small_encoder), out="/sys/c.h5")
