"""The catalogue of models worth offering (``presets/models.toml``), and whether this machine can take one of them."""

from __future__ import annotations

import re
import tomllib
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steering.errors import ModelError

if TYPE_CHECKING:
    import torch

CATALOGUE_FILE = Path(__file__).resolve().parent.parent / "presets" / "models.toml"

# Bytes a quantised parameter takes in bitsandbytes: 8 bits and a scale per row (too little to count), or 4 bits and a
# float32 scale for each block of 64.
_BYTES_PER_QUANTIZED_PARAMETER = {"8bit": 1.0, "4bit": 0.5 + 4 / 64}
_BYTES_PER_PARAMETER = 2.0  # bfloat16


@dataclass(frozen=True)
class CatalogueEntry:
    """One model of the catalogue. ``presets/models.toml`` says where its figures come from.

    Attributes:
        id: what :func:`steering.models.load_model` takes: ``"bundled"`` or a hub id.
        download_bytes: size of its weights' files.
        memory_bytes: to load and run it in bfloat16, with the cache of three replies of 2,048 tokens.
        parameters: how many numbers it has, a shared embedding counted once.
        unquantized_parameters: those of them that quantization leaves in bfloat16.
        gated: whether its page asks for consent to its licence before a download.
        licence: its licence's name.
        family: transformers' ``model_type``.
        good_for: one sentence for people.
        revision: the commit to load, or None for the newest.
        paper: whether it is one of the thirteen models of Arditi et al. 2024.
        unsupported: why it cannot be used here, as a sentence, or None.
        stand_in: the id of the entry to take in place of an unsupported one.
    """

    id: str
    download_bytes: int
    memory_bytes: int
    parameters: int
    unquantized_parameters: int
    gated: bool
    licence: str
    family: str
    good_for: str
    revision: str | None = None
    paper: bool = False
    unsupported: str | None = None
    stand_in: str | None = None

    @property
    def label(self) -> str:
        """Its name for people."""
        from steering.weights import BUNDLED_LABEL

        return BUNDLED_LABEL if self.id == "bundled" else self.id.rsplit("/", 1)[-1]

    def memory(self, quantization: str | None = None) -> int:
        """Bytes needed to load and run it, quantized or in bfloat16.

        Raises:
            ModelError: if ``quantization`` is none of None, ``"8bit"`` and ``"4bit"``.
        """
        if quantization is None:
            return self.memory_bytes
        if quantization not in _BYTES_PER_QUANTIZED_PARAMETER:
            raise ModelError(f"Quantization is “8bit” or “4bit”, not “{quantization}”.")
        saved = _BYTES_PER_PARAMETER - _BYTES_PER_QUANTIZED_PARAMETER[quantization]
        return self.memory_bytes - int(saved * (self.parameters - self.unquantized_parameters))


def load_catalogue(path: str | Path | None = None) -> list[CatalogueEntry]:
    """Read the catalogue; by default the one that comes with this library. ``"bundled"`` is its first entry.

    Raises:
        ModelError: if the file cannot be read or an entry is malformed; the sentence names the file and the entry.
    """
    path = Path(path) if path else CATALOGUE_FILE
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"The catalogue {path} cannot be read ({error.strerror}). Restore the file.") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"The catalogue {path} is not a text file in UTF-8. Save it as one.") from error
    except tomllib.TOMLDecodeError as error:
        raise ModelError(f"The catalogue {path} is not valid TOML: {error}. Correct it there.") from error
    tables = content.get("model")
    if not isinstance(tables, list) or not tables:
        raise ModelError(f"The catalogue {path} lists no model. Give each model a part that starts with [[model]].")
    entries = [_entry(table, f"Model {number} of the catalogue {path}") for number, table in enumerate(tables, 1)]
    _check_together(entries, path)
    return entries


def _entry(table: Any, where: str) -> CatalogueEntry:
    """One checked entry from its TOML table; ``where`` begins every sentence of complaint."""
    if not isinstance(table, dict):
        raise ModelError(f"{where} is not a table. Start it with [[model]].")
    if isinstance(table.get("id"), str):
        where = f"{where} ({table['id']})"
    known = {field.name: field for field in fields(CatalogueEntry)}
    if unknown := sorted(set(table) - set(known)):
        raise ModelError(f"{where} has an unknown field “{unknown[0]}”. The fields are {', '.join(known)}.")
    for name, field in known.items():
        if name not in table:
            if field.default is MISSING:
                raise ModelError(f"{where} has no “{name}”. Add it.")
            continue
        wanted = str(field.type).removesuffix(" | None")
        if type(table[name]).__name__ != wanted:
            kind = {"str": "text in quotes", "int": "a whole number", "bool": "true or false"}[wanted]
            raise ModelError(f"{where}: “{name}” is {kind}, not {table[name]!r}. Correct it.")
    return _checked(CatalogueEntry(**table), where)


def _checked(entry: CatalogueEntry, where: str) -> CatalogueEntry:
    for field in fields(entry):
        value = getattr(entry, field.name)
        if value == "" or (type(value) is int and value <= 0):
            raise ModelError(f"{where}: “{field.name}” is empty or not above zero. Correct it.")
    if entry.id != "bundled" and not re.fullmatch(r"[\w.-]+/[\w.-]+", entry.id):
        raise ModelError(f"{where}: the id is neither “bundled” nor a hub id like Qwen/Qwen3-0.6B. Correct it.")
    if entry.revision and not re.fullmatch(r"[0-9a-f]{40}", entry.revision):
        raise ModelError(
            f"{where}: the revision {entry.revision} is not a commit of 40 hexadecimal digits. Correct it."
        )
    if entry.unquantized_parameters > entry.parameters:
        raise ModelError(f"{where}: it cannot leave more parameters unquantized than it has. Correct the two numbers.")
    if entry.memory_bytes < _BYTES_PER_PARAMETER * entry.parameters:
        raise ModelError(f"{where}: “memory_bytes” is less than 2 bytes a parameter. Correct one of them.")
    if entry.stand_in and not entry.unsupported:
        raise ModelError(f"{where} has a “stand_in” but no “unsupported” sentence that says why. Add it.")
    return entry


def _check_together(entries: list[CatalogueEntry], path: Path) -> None:
    ids = [entry.id for entry in entries]
    if ids[0] != "bundled":
        raise ModelError(f"The catalogue {path} starts with {ids[0]}. Its first model must be “bundled”.")
    for number, entry in enumerate(entries, 1):
        if entry.id in ids[: number - 1]:
            raise ModelError(f"Model {number} of the catalogue {path} repeats {entry.id}. Keep one of the two.")
    usable = {entry.id for entry in entries if not entry.unsupported}
    for entry in entries:
        if entry.stand_in and entry.stand_in not in usable:
            raise ModelError(
                f"The catalogue {path} gives {entry.stand_in} as a stand-in for {entry.id}, but lists no such usable "
                "model. Add it, or correct the name."
            )


def fits(entry: CatalogueEntry, free_memory_bytes: int, quantization: str | None = None) -> tuple[bool, str]:
    """Whether ``entry`` can be used on this machine, and a sentence about it for people.

    Args:
        free_memory_bytes: what :func:`free_memory` gives for the device it would run on.
        quantization: None for bfloat16, ``"8bit"`` or ``"4bit"``.
    """
    if entry.unsupported:
        return False, entry.unsupported
    needed = entry.memory(quantization)
    if needed > free_memory_bytes:
        sentence = f"Needs {_size(needed, up=True)} of memory; {_size(free_memory_bytes)} are free."
        if quantization is None and entry.id != "bundled" and entry.memory("4bit") <= free_memory_bytes:
            sentence += f" In 4 bits it would need {_size(entry.memory('4bit'), up=True)}."
        return False, sentence
    if entry.gated and not _has_access(entry):
        return False, "Gated: accept its licence on its page and set HF_TOKEN."
    return True, f"Downloads {_size(entry.download_bytes, up=True)} once; needs {_size(needed, up=True)} of memory."


def free_memory(device: torch.device | str | None = None) -> int:
    """Bytes a model may still take on ``device``, CPU or CUDA; by default on the GPU if there is one."""
    import torch

    from steering import machine

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return machine.free_memory(torch.device(device))


def _has_access(entry: CatalogueEntry) -> bool:
    """Whether a gated model is on this machine already, or a token is set with which it may be fetched."""
    from huggingface_hub import get_token, try_to_load_from_cache

    here = try_to_load_from_cache(entry.id, "config.json", revision=entry.revision)
    return isinstance(here, str) or get_token() is not None


def _size(n_bytes: int, *, up: bool = False) -> str:
    """“93 MB”, “4.5 GB”: rounded up for what is needed and down for what there is, so that a shortage always shows."""
    unit, name = (10**8, "GB") if n_bytes >= 10**9 else (10**6, "MB")
    count = -(-n_bytes // unit) if up else n_bytes // unit
    return f"{count / 10:.1f} GB".replace(".0 GB", " GB") if name == "GB" else f"{count} MB"
