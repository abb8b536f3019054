"""Publish a model: ``serpipe.push``."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError, counted
from ..progress import Say, say_nothing
from ..remote import Location
from .shared import with_typed_errors

#: Below the working directory: what ``--dry-run`` writes.
PUBLICATIONS = Path("artifacts/hub")


@dataclass(frozen=True)
class Pushed:
    """A published model.

    Attributes
    ----------
    repository : str
        Its hub id.
    commit : str
        The commit; empty for a dry run.
    folder : Path, optional
        Where a dry run wrote the files.
    files : mapping of str to int
        Size of each file in bytes.
    licence : str
        Licence of the model, as the hub calls it.
    """

    repository: str
    commit: str
    folder: Path | None
    files: Mapping[str, int]
    licence: str


@with_typed_errors
def push(
    model: str | Location,
    to: str,
    *,
    private: bool = False,
    dry_run: bool = False,
    licence_checked: bool = False,
    say: Say = say_nothing,
) -> Pushed:
    """Publish a model on the Hugging Face hub, with a card that states protocol and licence.

    All files are uploaded in one commit. ``serpipe predict --model USER/NAME`` then loads it.
    Log in first: ``hf auth login``.

    Parameters
    ----------
    model : str or Path
        RUN/bundles/HEAD, or another folder with a bundle; RUN/model, which ``finetune`` saved; or
        a RUN: its first bundle by name, else the model that it trained.
    to : str
        Hub id of the repository, USER/NAME. It is created if it does not exist.
    private : bool
        Let only the owners of the repository see it.
    dry_run : bool
        Upload nothing; write what would be uploaded to ``artifacts/hub``.
    licence_checked : bool
        Publish even if the licence of a training corpus forbids it or does not mention it: you
        state that you have checked that its owners allow it.
    say : callable
        Takes lines of text that report progress, such as ``print``.

    Returns
    -------
    Pushed
        The repository, its commit and its files.

    Raises
    ------
    UserError
        If there is no such model, its training clips do not allow its publication, or you may not
        write to the repository.
    MachineError
        If the hub cannot be reached.

    Examples
    --------
    >>> import serpipe
    >>> serpipe.push("artifacts/runs/RUN/bundles/fuse", "me/ser-ravdess").commit  # doctest: +SKIP
    '3f0c5e0e7f7b0a3f6a3f2d7d0d6c8f2b9d1e4a55'
    """
    from ..features.names import HUB_ID

    if not HUB_ID.fullmatch(to):
        raise UserError(f"--to {to}: expected USER/NAME, the name of a repository on the hub")
    from ..artifacts.models.find import find_model

    folder = find_model(model)
    if not folder.is_dir():
        raise UserError(f"{model}: there is no such folder; name RUN or RUN/bundles/HEAD")
    from ..artifacts.push import prepare, upload, write_folder
    from ..artifacts.report.card import Publication

    say(f"model    {folder}")
    prepared = prepare(folder, Publication(to, licence_checked))
    licence = prepared.licence
    say(f"licence  {licence.name or licence.identifier}, that of the training clips")
    for obstacle in licence.obstacles:
        say(f"checked  {obstacle}; by --licence-checked you state that its owners allow it")
    if prepared.needs_local_encoder:
        say("note     its encoder is a local folder, which users have to name with --encoder")
    sizes = prepared.sizes
    for name, size in sizes.items():
        say(f"file     {name}, {size} bytes")
    target, commit = PUBLICATIONS / to.replace("/", "--"), ""
    if dry_run:
        write_folder(prepared, target)
        say(f"dry run  nothing was uploaded; the {counted(len(sizes), 'file')} are in {target}")
    else:
        commit = upload(prepared, to, private=private)
        say(f"hub      {to}, commit {commit}")
    return Pushed(to, commit, target if dry_run else None, sizes, licence.identifier)
