"""Named data sets: fetched once from hosts on this machine, found by hand, sampled alike, refused in words."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import hub_server
import pytest

from steering.errors import Cancelled, SteeringError
from steering.named_set_files import NamedFile
from steering.named_sets import SETS, NamedSet, datasets_folder, load_held_out, load_named, load_prompts, load_set

# A few harmless rows in the format of each set's real file.
CSVS = {
    "jailbreakbench": "Index,Goal,Target,Behavior,Category,Source\n0,Bake a pie,Here is,Pie,Food,Original\n"
    '1,"Plant, and water, a tree",Here is,Tree,Garden,Original\n',
    "harmbench": "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID\n"
    "Sing a song,standard,music,,,song\nName the author,contextual,books,context,A book,author\n"
    "Hum a tune,standard,music,,,tune\nRecite a poem,copyright,books,,,poem\n",
    "advbench": "goal,target\nFold a kite,Sure\n Fold a kite ,Sure\nWalk a dog,Sure\n",
    "xstest": "id,prompt,type,label,focus,note\n1,How do I kill time?,homonyms,safe,time,\n"
    "2,How do I lose a game?,contrast_homonyms,unsafe,game,\n",
}
ALPACA = [
    {"instruction": "Name three colours.", "input": "", "output": "Red."},
    {"instruction": "Add the numbers.", "input": "1 and 2", "output": "3"},
    {"instruction": "Describe a lake.", "input": " ", "output": "Blue."},
]


def written(folder: Path, name: str, content: bytes | None = None) -> bytes:
    """Made-up content of a set's file under its real name."""
    if content is None:
        content = json.dumps(ALPACA).encode() if name == "alpaca" else CSVS[name].encode()
    folder.mkdir(parents=True, exist_ok=True)
    for file in SETS[name].sides.values():
        (folder / file.name).write_bytes(content)
    return content


def pinned_to(content: bytes, chosen: NamedSet, endpoint: str) -> NamedSet:
    """The set, as if this were its content, at a host on this machine."""
    sha256 = hashlib.sha256(content).hexdigest()
    sides = {side: replace(file, sha256=sha256) for side, file in chosen.sides.items()}
    return replace(chosen, sides=sides, repository=replace(chosen.repository, endpoint=endpoint))


@contextmanager
def raw_files(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve a folder as it is; gives the address and the paths asked for so far."""
    asked: list[str] = []

    class Files(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(folder))  # type: ignore[arg-type]

        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Files)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_what_comes_with_the_project_says_so() -> None:
    harmful, text = load_held_out("harmful", n=5), load_held_out("text")
    assert len(harmful.prompts) == 5
    assert harmful.label == "held-out requests, harmful: 5 of 64, seed 0; written for this project, Apache-2.0"
    assert set(load_held_out("harmful", n=3).prompts) < set(harmful.prompts)
    assert len(text.text.split()) > 1_000
    assert "written for this project" in text.label


def test_every_set_is_pinned_and_says_what_it_is() -> None:
    assert set(SETS) == {"jailbreakbench", "harmbench", "advbench", "alpaca", "xstest", "pile"}
    for chosen in SETS.values():
        assert re.fullmatch("[0-9a-f]{40}", chosen.repository.revision)
        assert chosen.repository.revision in chosen.repository.page
        assert chosen.licence
        assert chosen.about.endswith(".")
        for file in chosen.sides.values():
            assert re.fullmatch("[0-9a-f]{64}", file.sha256)
            assert f"/{chosen.repository.revision}/{file.path}" in chosen.repository.address(file.path)


@pytest.mark.parametrize(
    ("name", "side", "expected"),
    [
        ("harmbench", "harmful", {"Sing a song", "Hum a tune"}),
        ("advbench", "harmful", {"Fold a kite", "Walk a dog"}),
        ("xstest", "harmless", {"How do I kill time?"}),
        ("xstest", "harmful", {"How do I lose a game?"}),
        ("alpaca", "harmless", {"Name three colours.", "Describe a lake."}),
    ],
)
def test_a_set_of_github_is_fetched_once(name: str, side: str, expected: set[str], tmp_path: Path) -> None:
    repository, file = SETS[name].repository, SETS[name].sides[side]
    at_host = tmp_path / "host" / repository.name / repository.revision / Path(file.path).parent
    content = written(at_host, name)
    heard: list[float] = []
    with raw_files(tmp_path / "host") as (endpoint, asked):
        chosen = pinned_to(content, SETS[name], endpoint)
        data = load_set(
            chosen, side=side, folder=tmp_path / "kept", progress=lambda what, done, total: heard.append(done / total)
        )
        assert len(asked) == 1
        assert load_set(chosen, side=side, folder=tmp_path / "kept") == data
        assert len(asked) == 1
    assert set(data.prompts) == expected
    assert len(data.prompts) == len(expected)
    assert (data.revision, data.licence) == (repository.revision, SETS[name].licence)
    assert repository.revision[:10] in data.label
    assert data.licence in data.label
    assert (heard[0], heard[-1]) == (0, 1)
    assert [path.name for path in (tmp_path / "kept" / name).iterdir()] == [file.name]


@pytest.mark.parametrize("name", ["jailbreakbench", "pile"])
def test_a_set_of_the_hub_is_fetched_once(name: str, tmp_path: Path) -> None:
    if name == "pile":
        pyarrow = pytest.importorskip("pyarrow")
        table = pyarrow.table({"text": ["A lake.", "A hill.\nA tree."], "meta": [{"pile_set_name": "Books"}] * 2})
        import pyarrow.parquet

        pyarrow.parquet.write_table(table, tmp_path / "table.parquet")
        content = written(tmp_path / "host", name, (tmp_path / "table.parquet").read_bytes())
    else:
        content = written(tmp_path / "host", name)
    repository = SETS[name].repository
    with hub_server.serving({f"datasets/{repository.name}": tmp_path / "host"}) as (endpoint, sent):
        chosen = pinned_to(content, SETS[name], endpoint)
        chosen = replace(chosen, repository=replace(chosen.repository, revision=hub_server.COMMIT))
        data = load_set(chosen, folder=tmp_path / "kept")
        assert load_set(chosen, folder=tmp_path / "kept") == data
    assert len(sent) == 1
    assert data.revision == hub_server.COMMIT
    if name == "pile":
        assert sorted(data.prompts) == ["A hill.\nA tree.", "A lake."]
        assert data.text == "\n\n".join(data.prompts)
    else:
        assert sorted(data.prompts) == ["Bake a pie", "Plant, and water, a tree"]


def test_a_set_that_cannot_be_reached_says_what_to_put_where_and_is_then_read_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEERING_DATASETS", str(tmp_path))
    closed = "http://127.0.0.1:9"  # the port at which nothing listens
    for name in ("advbench", "jailbreakbench"):
        chosen = pinned_to(b"", SETS[name], closed)
        file = next(iter(chosen.sides.values()))
        with pytest.raises(SteeringError) as caught:
            load_set(chosen)
        sentence = str(caught.value)
        assert sentence.startswith(f"{chosen.title} cannot be fetched from {closed}/")
        assert chosen.repository.revision in sentence
        assert "cannot be reached" in sentence
        assert sentence.endswith(f"put that file at {tmp_path / name / file.name}.")
        assert "\n" not in sentence
        written(tmp_path / name, name)
        data = load_set(chosen)
        assert data.revision == ""
        assert "a file of your own, not the pinned one" in data.label
        assert len(data.prompts) == 2


def test_a_file_put_there_that_is_the_pinned_one_counts_as_it(tmp_path: Path) -> None:
    chosen = pinned_to(written(tmp_path / "xstest", "xstest"), SETS["xstest"], "http://127.0.0.1:9")
    assert load_set(chosen, folder=tmp_path).revision == chosen.repository.revision


def test_what_a_host_refuses_or_sends_wrongly_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    with raw_files(tmp_path / "host") as (endpoint, _):
        with pytest.raises(SteeringError, match=r"AdvBench cannot be fetched .*it is not there"):
            load_set(pinned_to(b"", SETS["advbench"], endpoint), folder=tmp_path / "kept")
        repository, file = SETS["advbench"].repository, SETS["advbench"].sides["harmful"]
        written(tmp_path / "host" / repository.name / repository.revision / Path(file.path).parent, "advbench")
        with pytest.raises(SteeringError, match="what arrived is not the pinned file"):
            load_set(pinned_to(b"else", SETS["advbench"], endpoint), folder=tmp_path / "kept")

        def cancel(what: str, done: float, total: float) -> None:
            raise Cancelled("Stopped.")

        with pytest.raises(Cancelled):
            load_set(pinned_to(b"", SETS["advbench"], endpoint), folder=tmp_path / "kept", progress=cancel)
    with hub_server.serving({}) as (endpoint, _):
        with pytest.raises(SteeringError, match=r"JailbreakBench cannot be fetched .*it is not there"):
            load_set(pinned_to(b"", SETS["jailbreakbench"], endpoint), folder=tmp_path / "kept")
        gated = pinned_to(b"", SETS["jailbreakbench"], endpoint)
        gated = replace(gated, repository=replace(gated.repository, name="some/gated"))
        with pytest.raises(SteeringError, match=r"access is refused there \(status 403\)"):
            load_set(gated, folder=tmp_path / "kept")
    assert not [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("advbench", "", r"harmful_behaviors.csv is empty"),
        ("advbench", "goal,target\n", r"advbench/harmful_behaviors.csv holds no texts in the column “goal”"),
        ("advbench", "prompt,target\nA,B\n", r"harmful_behaviors.csv has no column “goal”, but prompt, target"),
        ("advbench", 'goal,target\nA,B\n"C,D\n', r"harmful_behaviors.csv is torn after row 2"),
        ("harmbench", "Behavior,FunctionalCategory\nA,standard\nB\n", r"Row 3 of .*no text in the column “Functional"),
        ("harmbench", "Behavior,FunctionalCategory\nA,contextual\n", r"no texts .* with “standard” in “FunctionalCat"),
        ("alpaca", '[{"instruction": "A", "inp', r"alpaca_data.json is torn or no JSON"),
        ("alpaca", '{"instruction": "A"}', r"alpaca_data.json is no list of objects"),
        ("alpaca", '[{"instruction": "A"}]', r"alpaca_data.json has no column “input”"),
        ("alpaca", '[{"instruction": "A", "input": ""}, {"input": ""}]', r"Row 2 of .*column “instruction”"),
        ("alpaca", "[]", r"alpaca_data.json holds no texts"),
        ("pile", "PAR1 and then nothing", r"parquet is torn or no Parquet table"),
    ],
)
def test_a_damaged_file_is_a_sentence_with_file_and_place(
    name: str, content: str, sentence: str, tmp_path: Path
) -> None:
    if name == "pile":
        pytest.importorskip("pyarrow")
    written(tmp_path / name, name, content.encode())
    with pytest.raises(SteeringError, match=sentence):
        load_named(name, folder=tmp_path)


def test_a_sample_is_the_same_every_time_and_holds_the_smaller_ones(tmp_path: Path) -> None:
    written(
        tmp_path / "advbench", "advbench", "goal,target\n{}".format("".join(f"Task {i},\n" for i in range(50))).encode()
    )
    ten, twenty = (load_named("advbench", n=n, seed=3, folder=tmp_path) for n in (10, 20))
    assert ten == load_named("advbench", n=10, seed=3, folder=tmp_path)
    assert ten.prompts == twenty.prompts[:10]
    # Written down, so that no version of Python draws others unseen.
    assert ten.prompts[:3] == ["Task 15", "Task 37", "Task 34"]
    other = load_named("advbench", n=10, seed=4, folder=tmp_path)
    assert set(other.prompts) != set(ten.prompts)
    assert len({ten.sha256, twenty.sha256, other.sha256}) == 3
    assert ten.label.startswith("AdvBench, harmful: 10 of 50, seed 3; ")
    assert len(load_named("advbench", n=1_000, folder=tmp_path).prompts) == 50
    with pytest.raises(SteeringError, match="at least 1"):
        load_named("advbench", n=0, folder=tmp_path)


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SteeringError, match=r"no data set “nonsense”. There are advbench, alpaca, harmbench"):
        load_named("nonsense")
    with pytest.raises(SteeringError, match="AdvBench has no harmless side, but harmful"):
        load_named("advbench", side="harmless", folder=tmp_path)


def test_sets_are_kept_in_the_cache_unless_said_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STEERING_DATASETS", raising=False)
    monkeypatch.setenv("STEERING_CACHE", str(tmp_path))
    assert datasets_folder() == tmp_path / "datasets"


def test_a_file_of_ones_own_gives_its_prompts(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("Bake a pie\n\nSing a song\nBake a pie\n")
    data = load_prompts(tmp_path / "mine.txt", n=5, seed=1)
    assert sorted(data.prompts) == ["Bake a pie", "Sing a song"]
    assert (data.revision, data.licence) == ("", "")
    assert data.label == "mine.txt: 2 of 2, seed 1; a file of your own"
    rows = [{"text": "A", "label": "harmful"}, {"instruction": "B", "label": "negative"}, {"text": "C"}]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert sorted(load_prompts(tmp_path / "mine.jsonl").prompts) == ["A", "B", "C"]
    assert sorted(load_prompts(tmp_path / "mine.jsonl", side="harmful").prompts) == ["A", "C"]
    assert sorted(load_prompts(tmp_path / "mine.jsonl", side="harmless").prompts) == ["B", "C"]
    (tmp_path / "mine.csv").write_text("text,label\nA,harmful\n")
    with pytest.raises(SteeringError, match=r"mine.csv holds no harmless prompts"):
        load_prompts(tmp_path / "mine.csv", side="harmless")
    (tmp_path / "chat.jsonl").write_text('{"text": "A", "system": "B"}')
    with pytest.raises(SteeringError, match=r"Row 1 of chat.jsonl has several messages"):
        load_prompts(tmp_path / "chat.jsonl")
    with pytest.raises(SteeringError, match=r"no file nothing.txt"):
        load_prompts(tmp_path / "nothing.txt")


def test_a_parquet_table_without_the_library_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    from steering.named_set_files import texts_of

    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SteeringError, match="pip install pyarrow"):
        texts_of(tmp_path / "table.parquet", NamedFile("table.parquet", "text", ""))
