"""The engine of the remote mode: it asks three servers, and holds no model and no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from steering.errors import SteeringError
from steering.ui.columns import THREE
from steering.ui.engine import Engine, ModelOptions
from steering.ui.limits import Limits
from steering.ui.remote_endpoints import TAKE_PENALTY, Endpoint, short
from steering.ui.remote_turn import RemoteTurn
from steering.ui.remote_watch import EndpointWatch
from steering.ui.turn import TurnRequest
from steering.ui.worker import Reports

NOT_HERE = "These servers give three answers: as it is, taken out and turned up. Choose those."


class RemoteEngine(Engine):
    """Three OpenAI-compatible servers in the place of a model.

    Args:
        endpoints: one a column, in the order of `columns.THREE`.
    """

    def __init__(self, endpoints: Sequence[Endpoint], limits: Limits | None = None) -> None:
        super().__init__(ModelOptions(), limits)
        self.watch = EndpointWatch(endpoints)

    def ask(self, request: TurnRequest) -> Reports:
        """Have the three answers written; it reports a `Tick` about twelve times a second.

        Raises:
            SteeringError: if other columns are asked for.
        """
        if request.columns != THREE:
            raise SteeringError(NOT_HERE)
        return RemoteTurn(request, self.watch).begin()

    @property
    def is_ready(self) -> bool:
        return self.watch.is_well

    @property
    def facts(self) -> dict[str, Any]:
        answering = sum(bool(seen.answers) for seen in self.watch.all_seen)
        models = [short(seen.model) or "?" for seen in self.watch.all_seen]
        return {"model": " · ".join(models), "device": None, "loading": None, "servers_answering": answering}

    @property
    def models(self) -> dict[str, str]:
        """The name each column's model is asked for, without the path it may have on its server."""
        return {endpoint.column: short(self.watch.seen(endpoint).model) for endpoint in self.watch.endpoints}

    @property
    def take_penalty(self) -> bool:
        """Whether the servers that answer are of a kind that takes a repetition penalty: all of them, for fairness."""
        answering = [seen for seen in self.watch.all_seen if seen.answers]
        return bool(answering) and all(seen.kind in TAKE_PENALTY for seen in answering)

    @property
    def trouble(self) -> str:
        """Which servers do not answer, in a sentence or two; "" if all do, or none was asked yet."""
        said = [
            f"At {endpoint.address}, {seen.trouble}."
            for endpoint, seen in zip(self.watch.endpoints, self.watch.all_seen, strict=True)
            if seen.answers is False
        ]
        return f"{' '.join(dict.fromkeys(said))} Looking again every few seconds." if said else ""

    @property
    def state_words(self) -> str:
        """A few words about the servers for the settings."""
        served = [f"{short(seen.model) or 'a model'} at {endpoint.address}" for endpoint, seen in self._both()]
        return f"Answers come from {', '.join(served[:-1])} and {served[-1]}. {self.trouble}".strip()

    def _both(self) -> list[tuple[Endpoint, Any]]:
        return list(zip(self.watch.endpoints, self.watch.all_seen, strict=True))
