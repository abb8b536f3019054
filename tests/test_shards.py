"""A cache of shards is the single file to whoever reads it, and grows without touching them."""

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from serpipe.artifacts.run.record_fit import record_run
from serpipe.corpora import scan
from serpipe.corpora.ravdess import RAVDESS
from serpipe.errors import MachineError, UserError
from serpipe.features import cache_write
from serpipe.features import engine as engine_module
from serpipe.features.cache import Cache, open_cache, verify_cache
from serpipe.features.cache_write import write_shards
from serpipe.features.encoder import Encoder, load_encoder
from serpipe.features.extract import Extraction
from serpipe.files import put_in_place
from serpipe.pipeline.heads import find_heads, read_grids
from serpipe.pipeline.options import Protocol

from .conftest import ROOT, Command, extract_with
from .messages import assert_names, assert_refused, raises_about


@pytest.fixture(scope="module")
def encoder(small_encoder: Path) -> Encoder:
    return load_encoder(str(small_encoder), poolings=("mean", "std"))


@pytest.fixture
def clips(sample: Path, tmp_path: Path) -> Path:
    """Ten clips of two actors."""
    for source in [*sorted(sample.glob("Actor_01/*"))[:5], *sorted(sample.glob("Actor_04/*"))[:5]]:
        (tmp_path / "clips" / source.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(source, tmp_path / "clips" / source.parent.name)
    return tmp_path / "clips"


def add(sample: Path, clips: Path) -> None:
    """Add five clips, which stand between others in the table."""
    (clips / "Actor_02").mkdir()
    for source in sorted(sample.glob("Actor_02/*"))[:5]:
        shutil.copy(source, clips / "Actor_02")


def run(clips: Path, encoder: Encoder, out: Path, **options: Any) -> Extraction:
    options = {"shard_clips": 4, **options}
    scanned = scan(clips, RAVDESS).clips
    done: Extraction = extract_with(encoder, scanned, out, **options)
    return done


def files(out: Path) -> dict[str, bytes]:
    """The bytes of an index and all that lies in the folder of its shards."""
    shards = sorted(Path(f"{out}.shards").glob("*"))
    return {path.name.removeprefix(out.name): path.read_bytes() for path in (out, *shards)}


def same(cache: Cache, single: Cache) -> bool:
    """Whether two caches are the same to whoever reads them."""
    rows = np.random.default_rng(0).permutation(len(single))[:7]
    return (
        cache.key == single.key
        and cache.checksums() == single.checksums()
        and all(np.array_equal(cache.clips[name], single.clips[name]) for name in single.clips)
        and all(
            np.array_equal(
                cache.embeddings(layer, "mean,std"), single.embeddings(layer, "mean,std")
            )
            and np.array_equal(
                cache.read_rows("std", layer, rows), single.read_rows("std", layer, rows)
            )
            for layer in single.layers
        )
    )


def in_shards(single: Cache, out: Path, shard_clips: int) -> Cache:
    """The same cache in shards."""
    blocks = np.array_split(np.arange(len(single))[::-1], 3)
    sources = [(rows, partial(single.read_rows, rows=rows)) for rows in blocks]
    write_shards(out, single.key, single.provenance, single.clips, sources, shard_clips)
    return open_cache(out)


def test_shards_give_the_same_embeddings_and_fits_as_a_single_file(
    extracted_once: Path, tmp_path: Path
) -> None:
    (file,) = extracted_once.glob("features/cache/*.h5")
    single = open_cache(file)
    cache = in_shards(single, tmp_path / file.name, 11)
    assert [len(open_cache(shard.path)) for shard in cache.shards] == [11, 11, 11, 7]
    assert verify_cache(cache.path) == []
    assert cache.checksums() == single.checksums()
    with h5py.File(cache.path) as index, h5py.File(file) as whole:
        assert (index.attrs["serpipe_cache"], whole.attrs["serpipe_cache"]) == (2, 1)
        assert index.attrs["clips_sha256"] == whole.attrs["clips_sha256"]
    page = (ROOT / "docs" / "how-to" / "read-a-cache.md").read_text()
    names: dict[str, Callable[[Path, str], np.ndarray]] = {}
    (example,) = re.findall(r"```python\n([^`]*def read_layer.*?)```", page, re.DOTALL)
    exec(example, names)  # with h5py alone, as the page shows it
    layer = names["read_layer"](cache.path, "embeddings/mean/2")
    assert np.array_equal(layer, single.embeddings("2"))
    head = find_heads("lr")
    runs = [
        record_run(opened, head, read_grids(head, ["C=1"]), Protocol(layers="1"), provenance={},
                   out=tmp_path / name)
        for opened, name in ((single, "single"), (cache, "shards"))
    ]  # fmt: skip
    predictions = [(run / "predictions" / "lr.csv").read_bytes() for run in runs]
    assert predictions[0] == predictions[1]
    hashes = [json.loads((run / "run.json").read_text())["content"] for run in runs]
    assert hashes[0] == hashes[1]


def test_shards_stay_byte_for_byte_while_clips_come_and_go(
    clips: Path, sample: Path, encoder: Encoder, tmp_path: Path
) -> None:
    out = tmp_path / "c.h5"

    def now(computed: int, **options: object) -> dict[str, bytes]:
        done = run(clips, encoder, out, **options)
        assert done.computed == computed
        assert verify_cache(out) == []
        single = run(clips, encoder, tmp_path / "s.h5", shard_clips=99, drop_removed=True).cache
        assert same(done.cache, single)
        return files(out)

    first = now(10)
    assert sorted(first) == ["", "000000.h5", "000001.h5", "000002.h5"]
    assert now(0) == first
    add(sample, clips)
    grown = now(5, shard_clips=3)
    assert sorted(grown)[4:] == ["000003.h5", "000004.h5"]
    assert {name: grown[name] for name in first if name} == {n: first[n] for n in first if n}

    clip = min(clips.glob("Actor_02/*"))
    other = clip.rename(clip.with_stem(clip.stem[:-5] + "01-02"))  # another repetition
    renamed = now(0, drop_removed=True)
    assert {n for n in grown if renamed[n] != grown[n]} == {""}
    assert len(open_cache(out)) == 15
    shutil.copy(other, clip)
    copied = now(0)  # the same bytes under two names have two rows, as in a single file
    assert copied.keys() - renamed.keys() == {"000005.h5"}

    for name in open_cache(shard(out, 0)).clips["path"]:  # all of the first shard
        (clips / name).unlink()
    dropped = now(0, drop_removed=True)
    assert dropped.keys() == copied.keys() - {"000000.h5"}
    assert {n for n in dropped if dropped[n] != copied[n]} == {""}


def test_a_single_file_that_grows_past_the_limit_becomes_shards(
    clips: Path, sample: Path, encoder: Encoder, tmp_path: Path
) -> None:
    out = tmp_path / "c.h5"
    assert run(clips, encoder, out, shard_clips=10).cache.shards == ()
    add(sample, clips)
    grown = run(clips, encoder, out, shard_clips=10)
    assert grown.computed == 5
    assert [shard.n_rows for shard in grown.cache.shards] == [10, 5]
    assert same(grown.cache, run(clips, encoder, tmp_path / "s.h5", shard_clips=99).cache)


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ("nothing", KeyboardInterrupt),
        ("shards", KeyboardInterrupt),
        ("another key", KeyboardInterrupt),
        ("shards", OSError),
    ],
)
def test_a_stop_between_shards_and_index_leaves_the_old_cache_and_is_resumed(
    begin: str, end: type[BaseException], clips: Path, sample: Path, encoder: Encoder,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out, undisturbed = tmp_path / "c.h5", tmp_path / "u.h5"
    key = engine_module.cache_key(encoder)
    with monkeypatch.context() as patch:
        if begin == "another key":
            patch.setattr(engine_module, "cache_key", lambda *args: key | {"torch": "0.1"})
        if begin != "nothing":
            run(clips, encoder, out)
            run(clips, encoder, undisturbed)
    before = files(out) if out.exists() else {}
    add(sample, clips)

    def stops(unfinished: Path, path: Path) -> None:
        if path == out:
            raise end("No space left on device")
        put_in_place(unfinished, path)

    with monkeypatch.context() as patch, pytest.raises((KeyboardInterrupt, MachineError)):
        patch.setattr(cache_write, "put_in_place", stops)
        run(clips, encoder, out, overwrite=True)
    if before:
        left = files(out)
        assert {name: left[name] for name in before} == before
        assert len(open_cache(out)) == 10
    if end is OSError:  # whoever has a full disk is not left with what is of no use
        assert {path.name for path in Path(f"{out}.shards").iterdir()} == before.keys() - {""}
    assert run(clips, encoder, out, overwrite=True).computed == 0
    run(clips, encoder, undisturbed, overwrite=True)
    assert files(out) == files(undisturbed)
    assert verify_cache(out) == []


def changed(name: str, change: Callable[[np.ndarray], None]) -> Callable[[Path], None]:
    """Change some numbers of an index."""

    def apply(out: Path) -> None:
        with h5py.File(out, "r+") as file:
            values = file[name][:]
            change(values)
            file[name][...] = values

    return apply


def shard(out: Path, number: int) -> Path:
    return Path(f"{out}.shards") / f"{number:06d}.h5"


def swapped(out: Path) -> None:
    shard(out, 0).rename(out.with_name("aside"))
    shard(out, 1).rename(shard(out, 0))
    out.with_name("aside").rename(shard(out, 1))


def one_bit(out: Path) -> None:
    with h5py.File(shard(out, 2)) as file:
        offset = file["embeddings/mean/2"].id.get_offset()
    content = bytearray(shard(out, 2).read_bytes())
    content[offset + 100] ^= 1
    shard(out, 2).write_bytes(content)


def another_layer(out: Path) -> None:
    with h5py.File(out, "r+") as file:
        file["embeddings/mean/1"].attrs.modify("sha256", "0" * 64)


DAMAGE: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "missing": (lambda out: shard(out, 1).unlink(), ("c.h5.shards/000001.h5",)),
    "swapped": (swapped, ("c.h5.shards/000000.h5", "c.h5")),
    "truncated": (
        lambda out: shard(out, 1).write_bytes(shard(out, 1).read_bytes()[:-100]),
        ("c.h5.shards/000001.h5", "c.h5"),
    ),
    "an index": (
        lambda out: shutil.copy(out, shard(out, 1)),
        ("c.h5.shards/000001.h5", "c.h5"),
    ),
    "past the end": (
        changed("rows/row", lambda rows: rows.__setitem__(39, 7)),
        ("c.h5", "rows/row", "000003.h5"),
    ),
    "before the start": (
        changed("rows/row", lambda rows: rows.__setitem__(39, -1)),
        ("c.h5", "rows/row", "000003.h5"),
    ),
    "twice": (
        changed("rows/row", lambda rows: rows.__setitem__(1, 0)),
        ("c.h5", "rows/row", "000000.h5"),
    ),
    "exchanged": (
        changed("rows/row", lambda rows: rows.__setitem__(slice(2), [1, 0])),
        ("c.h5", "rows/row", "000000.h5"),
    ),
    "no such shard": (
        changed("rows/shard", lambda shards: shards.__setitem__(0, 9)),
        ("c.h5", "rows/shard"),
    ),
    "no number": (
        changed("shards/number", lambda numbers: numbers.__setitem__(0, -1)),
        ("c.h5", "shards/number"),
    ),
    "one bit": (one_bit, ("c.h5.shards/000002.h5", "embeddings/mean/2")),
    "another layer": (another_layer, ("c.h5", "embeddings/mean/1")),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_reported_in_one_line_with_the_name_of_the_file(
    kind: str, extracted_once: Path, serpipe: Command
) -> None:
    (file,) = extracted_once.glob("features/cache/*.h5")
    out = Path("c.h5")
    in_shards(open_cache(file), out, 11)
    damage, values = DAMAGE[kind]
    damage(out)
    done = serpipe("cache", "verify", out)
    assert done.out == "" and done.err.count("\n") == 1
    assert_refused(done, *values)
    if kind not in ("one bit", "another layer"):  # which only reading it all finds
        with pytest.raises(UserError):
            open_cache(out)
    if kind == "one bit":
        with raises_about(UserError, shard(out, 2), "layer 2"):
            open_cache(out).embeddings("2")


def test_the_commands_report_shards(clips: Path, small_encoder: Path, serpipe: Command) -> None:
    done = serpipe("extract", "--data", clips, "--encoder", small_encoder, "--out", "c.h5",
                   "--shard-clips", "4")  # fmt: skip
    (line,) = [line for line in done.err.splitlines() if line.startswith("shards ")]
    assert_names(line, 3, "c.h5.shards")
    lines = serpipe("cache", "info", "c.h5").out.splitlines()
    assert [line.split()[:3] for line in lines[1:4]] == [
        ["shard", str(n), f"c.h5.shards/00000{n}.h5"] for n in range(3)
    ]
    verified = serpipe("cache", "verify", "c.h5")
    assert verified.code == 0
    assert verified.out.startswith("c.h5: ")
    Path("c.h5.shards/000002.h5").unlink()
    refused = serpipe("extract", "--data", clips, "--encoder", small_encoder, "--out", "c.h5")
    assert_refused(refused, "c.h5.shards/000002.h5", "--overwrite")
    again = serpipe("extract", "--data", clips, "--encoder", small_encoder, "--out", "c.h5",
                    "--overwrite")  # fmt: skip
    assert again.code == 0, again.err
    assert not Path("c.h5.shards").exists()  # ten clips are one file
