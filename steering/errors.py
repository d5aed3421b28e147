"""The errors a person can cause, as sentences that say what is wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Sequence


class SteeringError(Exception):
    """Base of every error this library raises on purpose; ``str(error)`` is a sentence to show as it is."""


class ModelError(SteeringError):
    """A model cannot be found, read, or used here."""


class ContrastSetError(SteeringError):
    """A contrast set is malformed; the sentence names the file and the row."""


class DirectionError(SteeringError):
    """A direction is malformed, or was made for another model."""


class LayerWantedError(DirectionError):
    """A file of another tool does not say at which layer its direction is added, or has one for each of several.

    Attributes:
        layers: those there are vectors for, by this library's numbers; empty where the file names none.
    """

    def __init__(self, sentence: str, layers: Sequence[int] = ()) -> None:
        super().__init__(sentence)
        self.layers = tuple(layers)


class OutOfMemoryError(SteeringError):
    """The model ran out of memory even at the smallest batch."""


class Cancelled(SteeringError):
    """Raised by a progress callback to end long work; nothing half-done is kept."""
