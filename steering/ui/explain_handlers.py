"""What the controls of the “Explain” tab do; every function finds its visitor's session by the request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import gradio as gr

from steering.errors import SteeringError
from steering.ui import explain_markup as markup
from steering.ui import explain_more as more
from steering.ui import explain_words as words
from steering.ui.chat import FIRST_IDEA, Chat
from steering.ui.errands import Errands, Told, Updates, buttons_at_rest, buttons_running
from steering.ui.explain_beside import beside_base
from steering.ui.explain_found import BaseFound, Explained, Head, Question, SuffixFound
from steering.ui.explain_map import MLP
from steering.ui.explain_work import explain, explain_suffix
from steering.ui.ideas import title_of
from steering.ui.methods import ADDITIONS, REMOVALS
from steering.ui.second_model import allowed_name, may_ask, may_load
from steering.ui.session import Session, Sessions
from steering.ui.turn import checked_coefficient
from steering.ui.worker import Reports

if TYPE_CHECKING:
    from steering.contrast import ContrastSet


class ExplainHandlers:
    """The handlers of one page."""

    def __init__(self, chat: Chat, sessions: Sessions) -> None:
        self.chat = chat
        self.engine = chat.engine
        self.sessions = sessions
        self.errands = Errands(chat, sessions, words.SAYINGS, lambda session: session.explaining)

    # ------------------------------------------------------------------ what is chosen

    @property
    def may_load_base(self) -> bool:
        """Whether a second model may be loaded: for the person at the machine, who may have models written too."""
        return may_load(self.chat)

    def show(self, suffix: str, request: gr.Request) -> Updates:
        """The tab was opened: the heading, and the suffix if nobody typed another."""
        session = self.sessions.of(request)
        explaining = session.explaining
        explaining.shown_for = self._model
        suggested = words.suffix_for(session.idea)
        is_ours = (suffix or "").strip() in ("", explaining.default_suffix or words.suffix_for(FIRST_IDEA))
        explaining.default_suffix = suggested
        return [self._heading(session), suggested if is_ours and suffix != suggested else gr.skip()]

    def refresh(self, suffix: str, request: gr.Request) -> Updates:
        """A model came into use: as `show`, if it was another when the tab was looked at."""
        is_old = self.sessions.of(request).explaining.shown_for not in (None, self._model)
        return self.show(suffix, request) if is_old else [gr.skip(), gr.skip()]

    @property
    def _model(self) -> tuple[str, str]:
        model = self.engine.model
        return (model.name, model.revision) if model else ("", "")

    def _heading(self, session: Session) -> str:
        model, shown = self.engine.model, session.explaining.shown
        title = title_of(session.idea, session)
        return markup.what_html(title, model.label if model else "", shown.of if shown is not None else None)

    def _question(self, session: Session, prompt: str, strength: float | None, removal: str, addition: str) -> Question:
        prompt = self._text(prompt, words.THE_PROMPT, words.NO_PROMPT)
        if removal not in REMOVALS or addition not in ADDITIONS:
            raise SteeringError("This is not what the page sends. Load the page again, and try once more.")
        model = self.engine.ready_model()
        own = session.own.get(session.idea)
        return Question(
            prompt,
            title_of(session.idea, session),
            session.idea,
            own,
            self._texts_of_own(session) if own is not None else None,
            session.sign * checked_coefficient(strength),
            removal,
            addition,
            (model.name, model.revision),
        )

    def _text(self, text: str, what: str, empty: str) -> str:
        """A visitor's text without spaces around it; raises SteeringError if it is empty or too long."""
        text = str(text or "").strip()
        if not text:
            raise SteeringError(empty)
        most = self.chat.operator.limits.characters
        if len(text) > most:
            raise SteeringError(words.TOO_MANY.format(what=what, n=len(text), most=most))
        return text

    @staticmethod
    def _texts_of_own(session: Session) -> ContrastSet | None:
        """The texts on “Make a direction”, if the idea in view was made from them."""
        data = session.making.data
        made_from = session.own[session.idea].card.get("data_sha256")
        return data if data is not None and data.sha256 == made_from else None

    # ------------------------------------------------------------------ explaining

    def explain(
        self, prompt: str, strength: float | None, removal: str, addition: str, request: gr.Request
    ) -> Iterator[Updates]:
        """Look at the prompt: the bar, the two buttons, then heading, layers, heads, where one looks, tokens."""

        def begin(session: Session, _watch: Any) -> Reports:
            question = self._question(session, prompt, strength, removal, addition)
            before = session.explaining.shown
            known = before.where.texts if before is not None and before.question.has_texts_of(question) else None
            return self.engine.worker.submit(partial(explain, self.engine, question, known))

        def ended(session: Session, found: Explained) -> Updates:
            session.explaining.shown = found
            chosen = _first(found)
            return [
                "",
                *buttons_at_rest(),
                self._heading(session),
                markup.where_html(found),
                markup.heads_html(found, chosen),
                markup.looks_html(found, chosen),
                more.speaks_html(found),
            ]

        unchanged = [gr.skip()] * 5
        yield from self.errands.run(
            request,
            "explain",
            begin,
            Told(words.STEPS, words.ENDS),
            lambda bar, can_cancel: [bar, *buttons_running(can_cancel), *unchanged],
            ended,
            lambda said: [said, *buttons_at_rest(), *unchanged],
        )

    def press(self, event: gr.EventData, request: gr.Request) -> Any:
        """A square of the map was pressed: where that head looks."""
        found = self.sessions.of(request).explaining.shown
        pressed = event._data if isinstance(event._data, dict) else {}
        if found is None or found.heads is None:
            return gr.skip()
        try:
            layer = int(str(pressed.get("layer")))
            head = None if pressed.get("position") == MLP else int(str(pressed.get("position")))
        except ValueError:
            return gr.skip()
        n_layers, n_heads = len(found.heads.values), len(found.heads.values[0])
        if not 0 <= layer < n_layers or (head is not None and not 0 <= head < n_heads):
            return gr.skip()
        return markup.mlp_html(found, layer) if head is None else markup.looks_html(found, (layer, head))

    # ------------------------------------------------------------------ a suffix, a base model

    def compare(
        self, prompt: str, suffix: str, strength: float | None, removal: str, addition: str, request: gr.Request
    ) -> Iterator[Updates]:
        """Look at the prompt with the suffix: the bar, the two buttons, what was found."""

        def begin(session: Session, _watch: Any) -> Reports:
            question = self._question(session, prompt, strength, removal, addition)
            text = self._text(suffix, words.THE_SUFFIX, words.NO_SUFFIX)
            return self.engine.worker.submit(partial(explain_suffix, self.engine, question, text))

        def ended(_session: Session, found: SuffixFound) -> Updates:
            return ["", *buttons_at_rest(), more.suffix_html(found)]

        yield from self._beside(request, "suffix", begin, ended)

    def compare_base(
        self, base: str, strength: float | None, removal: str, addition: str, request: gr.Request
    ) -> Iterator[Updates]:
        """Load a base model and hold the one in use beside it: the bar, the two buttons, what was found."""

        def begin(session: Session, _watch: Any) -> Reports:
            name = self._allowed_base(base, request)
            question = self._question(session, words.FIRST_PROMPT, strength, removal, addition)  # no prompt is read
            return beside_base(self.engine, name, question)

        def ended(_session: Session, found: BaseFound) -> Updates:
            return ["", *buttons_at_rest(), more.base_html(found)]

        yield from self._beside(request, "base", begin, ended)

    def _allowed_base(self, base: str, request: gr.Request) -> str:
        """The base model's name; raises SteeringError if it is none, or this visitor may load none."""
        if not may_ask(self.chat, request):
            raise SteeringError(words.BASE_OFF + words.BASE_COMMAND)
        return allowed_name(base, "base model", self.chat.operator.limits.models)

    def _beside(
        self,
        request: gr.Request,
        kind: str,
        begin: Callable[[Session, Any], Reports],
        ended: Callable[[Session, Any], Updates],
    ) -> Iterator[Updates]:
        yield from self.errands.run(
            request,
            kind,
            begin,
            Told(),
            lambda bar, can_cancel: [bar, *buttons_running(can_cancel), gr.skip()],
            ended,
            lambda said: [said, *buttons_at_rest(), gr.skip()],
        )


def _first(found: Explained) -> Head | None:
    """The head that is looked at first: the one that wrote most."""
    return found.heads.top[0] if found.heads is not None else None


__all__ = ["ExplainHandlers"]
