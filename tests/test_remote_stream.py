"""Whatever a server sends, what comes of it is an answer or a sentence, within bounds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from typing import Any

import pytest
from chat_server import Answer, Talk, chat_server, endless, words
from hypothesis import given
from hypothesis import strategies as st

from steering.ui import remote_stream
from steering.ui.remote_stream import Lines, Piece, RemoteError, client, pieces, read_event

BODY: dict[str, Any] = {"model": "m", "messages": [], "max_tokens": 8, "stream": True, "logprobs": True, "seed": 1}


def read(url: str, body: dict[str, Any] = BODY) -> list[Piece]:
    async def all_of_them() -> list[Piece]:
        async with client({}, here=True) as to:
            return [piece async for piece in pieces(to, url, body)]

    return asyncio.run(all_of_them())


def test_an_answer_comes_piece_by_piece() -> None:
    with chat_server(words("The sea is deep.")) as server:
        assert [piece.text for piece in read(server.url)] == ["The", " sea", " is", " deep."]


def test_tokens_and_what_could_have_been_said_come_with_it() -> None:
    def answer(talk: Talk) -> None:
        said = [
            {
                "token": token,
                "logprob": -0.1,
                "top_logprobs": [{"token": token, "logprob": -0.5}, {"token": "x", "logprob": -2}],
            }
            for token in (" the", "re")
        ]
        talk.begin()
        talk.piece(" there", logprobs={"content": said})
        talk.send(b"data: [DONE]\n\n")

    with chat_server(answer) as server:
        (piece,) = read(server.url)
    assert piece.tokens == (" the", "re")
    assert piece.likeliest[0] == [(" the", pytest.approx(math.exp(-0.5))), ("x", pytest.approx(math.exp(-2)))]


def test_tokens_that_do_not_make_up_the_text_are_not_taken_for_them() -> None:
    logprobs = {"content": [{"token": "a"}, {"token": "c"}]}
    assert read_event(event("ab", logprobs=logprobs)) == Piece("ab")


def test_a_server_that_refuses_logprobs_is_asked_without() -> None:
    def answer(talk: Talk) -> None:
        if "logprobs" in talk.body:
            talk.refuse(422, {"detail": "no logprobs here"})
        else:
            words("fine")(talk)

    with chat_server(answer) as server:
        assert [piece.text for piece in read(server.url)] == ["fine"]
        assert "seed" in server.asked[0]
        assert not set(server.asked[1]) & {"logprobs", "seed"}


def sends(content: bytes, kind: str = "text/event-stream") -> Answer:
    def answer(talk: Talk) -> None:
        talk.begin(kind=kind)
        talk.send(content)

    return answer


def refuses(status: int, said: Any = None) -> Answer:
    return lambda talk: talk.refuse(status, said)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (refuses(401), "wants a key .HTTP 401.; set STEERING_REMOTE_KEY"),
        (refuses(404, {"message": "The model `m` does not exist."}), "“The model `m` does not exist.”; check model="),
        (refuses(400, {"error": {"message": "too long"}}), "refused the question .HTTP 400.: “too long”"),
        (refuses(429), "too much to do"),
        (refuses(500, {"detail": 3}), r"it failed .HTTP 500.; its own log"),
        (refuses(302), "points elsewhere"),
        (refuses(503, {"error": "<b>" + "x" * 5000}), "it failed"),
        (sends(b"<html>hello</html>", "text/html"), "did not stream"),
        (sends(b""), "ended without a word"),
        (sends(b"data: not json\n\n"), "cannot be read"),
        (sends(b"data: [1, 2]\n\n"), "no answer"),
        (sends(b"data: " + b"[" * 100_000 + b"\n\n"), "cannot be read"),
        (sends(b'data: {"error": {"message": "out of memory"}}\n\n'), "stopped with an error: “out of memory”"),
        (sends(b"data: " + b"x" * 1_500_000), "far more than an answer"),
        (sends(b'data: {"choices": []}\n\n' * 20_000), "far more than an answer"),
        (endless(every=0), "past the 8 tokens"),
    ],
)
def test_every_failure_is_a_sentence(answer: Answer, sentence: str) -> None:
    with chat_server(answer) as server, pytest.raises(RemoteError, match=sentence):
        read(server.url)


def test_nobody_at_the_address_is_a_sentence() -> None:
    with chat_server(words("x")) as server:
        gone = server.url
    with pytest.raises(RemoteError, match="nothing answers there"):
        read(gone)


def test_a_redirect_is_not_followed_with_the_key() -> None:
    with chat_server(words("secret")) as other:

        def answer(talk: Talk) -> None:
            talk.begin(307, Location=f"{other.url}/chat/completions")

        with chat_server(answer) as server, pytest.raises(RemoteError, match="points elsewhere"):
            read(server.url)
        assert other.asked == []


def event(text: Any, **more: Any) -> str:
    return json.dumps({"choices": [{"delta": {"content": text}, **more}]})


@pytest.mark.parametrize("text", [None, 3, [], {}, ""])
def test_what_is_no_text_adds_nothing(text: Any) -> None:
    assert read_event(event(text)) is None


def test_half_a_surrogate_becomes_something_that_can_be_written() -> None:
    piece = read_event(event("\ud83d"))
    assert piece is not None
    piece.text.encode()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
shaped = st.fixed_dictionaries(
    {},
    optional={
        "choices": json_values
        | st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "delta": json_values | st.fixed_dictionaries({"content": json_values}),
                    "logprobs": json_values
                    | st.fixed_dictionaries(
                        {
                            "content": json_values
                            | st.lists(
                                st.fixed_dictionaries({"token": json_values, "top_logprobs": json_values}), max_size=3
                            )
                        }
                    ),
                },
            ),
            max_size=2,
        ),
        "error": json_values,
    },
)


@given(st.text() | json_values.map(json.dumps) | shaped.map(json.dumps))
def test_any_event_is_a_piece_or_nothing_or_a_sentence(data: str) -> None:
    with contextlib.suppress(RemoteError):
        piece = read_event(data)
        if piece is not None:
            piece.text.encode()
            assert piece.tokens is None or "".join(piece.tokens) == piece.text
            assert all(0 <= share <= 1 for found in piece.likeliest for _, share in found)


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_any_bytes_are_lines_or_a_sentence(blocks: list[bytes]) -> None:
    lines = Lines(limit=300)
    with contextlib.suppress(RemoteError):
        for block in blocks:
            list(lines.feed(block))
        list(lines.rest())


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=10)), st.data())
def test_lines_are_the_same_wherever_blocks_end(texts: list[str], data: st.DataObject) -> None:
    sent = "".join(f"data: {text}\r\n\r\n" for text in texts).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=6)))
    lines = Lines(limit=10_000)
    found = [line for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True) for line in lines.feed(sent[a:b])]
    assert found == [text.strip() for text in texts]


def test_a_piece_longer_than_any_word_is_cut_off() -> None:
    with pytest.raises(RemoteError, match="far longer than any word"):
        read_event(event("x" * (remote_stream.PIECE_CHARACTERS + 1)))
