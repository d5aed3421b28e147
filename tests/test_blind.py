"""The blind test: votes, the order of the answers and its secrecy, and the tab's handlers on a tiny real model."""

from __future__ import annotations

import json
import math
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import permutations
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scipy.stats import chisquare

from steering.directions import Direction
from steering.models import ChatModel
from steering.ui import blind_markup
from steering.ui.blind_handlers import CANCELLED, FIRST_IDEA, VOTE_WORDS, BlindHandlers
from steering.ui.blind_votes import (
    LETTERS,
    SHORT_NAMES,
    TALLIES_KEPT,
    VOTES_KEPT,
    Round,
    counts,
    digest,
    shuffled,
    sound_votes,
    tally_of,
    tally_words,
    with_vote,
)
from steering.ui.blind_work import NO_IDEA, NO_QUESTION
from steering.ui.chat import UNFORESEEN, Chat
from steering.ui.engine import Engine, Loading, ModelOptions
from steering.ui.ideas import example_of, questions_of
from steering.ui.scope import VARIANTS
from steering.ui.session import Session, Sessions
from steering.ui.settings import SETTINGS
from steering.ui.turn import EXCHANGED
from steering.ui.worker import Job

EVIL = "<img src=x onerror=alert(1)>"
REQUEST: Any = SimpleNamespace(session_hash="a visitor", client=None, headers={})
OWN_IDEA = "own:1"
# Where things stand among the updates of status, ask, cancel, answers, vote buttons, result, forget.
STATUS, ASK, CANCEL, ANSWERS, BUTTONS, RESULT, FORGET = 0, 1, 2, slice(3, 6), slice(6, 9), 9, 10


def a_round(replies: tuple[str, ...] = ("one", "two", "three"), order: tuple[int, ...] = (2, 0, 1)) -> Round:
    return Round("tally", "question", "Pirate", "Tiny", replies, order)


# ---------------------------------------------------------------- the order


def test_every_order_is_equally_likely() -> None:
    found = Counter(
        shuffled("xyz", random.Random(seed), tally="", question="", title="", model="").order for seed in range(6_000)
    )
    assert set(found) == set(permutations(range(3)))
    assert chisquare(list(found.values())).pvalue > 0.001


def test_replies_stand_in_their_order() -> None:
    round_ = shuffled([" as it is\n", "out", "up"], random.Random(1), tally="", question="", title="Pirate", model="")
    assert [round_.replies[place] for place in range(3)] == [("as it is", "out", "up")[v] for v in round_.order]
    assert [round_.label(round_.order.index(variant)) for variant in range(3)] == [
        "as it is",
        "Pirate taken out",
        "Pirate turned up",
    ]


def test_names_are_those_of_the_chats_variants() -> None:
    assert len(SHORT_NAMES) == len(LETTERS) == len(VOTE_WORDS) == len(VARIANTS)


def test_the_same_or_empty_answers_cannot_be_voted_on() -> None:
    assert a_round().problem == ""
    assert a_round(("one", "two", "one")).problem == "Two answers are the same; ask another question."
    assert a_round(("one", "one", "one")).problem == "All three answers are the same; ask another question."
    assert a_round(("one", "", "")).problem == "One answer is empty; ask another question."


# ---------------------------------------------------------------- the tally


def wilson_by_hand(count: int, n: int) -> tuple[float, float]:
    z = 1.959963984540054
    centre = (count + z * z / 2) / (n + z * z)
    half = z * math.sqrt(count * (n - count) / n + z * z / 4) / (n + z * z)
    return centre - half, centre + half


def test_the_tally_in_words_has_wilsons_intervals() -> None:
    words = tally_words([3, 5, 4])
    assert words.startswith("Most human so far, 12 votes: as it is 25 % (9 to 53 %), taken out ")
    numbers = [int(number) for number in re.findall(r"(\d+) %? ?(?=\(|to|%\))", words)]
    expected = [round(100 * part) for count in (3, 5, 4) for part in (count / 12, *wilson_by_hand(count, 12))]
    assert numbers == expected


def test_one_vote_is_singular() -> None:
    assert tally_words([0, 1, 0]) == (
        "Most human so far, 1 vote: as it is 0 % (0 to 79 %), taken out 100 % (21 to 100 %), turned up 0 % (0 to 79 %)."
    )


def test_bars_stand_where_the_figures_are() -> None:
    html = blind_markup.tally_html([3, 5, 4], "Pirate", "Tiny")
    low, high = wilson_by_hand(3, 12)
    assert f"--low:{low:.4f};--value:0.2500;--high:{high:.4f}" in html
    assert html.count("tally-row") == 3


def test_a_vote_counts_for_the_variant_and_once_a_question() -> None:
    votes = with_vote({}, a_round(), 0)
    assert votes == {"tally": {"question": 2}}
    assert with_vote(votes, a_round(order=(0, 1, 2)), 1) is votes
    votes = with_vote(votes, replace(a_round(), question="another"), 1)
    votes = with_vote(votes, replace(a_round(), tally="other idea"), 2)
    assert counts(votes, "tally") == [1, 0, 1]
    assert counts(votes, "other idea") == [0, 1, 0]
    assert counts(votes, "none") == [0, 0, 0]
    assert json.loads(json.dumps(votes)) == votes


@pytest.mark.parametrize(
    "stored",
    [None, "x", 7, [], {"t": 1}, {"t": []}, {"t": {"q": 3}}, {"t": {"q": -1}}, {"t": {"q": True}}, {"t": {"q": 0.0}}],
)
def test_what_a_browser_sends_is_not_trusted(stored: Any) -> None:
    assert sound_votes(stored) == {}


def test_votes_are_bounded_and_the_newest_stay() -> None:
    many = {str(tally): {str(question): 1 for question in range(VOTES_KEPT + 7)} for tally in range(TALLIES_KEPT + 3)}
    votes = sound_votes(many)
    assert len(votes) == TALLIES_KEPT
    assert "0" not in votes
    assert all(len(asked) == VOTES_KEPT and "0" not in asked for asked in votes.values())


def test_digests_tell_texts_apart_and_not_what_they_say() -> None:
    assert digest("a", "b") != digest("ab")
    assert digest("a", "b") != digest("b", "a")
    assert re.fullmatch("[0-9a-f]{16}", digest("What is rain?"))


# ---------------------------------------------------------------- the handlers


@pytest.fixture(scope="module")
def engine(tiny: Callable[[str], ChatModel]) -> Engine:
    engine = Engine(ModelOptions(device="cpu"))
    engine.model = tiny("qwen3")
    return engine


def a_direction(model: ChatModel, start: float, seed: int = 0) -> Direction:
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(seed))
    card = {
        "model": model.name,
        "revision": model.revision,
        "strength": {"start": start, "end": start + 1, "sweet": [start, start + 1]},
    }
    return Direction(vector, (vector / vector.norm())[None], 1, -1, float(vector.norm()), "Mine", card)


@pytest.fixture
def handlers(engine: Engine) -> BlindHandlers:
    """Handlers for a visitor who has one direction of their own."""
    handlers = BlindHandlers(Chat(engine), Sessions("sea"), random.Random(5))
    session(handlers).add_own(a_direction(engine.ready_model(), 3.0))
    return handlers


def session(handlers: BlindHandlers) -> Session:
    return handlers.sessions.of(REQUEST)


def ask(handlers: BlindHandlers, question: str = "What is rain?", votes: Any = None, idea: str = OWN_IDEA) -> list[Any]:
    *_, last = handlers.write(idea, question, votes, REQUEST)
    return last


def test_three_answers_come_complete_and_without_labels(handlers: BlindHandlers) -> None:
    *during, last = handlers.write(OWN_IDEA, "What is rain?", None, REQUEST)
    assert during, "something is shown while it writes"
    empty = [blind_markup.answer_html(place) for place in range(3)]
    for shown in during:
        assert shown[ANSWERS] == empty, "nothing of an answer is shown before all are complete"
        assert not shown[ASK]["visible"]
        assert shown[CANCEL]["visible"]
    assert re.search(r"(Reading your question…|Writing… \d+ of at most 120 tokens) · \d+ s", during[-1][STATUS])
    assert "Which answer sounds most human to you?" in last[STATUS]
    assert all(button["visible"] for button in last[BUTTONS])
    assert last[RESULT] == ""
    round_ = session(handlers).blind.round
    assert round_ is not None
    assert len(set(round_.replies)) == 3
    assert last[ANSWERS] == [blind_markup.answer_html(place, text) for place, text in enumerate(round_.replies)]


def test_the_answers_are_those_of_the_chat_at_its_first_settings(handlers: BlindHandlers, engine: Engine) -> None:
    ask(handlers)
    round_ = session(handlers).blind.round
    assert round_ is not None
    chat, visitor = Chat(engine), Session("the chat", OWN_IDEA, own=session(handlers).own)
    chat.accept(visitor, "What is rain?")
    list(chat.respond(visitor, chat.strength(visitor).start, SETTINGS))
    (turn,) = visitor.conversation(OWN_IDEA).turns
    assert [round_.replies[round_.order.index(variant)] for variant in range(3)] == [
        reply.strip() for reply in turn.replies
    ]


def test_what_is_sent_before_the_vote_is_the_same_for_every_order(engine: Engine) -> None:
    """Whoever reads all that reaches the page, letters and texts aside, cannot tell which order it is."""
    seen: dict[tuple[int, ...], str] = {}
    for seed in range(60):
        handlers = BlindHandlers(Chat(engine), Sessions("sea"), random.Random(seed))
        session(handlers).add_own(a_direction(engine.ready_model(), 3.0))
        last = ask(handlers)
        round_ = session(handlers).blind.round
        assert round_ is not None
        sent = json.dumps(last)
        for text in round_.replies:
            shown = json.dumps(blind_markup.answer_html(0, text).split('blind-text">')[1].split("</p>")[0])[1:-1]
            assert sent.count(shown) == 1
            sent = sent.replace(shown, "…")
        seen[round_.order] = sent
        if len(seen) == 6:
            break
    assert len(seen) == 6
    assert len(set(seen.values())) == 1
    (sent,) = set(seen.values())
    assert not re.search("baseline|ablated|added|as it is|taken out|turned up|v[012]|swatch", sent, re.IGNORECASE)


def test_asking_again_shuffles_anew(handlers: BlindHandlers) -> None:
    orders = set()
    for _ in range(12):
        ask(handlers)
        round_ = session(handlers).blind.round
        assert round_ is not None
        orders.add(round_.order)
    assert len(orders) > 1


def test_a_vote_shows_the_labels_and_the_tally(handlers: BlindHandlers) -> None:
    ask(handlers)
    round_ = session(handlers).blind.round
    assert round_ is not None
    votes, *shown = handlers.vote(VOTE_WORDS[1], None, REQUEST)
    assert votes == {round_.tally: {round_.question: round_.order[1]}}
    assert "What is rain?" not in json.dumps(votes)
    for place, html in enumerate(shown[ANSWERS]):
        variant = round_.order[place]
        label = ("As it is", "Mine taken out", "Mine turned up")[variant]
        assert f"<span>{label}</span>" in html
        assert f"blind-answer v{variant}" in html
        assert ("Your choice" in html) == (place == 1)
    assert not any(button["visible"] for button in shown[BUTTONS])
    assert f"You chose answer B: {round_.label(1)}." in shown[RESULT]
    assert "Most human so far, 1 vote: " in shown[RESULT]
    assert "Not counted" not in shown[RESULT]
    assert shown[FORGET]["visible"]


def test_voting_again_does_nothing(handlers: BlindHandlers) -> None:
    nothing = [{"__type__": "update"}] * 12
    assert handlers.vote(VOTE_WORDS[0], None, REQUEST) == nothing
    ask(handlers)
    assert handlers.vote("Most human: answer D", None, REQUEST) == nothing
    votes, *_ = handlers.vote(VOTE_WORDS[0], None, REQUEST)
    assert votes
    assert handlers.vote(VOTE_WORDS[0], votes, REQUEST) == nothing
    assert handlers.vote(VOTE_WORDS[2], votes, REQUEST) == nothing


def test_many_votes_at_once_are_one(handlers: BlindHandlers) -> None:
    ask(handlers)
    taken: list[Any] = []
    together = threading.Barrier(8)

    def press() -> None:
        together.wait()
        taken.append(handlers.vote(VOTE_WORDS[0], None, REQUEST)[0])

    threads = [threading.Thread(target=press) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum("__type__" not in votes for votes in taken) == 1


def test_the_same_question_counts_once(handlers: BlindHandlers) -> None:
    ask(handlers)
    votes, *_ = handlers.vote(VOTE_WORDS[0], None, REQUEST)
    ask(handlers, votes=votes)
    again, *shown = handlers.vote(VOTE_WORDS[1], votes, REQUEST)
    assert again == votes
    assert "Not counted: you have voted on this question before." in shown[RESULT]
    assert "1 vote: " in shown[RESULT]
    ask(handlers, "What is snow?", votes)
    more, *shown = handlers.vote(VOTE_WORDS[1], votes, REQUEST)
    assert sum(map(len, more.values())) == 2
    assert "2 votes: " in shown[RESULT]


def test_the_same_answers_take_no_vote(handlers: BlindHandlers, engine: Engine) -> None:
    without_strength = session(handlers).add_own(a_direction(engine.ready_model(), 0.0))
    last = ask(handlers, idea=without_strength)
    assert "answers are the same; ask another question." in last[STATUS]
    assert not any(button["visible"] for button in last[BUTTONS])
    assert "blind-text" in last[ANSWERS][0]
    assert "__type__" in handlers.vote(VOTE_WORDS[0], None, REQUEST)[0]


def test_a_presets_direction_is_found_first(handlers: BlindHandlers) -> None:
    *during, last = handlers.write("poetic", "What is rain?", None, REQUEST)
    assert any("Finding the direction, only once." in shown[STATUS] for shown in during)
    assert "Done." in last[STATUS]
    round_ = session(handlers).blind.round
    assert round_ is not None
    assert round_.title == "Poetic"


# ---------------------------------------------------------------- what can go wrong


@pytest.mark.parametrize(
    ("idea", "question", "sentence"),
    [
        (OWN_IDEA, "  ", NO_QUESTION),
        (
            OWN_IDEA,
            "x" * 2001,
            "The question has 2001 characters; at most 2000 are taken. Shorten it.",
        ),
        ("own:9", "What is rain?", NO_IDEA),
        ("nonsense", "What is rain?", NO_IDEA),
    ],
)
def test_what_cannot_be_asked_is_said_and_answers_that_wait_stay(
    handlers: BlindHandlers, idea: str, question: str, sentence: str
) -> None:
    ask(handlers)
    waiting = session(handlers).blind.round
    (only,) = handlers.write(idea, question, None, REQUEST)
    assert sentence in only[STATUS]
    assert 'data-s="error"' in only[STATUS]
    assert all(update == {"__type__": "update"} for update in only[1:])
    assert session(handlers).blind.round is waiting
    assert handlers.vote(VOTE_WORDS[0], None, REQUEST)[0]


def test_a_model_on_its_way_is_said(handlers: BlindHandlers) -> None:
    model, handlers.chat.engine.model = handlers.chat.engine.model, None
    try:
        handlers.chat.engine.loading = Loading("x", "X", done=0.4)
        (only,) = handlers.write(OWN_IDEA, "What is rain?", None, REQUEST)
        assert "The model is on its way. Loading the model: 40 %. Press again when it is there." in only[STATUS]
        handlers.chat.engine.loading.error = "There is no file X."
        (only,) = handlers.write(OWN_IDEA, "What is rain?", None, REQUEST)
        assert "There is no file X." in only[STATUS]
    finally:
        handlers.chat.engine.model, handlers.chat.engine.loading = model, None


def test_a_question_too_long_for_the_model_is_a_sentence(handlers: BlindHandlers) -> None:
    model = handlers.chat.engine.ready_model()
    limit = model.model.config.max_position_embeddings
    model.model.config.max_position_embeddings = 64
    try:
        last = ask(handlers, "rain and snow " * 60)
    finally:
        model.model.config.max_position_embeddings = limit
    assert 'data-s="error"' in last[STATUS]
    assert last[ASK]["visible"]
    assert session(handlers).blind.job is None


@pytest.fixture
def busy(engine: Engine) -> Iterator[Job]:
    """A job that holds the model's thread until it is let go or the test ends."""
    let_go = threading.Event()
    job = engine.worker.submit(lambda job: let_go.wait() and None)
    job.started.wait()
    job.let_go = let_go  # type: ignore[attr-defined]
    yield job
    let_go.set()


@pytest.mark.usefixtures("busy")
def test_waiting_in_line_is_said_and_can_be_cancelled(handlers: BlindHandlers) -> None:
    shown = handlers.write(OWN_IDEA, "What is rain?", None, REQUEST)
    first = next(shown)
    assert "1 person is before you" in first[STATUS]
    assert 'data-s="queued"' in first[STATUS]
    assert list(handlers.write(OWN_IDEA, "What is snow?", None, REQUEST)) == [], "pressed twice"
    handlers.cancel(REQUEST)
    *_, last = shown
    assert CANCELLED in last[STATUS]
    assert last[ASK]["visible"]
    assert not last[CANCEL]["visible"]
    assert not any(button["visible"] for button in last[BUTTONS])
    assert session(handlers).blind.job is None
    assert session(handlers).blind.round is None


def test_cancel_while_it_writes_shows_nothing_of_the_answers(handlers: BlindHandlers) -> None:
    shown = handlers.write(OWN_IDEA, "What is rain?", None, REQUEST)
    next(shown)
    handlers.cancel(REQUEST)
    *_, last = shown
    assert CANCELLED in last[STATUS]
    assert "blind-text" not in "".join(last[ANSWERS])
    handlers.cancel(REQUEST)  # there is nothing to cancel, and nothing breaks
    assert "Done." in ask(handlers)[STATUS]


def test_leaving_the_page_gives_the_work_up(handlers: BlindHandlers) -> None:
    shown = handlers.write(OWN_IDEA, "What is rain?", None, REQUEST)
    next(shown)
    job = session(handlers).blind.job
    assert job is not None
    shown.close()
    assert job.stopped
    assert session(handlers).blind.job is None


def test_another_model_meanwhile_is_said(
    handlers: BlindHandlers, busy: Job, engine: Engine, tiny: Callable[[str], ChatModel]
) -> None:
    shown = handlers.write(OWN_IDEA, "What is rain?", None, REQUEST)
    next(shown)
    model, engine.model = engine.model, tiny("llama3")
    try:
        busy.let_go.set()  # type: ignore[attr-defined]
        *_, last = shown
    finally:
        engine.model = model
    assert EXCHANGED in last[STATUS]


def test_what_nobody_foresaw_is_logged_and_said_in_general_words(
    handlers: BlindHandlers, caplog: pytest.LogCaptureFixture
) -> None:
    model = handlers.chat.engine.ready_model()
    card = {"model": model.name, "revision": model.revision}
    broken: Any = SimpleNamespace(name="Broken", card=card, vector=torch.ones(1))  # no direction at all
    session(handlers).own["own:2"] = broken
    last = ask(handlers, idea="own:2")
    assert UNFORESEEN in last[STATUS]
    assert "Traceback" in caplog.text
    assert session(handlers).blind.job is None


def test_a_models_text_is_never_markup() -> None:
    round_ = replace(a_round((EVIL, f"{EVIL} two", "three")), title=EVIL, model=EVIL)
    shown = [
        blind_markup.answer_html(0, EVIL),
        blind_markup.status_html("error", EVIL),
        *[blind_markup.revealed_html(round_, place, 0) for place in range(3)],
        blind_markup.revealed_words(round_, 0, counted=True),
        blind_markup.tally_html([1, 0, 0], EVIL, EVIL),
        blind_markup.tally_html([0, 0, 0], EVIL, EVIL),
    ]
    assert all("<img" not in html for html in shown)


# ---------------------------------------------------------------- ideas and the kept votes


def test_choosing_an_idea_begins_anew(handlers: BlindHandlers) -> None:
    ask(handlers)
    question, *examples = handlers.choose("pirate", example_of(FIRST_IDEA), None, REQUEST)[:5]
    assert question == example_of("pirate")
    assert examples == questions_of("pirate")
    assert session(handlers).blind.round is None
    assert "__type__" in handlers.vote(VOTE_WORDS[0], None, REQUEST)[0], "the answers are gone from the page"
    assert handlers.choose("sea", "My own question", None, REQUEST)[0] == "My own question"
    assert handlers.choose(OWN_IDEA, "My own question", None, REQUEST)[0] == "My own question"
    assert NO_IDEA in handlers.choose("nonsense", "", None, REQUEST)[5]


def test_leaving_the_list_of_ideas_without_a_choice_changes_nothing(handlers: BlindHandlers) -> None:
    handlers.enter(OWN_IDEA, "", None, REQUEST)
    ask(handlers)
    waiting = session(handlers).blind.round
    assert handlers.choose(OWN_IDEA, "What is rain?", None, REQUEST) == [{"__type__": "update"}] * 16
    assert session(handlers).blind.round is waiting


def test_choosing_another_idea_ends_what_is_written(handlers: BlindHandlers) -> None:
    shown = handlers.write(OWN_IDEA, "What is rain?", None, REQUEST)
    next(shown)
    handlers.choose("pirate", "", None, REQUEST)
    *_, last = shown
    assert "No vote yet on Pirate" in last[RESULT]


def test_the_tally_is_there_when_the_tab_comes_into_view(handlers: BlindHandlers) -> None:
    ask(handlers)
    votes, *_ = handlers.vote(VOTE_WORDS[0], None, REQUEST)
    returned: Any = SimpleNamespace(session_hash="the same browser, another day")
    handlers.sessions.of(returned).own = session(handlers).own
    idea, *_, result, forget = handlers.enter(OWN_IDEA, "", votes, returned)
    assert (OWN_IDEA in [key for _, key in idea["choices"]]) is True
    assert "Most human so far, 1 vote: " in result
    assert forget["visible"]
    *_, result, forget = handlers.enter(FIRST_IDEA, "", votes, returned)
    assert "No vote yet on Sounds like AI" in result
    assert forget["visible"], "there are votes on another idea"


def test_the_tab_does_not_show_the_tally_over_answers_that_wait(handlers: BlindHandlers) -> None:
    ask(handlers)
    *_, result, forget = handlers.enter(OWN_IDEA, "", {"x": {"y": 1}}, REQUEST)
    assert result == forget == {"__type__": "update"}


def test_an_idea_of_another_model_gives_way_to_the_first(handlers: BlindHandlers) -> None:
    idea, question, *_ = handlers.enter("own:9", example_of("pirate"), None, REQUEST)
    assert idea["value"] == FIRST_IDEA
    assert question == example_of(FIRST_IDEA)


def test_forgetting(handlers: BlindHandlers) -> None:
    votes, result, forget = handlers.forget()
    assert votes == {}
    assert "Your votes are forgotten." in result
    assert not forget["visible"]


def test_a_tally_is_of_one_idea_on_one_model(engine: Engine, tiny: Callable[[str], ChatModel]) -> None:
    model, other = engine.ready_model(), tiny("llama3")
    own, another = a_direction(model, 3.0), a_direction(model, 3.0, seed=1)
    found = [
        tally_of("pirate", None, model),
        tally_of("sea", None, model),
        tally_of("pirate", None, other),
        tally_of(OWN_IDEA, own, model),
        tally_of(OWN_IDEA, another, model),
    ]
    assert len(set(found)) == len(found)
    assert tally_of("own:7", own, model) == tally_of(OWN_IDEA, own, model), "its key changes from visit to visit"
