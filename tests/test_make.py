"""“Make a direction”: reading and checking texts, the card, and the tab's handlers on a tiny real model."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch

from steering.activations import RESPONSE, ClassMeans
from steering.contrast import ContrastSet, Example
from steering.directions import Candidates, Direction
from steering.errors import Cancelled, ContrastSetError, DirectionError
from steering.models import ChatModel
from steering.separation import Separation
from steering.ui import make_card, make_markup, make_words
from steering.ui import squares as map_of_squares
from steering.ui.engine import Engine, ModelOptions
from steering.ui.limits import Limits
from steering.ui.make_handlers import GONE, NO_TEXTS, SAMPLE, MakeHandlers
from steering.ui.make_work import (
    LARGEST_DIRECTION_FILE,
    direction_at,
    file_limits,
    find,
    load_direction,
    missing_list,
    read_set,
    sound_card,
    token_counter,
    write_files,
)
from steering.ui.session import Sessions
from steering.ui.worker import Job

WORDS = token_counter(None)
FILES = file_limits(Limits())
EVIL = "<img src=x onerror=alert(1)>"


def written(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def a_set(positive: list[str], negative: list[str], pairs: bool = False) -> ContrastSet:
    def side(texts: list[str]) -> list[Example]:
        return [
            Example(({"role": "user", "content": text},), pair=str(place) if pairs else None)
            for place, text in enumerate(texts)
        ]

    return ContrastSet.from_examples("texts", side(positive), side(negative))


# ---------------------------------------------------------------- words


def test_the_position_of_replies_is_the_librarys() -> None:
    assert make_words.RESPONSE == RESPONSE


@pytest.mark.parametrize(
    ("stem", "name"),
    [("the-sea", "The sea"), ("my_own.list", "My own list"), ("  ", "My idea"), ("Überschwang", "Überschwang")],
)
def test_default_name_is_made_from_the_files_name(stem: str, name: str) -> None:
    assert make_words.default_name(stem) == name


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("The sea", "the-sea.json"),
        ("../../etc/passwd", "etc-passwd.json"),
        ("海", "direction.json"),
        ("x" * 200, "x" * 60 + ".json"),
    ],
)
def test_file_name_holds_nothing_but_letters_digits_and_hyphens(name: str, file: str) -> None:
    assert make_words.file_name(name, ".json") == file


@pytest.mark.parametrize(
    ("token", "seen"),
    [("<|im_end|>", "‹im_end›"), ("\n", "↵"), ("<end_of_turn>", "‹end_of_turn›"), (" a", "␣a"), ("", "∅"), ("<", "<")],
)
def test_tokens_can_be_seen(token: str, seen: str) -> None:
    assert make_words.visible_token(token) == seen


def test_positions_in_words() -> None:
    tokens = {-2: "assistant", -1: "\n"}
    assert make_words.position_words(-2, tokens) == "position −2, the token assistant"
    assert make_words.position_words(-1, tokens) == "position −1, the last token before the answer (↵)"
    assert make_words.position_words(-1, {}) == "position −1, the last token before the answer"
    assert make_words.position_words(RESPONSE, {}) == "mean over the reply"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (3, "a few seconds left"),
        (22, "about 20 seconds left"),
        (89, "about 90 seconds left"),
        (91, "about 2 minutes left"),
        (62 * 60, "about 62 minutes left"),
    ],
)
def test_time_left(seconds: float, words: str) -> None:
    assert make_words.time_left(seconds) == words


def test_the_verdict_follows_the_auroc() -> None:
    assert [make_words.verdict(value)[0] for value in (0.95, 0.9, 0.89, 0.7, 0.69, 0.5)] == [
        "good",
        "good",
        "partly",
        "partly",
        "bad",
        "bad",
    ]


# ---------------------------------------------------------------- the texts


def test_the_sample_is_clean() -> None:
    read = read_set(str(SAMPLE), None, WORDS, FILES)
    assert len(read.data.positive) == len(read.data.negative) == 40
    assert read.warnings == []
    assert read.data.has_responses
    assert make_markup.split_words(read.train, read.held_out) == "32 + 8"


def test_one_list_of_two_asks_for_the_other(tmp_path: Path) -> None:
    shows = written(tmp_path, "shows.txt", "one\ntwo\nthree\n")
    assert "shows.txt has 3 texts" in missing_list(shows, None, FILES)
    assert "does not show it" in missing_list(shows, None, FILES)
    assert missing_list(shows, shows, FILES) == ""
    assert "shows the idea" in missing_list(None, shows, FILES)
    assert missing_list(None, None, FILES) == ""


@pytest.mark.parametrize(
    ("name", "text"), [("both.txt", "one\n---\ntwo\n"), ("both.csv", "positive,negative\na,b\n"), ("photo.png", "")]
)
def test_a_file_with_both_sides_or_of_another_kind_asks_for_nothing(tmp_path: Path, name: str, text: str) -> None:
    assert missing_list(written(tmp_path, name, text), None, FILES) == ""


def test_an_unreadable_single_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(ContrastSetError, match=r"empty\.txt"):
        missing_list(written(tmp_path, "empty.txt", ""), None, FILES)


def test_the_pages_limits_hold(tmp_path: Path) -> None:
    rows = "positive,negative\n" + "\n".join(f"sea {row},land {row}" for row in range(2_001))
    with pytest.raises(ContrastSetError, match="2,000 rows"):
        read_set(written(tmp_path, "long.csv", rows), None, WORDS, FILES)
    with pytest.raises(ContrastSetError, match="2,000 allowed"):
        read_set(written(tmp_path, "wide.csv", "positive,negative\n" + "a" * 2_001 + ",b\n"), None, WORDS, FILES)
    with pytest.raises(ContrastSetError, match="2,000,000 allowed"):
        read_set(written(tmp_path, "big.txt", "a\n" * 1_000_001), None, WORDS, FILES)


def test_warnings_hold_what_was_dropped_and_what_would_spoil_it(tmp_path: Path) -> None:
    path = written(
        tmp_path, "few.csv", "text,label\nwaves,1\nwaves,1\nfoam,1\na long walk to the old town hall,0\ntax,0\n"
    )
    warnings = read_set(path, None, WORDS, FILES).warnings
    assert any("repeating another: row 3" in sentence for sentence in warnings)
    assert any("fewer than 16 a side" in sentence for sentence in warnings)
    assert any("differ in length" in sentence for sentence in warnings)


def test_pairs_stand_side_by_side() -> None:
    data = a_set(["a", "b", "c", "d"], ["1", "2", "3", "4"], pairs=True)
    shuffled = ContrastSet(data.name, data.positive, data.negative[::-1])
    shown = [(positive.text, negative.text) for positive, negative in make_markup.shown_pairs(shuffled)]
    assert shown == [("a", "1"), ("b", "2"), ("c", "3")]


def test_texts_of_a_file_are_text() -> None:
    data = a_set([EVIL, "b"], ["<script>", "d"])
    html = make_markup.check_html(data, "1 + 1", [f"Row 1 is {EVIL}."], problem=EVIL, hint=EVIL)
    assert "<img" not in html
    assert "<script" not in html
    assert html.count("&lt;img src=x onerror=alert(1)&gt;") == 4
    assert "Still in use: texts." in html


def test_long_texts_are_cut_in_the_table_of_examples() -> None:
    cells = re.findall(r"<td>(.*?)</td>", make_markup.check_html(a_set(["word " * 100], ["b"]), "", []))
    assert len(cells[0]) <= 140
    assert cells[0].endswith("…")


def test_progress_has_a_bar_only_when_there_is_something_to_measure() -> None:
    assert 'aria-valuenow="62"' in make_markup.progress_html(0.62, "Reading")
    assert "progressbar" not in make_markup.progress_html(None, "Waiting")


# ---------------------------------------------------------------- the card


N_LAYERS, WIDTH = 10, 4
TOKENS = {-2: "<|im_start|>", -1: "\n"}


@pytest.fixture
def candidates() -> Candidates:
    """Two positions, ten layers; the sides do not differ at layer 0."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(2, N_LAYERS, WIDTH, generator=generator)
    vectors[:, 0] = 0
    means = torch.randn(2, N_LAYERS, WIDTH, generator=generator).double()
    norms = torch.full((2, N_LAYERS), 8.0, dtype=torch.float64)
    negative = ClassMeans(means * 8, norms * 8, 8, [-2, -1])
    positive = ClassMeans((means + vectors) * 8, norms * 8, 8, [-2, -1])
    card = {"model": "m", "model_label": EVIL, "n_layers": N_LAYERS, "n_positive": 8, "n_negative": 8, "data": "d"}
    return Candidates(vectors, [-2, -1], positive, negative, card)


@pytest.fixture
def separation() -> Separation:
    auroc = np.linspace(0.4, 1.0, 2 * N_LAYERS).reshape(2, N_LAYERS)
    auroc[:, 0] = np.nan
    right = np.arange(2 * N_LAYERS).reshape(2, N_LAYERS) % 5
    return Separation(auroc, right, 4, np.ones((2, N_LAYERS)), [-2, -1])


def squares(html: str) -> list[str]:
    return re.findall(r"<td[^>]*>(?:<button.*?</button>|–)</td>", html.partition("<details>")[0])


def test_the_card_says_what_was_measured_and_nothing_else(candidates: Candidates, separation: Separation) -> None:
    suggested = separation.suggested()
    direction = direction_at(candidates, separation, *suggested, name="The sea")
    html = make_card.card_html(direction, separation, suggested, TOKENS, seed=0)
    row, layer = separation.positions.index(suggested[0]), suggested[1]
    assert "from 20 texts · &lt;img src=x onerror=alert(1)&gt; · seed 0" in html
    assert f"<dt>{separation.right[row, layer]} of 4</dt>" in html
    assert f"<dt>Layer {layer} <small>of 10</small></dt>" in html
    assert f"<dt>{separation.auroc[row, layer]:.2f}</dt>" in html
    assert "<img" not in html
    assert "sweet spot" not in html


def test_every_square_carries_its_auroc(candidates: Candidates, separation: Separation) -> None:
    direction = direction_at(candidates, separation, -1, 3, "The sea")
    cells = squares(make_card.card_html(direction, separation, (-1, 5), TOKENS, seed=0))
    assert len(cells) == 2 * N_LAYERS
    for place, cell in enumerate(cells):
        row, layer = divmod(place, N_LAYERS)
        value = separation.auroc[row, layer]
        if np.isnan(value):
            assert "button" not in cell
            assert "do not differ" in cell
            continue
        shade = float(re.search(r"--value:([\d.]+)", cell)[1])  # type: ignore[index]
        assert shade == pytest.approx(min(1, max(0, 2 * value - 1)), abs=1e-3)
        assert f"layer {layer}, position −{2 - row}: {value:.2f}" in cell
        assert ("late" in cell.split(">")[0]) == (layer >= 8)
        assert ("chosen" in cell.split(">")[0]) == ((row, layer) == (1, 3))
        assert ("suggested" in cell.split(">")[0]) == ((row, layer) == (1, 5))
    assert [cell.count('tabindex="0"') for cell in cells].count(1) == 1  # one stop of the Tab key


def test_the_map_of_replies_has_one_row(candidates: Candidates, separation: Separation) -> None:
    one = Separation(separation.auroc[:1], separation.right[:1], 4, separation.gap[:1], [RESPONSE])
    of_replies = Candidates(
        candidates.vectors[:1], [RESPONSE], candidates.positive, candidates.negative, dict(candidates.card)
    )
    direction = direction_at(of_replies, one, RESPONSE, 4, "The sea")
    html = make_card.card_html(direction, one, (RESPONSE, 4), {}, seed=0)
    assert len(squares(html)) == N_LAYERS
    assert "over the reply" in html


def test_the_table_lists_every_candidate(candidates: Candidates, separation: Separation) -> None:
    html = make_card.card_html(direction_at(candidates, separation, -1, 3, "x"), separation, (-1, 3), TOKENS, seed=0)
    table = html[html.index("<details>") :]
    assert "All 20 candidates as a table" in table
    assert table.count("<tr>") == 21


@pytest.mark.parametrize(("n_layers", "chosen"), [(30, 11), (30, 28), (24, 0), (2, 1), (1, 0), (32, None)])
def test_named_layers_do_not_touch(n_layers: int, chosen: int | None) -> None:
    names = sorted(map_of_squares.named_layers(n_layers, chosen))
    assert all(later - earlier > 1 for earlier, later in pairwise(names))
    assert chosen is None or chosen in names
    assert set(names) <= set(range(n_layers))


def test_the_empty_map_has_the_shape_of_the_full_one() -> None:
    html = make_card.computing_card(EVIL, [-2, -1], TOKENS, N_LAYERS)
    assert html.count('<td class="empty">') == 2 * N_LAYERS
    assert "<img" not in html


def test_tokens_of_a_card_that_names_none_or_nonsense() -> None:
    assert map_of_squares.tokens_of({"position_tokens": ["a", "\n"]}) == {-2: "a", -1: "\n"}
    assert map_of_squares.tokens_of({}) == {}
    assert map_of_squares.tokens_of({"position_tokens": [1, 2]}) == {}


# ---------------------------------------------------------------- files of directions


@pytest.fixture
def engine(tiny: Callable[[str], ChatModel]) -> Engine:
    """An engine with a tiny real model in use."""
    engine = Engine(ModelOptions())
    engine.model = tiny("llama3")
    return engine


def for_model(model: ChatModel, **card: Any) -> Direction:
    vector = torch.ones(model.d_model)
    of_model = {"model": model.name, "revision": model.revision, "n_layers": model.n_layers}
    return Direction(vector, (vector / vector.norm())[None], 1, -1, 2.0, "Mine", of_model | card)


def test_a_direction_comes_back_from_its_files(engine: Engine, tmp_path: Path) -> None:
    model = engine.ready_model()
    saved = for_model(model, auroc=0.75, sorted_right=[3, 4], position_tokens=["\n"])
    weights, card = write_files(saved, tmp_path)
    assert (weights.name, card.name) == ("mine.safetensors", "mine.json")
    assert json.loads(card.read_text())["sorted_right"] == [3, 4]
    loaded = load_direction(str(weights), model)
    assert torch.equal(loaded.vector, saved.vector)
    html = make_card.loaded_card(loaded)
    assert "3 of 4" in html
    assert f"Layer 1 <small>of {model.n_layers}</small>" in html


def test_a_card_from_a_file_is_text(engine: Engine, tmp_path: Path) -> None:
    model = engine.ready_model()
    weights, _ = write_files(for_model(model, model_label=EVIL, data=EVIL, position_tokens=[EVIL]), tmp_path)
    assert "<img" not in make_card.loaded_card(load_direction(str(weights), model))


def test_a_direction_for_another_width_is_refused_with_both_numbers(engine: Engine, tmp_path: Path) -> None:
    model = engine.ready_model()
    vector = torch.ones(model.d_model + 1)
    other = Direction(vector, (vector / vector.norm())[None], 1, -1, 2.0, "Other", {"n_layers": 7})
    weights, _ = write_files(other, tmp_path)
    with pytest.raises(
        DirectionError, match=rf"width {model.d_model + 1} with 7 .* {model.d_model} and {model.n_layers}"
    ):
        load_direction(str(weights), model)


def test_a_direction_for_other_weights_of_the_same_shape_is_refused(engine: Engine, tmp_path: Path) -> None:
    model = engine.ready_model()
    weights, _ = write_files(for_model(model, revision="other", model_label="Another model"), tmp_path)
    with pytest.raises(DirectionError, match="made for Another model"):
        load_direction(str(weights), model)


def test_a_direction_too_short_to_be_one_is_refused(engine: Engine, tmp_path: Path) -> None:
    model = engine.ready_model()
    good = for_model(model)
    short = Direction(good.vector * 1e-20, good.ablation_basis, 1, -1, 1e300, "Short", good.card)
    weights, _ = write_files(short, tmp_path)
    with pytest.raises(DirectionError, match="too short"):
        load_direction(str(weights), model)


def test_a_large_file_is_refused_before_it_is_read(engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "large.safetensors"
    file.write_bytes(b"\0" * (LARGEST_DIRECTION_FILE + 1))
    with pytest.raises(DirectionError, match="1,000,000 allowed"):
        load_direction(str(file), engine.ready_model())


def test_wrong_entries_of_a_card_are_left_out() -> None:
    right = {
        "auroc": 0.9,
        "sorted_right": [3, 4],
        "strength": {"start": 1, "end": 3.5, "sweet": [0.5, 2]},
        "data": "sea",
        "seed": 0,
    }
    assert sound_card(right) == right
    wrong = {
        "auroc": float("nan"),
        "sorted_right": [5, 4],
        "strength": {"start": "1", "end": 3, "sweet": [1, 2]},
        "data": 7,
        "model_label": ["x"],
    }
    assert sound_card(wrong) == {}
    assert sound_card({"strength": {"start": 1, "end": 3}}) == {}
    assert sound_card({"strength": {"start": 1, "end": 3, "sweet": [2, 9]}}) == {}
    assert sound_card({"sorted_right": [True, 4], "auroc": "0.9"}) == {}


# ---------------------------------------------------------------- the handlers


REQUEST: Any = SimpleNamespace(session_hash="a visitor")


@pytest.fixture
def handlers(engine: Engine) -> MakeHandlers:
    return MakeHandlers(engine, Sessions("sea"), Limits())


def with_texts(handlers: MakeHandlers, tmp_path: Path, rows: int = 8) -> ContrastSet:
    text = "positive,negative\n" + "\n".join(f"tell the sea {row},file the tax {row}" for row in range(rows))
    handlers.read(written(tmp_path, "sea.csv", text), None, "", REQUEST)
    data = handlers.sessions.of(REQUEST).making.data
    assert data is not None
    return data


def test_finding_a_direction_ends_with_its_card(handlers: MakeHandlers, tmp_path: Path) -> None:
    data = with_texts(handlers, tmp_path)
    *during, last = handlers.compute("  My sea ", REQUEST)
    assert during, "something is shown while it works"
    progress, compute, best, cancel, card, position, layer, actions, weights, card_file, *_, note = last
    assert "Found." in progress
    assert compute["visible"]
    assert best["visible"]
    assert not cancel["visible"]
    assert "<h2>My sea</h2>" in card
    making = handlers.sessions.of(REQUEST).making
    assert making.direction is not None
    assert making.direction.name == "My sea"
    assert making.direction.card["data_sha256"] == data.sha256
    assert (making.direction.position, making.direction.layer) == making.separation.suggested()  # type: ignore[union-attr]
    assert position["value"] == str(making.direction.position)
    assert (layer["value"], layer["maximum"]) == (making.direction.layer, handlers.engine.ready_model().n_layers - 1)
    assert actions["visible"]
    assert Direction.load(weights, handlers.engine.ready_model()).name == "My sea"
    assert json.loads(card_file.read_text())["name"] == "My sea"
    assert note == ""


def test_another_square_is_chosen_by_press_and_by_the_controls(handlers: MakeHandlers, tmp_path: Path) -> None:
    with_texts(handlers, tmp_path)
    list(handlers.compute("The sea", REQUEST))
    making = handlers.sessions.of(REQUEST).making
    assert making.candidates is not None
    last = making.candidates.n_layers - 1
    handlers.press(gr.EventData(None, {"position": "-1", "layer": str(last)}), REQUEST)
    assert (making.direction.position, making.direction.layer) == (-1, last)  # type: ignore[union-attr]
    card = handlers.pick("-2", 1, REQUEST)[0]
    assert (making.direction.position, making.direction.layer) == (-2, 1)  # type: ignore[union-attr]
    assert "chosen: layer 1, position −2" in card or "chosen, as suggested: layer 1, position −2" in card


def test_a_square_that_is_none_changes_nothing(handlers: MakeHandlers, tmp_path: Path) -> None:
    with_texts(handlers, tmp_path)
    list(handlers.compute("The sea", REQUEST))
    making = handlers.sessions.of(REQUEST).making
    before = making.direction
    assert "There is no candidate" in handlers.pick("-1", 999, REQUEST)[-1]
    for nonsense in (None, "x", {"position": "x"}, {"position": None, "layer": None}):
        handlers.press(gr.EventData(None, nonsense), REQUEST)
    assert making.direction is before


def test_without_texts_or_model_a_sentence_is_shown(handlers: MakeHandlers, tmp_path: Path) -> None:
    (only,) = handlers.compute("x", REQUEST)
    assert NO_TEXTS in only[0]
    with_texts(handlers, tmp_path)
    handlers.engine.model = None
    (only,) = handlers.compute("x", REQUEST)
    assert "The model is still loading." in only[0]


def test_a_bad_file_leaves_the_good_set(handlers: MakeHandlers, tmp_path: Path) -> None:
    data = with_texts(handlers, tmp_path)
    check, name, _ = handlers.read(written(tmp_path, "bad.csv", "positive,negative\nonly,\n"), None, "Typed", REQUEST)
    assert "Row 2 of bad.csv has no negative text" in check
    assert "Still in use: sea." in check
    assert name == "Typed"
    assert handlers.sessions.of(REQUEST).making.data is data


def test_the_name_follows_the_file_until_it_is_typed(handlers: MakeHandlers, tmp_path: Path) -> None:
    both = "positive,negative\na,b\nc,d\n"
    assert handlers.read(written(tmp_path, "my_idea.csv", both), None, "", REQUEST)[1] == "My idea"
    assert handlers.read(written(tmp_path, "other.csv", both), None, "My idea", REQUEST)[1] == "Other"
    assert handlers.read(written(tmp_path, "third.csv", both), None, "Typed", REQUEST)[1] == "Typed"
    assert handlers.use_sample("", REQUEST)[1] == "Like Shakespeare"


@pytest.fixture
def busy(engine: Engine) -> Iterator[Job]:
    """A job that holds the model's thread until the test ends."""
    let_go = threading.Event()
    job = engine.worker.submit(lambda job: let_go.wait() and None)
    job.started.wait()
    yield job
    let_go.set()


@pytest.mark.usefixtures("busy")
def test_waiting_in_line_is_said_and_can_be_cancelled(handlers: MakeHandlers, tmp_path: Path) -> None:
    with_texts(handlers, tmp_path)
    shown = handlers.compute("The sea", REQUEST)
    first = next(shown)
    assert "1 person is before you" in first[0]
    assert not first[1]["visible"]
    assert not first[2]["visible"]
    assert first[3]["visible"]
    handlers.cancel(REQUEST)
    *_, last = shown
    assert "Cancelled." in last[0]
    assert last[1]["visible"]
    assert handlers.sessions.of(REQUEST).making.direction is None


@pytest.mark.usefixtures("busy")
def test_leaving_the_page_gives_the_work_up(handlers: MakeHandlers, tmp_path: Path) -> None:
    with_texts(handlers, tmp_path)
    shown = handlers.compute("The sea", REQUEST)
    next(shown)
    job = handlers._bench(handlers.sessions.of(REQUEST)).job
    assert job is not None
    shown.close()
    assert job.stopped


class StoppedAfter(Job):
    """A job someone stops right after its ``count``-th report."""

    def __init__(self, engine: Engine, count: int) -> None:
        super().__init__(engine.worker, lambda job: None)
        self.count = count
        self.reported = 0

    def report(self, value: Any) -> None:
        self.reported += 1
        if self.reported == self.count:
            self.stop()


def test_cancel_works_within_one_batch(handlers: MakeHandlers, tmp_path: Path) -> None:
    data = with_texts(handlers, tmp_path, rows=80)
    job = StoppedAfter(handlers.engine, 2)
    with pytest.raises(Cancelled):
        find(handlers.engine, data, job)
    assert job.reported == 2  # nothing more after the batch in which it was stopped


def test_after_the_model_was_exchanged_a_sentence_says_so(
    handlers: MakeHandlers, tmp_path: Path, tiny: Callable[[str], ChatModel]
) -> None:
    with_texts(handlers, tmp_path)
    list(handlers.compute("The sea", REQUEST))
    assert handlers.explain_use(REQUEST) == ""
    handlers.engine.model = tiny("gemma2")
    assert GONE in handlers.explain_use(REQUEST)
    making = handlers.sessions.of(REQUEST).making
    making.candidates = making.separation = making.direction = None
    assert GONE in handlers.pick("-1", 1, REQUEST)[-1]


def test_a_loaded_direction_takes_the_cards_place(handlers: MakeHandlers, tmp_path: Path) -> None:
    weights, _ = write_files(for_model(handlers.engine.ready_model()), tmp_path)
    result = handlers.load(str(weights), REQUEST)
    assert "<h2>Mine</h2>" in result[0]
    assert handlers.sessions.of(REQUEST).making.direction is not None
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing")
    result = handlers.load(str(broken), REQUEST)
    assert "broken.safetensors is not a direction file" in result[-1]
    assert "<h2>Mine</h2>" in result[0]


def test_what_nobody_foresaw_is_logged_and_said_in_general_words(
    handlers: MakeHandlers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with_texts(handlers, tmp_path)
    handlers.engine.model = object()  # type: ignore[assignment]
    *_, last = handlers.compute("x", REQUEST)
    assert "Something went wrong inside the program" in last[0]
    assert "Traceback" not in last[0]
    assert "Finding a direction failed" in caplog.text
