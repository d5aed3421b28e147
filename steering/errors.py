"""The errors a person can cause, as sentences that say what is wrong, where, and what to do."""


class SteeringError(Exception):
    """Base of every error this library raises on purpose; ``str(error)`` is a sentence to show as it is."""


class ModelError(SteeringError):
    """A model cannot be found, read, or used here."""


class ContrastSetError(SteeringError):
    """A contrast set is malformed; the sentence names the file and the row."""


class DirectionError(SteeringError):
    """A direction is malformed, or was made for another model."""


class OutOfMemoryError(SteeringError):
    """The model ran out of memory even at the smallest batch."""


class Cancelled(SteeringError):
    """Raised by a progress callback to end long work; nothing half-done is kept."""
