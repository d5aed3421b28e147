"""One turn of the remote mode: three answers streamed at once, merged into the ticks that the page knows."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from steering.errors import SteeringError
from steering.ui.conversations import Likeliest
from steering.ui.remote_endpoints import Endpoint, body, headers
from steering.ui.remote_stream import SILENT_SECONDS, Piece, RemoteError, client, pieces
from steering.ui.remote_watch import EndpointWatch
from steering.ui.scope import header, token_line
from steering.ui.turn import TICKS_PER_SECOND, Tick, TurnRequest
from steering.ui.worker import Reports

logger = logging.getLogger(__name__)

PIECE, TOKEN = "piece", "token"
UNFORESEEN = "something went wrong inside this program; its log says what"


@dataclass
class Answer:
    """What one endpoint has written so far, and what went wrong there."""

    endpoint: Endpoint
    texts: list[str] = field(default_factory=list)
    likeliest: dict[int, Likeliest] = field(default_factory=dict)
    counts_tokens: bool = True  # until a piece comes that says nothing of its tokens
    trouble: str = ""
    done: bool = False

    def take(self, piece: Piece) -> None:
        if piece.tokens is None:
            self.counts_tokens = False
        for place, text in enumerate(piece.tokens or (piece.text,)):
            self.texts.append(text)
            if place < len(piece.likeliest) and piece.likeliest[place]:
                self.likeliest[len(self.texts)] = piece.likeliest[place]

    @property
    def note(self) -> str:
        """What to say in its pane; "" where nothing went wrong."""
        if not self.trouble:
            return ""
        sentence = f"At {self.endpoint.address}, {self.trouble}."
        return sentence if not self.texts else f"{sentence} What was written stays."


class RemoteTurn(Reports):
    """A turn that servers elsewhere write; it reports a :class:`Tick` about twelve times a second.

    Args:
        request: of the three usual columns.
        watch: knows the endpoints, in the same order.
    """

    def __init__(self, request: TurnRequest, watch: EndpointWatch) -> None:
        super().__init__()
        self.request = request
        self._watch = watch
        self._answers = [Answer(endpoint) for endpoint in watch.endpoints]
        self._sent = [0] * len(self._answers)
        self._notes = [""] * len(self._answers)
        self._unit = PIECE
        self._run = time.time_ns()
        self._first: float | None = None
        self._change = threading.Lock()
        self._end_streams: Callable[[], object] | None = None

    def begin(self) -> RemoteTurn:
        threading.Thread(target=self._work, name="remote", daemon=True).start()
        return self

    def stop(self) -> None:
        """Close the streams now, in whatever state they are; the servers see it and stop writing."""
        super().stop()
        with self._change:
            if self._end_streams is not None:
                self._end_streams()

    # ------------------------------------------------------------------ on the turn's own thread

    def _work(self) -> None:
        self.started.set()
        try:
            asyncio.run(self._write())
            self._tick()
            self.end(self._failure())
        except BaseException as error:  # handed to the reader, who would else wait for ever
            self.end(error)

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        streams = [asyncio.ensure_future(self._stream(column)) for column in range(len(self._answers))]
        together = asyncio.gather(*streams)
        with self._change:
            self._end_streams = lambda: loop.call_soon_threadsafe(together.cancel)
        if self.stopped:
            together.cancel()
        self.report(Tick(self._header(), started=True))
        ticking = asyncio.ensure_future(self._keep_ticking())
        try:
            # A server whose connection takes its time to close keeps nobody waiting: the thread ends after this.
            await together
        except asyncio.CancelledError:
            await asyncio.wait(streams, timeout=1)
        finally:
            with self._change:
                self._end_streams = None
            ticking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ticking

    async def _stream(self, column: int) -> None:
        """Read one answer to its end; what goes wrong stays its own."""
        answer = self._answers[column]
        try:
            async with asyncio.timeout(self.request.seconds):
                await self._read(column, answer)
        except RemoteError as error:
            answer.trouble = str(error)
        except TimeoutError:
            what = "it was still writing" if answer.texts else "it had not begun"
            answer.trouble = f"{what} after {self.request.seconds:g} seconds and was left"
        except Exception:
            logger.exception("An endpoint's answer could not be read")
            answer.trouble = UNFORESEEN
        answer.done = True

    async def _read(self, column: int, answer: Answer) -> None:
        endpoint = answer.endpoint
        while (seen := self._watch.seen(endpoint)).answers is None:
            await asyncio.sleep(0.05)  # the program has just started
        if not seen.model:
            raise RemoteError(seen.trouble)
        asked = body(self.request, column, seen.model, seen.kind)
        async with client(headers(), here=endpoint.is_here) as to:
            coming = pieces(to, endpoint.url, asked)
            patience: float | None = None  # for the first piece: the whole turn's time
            try:
                while True:
                    try:
                        answer.take(await asyncio.wait_for(anext(coming), patience))
                    except TimeoutError:
                        raise RemoteError("it fell silent in the middle; its own log may say why") from None
                    except StopAsyncIteration:
                        return
                    self._first = self._first or time.monotonic()
                    patience = SILENT_SECONDS
            finally:
                await coming.aclose()

    async def _keep_ticking(self) -> None:
        while True:
            await asyncio.sleep(1 / TICKS_PER_SECOND)
            self._tick()

    def _tick(self) -> None:
        """Report what came since the last time, if anything did."""
        lines = []
        likeliest = {}
        for column, answer in enumerate(self._answers):
            for number in range(self._sent[column] + 1, len(answer.texts) + 1):
                lines.append(token_line(number, column, answer.texts[number - 1], ()))
                if number in answer.likeliest:
                    likeliest[column, number] = answer.likeliest[number]
            self._sent[column] = len(answer.texts)
        notes = [answer.note for answer in self._answers]
        if not lines and notes == self._notes:
            return
        self._notes = notes
        written = [answer for answer in self._answers if answer.texts]
        unit = TOKEN if written and all(answer.counts_tokens for answer in written) else PIECE
        if unit != self._unit:
            self._unit = unit
            lines.insert(0, self._header())
        passed = time.monotonic() - (self._first or time.monotonic())
        longest = max(self._sent)
        self.report(
            Tick(
                "".join(lines),
                texts=["".join(answer.texts) for answer in self._answers],
                thoughts=["" for _ in self._answers],
                n_tokens=list(self._sent),
                likeliest=likeliest,
                rate=(longest - 1) / passed if passed > 0.2 else None,
                notes=notes,
            )
        )

    def _header(self) -> str:
        return header(self._run, 0, max_new_tokens=self.request.max_new_tokens, unit=self._unit)

    def _failure(self) -> SteeringError | None:
        """Where no endpoint wrote a word, what to say of all of them."""
        if any(answer.texts for answer in self._answers) or not any(answer.trouble for answer in self._answers):
            return None
        said: dict[str, list[str]] = {}
        for answer in self._answers:
            if answer.trouble:
                said.setdefault(answer.trouble, []).append(answer.endpoint.address)
        reasons = "; ".join(f"at {' and '.join(dict.fromkeys(at))}, {trouble}" for trouble, at in said.items())
        return SteeringError(f"No server wrote an answer: {reasons}.")
