"""Directions, contrast sets and edited models on the Hugging Face hub: there with a card, and back.

What is pushed is private unless somebody says otherwise, and a dry run shows every file before anything leaves.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steering.contrast import ContrastSet
from steering.direction import Direction
from steering.direction_card import direction_card
from steering.edited_folder import renamed_when_whole, require_free
from steering.edited_model_card import CARD_FILE
from steering.errors import SteeringError
from steering.progress import Progress, silent
from steering.whole_files import written_whole

DIRECTION_FILE, SET_FILE = "direction.safetensors", "set.jsonl"
# What a model's folder may bring along; nothing that runs, and no weights in formats that execute what they hold.
MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.md", "tokenizer.model", "LICENSE*", "NOTICE*")
_LARGEST_SMALL = 64 * 2**20  # bytes of a direction or a set


@dataclass(frozen=True)
class Pushed:
    """What went to the hub, or would go.

    Attributes:
        files: their names in the repository, with their sizes in bytes.
        address: of the repository's page; "" for a dry run.
    """

    repository: str
    kind: str
    private: bool
    files: dict[str, int]
    address: str


def push(
    path: str | Path,
    repository: str,
    *,
    private: bool = True,
    dry_run: bool = False,
    licence: str | None = None,
    endpoint: str | None = None,
    progress: Progress = silent,
) -> Pushed:
    """Publish a direction's file, a contrast set's file, or the folder of an edited model or an adapter.

    Each comes with a card: a direction's is made here, a model's is its own, a set's says what it holds.

    Args:
        repository: ``owner/name``. It is made if it is not there; sets become datasets.
        private: whether others may not see it. A public repository is never taken for a private push.
        dry_run: make everything, send nothing, reach no network.
        licence: of the base model, for a direction's card.
        endpoint: of the hub, where it is not the usual one.
        progress: told of every file before it is sent, in millions of bytes.

    Raises:
        SteeringError: if the path is none of these, or the hub refuses or cannot be reached.
        Cancelled: if ``progress`` raises it. Then the repository may have been made, and holds nothing of this.
    """
    _require_name(repository)
    with tempfile.TemporaryDirectory() as scratch:
        folder, kind = _prepared(Path(path).expanduser(), Path(scratch), licence)
        names = sorted(file for file in folder.rglob("*") if file.is_file())
        inside = {file.relative_to(folder).as_posix(): file.stat().st_size for file in names}
        files = {name: size for name, size in inside.items() if not name.startswith(".")}
        if dry_run:
            return Pushed(repository, kind, private, files, "")
        with _hub_errors(repository):
            address = _upload(folder, files, repository, kind, private, endpoint, progress)
    return Pushed(repository, kind, private, files, address)


def _prepared(path: Path, scratch: Path, licence: str | None) -> tuple[Path, str]:
    """The folder to send, and ``"direction"``, ``"set"`` or ``"model"``."""
    if path.is_dir():
        if not (path / CARD_FILE).is_file() or not list(path.glob("*.safetensors")):
            raise SteeringError(f"{path} is no edited model: it lacks {CARD_FILE} or weights. Write one first.")
        outside = [file for file in path.rglob("*") if not file.resolve().is_relative_to(path.resolve())]
        if outside:
            raise SteeringError(f"{outside[0]} is a link that leads out of the folder. Remove it before you publish.")
        return path, "model"
    if not path.is_file():
        raise SteeringError(f"There is no file {path}. Give a direction, a contrast set, or an edited model's folder.")
    if path.suffix == ".safetensors":
        direction = Direction.load(path)
        direction.save(scratch / DIRECTION_FILE)
        (scratch / CARD_FILE).write_text(direction_card(direction, DIRECTION_FILE, licence), encoding="utf-8")
        return scratch, "direction"
    data = ContrastSet.load(path)  # checks it
    if path.suffix != ".jsonl":
        raise SteeringError(f"{path.name} is a set that is not JSON lines. Save it as .jsonl to publish it.")
    shutil.copyfile(path, scratch / SET_FILE)
    (scratch / CARD_FILE).write_text(_set_card(data), encoding="utf-8")
    return scratch, "set"


def _set_card(data: ContrastSet) -> str:
    name = " ".join(data.name.split())
    return (
        "---\ntags:\n- contrast-set\n- activation-steering\n---\n\n"
        f"# {name}: a contrast set\n\n{len(data.positive)} examples that show an idea and {len(data.negative)} that do "
        f"not{', each with a reply' if data.has_responses else ''}. SHA-256 of the examples: `{data.sha256}`.\n\n"
        f"`python -m steering compute --data {SET_FILE}` makes a direction of it.\n"
    )


def _upload(
    folder: Path,
    files: dict[str, int],
    repository: str,
    kind: str,
    private: bool,
    endpoint: str | None,
    progress: Progress,
) -> str:
    """Send the files one by one, then make them the repository's in one commit."""
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(endpoint=endpoint)
    repo_type = "dataset" if kind == "set" else "model"
    api.create_repo(repository, repo_type=repo_type, private=private, exist_ok=True)
    if private and not api.repo_info(repository, repo_type=repo_type).private:
        raise SteeringError(
            f"{repository} is there already and everyone sees it. Choose another name, or say that this may be public "
            "(--public)."
        )
    sent, total = 0.0, sum(files.values()) / 1e6
    additions = [CommitOperationAdd(name, folder / name) for name in files]
    for addition in additions:
        progress(f"Sending {addition.path_in_repo}", sent, total)
        # Large files go now, small ones with the commit; until then the repository shows nothing of them.
        api.preupload_lfs_files(repository, [addition], repo_type=repo_type, free_memory=False)
        sent += files[addition.path_in_repo] / 1e6
    progress("Sending", sent, total)
    api.create_commit(repository, additions, commit_message=f"Upload a {kind} with its card", repo_type=repo_type)
    return f"{api.endpoint}/{'datasets/' if kind == 'set' else ''}{repository}"


def pull(
    repository: str,
    out: str | Path,
    *,
    revision: str | None = None,
    endpoint: str | None = None,
    progress: Progress = silent,
) -> Path:
    """Fetch a direction, a contrast set, or an edited model from the hub, and check it.

    Args:
        repository: ``owner/name``.
        out: the file to write; for a model the folder. Nothing may have its name.
        revision: a commit; by default the newest.

    Returns:
        ``out``.

    Raises:
        SteeringError: if it is none of these or damaged, the hub refuses or cannot be reached, or ``out`` is there.
    """
    from huggingface_hub import HfApi

    _require_name(repository)
    target = Path(out).expanduser()
    require_free(target)
    api = HfApi(endpoint=endpoint)
    progress("Asking the hub", 0, 1)
    with _hub_errors(repository), tempfile.TemporaryDirectory() as scratch:
        sizes, repo_type = _files(api, repository, revision)
        single = DIRECTION_FILE if DIRECTION_FILE in sizes else SET_FILE if SET_FILE in sizes else ""
        if single:
            if sizes[single] > _LARGEST_SMALL:
                raise SteeringError(f"{single} of {repository} has {sizes[single] / 1e6:,.0f} MB, which none has.")
            fetched = Path(
                api.hf_hub_download(repository, single, repo_type=repo_type, revision=revision, local_dir=scratch)
            )
            Direction.load(fetched) if single == DIRECTION_FILE else ContrastSet.load(fetched)
            _place(fetched, target)
        elif any(name.endswith(".safetensors") for name in sizes):
            _pull_folder(api, repository, revision, target)
        else:
            raise SteeringError(f"{repository} holds no direction, no contrast set and no model in safetensors.")
    progress("Asking the hub", 1, 1)
    return target


def _files(api: Any, repository: str, revision: str | None) -> tuple[dict[str, int], str]:
    """The sizes of a repository's files by name, and of what type it is."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        about, repo_type = api.model_info(repository, revision=revision, files_metadata=True), "model"
    except RepositoryNotFoundError:
        about, repo_type = api.dataset_info(repository, revision=revision, files_metadata=True), "dataset"
    return {file.rfilename: int(file.size or 0) for file in about.siblings or []}, repo_type


def _pull_folder(api: Any, repository: str, revision: str | None, target: Path) -> None:
    with renamed_when_whole(target) as partial:
        api.snapshot_download(repository, revision=revision, local_dir=partial, allow_patterns=list(MODEL_FILES))
        shutil.rmtree(partial / ".cache", ignore_errors=True)  # the library's own notes


def _place(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(target) as partial:
        shutil.copyfile(file, partial)


def _require_name(repository: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
        named = repository.count("/") == 1
    except HFValidationError:
        named = False
    if not named:
        raise SteeringError(f"“{repository}” is no name of a repository. It has the form owner/name.")


@contextmanager
def _hub_errors(repository: str) -> Iterator[None]:
    """Say in a sentence what the hub refuses."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        raise SteeringError(f"{repository} is gated: accept its licence on its page, then set HF_TOKEN.") from error
    except RevisionNotFoundError as error:
        raise SteeringError(f"{repository} has no such revision. Leave it out for the newest.") from error
    except RepositoryNotFoundError as error:
        raise SteeringError(
            f"The hub has no {repository}, or your account may not see it. Check the spelling, and HF_TOKEN."
        ) from error
    except LocalEntryNotFoundError as error:
        raise SteeringError(f"The hub cannot be reached for {repository}. Check the connection.") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise SteeringError(
                f"The hub does not let you write {repository}. Set HF_TOKEN to a token that may, of its owner."
            ) from error
        raise SteeringError(f"The hub refused {repository} (status {status}). Try again later.") from error
    except SteeringError:
        raise
    except Exception as error:  # of the connection, in classes of whichever library the hub's own uses
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SteeringError(f"{repository} did not come through: {what}. Check the connection and the disk.") from error
