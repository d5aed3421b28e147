"""Which models the page offers on this machine, and why not the others."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import psutil

from steering.catalogue import CatalogueEntry, fits, free_memory, load_catalogue
from steering.ui.engine import Engine


class ModelChoice:
    """The catalogue as this machine can use it.

    Args:
        first: what the program was started with; it heads the list if the catalogue does not have it.
        anything: whether a model outside the catalogue may be the first; not on a public Space.
        allowed: the models to offer, in this order, whether or not the catalogue has them; empty: the catalogue's.
    """

    def __init__(self, engine: Engine, first: str, *, anything: bool, allowed: Sequence[str] = ()) -> None:
        self.engine = engine
        entries = {entry.id: entry for entry in load_catalogue()}
        self._entries = {name: entries[name] for name in allowed or entries if name in entries}
        self._others = [name for name in allowed if name not in entries]
        self.first = first if anything or first in (*self._entries, *self._others) else "bundled"

    def choices(self) -> list[tuple[str, str]]:
        """(label, id) of what fits here; where other processes have a part in it, the one they have."""
        if not self.engine.exchanges:
            entry = self._entries.get(self.first)
            return [(self._label(entry) if entry else _short(self.first), self.first)]
        offered = [(self._label(entry), entry.id) for entry in self._entries.values() if self._fits(entry)[0]]
        offered += [(_short(name), name) for name in self._others]
        if self.first not in [key for _, key in offered]:
            offered.insert(0, (_short(self.first), self.first))
        return offered

    def left_out(self) -> list[tuple[str, str]]:
        """(label, sentence) of what does not fit here."""
        if not self.engine.exchanges:
            return []
        verdicts = [(entry, *self._fits(entry)) for entry in self._entries.values()]
        return [(entry.label, sentence) for entry, good, sentence in verdicts if not good]

    def begin(self) -> None:
        """Begin to load the first model."""
        self._load(self.first)

    def exchange(self, model: str) -> str:
        """Begin to load another model; the sentence for the page."""
        engine = self.engine
        if model not in [key for _, key in self.choices()]:
            return "This model is not offered here. Choose one from the list."
        if engine.model is not None and engine.model.name == model:
            return engine.state_words
        if not self._load(model):
            return f"Another model is on its way. Wait for it first. {engine.state_words}"
        return engine.state_words

    def _load(self, model: str) -> bool:
        entry = self._entries.get(model)
        label = entry.label if entry else _short(model)
        return self.engine.load(model, label, entry.revision if entry else None)

    def _fits(self, entry: CatalogueEntry) -> tuple[bool, str]:
        return fits(entry, _free_memory(), self.engine.options.quantization)

    @staticmethod
    def _label(entry: CatalogueEntry) -> str:
        size = entry.download_bytes
        return f"{entry.label} ({size / 1e9:.1f} GB)" if size >= 1e9 else f"{entry.label} ({size / 1e6:.0f} MB)"


def _short(model: str) -> str:
    """The last part of a hub id or a path."""
    return model.rstrip("/").rsplit("/", 1)[-1]


def _free_memory() -> int:
    """Bytes a model may take; the GPU's once torch is there, for loading it just to ask would keep the page waiting."""
    return free_memory() if "torch" in sys.modules else int(psutil.virtual_memory().available)
