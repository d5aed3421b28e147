"""The chat's handlers, with a real engine on tiny random models; the page itself is driven in tests/e2e."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import torch

from steering.activations import RESPONSE
from steering.contrast import ContrastSet
from steering.directions import Direction, difference_in_means
from steering.interventions import Ablation, AffineAblation, Capping, Dial
from steering.models import ChatModel
from steering.ui.chat import FIRST_IDEA, Chat
from steering.ui.chat_view import NOT_ASKED
from steering.ui.columns import SETS, THREE
from steering.ui.conversations import Turn
from steering.ui.desk import Desk
from steering.ui.engine import Engine, ModelOptions
from steering.ui.ideas import note_on
from steering.ui.methods import removed, taken_out, turned_up
from steering.ui.scope import parse
from steering.ui.session import OWN, Session, Sessions
from steering.ui.settings import SETTINGS
from steering.ui.turn import TurnWriter
from steering.ui.worker import Job

SHORT = SETTINGS | {"max_new_tokens": 8}


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def engine(family_folder: Callable[[str], Path]) -> Engine:
    engine = Engine(ModelOptions(device="cpu", dtype="float32"))
    load(engine, family_folder("qwen3"))
    return engine


def load(engine: Engine, folder: Path) -> None:
    threads = torch.get_num_threads()
    assert engine.load(str(folder), folder.name)
    wait_for(lambda: engine.loading is None)
    torch.set_num_threads(threads)


@pytest.fixture
def session() -> Session:
    return Session("visitor", FIRST_IDEA)


@pytest.fixture
def chat(engine: Engine) -> Chat:
    return Chat(engine)


def ask(chat: Chat, session: Session, question: str, strength: float = 1.0, settings: dict | None = None) -> list:
    assert chat.accept(session, question) == ""
    return list(chat.respond(session, strength, settings or SHORT))


def states(session: Session) -> list[str]:
    return [content["state"] for kind, content in parse(session.log) if kind == "S"]


def test_a_question_brings_three_answers_and_the_log_of_every_token(chat: Chat, session: Session) -> None:
    views = ask(chat, session, "What is rain?")
    (turn,) = session.conversation(FIRST_IDEA).turns
    assert turn.question == "What is rain?"
    assert len(turn.replies) == 3
    assert all(turn.replies)
    tokens = [content for kind, content in parse(session.log) if kind == "T"]
    for variant in range(3):
        assert "".join(token[2] for token in tokens if token[1] == variant) == turn.replies[variant]
    assert states(session)[0] == "prefill"
    assert states(session)[-1] == "idle"
    assert views[-1][0][1]["content"] == turn.replies[0].replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def test_a_second_question_continues_three_conversations(chat: Chat, session: Session) -> None:
    ask(chat, session, "What is rain?")
    ask(chat, session, "And snow?")
    histories = session.conversation(FIRST_IDEA).histories(session.columns)
    assert [[message["role"] for message in history] for history in histories] == [["user", "assistant"] * 2] * 3
    assert len({history[1]["content"] for history in histories}) > 1


def test_strength_zero_equals_the_baseline(chat: Chat, session: Session) -> None:
    ask(chat, session, "What is rain?", strength=0.0)
    (turn,) = session.conversation(FIRST_IDEA).turns
    assert turn.replies[0] == turn.replies[2]


def test_the_opposite_has_minus_the_strength(chat: Chat, session: Session) -> None:
    chat.opposite(session, "opposite")
    ask(chat, session, "What is rain?", strength=2.0)
    (header,) = [content for kind, content in parse(session.log) if kind == "H"]
    assert header["coefficient"] == -2.0


def test_stop_keeps_what_is_written(chat: Chat, session: Session) -> None:
    chat.accept(session, "What is rain?")
    running = chat.respond(session, 1.0, SETTINGS | {"max_new_tokens": 400})
    for _ in running:
        if session.live and any(session.live.replies):
            session.stop()
    (turn,) = session.conversation(FIRST_IDEA).turns
    assert any(turn.replies)
    assert states(session)[-1] == "stopped"
    assert session.job is None


def test_a_page_that_goes_away_ends_its_run(chat: Chat, session: Session) -> None:
    chat.accept(session, "What is rain?")
    running = chat.respond(session, 1.0, SETTINGS | {"max_new_tokens": 400})
    for _ in running:
        if session.live and any(session.live.replies):
            break
    job = session.job
    assert job is not None
    running.close()
    wait_for(job.ended.is_set)
    assert session.live is None


def test_undo_gives_the_question_back_and_the_log_before_it(chat: Chat, session: Session) -> None:
    ask(chat, session, "What is rain?")
    first = session.log
    ask(chat, session, "And snow?")
    assert chat.undo(session) == "And snow?"
    assert session.log == first
    assert chat.undo(session) == "What is rain?"
    assert chat.undo(session) is None


def test_clear_while_writing_leaves_nothing(chat: Chat, session: Session) -> None:
    chat.accept(session, "What is rain?")
    for _ in chat.respond(session, 1.0, SETTINGS | {"max_new_tokens": 400}):
        if session.live_idea and session.live and any(session.live.replies):
            chat.clear(session)
    assert session.conversation(FIRST_IDEA).turns == []
    assert chat.view(session)[:3] == ([], [], [])
    assert states(session) == ["idle"]


def test_another_try_repeats_the_question_with_other_dice(chat: Chat, session: Session) -> None:
    sampled = SHORT | {"temperature": 1.0, "max_new_tokens": 24}
    ask(chat, session, "What is rain?", settings=sampled)
    before = session.conversation(FIRST_IDEA).turns[0].replies[0]
    chat.accept_again(session)
    list(chat.respond(session, 1.0, sampled))
    (turn,) = session.conversation(FIRST_IDEA).turns
    assert turn.question == "What is rain?"
    assert turn.replies[0] != before


def test_each_idea_has_its_own_conversation(chat: Chat, session: Session) -> None:
    ask(chat, session, "What is rain?")
    chat.choose(session, "pirate")
    assert chat.view(session)[0] == []
    chat.choose(session, FIRST_IDEA)
    assert chat.view(session)[0][0]["content"] == "What is rain?"


def test_another_idea_does_not_show_what_is_being_written_for_the_first(chat: Chat, session: Session) -> None:
    chat.accept(session, "What is rain?")
    running = chat.respond(session, 1.0, SETTINGS | {"max_new_tokens": 400})
    for _ in running:
        if session.idea == FIRST_IDEA and session.live and any(session.live.replies):
            chat.choose(session, "pirate")
            assert chat.view(session)[:3] == ([], [], [])
    assert chat.view(session)[:3] == ([], [], [])
    assert len(session.conversation(FIRST_IDEA).turns) == 1


def test_a_question_typed_by_hand_stays_when_the_idea_changes(chat: Chat, session: Session) -> None:
    chat.choose(session, "pirate")
    assert chat.question_for(session, "My own question") == "My own question"
    assert chat.question_for(session, "Write a poem about the moon.") == "Greet me like a pirate captain."


def test_an_error_is_a_sentence_and_gives_the_question_back(chat: Chat, session: Session) -> None:
    ask(chat, session, "What is rain?", strength=1e9)
    state = [content for kind, content in parse(session.log) if kind == "S"][-1]
    assert state["state"] == "error"
    assert "strength" in state["message"]
    assert session.unanswered == "What is rain?"
    assert not session.is_busy
    ask(chat, session, "What is rain?")
    assert states(session)[-1] == "idle"


def test_an_empty_question_is_not_accepted(chat: Chat, session: Session) -> None:
    assert chat.accept(session, "  ") == "  "
    assert session.pending == ""


def test_markup_in_a_question_stays_text(chat: Chat, session: Session) -> None:
    ask(chat, session, "<b>rain</b> & <img src=x>")
    assert chat.view(session)[0][0]["content"] == "&lt;b&gt;rain&lt;/b&gt; &amp; &lt;img src=x&gt;"


def test_two_visitors_at_once_get_what_each_gets_alone(chat: Chat) -> None:
    alone = []
    for idea in ("poetic", "pirate"):
        visitor = Session("alone", idea)
        ask(chat, visitor, "What is rain?")
        alone.append(visitor.conversation(idea).turns[0].replies)
    visitors = [Session(idea, idea) for idea in ("poetic", "pirate")]
    threads = [threading.Thread(target=ask, args=(chat, visitor, "What is rain?")) for visitor in visitors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [visitor.conversation(visitor.idea).turns[0].replies for visitor in visitors] == alone


def test_who_waits_is_told_their_place(chat: Chat, engine: Engine, session: Session) -> None:
    desk, engine.desk = engine.desk, Desk(engine, engine.worker, rows_at_most=3)
    try:
        other = Session("other", FIRST_IDEA)
        chat.accept(other, "What is snow?")
        busy = chat.respond(other, 1.0, SETTINGS | {"max_new_tokens": 400})
        for _ in busy:
            if other.live and any(other.live.replies):
                break
        chat.accept(session, "What is rain?")
        for _ in chat.respond(session, 1.0, SHORT):
            if states(session)[-1] == "queued":
                other.stop()
        list(busy)
    finally:
        engine.desk = desk
    queued = [content for kind, content in parse(session.log) if kind == "S" and content["state"] == "queued"]
    assert "1 person is before you" in queued[0]["message"]
    assert states(session)[-1] == "idle"


def test_an_edit_asks_from_an_earlier_question_and_both_branches_stay(chat: Chat, session: Session) -> None:
    for question in ("What is rain?", "And snow?"):
        ask(chat, session, question)
    conversation = session.conversation(FIRST_IDEA)
    before = list(conversation.turns)
    assert chat.edit(session) == "And snow?"
    assert chat.edit(session) == "What is rain?"  # pressed again
    assert "Question 1 of 2" in session.log
    ask(chat, session, "What is hail?")
    assert [turn.question for turn in conversation.turns] == ["What is hail?"]
    assert dict(parse(session.log))["B"] == dict(parse(chat.rest_log(session)))["B"] == (2, 2)
    chat.go_branch(session, -1)
    assert conversation.turns == before
    assert chat.view(session)[0][0]["content"] == "What is rain?"


def test_an_edit_that_is_given_up_leaves_one_conversation(chat: Chat, session: Session) -> None:
    ask(chat, session, "What is rain?")
    assert chat.edit(session) == "What is rain?"
    chat.choose(session, "pirate")
    chat.choose(session, FIRST_IDEA)
    ask(chat, session, "And snow?")
    assert [turn.question for turn in session.conversation(FIRST_IDEA).turns] == ["What is rain?", "And snow?"]


@pytest.mark.parametrize("beside", ["random", "prompted", "both", "knob"])
def test_other_columns_are_filled_by_asking_again(chat: Chat, session: Session, beside: str) -> None:
    ask(chat, session, "What is rain?")
    first = session.conversation(FIRST_IDEA).turns[0]
    assert chat.compare(session, beside)
    list(chat.respond(session, 1.0, SHORT))
    (turn,) = session.conversation(FIRST_IDEA).turns
    assert turn.columns == SETS[beside]
    assert len(turn.replies) == len(turn.columns)
    assert turn.replies[0] == first.replies[0]
    if beside != "knob":
        assert turn.replies[:3] == first.replies
    panes = chat.view(session)[:-1]
    assert [len(messages) for messages in panes] == [2] * len(turn.columns) + [0] * (5 - len(turn.columns))
    assert len(dict(parse(session.log))["I"]["names"]) == len(turn.columns)


def test_going_back_to_three_asks_nothing_again(chat: Chat, session: Session) -> None:
    chat.compare(session, "random")
    ask(chat, session, "What is rain?")
    assert not chat.compare(session, "three")
    assert session.pending == ""
    assert {token[1] for kind, token in parse(session.log) if kind == "T"} == {0, 1, 2}
    assert [len(messages) for messages in chat.view(session)[:-1]] == [2, 2, 2, 0, 0]


def test_other_columns_end_what_is_being_written_and_ask_it_again(chat: Chat, session: Session) -> None:
    chat.accept(session, "What is rain?")
    running = chat.respond(session, 1.0, SETTINGS | {"max_new_tokens": 2000})
    thread = threading.Thread(target=lambda: list(running))
    thread.start()
    wait_for(lambda: bool(session.live and any(session.live.replies)))
    assert chat.compare(session, "random")
    thread.join(30)
    assert session.pending == "What is rain?"


def test_a_column_that_was_not_asked_says_so(chat: Chat, session: Session) -> None:
    ask(chat, session, "What is rain?")
    session.beside = "prompted"
    ask(chat, session, "And snow?")
    asked = chat.view(session)[3]
    assert asked[1]["content"] == NOT_ASKED
    assert asked[3]["content"] not in ("", NOT_ASKED)


def test_what_could_have_been_said_is_there_for_every_token(chat: Chat, session: Session) -> None:
    ask(chat, session, "What is rain?", settings=SHORT | {"repetition_penalty": 1.0})
    (turn,) = session.conversation(FIRST_IDEA).turns
    for column, name in enumerate(turn.columns):
        texts = [token[2] for kind, token in parse(session.log) if kind == "T" and token[1] == column]
        for number, text in enumerate(texts, 1):
            likeliest = turn.likeliest_at(name, number)
            assert likeliest is not None
            assert len(likeliest) == 5
            probabilities = [probability for _, probability in likeliest]
            assert probabilities == sorted(probabilities, reverse=True)
            assert sum(probabilities) <= 1 + 1e-5
            if text.strip() and text.isascii():  # other characters may come in several tokens
                assert likeliest[0][0].strip() == text.strip(), "without a penalty the likeliest is what is said"
    assert turn.likeliest_at("added", 10_000) is None


def test_a_thought_is_a_message_of_its_own_before_the_answer(chat: Chat, session: Session) -> None:
    turn = Turn("Why?", THREE, ["Because.", "", "So <b>."], "", thoughts=["Let me see.", "Hm.", ""])
    session.conversation(FIRST_IDEA).append(turn)
    first, second, third = chat.view(session)[:3]
    assert [message["content"] for message in first] == ["Why?", "Let me see.", "Because."]
    assert first[1]["metadata"] == {"title": "Thought", "status": "done"}
    assert [message["content"] for message in second] == ["Why?", "Hm."], "an answer that never came is not shown"
    assert [message["content"] for message in third] == ["Why?", "So &lt;b&gt;."]
    session.live, session.live_idea = Turn("And?", THREE, ["", "", ""], "", thoughts=["Hm.", "", ""]), FIRST_IDEA
    assert chat.view(session)[0][-1]["metadata"]["status"] == "pending"


@pytest.mark.parametrize("acts", ["both", "thought", "answer"])
def test_where_a_direction_acts_reaches_the_engine(chat: Chat, session: Session, acts: str) -> None:
    chat.accept(session, "What is rain?")
    request = chat._request(session, session.pending, 1.0, SHORT | {"thinking": True, "thinking_acts": acts})
    writer = TurnWriter(chat.engine, request, lambda tick: None, lambda *_: None)
    baseline, ablated, added = writer.variants
    assert (ablated.acts, added.acts) == (acts, acts)
    assert baseline.acts == "both", "what has no interventions reads and writes as it is"
    assert writer.asked().variants == writer.variants
    assert chat.engine.ready_model().thinking
    chat.engine.ready_model().thinking = False


@pytest.fixture
def own(engine: Engine) -> Direction:
    job = engine.worker.submit(lambda job: job.report(engine.preset_direction("pirate", lambda *_: None)))
    return next(report for report in job.reports() if report is not None)


def test_a_direction_of_another_model_is_put_aside_and_comes_back(
    chat: Chat, engine: Engine, session: Session, own: Direction, family_folder: Callable[[str], Path]
) -> None:
    chat.put_aside(session)
    key = session.add_own(own)
    chat.choose(session, key)
    assert session.idea == key
    load(engine, family_folder("llama3"))
    try:
        words = chat.put_aside(session)
        assert own.name in words
        assert "put aside" in words
        assert session.idea == FIRST_IDEA
        assert key not in [choice for _, choice in chat.choices(session)]
        ask(chat, session, "What is rain?")
        assert states(session)[-1] == "idle"
    finally:
        load(engine, family_folder("qwen3"))
    assert chat.put_aside(session) == ""
    chat.choose(session, key)
    assert session.idea.startswith(OWN)


def test_the_old_model_answers_when_the_new_one_does_not_come(chat: Chat, engine: Engine, session: Session) -> None:
    before = engine.model
    assert engine.load("/no/such/folder/x.gguf", "Nothing")
    wait_for(lambda: bool(engine.loading and engine.loading.error))
    assert "no file" in engine.state_words
    assert engine.model is before
    ask(chat, session, "What is rain?")
    assert states(session)[-1] == "idle"
    engine.loading = None


def test_sessions_are_bounded_and_forgotten() -> None:
    class Request:
        def __init__(self, session_hash: str) -> None:
            self.session_hash = session_hash

    sessions = Sessions(FIRST_IDEA)
    first = sessions.of(Request("first"))
    assert sessions.of(Request("first")) is first
    sessions.close(Request("first"))
    assert sessions.of(Request("first")) is not first
    for number in range(250):
        sessions.of(Request(str(number)))
    assert len(sessions._sessions) == 200


@pytest.mark.parametrize("removal", ["centred", "plain", "affine", "capped"])
@pytest.mark.parametrize("addition", ["added", "keep_norm", "projected"])
def test_every_way_of_the_settings_is_another_intervention(engine: Engine, removal: str, addition: str) -> None:
    train, _ = ContrastSet.load("pirate").split(8, 2)
    direction = difference_in_means(engine.ready_model(), train).direction(RESPONSE, 1)
    out, up = taken_out(removal, direction), turned_up(addition, direction, Dial(0.5))
    kinds = {"affine": AffineAblation, "capped": Capping}
    assert type(out.interventions[0]) is kinds.get(removal, Ablation)
    assert removed(removal, direction).is_centred == (removal != "plain")
    assert up.interventions[0].keep_norm == (addition == "keep_norm")
    assert up.directions[0].card.get("projected", False) == (addition == "projected")
    assert up.interventions[0].strength == 0.5


def test_a_model_that_hardly_refuses_says_so_when_refusal_is_chosen() -> None:
    assert "refuses 0 of 32" in note_on("refusal", {"refuses": [0, 32]})
    assert note_on("refusal", {"refuses": [20, 32]}) == ""
    assert note_on("poetic", {"refuses": [0, 32]}) == ""
    assert note_on("refusal", {}) == note_on("refusal", {"refuses": "none"}) == ""


def test_settings_out_of_range_are_refused_or_bounded(chat: Chat, session: Session) -> None:
    ask(chat, session, "What is rain?", settings=SHORT | {"temperature": 99.0})
    state = [content for kind, content in parse(session.log) if kind == "S"][-1]
    assert state["state"] == "error"
    assert "temperature" in state["message"]


def test_others_go_between_two_passes_and_never_within_one(tiny: Callable[[str], ChatModel]) -> None:
    """Within a pass the hooks of the long work are on the model, and a reply would be written through them."""

    class Waiting:
        someone_waits = True
        went = 0

        def let_others_go(self) -> None:
            self.went += 1

    engine, job = Engine(ModelOptions()), Waiting()
    engine.model = tiny("llama3")
    with engine.model.lock:
        engine.let_others_go(cast(Job, job))
    assert job.went == 0
    engine.let_others_go(cast(Job, job))
    assert job.went == 1
