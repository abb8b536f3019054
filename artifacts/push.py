"""Publish a saved model on the Hugging Face hub: its files and its card, in one commit."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..corpora.licence import ModelLicence, model_licence
from ..errors import MachineError, SerpipeError, UserError, first_line
from ..files import make_folder, remove, write_text
from ..integrity import MODEL_HASHES, check_model_files
from ..provenance import versions
from .models.bundle import file_names, load_bundle
from .models.find import BUNDLE_FILE
from .report.card import Publication, bundle_card, card
from .run.encoder_key import encoder_parts
from .run.results import RunResults, read_results

CARD = "README.md"
#: Files that every repository may have.
_COMMON_FILES = {CARD, ".gitattributes"}
#: One of these is in every repository that serpipe has written to.
_SERPIPE_FILES = {BUNDLE_FILE, MODEL_HASHES}


@dataclass(frozen=True)
class ModelToPublish:
    """A saved model with its card."""

    files: Mapping[str, Path]  #: By their names in the repository, the card excluded.
    card: str
    licence: ModelLicence
    #: Whether users need the folder of its encoder, which is not on the hub.
    needs_local_encoder: bool

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes in bytes by name, the card included."""
        sizes = {name: path.stat().st_size for name, path in self.files.items()}
        return {**sizes, CARD: len(self.card.encode())}


def prepare(folder: Path, publication: Publication) -> ModelToPublish:
    """Check a model and write its card.

    Parameters
    ----------
    folder : Path
        A bundle, alone or in the folder of its run; or the model of a run.
    publication : Publication
        How it is published.

    Returns
    -------
    ModelToPublish

    Raises
    ------
    UserError
        If it is incomplete or damaged, or the licence of its training clips forbids its publication
        or says nothing, unless the publisher has checked that.
    """
    run = folder.resolve().parent
    if (folder / BUNDLE_FILE).is_file():
        summary = load_bundle(folder).summary
        names = [BUNDLE_FILE, *file_names(summary)]
        licence = model_licence(summary.corpus, summary.licence)
        is_in_run = run.name == "bundles" and (run.parent / "run.json").is_file()
        results = read_results(run.parent) if is_in_run else None
        if results and summary.head in results.heads:  # not a copy from another run
            text = card(results, summary.head, summary, publication)
        else:
            text = bundle_card(summary, publication, str(folder / BUNDLE_FILE))
        keys = [key for key, _ in encoder_parts(summary.encoder)]
        is_local = any(key.get("revision") == "local" for key in keys)
    else:
        names = [MODEL_HASHES, *check_model_files(folder)]
        trained = _results_of_model(folder, has_hashes=len(names) > 1)
        head = trained.summary.finetuned_head
        cache = trained.summary.provenance.get("cache", {})
        licence = model_licence(str(cache.get("corpus", "")), str(cache.get("licence", "")))
        text, is_local = card(trained, str(head), None, publication), False
    if licence.obstacles and not publication.licence_checked:
        raise UserError(
            f"{folder}: may not be published without the consent of the owners of its training "
            f"clips. {'; '.join(licence.obstacles)}. If they agree, add --licence-checked"
        )
    return ModelToPublish({name: folder / name for name in names}, text, licence, is_local)


def _results_of_model(folder: Path, *, has_hashes: bool) -> RunResults:
    """Return the results of the run that trained a model end to end."""
    run = folder.resolve().parent
    if not has_hashes or folder.resolve().name != "model" or not (run / "run.json").is_file():
        raise UserError(
            f"{folder}: is neither a bundle nor the model of a run; name RUN, RUN/bundles/HEAD, or "
            "RUN/model, which say how the model scored and on which clips it was trained"
        )
    results = read_results(run)
    if results.summary.finetuned_head is None:
        raise UserError(f"{folder}: was not trained by the run {run}; name another folder")
    return results


def write_folder(model: ModelToPublish, folder: Path) -> None:
    """Write what would be published into a new folder; one of that name is replaced.

    Raise MachineError if the disk is full.
    """
    remove(folder)
    make_folder(folder)
    for name, path in model.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)
    write_text(folder / CARD, model.card)


def upload(model: ModelToPublish, repository: str, *, private: bool) -> str:
    """Upload a model in a single commit, which replaces the files of an earlier one.

    The repository is created if it does not exist. Until the commit, no file of the model is
    visible in it.

    Parameters
    ----------
    model : ModelToPublish
        From :func:`prepare`.
    repository : str
        Hub id.
    private : bool
        Whether only its owners may see it.

    Returns
    -------
    str
        The commit.

    Raises
    ------
    UserError
        If the user may not write there, or the repository holds something else, or is public
        although it should be private.
    MachineError
        If the hub cannot be reached, or the upload breaks off.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi()
    try:
        # Without private, the organisation decides.
        api.create_repo(repository, private=private or None, exist_ok=True)
        info = api.model_info(repository)
        existing = {each.rfilename for each in info.siblings or ()}
        _check_repository(repository, existing, private, bool(info.private))
        additions: dict[str, Path | bytes] = {**model.files, CARD: model.card.encode()}
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(name, content) for name, content in additions.items()
        ]
        operations += [
            CommitOperationDelete(name)
            for name in sorted(existing - additions.keys() - _COMMON_FILES)
        ]
        # Not upload_folder, which may make several commits.
        done = api.create_commit(
            repository,
            operations,
            commit_message=f"Upload with serpipe {versions()['serpipe']}",
            parent_commit=info.sha,
        )
    except SerpipeError:
        raise
    except Exception as error:  # of the network, the hub or the disk
        raise _explain(repository, error) from error
    return str(done.oid)


def _check_repository(repository: str, files: set[str], private: bool, is_private: bool) -> None:
    """Refuse a repository of another program, or a public one for a private model."""
    others = sorted(files - _COMMON_FILES)
    if others and not files & _SERPIPE_FILES:
        raise UserError(
            f"{repository}: holds other files, such as {others[0]}, which would be replaced; give "
            "--to another name"
        )
    if private and not is_private:
        raise UserError(
            f"{repository}: exists and is public, so the model would not be private; change that "
            "on the hub, or give --to another name"
        )


def _explain(repository: str, error: BaseException) -> SerpipeError:
    """Return an exception of the hub's client as one line with its remedy."""
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalTokenNotFoundError,
        RepositoryNotFoundError,
    )

    reason = first_line(error)
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    refused = HFValidationError | LocalTokenNotFoundError | RepositoryNotFoundError
    if isinstance(error, refused) or status in (401, 403):
        return UserError(
            f"{repository}: you have no write access ({reason}); check --to, and log in with "
            "`hf auth login` and a token that has write access"
        )
    return MachineError(
        f"{repository}: the upload failed ({reason}), and none of its files are visible there; run "
        "the same command again"
    )
