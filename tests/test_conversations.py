"""Turns and conversations: branches share their beginnings, and nothing that was written is lost by an edit."""

from __future__ import annotations

from steering.ui.columns import KNOB, SETS, THREE
from steering.ui.conversations import Conversation, Turn
from steering.ui.scope import coefficient_line, header, parse, state_line, token_line


def a_turn(question: str, columns: tuple[str, ...] = THREE) -> Turn:
    return Turn(question, columns, [f"{question} {column}" for column in columns], "")


def questions(conversation: Conversation) -> list[str]:
    return [turn.question for turn in conversation.turns]


def test_a_branch_goes_on_from_before_a_turn_and_the_old_one_stays() -> None:
    conversation = Conversation()
    for question in ("one", "two", "three"):
        conversation.append(a_turn(question))
    conversation.branch(1)
    conversation.append(a_turn("two, differently"))
    assert questions(conversation) == ["one", "two, differently"]
    conversation.go(-1)
    assert questions(conversation) == ["one", "two", "three"]
    conversation.go(1)
    assert questions(conversation) == ["one", "two, differently"]
    conversation.go(1)  # round and round
    assert questions(conversation) == ["one", "two", "three"]
    assert conversation.branches[0][0] is conversation.branches[1][0], "the beginning is one and the same turn"


def test_a_branch_that_says_nothing_of_its_own_is_forgotten_and_the_one_in_view_never() -> None:
    conversation = Conversation()
    conversation.append(a_turn("one"))
    conversation.append(a_turn("two"))
    conversation.branch(1)  # an edit that was never answered
    conversation.go(-1)
    conversation.tidy()
    assert len(conversation.branches) == 1
    assert questions(conversation) == ["one", "two"]

    conversation.branch(0)
    conversation.tidy()
    assert questions(conversation) == []
    assert len(conversation.branches) == 2


def test_equal_branches_leave_one() -> None:
    conversation = Conversation()
    conversation.append(a_turn("one"))
    conversation.branch(1)
    conversation.branch(1)
    conversation.tidy()
    assert questions(conversation) == ["one"]
    assert len(conversation.branches) == 1


def test_what_a_column_has_read() -> None:
    conversation = Conversation()
    conversation.append(a_turn("one"))
    conversation.append(a_turn("two", SETS["random"]))
    added, random = conversation.histories(["added", "random"])
    assert [message["content"] for message in added] == ["one", "one added", "two", "two added"]
    # Where it was not asked it has read what the model as it is said.
    assert [message["content"] for message in random] == ["one", "one baseline", "two", "two random"]


def test_after_the_one_knob_every_column_goes_on_from_no_strength() -> None:
    conversation = Conversation()
    conversation.append(a_turn("one", KNOB))
    (history,) = conversation.histories(["ablated"])
    assert history[1]["content"] == "one knob-0"


def test_the_log_follows_the_columns_in_view() -> None:
    columns = SETS["random"]
    turn = a_turn("one", columns)
    turn.log = header("run", 2, max_new_tokens=4)
    for column in range(4):
        turn.log += token_line(1, column, columns[column], [0.0, 0.5])
    turn.log += coefficient_line(1, 2.0) + state_line("idle")
    drawn = parse(turn.log_of(("baseline", "random")))
    assert [kind for kind, _ in drawn] == ["H", "T", "T", "C", "S"]
    assert [(content[1], content[2]) for kind, content in drawn if kind == "T"] == [(0, "baseline"), (1, "random")]
    assert turn.log_of(columns) == turn.log
