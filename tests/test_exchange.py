"""Directions to other tools' files and back: nothing lost on the way, and what is foreign is made whole."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from gguf import GGUFReader, GGUFWriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from steering.cli import main
from steering.direction import Direction
from steering.errors import DirectionError, SteeringError
from steering.exchange import KINDS, export_direction, import_direction
from steering.exchange_document import LARGEST_FILE
from steering.exchange_foreign import EVERYDAY, ForeignVectors, as_ranges, foreign_direction
from steering.exchange_gguf import ControlVector, write_control_vector
from steering.exchange_tools import as_repeng, from_repeng, from_steering_vector, to_repeng, to_steering_vector
from steering.models import ChatModel
from steering.neutral_means import NeutralMeans

WIDTH, DEPTH = 12, 5
ENDINGS = {
    "safetensors": "safetensors",
    "json": "json",
    "npz": "npz",
    "gguf": "gguf",
    "repeng": "gguf",
    "steering-vectors": "safetensors",
}


def direction(layer: int = 3, rank: int = 1, **changes: Any) -> Direction:
    generator = torch.Generator().manual_seed(layer)
    axes = torch.linalg.qr(torch.randn(WIDTH, 3, generator=generator)).Q.T.contiguous()
    card = {
        "model_label": "Tiny",
        "n_layers": DEPTH,
        "d_model": WIDTH,
        "data": "sea",
        "note": "“é” 🧭",
        "list": [1, 0.1],
    }
    return Direction(
        **{
            "vector": torch.randn(WIDTH, generator=generator) * 7,
            "ablation_basis": axes[:rank].clone(),
            "layer": layer,
            "position": -2,
            "mean_residual_norm": 31.4159265358979,
            "name": "Sea — and boats",
            "card": card,
            "neutral": NeutralMeans(axes, torch.randn(DEPTH, 3, generator=generator)),
            **changes,
        }
    )


def same(one: Direction, other: Direction) -> bool:
    tensors = all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("vector", "ablation_basis"))
    if (one.neutral is None) != (other.neutral is None):
        return False
    if one.neutral is not None and other.neutral is not None:
        tensors &= torch.equal(one.neutral.axes, other.neutral.axes)
        tensors &= torch.equal(one.neutral.components, other.neutral.components)
    rest = [
        (d.layer, d.position, d.mean_residual_norm, d.name, {k: v for k, v in d.card.items() if k != "norm"})
        for d in (one, other)
    ]
    return tensors and rest[0] == rest[1]


def exported(kind: str, folder: Path, one: Direction | None = None) -> Path:
    return export_direction(one or direction(), folder / f"file.{ENDINGS[kind]}", kind).path


# --- there and back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("with_neutral", [True, False])
def test_nothing_is_lost(kind: str, rank: int, with_neutral: bool, tmp_path: Path) -> None:
    one = direction(rank=rank) if with_neutral else direction(rank=rank, neutral=None)
    path = exported(kind, tmp_path, one)
    imported = import_direction(path)
    assert imported.notes == ()
    assert same(imported.direction, one)
    assert same(import_direction(path, kind, layer=3).direction, one)
    assert imported.direction.vector.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
@given(
    numbers=st.lists(
        st.floats(width=32, min_value=-(2.0**60), max_value=2.0**60), min_size=WIDTH, max_size=WIDTH
    ).filter(lambda numbers: max(map(abs, numbers)) > 1e-3),
    norm=st.floats(min_value=1e-300, max_value=1e300),
    name=st.text(st.characters(exclude_categories=["Cs"]), max_size=80),
    layer=st.integers(2, DEPTH - 1),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_bit_comes_back(
    kind: str, numbers: list[float], norm: float, name: str, layer: int, tmp_path: Path
) -> None:
    one = direction(layer, vector=torch.tensor(numbers), mean_residual_norm=norm, name=name)
    assert same(import_direction(exported(kind, tmp_path, one)).direction, one)


@pytest.mark.parametrize("kind", ["json", "npz", "gguf", "repeng", "steering-vectors"])
def test_a_card_with_numbers_that_are_not_finite_says_so(kind: str, tmp_path: Path) -> None:
    one = direction(card={"scores": {"kl": float("nan"), "bypass": 1.0}})
    made = export_direction(one, tmp_path / f"file.{ENDINGS[kind]}", kind)
    assert any("not finite (1)" in note for note in made.notes)
    assert import_direction(made.path).direction.card == {"scores": {"kl": None, "bypass": 1.0}}


def test_the_ending_says_the_kind(tmp_path: Path) -> None:
    for ending, kind in (("json", "json"), ("npz", "npz"), ("gguf", "gguf"), ("safetensors", "safetensors")):
        assert export_direction(direction(), tmp_path / f"a.{ending}").kind == kind
    with pytest.raises(DirectionError, match=r"ending of a\.pt does not say.*Choose one of safetensors"):
        export_direction(direction(), tmp_path / "a.pt")
    with pytest.raises(DirectionError, match="no kind “pickle”"):
        import_direction(tmp_path / "a.json", "pickle")


def test_json_is_plain(tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    one = direction()
    read = json.loads(exported("json", tmp_path, one).read_text(encoding="utf-8"), parse_constant=refuse)
    assert read["layer"] == 3
    assert np.array_equal(np.array(read["vector"], dtype=np.float32), one.vector.numpy())
    assert np.shape(read["neutral_components"]) == (DEPTH, 3)


def test_npz_needs_no_pickle(tmp_path: Path) -> None:
    one = direction()
    with np.load(exported("npz", tmp_path, one), allow_pickle=False) as arrays:
        assert np.array_equal(arrays["vector"], one.vector.numpy())
        assert json.loads(str(arrays["about"]))["layer"] == 3


# --- what other tools find in the files ------------------------------------------------------------------------------


def test_llama_cpp_finds_one_tensor_at_the_block_before(tmp_path: Path) -> None:
    """Its loader refuses any tensor but ``direction.N``, N ≥ 1, float32, of one dimension."""
    one = direction(layer=3)
    reader = GGUFReader(exported("gguf", tmp_path, one))
    (tensor,) = reader.tensors
    assert (tensor.name, tensor.tensor_type.name, tensor.shape.tolist()) == ("direction.2", "F32", [WIDTH])
    assert np.array_equal(tensor.data, one.vector.numpy())
    fields = {name: bytes(field.parts[-1]) for name, field in reader.fields.items()}
    assert fields["general.architecture"] == b"controlvector"
    assert fields["controlvector.model_hint"] == b"Tiny"
    assert fields["controlvector.layer_count"] == struct.pack("<I", 1)


@pytest.mark.parametrize(
    ("kind", "layer", "words"),
    [
        ("gguf", 0, r"from layer 2 on\. Export it as json, npz or safetensors"),
        ("gguf", 1, r"from layer 2 on\. Export it as repeng or steering-vectors, which hold layer 1, or json"),
        ("repeng", 0, r"from layer 1 on\. Export it as json"),
        ("steering-vectors", 0, r"from layer 1 on\. Export it as json"),
    ],
)
def test_layers_that_a_tool_cannot_reach_are_refused(kind: str, layer: int, words: str, tmp_path: Path) -> None:
    with pytest.raises(DirectionError, match=words):
        exported(kind, tmp_path, direction(layer))
    assert not list(tmp_path.iterdir())
    if layer == 1:
        for other in ("repeng", "steering-vectors"):
            assert import_direction(exported(other, tmp_path, direction(layer))).direction.layer == 1


def test_a_tool_is_told_how_to_use_it_and_what_it_does_not_see(tmp_path: Path) -> None:
    one = direction(card={"strength": {"start": 1.25}})
    for kind in ("gguf", "repeng", "steering-vectors"):
        use, unseen = export_direction(one, tmp_path / f"a.{ENDINGS[kind]}", kind).notes
        assert "is the coefficient here; 1.25 is a useful one" in use
        assert "the centred direction" in unseen
    assert "ControlModel(model, [2])" in export_direction(one, tmp_path / "a.gguf", "repeng").notes[0]


def test_steering_vectors_are_made_from_the_file_as_the_note_says(tmp_path: Path) -> None:
    one = direction(layer=4)
    loaded = {int(k): v for k, v in load_file(exported("steering-vectors", tmp_path, one)).items()}
    assert list(loaded) == [3]
    assert torch.equal(loaded[3], one.vector)


# --- foreign vectors ------------------------------------------------------------------------------------------------


def foreign_gguf(path: Path, blocks: dict[int, Any], **more: Any) -> Path:
    writer = GGUFWriter(path, more.get("arch", "controlvector"))
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", len(blocks))
    writer.add_array("some.words", ["a", "b"])
    writer.add_array("some.numbers", [1.5, 2.5])
    for block, vector in blocks.items():
        writer.add_tensor(more.get("name", "direction.{}").format(block), vector)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def vectors(*blocks: int, width: int = 64) -> dict[int, np.ndarray[Any, np.dtype[np.float32]]]:
    return {block: np.linspace(1, 2 + block, width, dtype=np.float32) for block in blocks}


def test_of_several_layers_one_must_be_chosen(tmp_path: Path) -> None:
    path = foreign_gguf(tmp_path / "happy.gguf", vectors(1, 2, 3, 7))
    with pytest.raises(DirectionError, match=r"layers 2 to 4, 8\. Say which: layer=N \(--layer N\)"):
        import_direction(path)
    with pytest.raises(DirectionError, match=r"no vector for layer 5, but for 2 to 4, 8"):
        import_direction(path, layer=5)
    found = import_direction(path, layer=4)
    one = found.direction
    assert torch.equal(one.vector, torch.from_numpy(vectors(3)[3]))
    assert (one.layer, one.position, one.name) == (4, -1, "happy")
    torch.testing.assert_close(one.ablation_basis, one.unit[None])
    assert one.mean_residual_norm == pytest.approx(one.norm)
    assert one.card["model_hint"] == "llama"
    assert one.card["source"] == "a GGUF control vector"
    assert "stands in" in one.card["mean_residual_norm"]
    assert any("a dose is counted in the vector's own length" in note for note in found.notes)


def test_the_only_layer_is_taken(tmp_path: Path) -> None:
    assert import_direction(foreign_gguf(tmp_path / "a.gguf", vectors(0))).direction.layer == 1


def test_with_a_model_the_usual_length_is_measured(tiny: Callable[[str], ChatModel], tmp_path: Path) -> None:
    chat = tiny("llama3")
    path = foreign_gguf(tmp_path / "a.gguf", vectors(0, 1, 2))
    with pytest.raises(DirectionError, match=r"layers 1 to 2\."):  # what its last block gives enters no other
        import_direction(path, model=chat)
    found = import_direction(path, layer=2, model=chat)
    prompts = [chat.encode([{"role": "user", "content": text}]) for text in EVERYDAY]
    lengths = [float(oracle.hidden_states(chat, prompt)[2, -1].norm()) for prompt in prompts]
    assert found.direction.mean_residual_norm == pytest.approx(np.mean(lengths), rel=1e-4)
    assert found.direction.card["mean_residual_norm"] == f"measured over {len(EVERYDAY)} everyday prompts"
    assert found.direction.card["n_layers"] == chat.n_layers
    found.direction.require_fit(chat)
    with pytest.raises(DirectionError, match=r"vectors of width 32; .* has width 64"):
        import_direction(foreign_gguf(tmp_path / "b.gguf", vectors(1, width=32)), model=chat)


def test_a_direction_for_another_model_is_refused(tiny: Callable[[str], ChatModel], tmp_path: Path) -> None:
    with pytest.raises(DirectionError, match=f"model of width {WIDTH} with {DEPTH} layers"):
        import_direction(exported("json", tmp_path), model=tiny("llama3"))
    with pytest.raises(DirectionError, match=r"layer 3 and none of layer 2"):
        import_direction(exported("json", tmp_path), layer=2)


@pytest.mark.parametrize("kind", ["json", "npz"])
def test_a_bare_vector_needs_a_layer(kind: str, tmp_path: Path) -> None:
    path, vector = tmp_path / f"bare.{kind}", [3.0, 4.0]
    if kind == "json":
        path.write_text(json.dumps({"vector": vector}))
    else:
        np.savez(path, vector=np.array(vector))
    with pytest.raises(DirectionError, match="does not say at which layer"):
        import_direction(path)
    one = import_direction(path, layer=0).direction
    assert (one.layer, one.norm, one.unit.tolist()) == (0, 5.0, pytest.approx([0.6, 0.8]))


def test_steering_vectors_in_half_precision_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({str(n): torch.full((8,), n + 1.0, dtype=torch.bfloat16) for n in (4, 10)}, path)
    assert import_direction(path, layer=11).direction.vector.tolist() == [11.0] * 8
    save_file({"4": torch.ones(8)}, path, metadata={"layer_type": "mlp"})
    with pytest.raises(DirectionError, match="acts on “mlp”"):
        import_direction(path)
    save_file({"lm_head.weight": torch.ones(8, 8)}, path)
    with pytest.raises(DirectionError, match="not named by numbers of blocks"):
        import_direction(path)


def test_a_direction_is_the_callers_own() -> None:
    vector = np.ones(4, dtype=np.float32)
    one = foreign_direction(ForeignVectors({3: vector}, "an array", "mine")).direction
    vector[0] = 99
    assert one.vector.tolist() == [1.0] * 4


def test_ranges_in_words() -> None:
    assert as_ranges([1, 2, 3, 7, 9, 10]) == "1 to 3, 7, 9 to 10"
    assert as_ranges(list(range(0, 60, 2))).endswith("18 and others")


# --- objects of other tools -----------------------------------------------------------------------------------------


def test_repeng_without_repeng() -> None:
    one = direction()
    model_type, directions = as_repeng(one)
    assert model_type == "Tiny"
    assert list(directions) == [2]
    back = from_repeng((model_type, directions)).direction
    assert torch.equal(back.vector, one.vector)
    assert back.layer == one.layer
    directions[2][0] = 99
    assert one.vector[0] != 99  # the caller's own
    with pytest.raises(DirectionError, match="does not hold vectors by blocks"):
        from_repeng(("", {"first": directions[2]}))


@pytest.mark.parametrize(("package", "make"), [("repeng", to_repeng), ("steering_vectors", to_steering_vector)])
def test_a_package_that_is_missing_is_a_sentence(
    package: str, make: Callable[[Direction], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(SteeringError, match=f"Install it: pip install {package.replace('_', '-')}"):
        make(direction())


def installed(package: str) -> Any:
    """The package, or the test is skipped: repeng 0.4, for one, cannot be imported beside NumPy 2."""
    try:
        return import_module(package)
    except Exception as error:
        pytest.skip(f"{package} cannot be imported here: {error}")


@pytest.fixture
def hf(bundled_float32: ChatModel) -> tuple[ChatModel, torch.Tensor, torch.Tensor, Direction]:
    """The bundled model, a prompt, its logits with a direction added here at 1.5, and the direction."""
    from steering.interventions import Steering, Variant

    chat = bundled_float32
    one = Direction.load(Path(__file__).parent.parent / "presets/directions/poetic.safetensors")
    ids = torch.tensor([chat.encode([{"role": "user", "content": "Tell me about rivers."}])])
    steering = Steering(chat, [Variant.added(one, 1.5)])
    with torch.inference_mode(), steering.applied():
        return chat, ids, chat.model(ids, use_cache=False).logits, one


def test_repeng_gives_our_logits(hf: Any, tmp_path: Path) -> None:
    repeng = installed("repeng")
    chat, ids, logits, one = hf
    wrapped = repeng.ControlModel(chat.model, [one.layer - 1])
    try:
        from_file = repeng.ControlVector.import_gguf(exported("repeng", tmp_path, one))
        for vector in (to_repeng(one), from_file):
            wrapped.set_control(vector, 1.5)
            with torch.inference_mode():
                torch.testing.assert_close(wrapped(ids, use_cache=False).logits, logits, atol=1e-3, rtol=1e-4)
    finally:
        wrapped.unwrap()
    from_file.export_gguf(tmp_path / "theirs.gguf")  # theirs drops what it does not know
    foreign = import_direction(tmp_path / "theirs.gguf")
    assert foreign.notes
    assert torch.equal(foreign.direction.vector, one.vector)
    assert foreign.direction.layer == one.layer
    theirs = from_repeng(from_file).direction
    from_file.directions[one.layer - 1] = from_file.directions[one.layer - 1] * 0
    assert torch.equal(theirs.vector, one.vector)
    assert from_repeng(to_repeng(one)).direction.layer == one.layer


def test_steering_vectors_gives_our_logits(hf: Any, tmp_path: Path) -> None:
    steering_vector = installed("steering_vectors").SteeringVector
    chat, ids, logits, one = hf
    loaded = load_file(exported("steering-vectors", tmp_path, one))
    for vector in (to_steering_vector(one), steering_vector({int(k): v for k, v in loaded.items()})):
        with vector.apply(chat.model, multiplier=1.5), torch.inference_mode():
            torch.testing.assert_close(chat.model(ids, use_cache=False).logits, logits, atol=1e-3, rtol=1e-4)
        assert torch.equal(from_steering_vector(vector).direction.vector, one.vector)


# --- hostile files --------------------------------------------------------------------------------------------------


def outcome(path: Path, kind: str) -> Direction | None:
    """A direction that is whole, or None for a sentence; anything else fails the test."""
    try:
        found = import_direction(path, kind).direction
    except DirectionError as error:
        sentence = str(error)
    else:
        sentence = ""
    if sentence:
        assert sentence.endswith(".")
        assert len(sentence) < 700
        return None
    replace(found)  # checks again all that a direction must be
    assert found.layer >= 0
    assert torch.isfinite(found.unit).all()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_anywhere_is_refused(kind: str, tmp_path: Path) -> None:
    path = exported(kind, tmp_path, direction(neutral=None, card={}))
    whole = path.read_bytes()
    ends_with_padding = len(whole) - 32 if kind in ("gguf", "repeng") else len(whole) - 1
    for end in range(0, len(whole)):
        path.write_bytes(whole[:end])
        assert outcome(path, kind) is None or end >= ends_with_padding


@pytest.mark.parametrize("kind", KINDS)
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_changed_bytes_give_a_direction_or_a_sentence(
    kind: str, changes: list[tuple[int, int]], tmp_path: Path
) -> None:
    path = exported(kind, tmp_path)
    data = bytearray(path.read_bytes())
    for place, value in changes:
        data[place % len(data)] = value
    path.write_bytes(bytes(data))
    outcome(path, kind)


@pytest.mark.parametrize("kind", KINDS)
@given(changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=3))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_changed_headers_give_a_direction_or_a_sentence(
    kind: str, changes: list[tuple[int, int]], tmp_path: Path
) -> None:
    test_changed_bytes_give_a_direction_or_a_sentence.hypothesis.inner_test(kind, changes, tmp_path)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.binary(max_size=200))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_noise_is_refused(kind: str, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "noise"
    for start in (b"", b"GGUF\x03\0\0\0", b"PK\x03\x04", b"{"):
        path.write_bytes(start + data)
        assert outcome(path, kind) is None


def gguf_header(tensors: int, keys: int, rest: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + rest


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


ARCHITECTURE = text(b"general.architecture") + struct.pack("<I", 8) + text(b"controlvector")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (gguf_header(2**63, 0), "9,223,372,036,854,775,808 tensors"),
        (gguf_header(0, 2**64 - 1), "18,446,744,073,709,551,615 keys"),
        (gguf_header(0, 1, struct.pack("<Q", 2**62)), "ends too early"),
        (gguf_header(0, 1, text(b"a") + struct.pack("<IIQ", 9, 4, 2**61)), "ends too early"),
        (gguf_header(0, 1, text(b"a") + struct.pack("<IIQ", 9, 8, 2**61)), "ends too early"),
        (gguf_header(0, 1, text(b"a") + struct.pack("<IIQ", 9, 9, 1)), "list holds values of type 9"),
        (gguf_header(0, 1, text(b"a") + struct.pack("<I", 77)), "unknown type 77"),
        (gguf_header(1, 1, ARCHITECTURE + text(b"direction.1") + struct.pack("<I", 2**31)), "dimensions"),
        (
            gguf_header(1, 1, ARCHITECTURE + text(b"direction.1") + struct.pack("<IQIQ", 1, 2**62, 0, 0)),
            "ends too early",
        ),
        (gguf_header(0, 1, ARCHITECTURE), "no direction"),
        (gguf_header(0, 0, version=1), "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "little-endian"),
    ],
)
def test_absurd_gguf_files(data: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(data)
    with pytest.raises(DirectionError, match=words):
        import_direction(path)


@pytest.mark.parametrize(
    ("blocks", "more", "words"),
    [
        ({1: np.ones(8, dtype=np.float16)}, {}, "not in float32"),
        ({1: np.ones((2, 8), dtype=np.float32)}, {}, r"shape \[8, 2\]"),
        ({1: np.ones(8, dtype=np.float32), 2: np.ones(9, dtype=np.float32)}, {}, "different widths"),
        (vectors(1), {"name": "blk.{}.weight"}, "none of a control vector"),
        (vectors(1), {"arch": "llama"}, "it may be a model"),
        ({1: np.full(8, np.nan, dtype=np.float32)}, {}, "finite numbers"),
        ({1: np.full(8, 3e38, dtype=np.float32)}, {}, None),
        ({1: np.zeros(8, dtype=np.float32)}, {}, "not all zero"),
    ],
)
def test_gguf_files_that_are_no_control_vector(
    blocks: dict[int, Any], more: dict[str, str], words: str | None, tmp_path: Path
) -> None:
    with pytest.raises(DirectionError, match=words):
        import_direction(foreign_gguf(tmp_path / "a.gguf", blocks, **more))


def test_what_stands_beside_must_fit_the_vector(tmp_path: Path) -> None:
    one = direction()
    exported("gguf", tmp_path, one)
    own = (GGUFReader(tmp_path / "file.gguf").fields["steering.direction"]).parts[-1]
    words = bytes(own).decode()
    write_control_vector(tmp_path / "b.gguf", ControlVector("", {2: np.ones(WIDTH + 1, dtype=np.float32)}, words))
    with pytest.raises(DirectionError, match="vector of shape"):
        import_direction(tmp_path / "b.gguf")
    write_control_vector(tmp_path / "b.gguf", ControlVector("", {3: np.ones(WIDTH, dtype=np.float32)}, words))
    with pytest.raises(DirectionError, match="cannot be read as a direction"):
        import_direction(tmp_path / "b.gguf")


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("[" * 10_000 + "]" * 10_000, "cannot be read as JSON"),
        ('{"a":' * 10_000 + "1" + "}" * 10_000, "cannot be read as JSON"),
        ("[" + "[]," * 200_000 + "[]]", "far more lists"),
        ("[1, 2]", "no object"),
        ('{"vector": [1, 2], "layer": ' + "9" * 5000 + "}", "cannot be read as JSON"),
        ('{"vector": [1, "2"], "layer": 1}', "something else"),
        ('{"vector": [1, true], "layer": 1}', "something else"),
        ('{"vector": [1, 1e999], "layer": 1}', "finite numbers"),
        ('{"vector": [1, NaN], "layer": 1}', "finite numbers"),
        ('{"vector": [[1, 2], [3]], "layer": 1}', "cannot be read"),
        ('{"vector": [], "layer": 1}', r"\[d_model\]"),
        ('{"vector": [1, 2], "layer": 1.5}', "not a whole number"),
        ('{"vector": [1, 2], "layer": -1}', "no vector for a layer"),
        ('{"vector": [1, 2], "layer": 1000000000}', "no vector for a layer"),
        ('{"format": "steering-direction", "version": 2}', "version 2"),
        ('{"format": "steering-direction", "version": 1}', "cannot be read as a direction"),
        ("\ufeff{}", "does not say that it is a direction"),
    ],
)
def test_hostile_json(written: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(written, encoding="utf-8")
    with pytest.raises(DirectionError, match=words):
        import_direction(path)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("layer", 5, "layers 0 to 4"),
        ("layer", -1, "layer -1"),
        ("position", 1, "position 1"),
        ("mean_residual_norm", 0, "mean residual norm"),
        ("mean_residual_norm", "long", "not a number"),
        ("card", [], "card has no entries"),
        ("name", 5, "name is no text"),
        ("name", "\ud800", "cannot be read as a direction"),
        ("ablation_basis", [[1.0] * WIDTH], "not orthonormal"),
        ("ablation_basis", [[1.0]], "shape"),
        ("neutral_axes", [[1.0, 0.0]], "neutral means"),
        ("vector", [3e38] * WIDTH, "not finite"),
    ],
)
def test_our_own_json_with_a_wrong_part(name: str, value: Any, words: str, tmp_path: Path) -> None:
    path = exported("json", tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {name: value}))
    with pytest.raises(DirectionError, match=words):
        import_direction(path)


def npy(header: str) -> bytes:
    words = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(words)) + words


def write_zip(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_npz_in_a_compression_that_may_ask_for_gigabytes_is_refused(tmp_path: Path) -> None:
    data = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }") + bytes(4) + struct.pack("<f", 1)
    path = write_zip(tmp_path / "a.npz", {"vector.npy": data}, zipfile.ZIP_LZMA)
    with pytest.raises(DirectionError, match="compressed in a way"):
        import_direction(path, layer=1)
    assert import_direction(write_zip(path, {"vector.npy": data}), layer=1).direction.norm == 1


def test_a_file_name_that_is_no_text_becomes_one(tmp_path: Path) -> None:
    path = foreign_gguf(tmp_path / "a\udcff.gguf", vectors(1))
    one = import_direction(path).direction
    assert one.name == "a?"
    assert Direction.load(one.save(tmp_path / "b.safetensors")).name == "a?"


def test_npz_with_pickles_is_refused(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "unpickled",))

    for value in (np.array([Bomb()], dtype=object), np.array(Bomb(), dtype=object)):
        np.savez(tmp_path / "a.npz", vector=value)
        with pytest.raises(DirectionError, match="values of type object"):
            import_direction(tmp_path / "a.npz", layer=1)
    assert not (tmp_path / "unpickled").exists()


def test_npz_bombs_are_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.npz", {"vector.npy": bytes(LARGEST_FILE + 1)})
    assert path.stat().st_size < 100_000
    with pytest.raises(DirectionError, match="unpacked it is larger"):
        import_direction(path)
    huge = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }")
    with pytest.raises(DirectionError, match="not as large as it says"):
        import_direction(write_zip(path, {"vector.npy": huge + bytes(8)}), layer=1)
    # A member that says it is small and is not: no more is unpacked than it says.
    written = write_zip(path, {"vector.npy": bytes(1_000_000)}).read_bytes()
    path.write_bytes(written.replace(struct.pack("<I", 1_000_000), struct.pack("<I", 200)))
    assert outcome(path, "npz") is None


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }",
        "{'descr': '<i4', 'fortran_order': False, 'shape': (2,), }",
        "{'descr': '|V8', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '<U0', 'fortran_order': False, 'shape': (100000000000,), }",
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1, 1), }",
        "[" * 110,
        "",
    ],
)
def test_npz_with_wrong_headers(header: str, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.npz", {"vector.npy": npy(header) + bytes(8)})
    with pytest.raises(DirectionError):
        import_direction(path, layer=1)


def test_npz_in_columns_and_other_floats_is_read(tmp_path: Path) -> None:
    one = direction()
    with np.load(exported("npz", tmp_path, one)) as arrays:
        turned = {name: np.asfortranarray(arrays[name]) for name in arrays.files}
    turned["vector"] = turned["vector"].astype(">f8")
    np.savez(tmp_path / "b.npz", **turned)
    assert same(import_direction(tmp_path / "b.npz").direction, one)


def test_hostile_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for length in (2 * 2**30, 2**63, 2**64 - 1):
        path.write_bytes(struct.pack("<Q", length) + b"{}")
        with pytest.raises(DirectionError):
            import_direction(path)
    save_file({"3": torch.ones(8, dtype=torch.int32)}, path)
    with pytest.raises(DirectionError, match="no floating-point numbers"):
        import_direction(path)
    save_file({"3": torch.ones(8)}, path, metadata={"steering.direction": "[" * 10_000})
    with pytest.raises(DirectionError, match="cannot be read as a direction"):
        import_direction(path)


@pytest.mark.parametrize("kind", KINDS)
def test_too_large_a_file_is_not_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    with path.open("wb") as file:
        file.truncate(2**36)  # a sparse file: reading it would take 64 GB
    with pytest.raises(DirectionError, match="65,536 MB; a direction has 32 at most"):
        import_direction(path, kind)
    with pytest.raises(DirectionError, match="There is no file"):
        import_direction(tmp_path / "missing", kind)
    with pytest.raises(DirectionError, match="There is no file"):
        import_direction(tmp_path, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_place_that_cannot_be_written_is_a_sentence(kind: str, tmp_path: Path) -> None:
    with pytest.raises(DirectionError, match=r"cannot be written.*Choose another place"):
        export_direction(direction(), tmp_path / "no folder" / "file", kind)


# --- the command line -----------------------------------------------------------------------------------------------


def test_export_and_import_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine, vector, back = tmp_path / "mine.safetensors", tmp_path / "mine.gguf", tmp_path / "back.safetensors"
    direction().save(mine)
    assert main(["export", "--direction", str(mine), "--to", "gguf", "--out", str(vector)]) == 0
    output = capsys.readouterr().out
    assert "kind: gguf" in output
    assert "\n  Not seen by llama.cpp" in output
    assert main(["import", str(vector), "--out", str(back), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["layer"], result["notes"], result["file"]) == (3, [], str(back))
    assert same(Direction.load(back), direction())
    assert main(["export", "--direction", "poetic", "--out", str(tmp_path / "poetic.json")]) == 0
    shipped = Direction.load(Path(__file__).parent.parent / "presets/directions/poetic.safetensors")
    assert same(import_direction(tmp_path / "poetic.json").direction, shipped)


def test_mistakes_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    several = foreign_gguf(tmp_path / "several.gguf", vectors(1, 2))
    for arguments, words in (
        (["export", "--direction", "poetic"], "--out FILE"),
        (["export", "--direction", "poetic", "--out", str(tmp_path / "a.pt")], "does not say what kind"),
        (["import", str(several)], "layers 2 to 3"),
        (["import", str(tmp_path / "missing.gguf")], "There is no file"),
        (["import", str(several), "--layer", "2", "--out", str(tmp_path / "no" / "a")], "cannot be written"),
    ):
        assert main(arguments) == 2
        assert words in capsys.readouterr().err
    direction().save(tmp_path / "several.safetensors")
    assert main(["import", str(several), "--layer", "2"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert same(Direction.load(tmp_path / "several.safetensors"), direction())


def test_import_measures_only_with_a_model(
    family_folder: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = foreign_gguf(tmp_path / "a.gguf", vectors(1))
    model = ["--model", str(family_folder("llama3")), "--device", "cpu", "--dtype", "float32", "--quiet"]
    out = ["--out", str(tmp_path / "a.safetensors"), "--json"]
    assert main(["import", str(path), *out]) == 0
    bare = json.loads(capsys.readouterr().out)
    assert bare["mean_residual_norm"] == pytest.approx(bare["norm"])
    assert main(["import", str(path), *model, *out]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["mean_residual_norm"] != pytest.approx(bare["norm"])
    assert "everyday prompts" in measured["notes"][-1]


@pytest.mark.parametrize("kind", ["json", "npz", "gguf", "steering-vectors", "safetensors"])
def test_what_could_not_be_written_leaves_what_was_there(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that is full after all: the file of before stays, and no part of the new one."""
    direction = Direction.load(Path(__file__).parent.parent / "presets" / "directions" / "poetic.safetensors")
    path = tmp_path / "mine"
    path.write_text("of before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises((DirectionError, OSError), match="No space left"):
        export_direction(direction, path, kind)
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]
    assert path.read_text() == "of before"
