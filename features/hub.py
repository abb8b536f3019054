"""Download the checkpoints of the Hugging Face hub: of one commit, and only the files needed."""

import errno
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import MachineError, SerpipeError, UserError, first_line
from .checkpoint_limits import (
    CONFIG,
    CONFIGS,
    EXTRACTOR,
    MAX_JSON_BYTES,
    PROCESSOR,
    WEIGHTS,
    weight_files,
)
from .names import BUILT_IN

#: A revision becomes a path in the hub's cache, and may come from an untrusted bundle.
_REVISION = re.compile(r"(?!.*\.\.)\w[\w./+-]{0,199}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
#: The disk is full, a quota is used up, or the folder may not be written to.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True)
class Snapshot:
    """The files of a model of the hub at one commit; from :func:`open_snapshot`."""

    #: Hub id.
    name: str
    commit: str
    #: In the local cache of the hub; files are added to it as they are downloaded.
    folder: Path
    #: Sizes in bytes of all files on the hub, None where it does not state the size. Empty if the
    #: hub did not answer or was not asked: only what is in ``folder`` can be used.
    sizes: Mapping[str, int | None]
    #: Turns an exception of the hub's client into an error for the user.
    explain: Callable[[BaseException], SerpipeError]
    #: Why the hub did not answer, if it did not.
    failure: Exception | None = None

    def find(self, file: str, max_bytes: int) -> Path | None:
        """Return the path of a file, downloaded if necessary; None if there is no such file.

        Raise what :meth:`get` raises.
        """
        if file in self.sizes or (self.folder / file).exists():
            return self.get([file], max_bytes)[0]
        return None

    def get(self, files: Sequence[str], max_bytes: int) -> list[Path]:
        """Return the paths of files, downloaded if necessary, with a progress bar on a terminal.

        Raise UserError if one does not exist, or if those to be downloaded have more than
        ``max_bytes`` together; MachineError if one cannot be downloaded.
        """
        from huggingface_hub import hf_hub_download

        missing = [file for file in files if not (self.folder / file).exists()]
        for file in missing:
            if file not in self.sizes:
                raise self.lacks(file)
        _check_size(self.name, self.sizes, missing, max_bytes)
        for file in missing:
            try:
                hf_hub_download(self.name, file, revision=self.commit)
            except Exception as error:  # of the network, the hub or the disk
                raise self.explain(error) from error
        return [self.folder / file for file in files]

    def lacks(self, files: str) -> SerpipeError:
        """Return the error for a file that is needed and cannot be found; ``files`` names it."""
        if self.failure:
            return self.explain(self.failure)
        return UserError(
            f"{self.name}: has no {files} at commit {self.commit[:12]}; choose another checkpoint, "
            "or another --revision"
        )


def open_snapshot(
    name: str, revision: str, option: str, first_files: Sequence[str] = CONFIGS
) -> Snapshot:
    """Find the commit of a revision, and download the file that says what the model is.

    The hub lists the files of the commit with their sizes. It is not asked for a commit that is
    complete in its local cache. If it does not answer, the commit of a branch is that which the
    cache recorded.

    Parameters
    ----------
    name : str
        Hub id.
    revision : str
        Branch, tag or commit.
    option : str
        The option that named the checkpoint, for messages.
    first_files : sequence of str
        Possible names of that file: the first that exists in the commit is downloaded. By default
        ``config.json`` or ``config.yaml``.

    Returns
    -------
    Snapshot

    Raises
    ------
    UserError
        If the model or the revision does not exist, or is not accessible to the user.
    MachineError
        If the hub cannot be reached and the cache does not have the model.
    """
    from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache

    def explain(error: BaseException) -> SerpipeError:
        return _explain(name, revision, option, error)

    if not _REVISION.fullmatch(revision):
        raise UserError(f"--revision {revision!r:.60}: not the name of a branch, tag or commit")
    if _COMMIT.fullmatch(revision):
        try:
            cached = try_to_load_from_cache(name, CONFIG, revision=revision)
        except ValueError as error:  # the name cannot be that of a model
            raise explain(error) from error
        if isinstance(cached, str) and _is_complete(Path(cached).parent):
            return Snapshot(name, revision, Path(cached).parent, {}, explain)
    failure: Exception | None = None
    sizes: dict[str, int | None] = {}
    commit = None
    try:
        api = HfApi()
        info = api.model_info(
            name, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
        sizes, commit = {each.rfilename: each.size for each in info.siblings or []}, info.sha
    except Exception as error:  # of the network or the hub; the cache may have what is needed
        failure = error
    config = next((each for each in first_files if each in sizes), CONFIG)
    _check_size(name, sizes, [config], MAX_JSON_BYTES)
    try:
        if failure:
            in_cache = (
                each
                for each in first_files
                if isinstance(try_to_load_from_cache(name, each, revision=revision), str)
            )
            config = next(in_cache, CONFIG)
        # By the name of the revision, so that the cache records its commit, for use offline.
        path = hf_hub_download(
            name, config, revision=revision, local_files_only=failure is not None
        )
    except Exception as error:
        raise explain(failure or error) from error
    folder = Path(path).parent
    if commit not in (None, folder.name):
        raise MachineError(
            f"{name}: {revision} was changed on the hub a moment ago; run the same command again"
        )
    return Snapshot(name, folder.name, folder, sizes, explain, failure)


def _is_complete(folder: Path) -> bool:
    """Whether the local cache has all that is needed of a commit: weights are downloaded last."""
    if not any((folder / name).exists() for name in (EXTRACTOR, PROCESSOR)):
        return False
    for name in WEIGHTS:
        if (folder / name).exists():
            return True
        index = folder / f"{name}.index.json"
        if index.exists():
            return all((folder / file).exists() for file in weight_files(index))
    return False


def _check_size(
    name: str, sizes: Mapping[str, int | None], files: Sequence[str], max_bytes: int
) -> None:
    """Refuse files that are too large together, before they are downloaded."""
    size = sum(sizes.get(file) or 0 for file in files)
    if size > max_bytes:
        raise UserError(
            f"{name}: {files[0]}{' and others' if files[1:] else ''} would take {size} bytes; the "
            f"limit is {max_bytes}; choose another checkpoint"
        )


def _explain(name: str, revision: str, option: str, error: BaseException) -> SerpipeError:
    """Return an exception of the hub's client as one line with its remedy."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, LocalEntryNotFoundError) and error.__cause__:
        error = error.__cause__  # why the hub was of no help
    reason = first_line(error)
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, GatedRepoError):
        return UserError(
            f"{name}: its authors restrict access; accept their conditions on "
            f"{constants.ENDPOINT}/{name}, then log in with `hf auth login`"
        )
    if isinstance(error, RevisionNotFoundError):
        return UserError(f"{name}: has no revision {revision!r} on the hub; check --revision")
    if isinstance(error, HFValidationError | RepositoryNotFoundError) or status in (401, 403):
        return UserError(
            f"{name}: not on the hub, or not accessible to you ({reason}); check {option}, or log "
            "in with `hf auth login`"
        )
    if isinstance(error, EntryNotFoundError) and status == 404:
        return UserError(
            f"{name}: has no {CONFIG} on the hub, so it is not a model for {option}; name another"
        )
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        return MachineError(
            f"{name}: cannot be saved in {constants.HF_HUB_CACHE} ({error.strerror}); make room "
            "there, or set HF_HOME to another folder"
        )
    built_in = f"the built-in encoder: --encoder {next(iter(BUILT_IN))}"
    return MachineError(
        f"{name}: is not in the local hub cache and cannot be downloaded ({reason}); connect to "
        f"the network, or use {built_in if option == '--encoder' else 'a local folder'}"
    )
