"""“Take it home”: who may take what, what a folder may be called, and the tab's handlers on tiny real models."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from publishing_hub import Shelf, publishing
from transformers import AutoModelForCausalLM

from steering.direction import Direction
from steering.errors import Cancelled, DirectionError, LayerWantedError, SteeringError
from steering.exchange import export_direction, import_direction
from steering.exchange_kinds import ENDINGS, KINDS, TITLES, USES
from steering.models import ChatModel
from steering.ui import take_home_markup as markup
from steering.ui import take_home_words as words
from steering.ui.chat import Chat
from steering.ui.engine import Engine, ModelOptions
from steering.ui.errands import Errands, Told
from steering.ui.model_choice import ModelChoice
from steering.ui.operator import Operator
from steering.ui.options import parsed
from steering.ui.page import build_page
from steering.ui.session import Session, Sessions
from steering.ui.take_home_files import TakeHomeFiles
from steering.ui.take_home_models import TakeHomeModels
from steering.ui.take_home_rules import NO_PUSH, NOT_HERE, TakeHome, folder_name, is_this_machine, suggestion
from steering.ui.take_home_work import Order, cannot_be, loading_code, read_own, write_file, write_model
from steering.ui.worker import Job

EVIL = "<img src=x onerror=alert(1)>"
REQUEST: Any = SimpleNamespace(session_hash="a visitor", client=None, headers={})
SETTINGS = ("centred", "added")
Tiny = Callable[[str], ChatModel]


# ---------------------------------------------------------------- names

HOSTILE = st.one_of(
    st.text(max_size=120),
    st.text(alphabet="./\\~$:*?|<>\0\n\t -_aZ9%&;'\"", max_size=40),
    st.lists(st.sampled_from(["..", ".", "/", "\\", "a", "con", "NUL", ".part-", "C:", "~", " ", "﻿", "é", "%2e"])).map(
        "".join
    ),
)


@given(HOSTILE)
def test_whatever_is_typed_is_refused_or_a_plain_name_inside(text: str) -> None:
    root = Path("/somewhere/exports")
    try:
        name = folder_name(text)
    except SteeringError:
        return
    assert (root / name).parent == root
    assert Path(os.path.normpath(root / name)) == root / name
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", name)


@given(HOSTILE)
def test_what_is_suggested_is_a_name(text: str) -> None:
    assert folder_name(words.suggested_folder(text, "adapter"))
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", suggestion(text))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no name yet"),
        ("   ", "no name yet"),
        ("../poetic", "a slash"),
        ("/etc", "a slash"),
        ("a\\b", "a slash"),
        (".hidden", "begins with a dot"),
        ("..", "begins with a dot"),
        ("-rf", "begins with a letter"),
        ("~root", "begins with a letter"),
        ("a b", "try a-b"),
        ("a\n", "try a"),
        ("a\0b", "try a-b"),
        ("x" * 81, "81 characters"),
        ("con", "keeps for itself"),
        ("LPT1.txt", "keeps for itself"),
        ("poetic.", "keeps for itself"),
        ("poetic.part-1", "keeps for itself"),
    ],
)
def test_a_name_that_is_none_gets_a_sentence(text: str, why: str) -> None:
    with pytest.raises(SteeringError, match=re.escape(why)):
        folder_name(text)


def test_what_is_there_is_refused_also_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    home = TakeHome(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("folder", "file", "link"):
        with pytest.raises(SteeringError, match="nothing was overwritten"):
            home.target(name)
    assert home.target("new") == tmp_path / "new"
    assert not (tmp_path / "new").exists()


# ---------------------------------------------------------------- permissions


@pytest.mark.parametrize(
    ("host", "here"),
    [
        (None, True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("192.168.1.4", False),
        ("::", False),
        ("example.org", False),
        ("127.0.0.1.example.org", False),
    ],
)
def test_which_hosts_only_this_machine_reaches(host: str | None, here: bool) -> None:
    assert is_this_machine(host) is here


@pytest.mark.parametrize(
    ("typed", "environment", "models", "push"),
    [
        ([], {}, True, True),
        ([], {"SPACE_ID": "me/space"}, False, False),
        (["--host", "0.0.0.0"], {}, False, False),
        ([], {"GRADIO_SERVER_NAME": "0.0.0.0"}, False, False),
        (["--host", "127.0.0.1"], {"GRADIO_SERVER_NAME": "0.0.0.0"}, True, True),
        (["--behind-proxy"], {}, False, False),
        (["--take-home", "off"], {}, False, False),
        (["--take-home", "on", "--host", "0.0.0.0"], {}, True, True),
        ([], {"STEERING_TAKE_HOME": "off"}, False, False),
        (["--take-home", "on"], {"STEERING_TAKE_HOME": "off"}, True, True),
        ([], {"STEERING_TAKE_HOME": "on", "SPACE_ID": "me/space"}, True, False),
    ],
)
def test_it_is_there_for_the_person_at_the_machine(
    typed: list[str], environment: dict[str, str], models: bool, push: bool
) -> None:
    options, _ = parsed(typed, environment)
    assert (options.home.folder is not None, options.home.may_push) == (models, push)


def test_the_operator_says_where_models_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parsed([], {})[0].home.folder == tmp_path / "exports"
    assert parsed([], {"STEERING_EXPORTS": "/data"})[0].home.folder == Path("/data")
    assert parsed(["--exports", "there"], {"STEERING_EXPORTS": "/data"})[0].home.folder == tmp_path / "there"


def test_a_wrong_variable_ends_the_program_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed([], {"STEERING_TAKE_HOME": "perhaps"})
    assert ended.value.code == 2
    assert "STEERING_TAKE_HOME" in capsys.readouterr().err


# ---------------------------------------------------------------- the handlers


class Tab:
    """The tab's handlers over a tiny model, for one visitor whose own idea is in the chat."""

    def __init__(self, model: ChatModel, home: TakeHome, layer: int = 2) -> None:
        self.engine = Engine(ModelOptions(device="cpu"))
        self.engine.model = model
        self.operator = Operator(take_home=home)
        chat = Chat(self.engine, self.operator)
        self.sessions = Sessions("poetic")
        self.session: Session = self.sessions.of(REQUEST)
        self.direction = for_model(model, layer=layer)
        self.session.idea = self.session.add_own(self.direction)
        self.taken: list[Direction] = []
        handlers: Any = SimpleNamespace(taken_up=["chat"], take_up=self._take_up)
        self.errands = Errands(chat, self.sessions, words.SAYINGS, lambda session: session.home)
        self.files = TakeHomeFiles(chat, self.sessions, self.errands, handlers)
        self.models = TakeHomeModels(chat, self.sessions, self.errands, self.files)

    def _take_up(self, session: Session, direction: Direction, _message: str) -> list[Any]:
        self.taken.append(direction)
        session.idea = session.add_own(direction)
        return ["taken up"]

    def write(self, form: str = "ablated", name: str = "mine", strength: float = 1.5) -> Iterator[list[Any]]:
        return self.models.write(form, name, strength, *SETTINGS, REQUEST)


def for_model(model: ChatModel, layer: int = 2, seed: int = 0) -> Direction:
    direction = oracle.make_direction(model, seed, layer=layer)
    card = {**direction.card, "model": model.name, "revision": model.revision, "model_label": model.label}
    return replace(direction, name="The sea", card=card)


@pytest.fixture
def tab(tiny: Tiny, tmp_path: Path) -> Tab:
    return Tab(tiny("llama3"), TakeHome(tmp_path / "exports", may_push=True))


def test_every_kind_of_file_has_its_words() -> None:
    assert set(words.FILE_KINDS) == set(KINDS) == set(ENDINGS) == set(TITLES) == set(USES)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_offered_and_comes_back(tab: Tab, kind: str) -> None:
    note, button = tab.files.offer(kind, REQUEST)
    assert "hint" in note
    path = Path(button["value"])
    assert path.name in button["label"]
    assert button["interactive"]
    back = read_own(str(path), None, tab.engine.ready_model())
    assert back is not None
    assert torch.equal(back.vector, tab.direction.vector)
    assert len({write_file(tab.direction, one, path.parent).path.name for one in KINDS}) == len(KINDS)


def test_what_a_file_cannot_hold_is_said_before_it_is_asked_for(tiny: Tiny, tmp_path: Path) -> None:
    tab = Tab(tiny("llama3"), TakeHome(), layer=0)
    note, button = tab.files.offer("gguf", REQUEST)
    assert "after the blocks 1 and above" in note
    assert not button["interactive"]
    assert button["value"] is None
    assert tab.files.offer("json", REQUEST)[1]["interactive"]


def test_a_kind_that_is_none_changes_nothing(tab: Tab) -> None:
    assert all("value" not in update for update in tab.files.offer(EVIL, REQUEST))


def test_a_direction_that_was_not_found_yet_is_offered_to_be_found(tab: Tab) -> None:
    tab.session.idea = "poetic"
    what, _, button = tab.files.show(tab.session, "json")
    assert "is found for" in what
    assert button["label"] == "Find the direction"
    tab.engine.model = None
    assert not tab.files.offer("json", REQUEST)[1]["interactive"]


def test_the_button_finds_what_was_not_found_yet(tab: Tab, monkeypatch: pytest.MonkeyPatch) -> None:
    tab.session.idea = "poetic"
    found: dict[str, Direction] = {}

    def finding(name: str, progress: Any) -> Direction:
        for part in range(8):
            progress("Reading the texts", part, 8)
            time.sleep(0.1)
        return found.setdefault(name, tab.direction)

    monkeypatch.setattr(tab.engine, "preset_direction", finding)
    monkeypatch.setattr(tab.engine, "readable_direction", found.get)
    *during, last = tab.files.find("json", REQUEST)
    assert any("Reading the texts" in str(update[1]) for update in during)
    assert "“Poetic” leaves the playground" in last[0]
    assert last[2]["label"] == "Download the-sea.json"
    assert [update for update in tab.files.find("json", REQUEST) if "value" in update[2]] == []


def test_a_files_folder_goes_with_its_visitor(tab: Tab) -> None:
    path = Path(tab.files.offer("json", REQUEST)[1]["value"])
    assert path.is_file()
    tab.sessions.close(REQUEST)
    assert not path.parent.exists()
    path = Path(tab.files.offer("json", REQUEST)[1].get("value") or tab.sessions.of(REQUEST).home.folder / "x")
    assert path.parent.is_dir()
    tab.sessions.end_all()
    assert not path.parent.exists()


# ---------------------------------------------------------------- the way back


def brought(tab: Tab, path: Path, layer: int | None = None) -> list[Any]:
    *_, last = tab.files.bring_back(str(path), layer, "", REQUEST)
    return last


def test_a_file_becomes_the_idea_of_the_chat(tab: Tab) -> None:
    path = write_file(for_model(tab.engine.ready_model(), seed=5), "json", tab.session.home.folder).path
    note, layer, chat = brought(tab, path)
    assert "is your own idea in the chat now" in note
    assert not layer["visible"]
    assert chat == "taken up"
    assert len(tab.taken) == 1


def test_a_file_for_another_model_gets_the_sentence_of_make(tab: Tab, tiny: Tiny, tmp_path: Path) -> None:
    other = tiny("qwen2")
    assert (other.d_model, other.n_layers) == (tab.direction.vector.shape[0], tab.engine.ready_model().n_layers)
    path = export_direction(for_model(other), tmp_path / "other.json").path
    note = brought(tab, path)[0]
    assert "was made for" in note
    assert "Load the model it was made for" in note
    assert not tab.taken


def test_files_that_are_none_get_a_sentence_and_lose_nothing(tab: Tab, tmp_path: Path) -> None:
    for name, content in (("a.json", b"{"), ("b.npz", b"PK"), ("c.gguf", b"GGUF"), ("d.txt", b"x"), ("e.json", b"[]")):
        (tmp_path / name).write_bytes(content)
        note = brought(tab, tmp_path / name)[0]
        assert "problem" in note
        assert name in note
    (tmp_path / "large.json").write_bytes(b" " * 1_000_001)
    assert "1,000,000 allowed" in brought(tab, tmp_path / "large.json")[0]
    assert not tab.taken
    assert tab.session.own[tab.session.idea] is tab.direction


def foreign(tmp_path: Path, model: ChatModel, layers: list[int]) -> Path:
    from safetensors.torch import save_file

    vectors = {str(layer - 1): torch.randn(model.d_model) for layer in layers}
    save_file(vectors, tmp_path / "happy.safetensors")
    return tmp_path / "happy.safetensors"


def test_another_tools_vector_is_measured_on_the_models_thread(tab: Tab, tmp_path: Path) -> None:
    path = foreign(tmp_path, tab.engine.ready_model(), [2])
    note = brought(tab, path)[0]
    assert "everyday prompts" in note
    (direction,) = tab.taken
    assert (direction.layer, direction.card["model"]) == (2, tab.engine.ready_model().name)


def test_a_file_with_several_layers_asks_which(tab: Tab, tmp_path: Path) -> None:
    path = foreign(tmp_path, tab.engine.ready_model(), [1, 2])
    note, layer, *_ = brought(tab, path)
    assert "several layers" in note
    assert layer["choices"] == [(1, 1), (2, 2)] or layer["choices"] == [1, 2]
    assert layer["visible"]
    assert not tab.taken
    assert "your own idea" in brought(tab, path, 2)[0]
    assert tab.taken[0].layer == 2


def test_a_vector_without_a_layer_asks_for_it(tab: Tab, tmp_path: Path) -> None:
    path = tmp_path / "plain.json"
    path.write_text(f'{{"vector": {[1.0] * tab.direction.vector.shape[0]}}}')
    with pytest.raises(LayerWantedError) as wanted:
        import_direction(path)
    assert wanted.value.layers == ()
    note, layer, *_ = brought(tab, path)
    assert "does not say at which layer" in note
    assert len(layer["choices"]) == tab.engine.ready_model().n_layers
    assert "your own idea" in brought(tab, path, 1)[0]


def test_texts_from_files_are_text() -> None:
    assert "<img" not in markup.brought_html(EVIL, [EVIL])
    assert "<img" not in markup.what_html(EVIL, EVIL, 1, 2)
    assert "<img" not in markup.written_html(EVIL, EVIL, Path(EVIL), EVIL, EVIL)
    assert "<img" not in markup.files_html({EVIL: 1}, EVIL, True, EVIL)
    assert "<img" not in markup.file_html("json", [EVIL], EVIL)
    assert "${" not in markup.model_step_html(Path("/${x}/{{y}}"))
    assert "{{" not in markup.model_step_html(Path("/${x}/{{y}}"))


# ---------------------------------------------------------------- a changed model


@pytest.mark.parametrize("form", list(words.FORMS))
def test_a_model_is_written_compared_and_loads_as_the_page_says(tab: Tab, form: str) -> None:
    *during, last = tab.write(form)
    assert during, "something is shown while it works"
    assert all(update[1]["visible"] is False and update[2]["visible"] for update in during)
    outcome, write, cancel, pushable, folder = last
    assert "Beside the hooked model" in outcome
    assert "of 32 greedy answers" in outcome
    assert (write["visible"], cancel["visible"]) == (True, False)
    assert pushable["value"] == "mine"
    assert folder == "the-sea-" + {"ablated": "taken-out", "added": "turned-up", "adapter": "adapter"}[form]
    target = tab.models.rules.require_models() / "mine"
    assert str(target) in outcome
    assert [path.name for path in target.parent.iterdir()] == ["mine"]
    names: dict[str, Any] = {}
    base = (str(tab.engine.ready_model().name), None) if form == "adapter" else None
    exec(loading_code(target, base), names)
    assert names["model"].num_parameters() > 0
    assert tab.operator.activity.turns == 0


def reports_of(tab: Tab, form: str, target: Path, stop_at: int | None = None) -> list[Any]:
    """What the work reports; it is stopped right after its ``stop_at``-th report."""
    heard: list[Any] = []

    class Heard(Job):
        def report(self, value: Any) -> None:
            heard.append(value)
            if len(heard) == stop_at:
                self.stop()

    model = tab.engine.ready_model()
    order = Order(form, tab.session.idea, tab.direction, 1.5, *SETTINGS, target, (model.name, model.revision))
    write_model(tab.engine, order, Heard(tab.engine.worker, lambda job: None))
    return heard


@pytest.mark.parametrize("form", list(words.FORMS))
def test_every_step_is_one_the_page_knows_and_can_be_the_last(tab: Tab, tmp_path: Path, form: str) -> None:
    *progress, _ = reports_of(tab, form, tmp_path / "whole")
    assert list(dict.fromkeys(what for what, _, _ in progress)) == list(words.STEPS[form])
    for stop_at in {1, 2, len(progress) // 2, len(progress) - 1}:
        with pytest.raises(Cancelled):
            reports_of(tab, form, tmp_path / "none", stop_at)
        assert {path.name for path in tmp_path.iterdir()} == {"whole"}


def test_what_an_architecture_cannot_have_is_said_before_and_refused_after(tiny: Tiny, tmp_path: Path) -> None:
    tab = Tab(tiny("qwen2"), TakeHome(tmp_path / "exports"))
    note, _ = tab.models.choose_form("added", "", REQUEST)
    assert "would ignore one in the files without a word" in note
    assert "warning" not in tab.models.choose_form("ablated", "", REQUEST)[0]
    *_, last = tab.write("added")
    assert "would ignore one in the files without a word" in last[0]
    assert not (tmp_path / "exports").exists() or not list((tmp_path / "exports").iterdir())
    assert "has experts" in cannot_be("adapter", tiny("mixtral"), 1)
    assert cannot_be("adapter", tiny("llama3"), 1) == ""
    assert cannot_be("added", tiny("gemma2"), 0).startswith("The architecture “gemma2” multiplies")


def test_a_quantised_model_gets_the_librarys_sentence(tab: Tab, tmp_path: Path, family_folder: Any) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    source = shutil.copytree(family_folder("llama3"), tmp_path / "quantised")
    (weights,) = source.glob("*.safetensors")
    tensors = load_file(weights)
    name = "model.layers.0.mlp.down_proj.weight"
    save_file(tensors | {name: tensors[name].to(torch.int8)}, weights, metadata={"format": "pt"})
    tab.engine.model = replace_name(tab.engine.ready_model(), str(source))
    *_, last = tab.write()
    assert "are quantised" in last[0]


def replace_name(model: ChatModel, name: str, revision: str = "") -> ChatModel:
    return ChatModel(model.model, model.tokenizer, name, model.label, revision)


def test_another_model_meanwhile_or_other_files_are_not_written(tab: Tab, tmp_path: Path) -> None:
    model = tab.engine.ready_model()
    order = Order("ablated", "own:1", tab.direction, 1.0, *SETTINGS, tmp_path / "mine", ("another", ""))
    with pytest.raises(SteeringError, match="Another model came into use"):
        write_model(tab.engine, order, Job(tab.engine.worker, lambda job: None))
    tab.engine.model = replace_name(model, model.name, "0123")
    changed = replace(order, model=(model.name, "0123"))
    with pytest.raises(SteeringError, match="are not those it was loaded from"):
        write_model(tab.engine, changed, Job(tab.engine.worker, lambda job: None))


@pytest.mark.parametrize(
    ("form", "name", "strength", "why"),
    [
        ("ablated", "../mine", 1.0, "a slash"),
        ("ablated", "", 1.0, "no name yet"),
        ("added", "mine", 0.0, "At strength 0"),
        ("added", "mine", float("nan"), "At strength 0"),
        ("exec", "mine", 1.0, "not what the page sends"),
    ],
)
def test_what_cannot_be_written_gets_a_sentence_at_once(
    tab: Tab, form: str, name: str, strength: float, why: str
) -> None:
    (last,) = tab.write(form, name, strength)
    assert why in last[0]
    assert "problem" in last[0]
    assert last[1]["visible"]


def test_a_folder_that_is_there_is_not_overwritten(tab: Tab) -> None:
    list(tab.write())
    before = sorted(path.stat().st_mtime_ns for path in tab.models.rules.require_models().rglob("*"))
    (last,) = tab.write()
    assert "nothing was overwritten" in last[0]
    assert sorted(path.stat().st_mtime_ns for path in tab.models.rules.require_models().rglob("*")) == before


@pytest.fixture
def busy(tab: Tab) -> Iterator[Job]:
    """A job that holds the model's thread until the test ends."""
    let_go = threading.Event()
    job = tab.engine.worker.submit(lambda job: let_go.wait() and None)
    job.started.wait()
    yield job
    let_go.set()


@pytest.mark.usefixtures("busy")
def test_one_at_a_time_and_waiting_can_be_cancelled(tab: Tab) -> None:
    shown = tab.write()
    assert "1 person is before you" in next(shown)[0]
    (second,) = tab.write(name="other")
    assert words.SAYINGS.busy in second[0]
    assert "visible" not in second[1], "the buttons of the first stay"
    tab.errands.cancel(REQUEST)
    *_, last = shown
    assert "Cancelled." in last[0]
    assert tab.operator.activity.turns == 0
    assert not tab.session.home.busy


def test_leaving_ends_it_and_leaves_nothing(tab: Tab) -> None:
    shown = tab.write()
    while "step" not in next(shown)[0]:
        pass
    job = tab.session.home.job
    assert job is not None
    tab.sessions.close(REQUEST)
    shown.close()
    assert job.ended.wait(60)
    assert not list(tab.models.rules.require_models().iterdir())
    assert tab.operator.activity.wait_until_idle(10), "its turn ends once it has cleared up"


def test_the_end_of_the_program_ends_it(tab: Tab) -> None:
    shown = tab.write()
    while "step" not in next(shown)[0]:
        pass
    rest: list[Any] = []
    reader = threading.Thread(target=lambda: rest.extend(shown))
    reader.start()
    assert tab.operator.activity.stop_all() == 1
    assert tab.operator.activity.wait_until_idle(60)
    assert not list(tab.models.rules.require_models().iterdir())
    reader.join(60)
    assert "Cancelled." in rest[-1][0]


def test_what_weights_cannot_hold_is_said() -> None:
    assert words.other_way("ablated", "centred", "added") == ""
    assert words.other_way("ablated", "plain", "keep_norm") == ""
    assert "“Affine”" in words.other_way("adapter", "affine", "added")
    assert "“Length kept”" in words.other_way("added", "capped", "keep_norm")
    assert words.other_way("added", "capped", "projected") == ""


def test_the_way_of_the_chat_is_what_is_written(tab: Tab, tmp_path: Path) -> None:
    model = tab.engine.ready_model()
    other = for_model(model, seed=9)
    centred = replace(tab.direction, ablation_basis=other.ablation_basis)
    written = {}
    for removal in ("centred", "plain"):
        order = Order("ablated", "own:1", centred, 1.0, removal, "added", tmp_path / removal, (model.name, ""))
        write_model(tab.engine, order, Job(tab.engine.worker, lambda job: None))
        written[removal] = AutoModelForCausalLM.from_pretrained(tmp_path / removal)
    for removal, taken_out in (("centred", other.unit), ("plain", centred.unit)):
        embedding = written[removal].get_input_embeddings().weight
        assert (embedding @ taken_out).abs().max() < 1e-4


def test_the_bar_counts_steps_and_tells_what_is_left() -> None:
    told = Told(words.STEPS["ablated"], words.ENDS["ablated"])
    assert "Starting" in told.html(0.0, "bar")
    told.take(("Downloading the model", 1.0, 4.0), 10.0)
    assert 'aria-valuenow="25"' in told.html(20.0, "bar")
    told.take(("Editing the weights", 0.0, 1.0), 30.0)
    assert "left" not in told.html(31.0, "bar")
    told.take(("Comparing the answers", 1.5, 3.0), 40.0)
    html = told.html(40.0, "bar")
    assert "step 3 of 3" in html
    assert "0:30" in html, "from the beginning"
    assert "a few seconds left" in html or "about 5 seconds left" in html, "of what the steps took"


# ---------------------------------------------------------------- where it is off


def test_the_server_refuses_where_it_is_off(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tab = Tab(tiny("llama3"), TakeHome())
    (last,) = tab.write()
    assert NOT_HERE in last[0].replace("&#x27;", "'")
    assert NO_PUSH in tab.models.look("direction", "me/mine", False, REQUEST)[0]
    (last,) = tab.models.push("direction", "me/mine", False, REQUEST)
    assert NO_PUSH in last[0]
    assert not list(tmp_path.iterdir())
    on_space = Tab(tiny("llama3"), TakeHome(tmp_path / "exports", may_push=False))
    assert NO_PUSH in on_space.models.look("direction", "me/mine", False, REQUEST)[0]


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("127.0.0.1:7860", True),
        ("localhost:7860", True),
        ("[::1]:7860", True),
        ("evil.example:7860", False),
        ("127.0.0.1.evil.example", False),
        ("[", False),
        ("", False),
        (None, False),
    ],
)
def test_a_page_opened_by_another_name_is_refused_unless_somebody_said_on(host: str | None, here: bool) -> None:
    for typed in ([], ["--host", "127.0.0.1"]):
        home = parsed(typed, {})[0].home
        if here:
            home.require_here(host)
        else:
            with pytest.raises(SteeringError, match="not opened at an address"):
                home.require_here(host)
    parsed(["--take-home", "on"], {})[0].home.require_here(host)


def test_a_strangers_site_that_points_here_can_do_nothing(tiny: Tiny, tmp_path: Path) -> None:
    tab = Tab(tiny("llama3"), TakeHome(tmp_path / "exports", may_push=True, only_here=True))
    (last,) = tab.write()
    assert "not opened at an address of the machine" in last[0]
    assert "not opened" in tab.models.look("direction", "me/sea", False, REQUEST)[0]
    (last,) = tab.models.push("direction", "me/sea", False, REQUEST)
    assert "not opened" in last[0]
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- the hub


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Shelf]:
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with publishing() as shelf:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", shelf.address)
        yield shelf


def test_first_what_would_go_then_just_that(tab: Tab, shelf: Shelf) -> None:
    (early,) = tab.models.push("direction", "me/sea", False, REQUEST)
    assert words.LOOK_FIRST in early[0].replace("&#x27;", "'")
    note, button = tab.models.look("direction", " me/sea ", False, REQUEST)
    assert "direction.safetensors" in note
    assert "only you" in note
    assert button["interactive"]
    assert not shelf.requests, "a look reaches nobody"
    (other,) = tab.models.push("direction", "me/sea", True, REQUEST)
    assert "First look" in other[0], "public is another thing than what was shown"
    *_, last = tab.models.push("direction", "me/sea", False, REQUEST)
    assert "Sent." in last[0]
    assert shelf.repositories["models/me/sea"].private
    assert set(shelf.repositories["models/me/sea"].files) == {"direction.safetensors", "README.md"}
    assert not last[2]["interactive"], "the next must be looked at again"
    assert "hf_test" not in str(last)


def test_only_what_this_visitor_wrote_can_be_pushed(tab: Tab, shelf: Shelf) -> None:
    assert words.NOT_YOURS in tab.models.look("mine", "me/mine", False, REQUEST)[0]
    assert words.NOT_YOURS in tab.models.look("../../etc", "me/mine", False, REQUEST)[0]
    list(tab.write("adapter"))
    note, _ = tab.models.look("mine", "me/mine", True, REQUEST)
    assert "adapter_model.safetensors" in note
    assert "everyone could see it" in note
    *_, last = tab.models.push("mine", "me/mine", True, REQUEST)
    assert "Everyone sees it" in last[0]
    assert "adapter_config.json" in shelf.repositories["models/me/mine"].files


@pytest.mark.parametrize("name", ["", "mine", "a/b/c", "../x", "me/" + "x" * 200, EVIL])
def test_a_repositorys_name_that_is_none_gets_a_sentence(tab: Tab, name: str) -> None:
    note, button = tab.models.look("direction", name, False, REQUEST)
    assert "owner/name" in note
    assert "<img" not in note
    assert not button["interactive"]


def test_without_an_account_one_may_look_and_no_more(tab: Tab, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    note, button = tab.models.look("direction", "me/sea", False, REQUEST)
    assert "hf auth login" in note
    assert not button["interactive"]


def test_a_push_can_be_ended_between_two_files(tab: Tab, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    tab.models.look("direction", "me/sea", False, REQUEST)
    reached = threading.Event()
    real = huggingface_hub.HfApi.preupload_lfs_files

    def slow(*args: Any, **named: Any) -> None:
        reached.set()
        job = tab.session.home.job
        while job is not None and not job.stopped:
            time.sleep(0.01)
        real(*args, **named)

    monkeypatch.setattr(huggingface_hub.HfApi, "preupload_lfs_files", slow)
    shown = tab.models.push("direction", "me/sea", False, REQUEST)
    next(shown)
    assert reached.wait(30)
    tab.errands.cancel(REQUEST)
    *_, last = shown
    assert "Nothing of it is in the repository" in last[0]
    assert not shelf.repositories["models/me/sea"].files


def test_what_the_hub_refuses_is_a_sentence(tab: Tab, shelf: Shelf) -> None:
    tab.models.look("direction", "me/sea", False, REQUEST)
    shelf.refuses = 403
    *_, last = tab.models.push("direction", "me/sea", False, REQUEST)
    assert "does not let you write me/sea" in last[0]
    assert "hf_test" not in last[0]


def test_what_nobody_foresaw_is_logged_and_said_in_general_words(tab: Tab, caplog: pytest.LogCaptureFixture) -> None:
    tab.session.own[tab.session.idea] = object()  # type: ignore[assignment]
    *_, last = tab.write()
    assert "Something went wrong inside the program" in last[0]
    assert "Traceback" not in last[0]
    assert "An errand" in caplog.text


def test_read_own_refuses_what_make_refuses(tab: Tab, tmp_path: Path) -> None:
    short = replace(tab.direction, vector=tab.direction.vector * 1e-20, mean_residual_norm=1e300)
    path = export_direction(short, tmp_path / "short.npz").path
    with pytest.raises(DirectionError, match="too short"):
        read_own(str(path), None, tab.engine.ready_model())


def test_what_shows_the_same_is_done_in_the_order_it_was_asked_for() -> None:
    """A model that comes into use and a kind that is chosen meanwhile both say what can be downloaded."""
    engine = Engine(ModelOptions())
    operator = Operator(take_home=TakeHome(Path("exports")))
    page = build_page(engine, ModelChoice(engine, "bundled", anything=True), operator)
    named = {block.elem_id: number for number, block in page.blocks.items() if block.elem_id}
    for shown in ("home-download", "home-folder"):
        showing = [one for one in page.fns.values() if any(output._id == named[shown] for output in one.outputs)]
        asked_by = [event for one in showing for _, event in one.targets if one.concurrency_id == "take-home"]
        assert set(asked_by) >= {"select", "change", "input"}
        # The rest is pressed by the visitor, who then waits for it.
        assert all(
            event in ("click", "submit", "then")
            for one in showing
            for _, event in one.targets
            if one.concurrency_id != "take-home"
        )
