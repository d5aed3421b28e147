"""Interventions against an oracle in float64 that knows the models' modules by itself, on every family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import oracle
import pytest
import torch
from families import FAMILIES
from torch import Tensor

from steering.directions import Direction
from steering.errors import DirectionError
from steering.interventions import Ablation, Addition, Dial, Steering, Variant
from steering.models import ChatModel, load_model

Tiny = Callable[[str], ChatModel]
QUESTION = [{"role": "user", "content": "Why is the sky blue?"}]


@torch.inference_mode()
def steered(chat: ChatModel, ids: Sequence[int], steering: Steering, rows: int) -> Tensor:
    """Logits of every token of the same prompt in ``rows`` rows, float ``[rows, tokens, vocabulary]``."""
    with steering.applied():
        return chat.model(input_ids=torch.tensor([list(ids)] * rows), use_cache=False).logits


@torch.inference_mode()
def plain(chat: ChatModel, ids: Sequence[int], rows: int = 1) -> Tensor:
    return chat.model(input_ids=torch.tensor([list(ids)] * rows), use_cache=False).logits


Expected = tuple[Variant, dict[int, Tensor], Tensor | None]


def cases(chat: ChatModel, ids: Sequence[int]) -> list[Expected]:
    """Variants, each with what it adds before which block and what it takes out."""
    last = chat.n_layers - 1
    first, second = oracle.make_direction(chat, 1, layer=1), oracle.make_direction(chat, 2, layer=last)
    wide, entry = oracle.make_direction(chat, 3, layer=1, rank=4), oracle.make_direction(chat, 4, layer=0)
    strong = oracle.strong_direction(chat, ids)
    middle = torch.nn.functional.normalize(first.unit + second.unit, dim=0)
    tilted = replace(first, vector=middle, ablation_basis=middle[None])
    assert 0.5 < float(tilted.unit @ first.unit) < 0.9  # far from orthogonal, far from equal
    centred = replace(first, ablation_basis=second.unit[None])
    return [
        (Variant.baseline(), {}, None),
        (Variant.ablated(first), {}, first.vector[None]),
        (Variant.ablated(strong), {}, strong.vector[None]),
        (Variant.ablated(wide), {}, wide.ablation_basis),
        (Variant.ablated(centred), {}, second.vector[None]),
        (Variant.added(first), {1: first.vector}, None),
        (Variant.added(second, -1.5), {last: -1.5 * second.vector}, None),
        (Variant.added(entry, 0.5), {0: 0.5 * entry.vector}, None),
        (Variant.added(centred, 2.0), {1: 2 * first.vector}, None),
        (Variant("both", [Ablation(first), Ablation(tilted)]), {}, torch.stack([first.vector, tilted.vector])),
        (Variant("twice", [Ablation(first), Ablation(first)]), {}, first.vector[None]),
        (
            Variant("mixed", [Addition(second, 1.5), Ablation(wide), Addition(strong, 0.5)]),
            {last: 1.5 * second.vector, 1: 0.5 * strong.vector},
            wide.ablation_basis,
        ),
        (
            Variant("summed", [Addition(first), Addition(strong, -0.5)]),
            {1: first.vector - 0.5 * strong.vector},
            None,
        ),
        (Variant("undone", [Addition(first), Ablation(first)]), {1: first.vector}, first.vector[None]),
    ]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_variant_equals_the_oracle_as_a_row_of_one_batch(name: str, tiny: Tiny) -> None:
    chat = tiny(name)
    ids = chat.encode(QUESTION)
    expected = cases(chat, ids)
    found = steered(chat, ids, Steering(chat, [variant for variant, _, _ in expected]), len(expected))
    twin = oracle.float64_twin(chat.model)
    baseline = plain(chat, ids)[0]
    for row, (variant, added, removed) in enumerate(expected):
        with torch.no_grad(), oracle.by_hand(twin, name, added, removed):
            logits = twin(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
        assert logits.dtype == torch.float64
        torch.testing.assert_close(
            found[row].double(), logits, atol=1e-4, rtol=1e-4, msg=lambda text, v=variant: f"{v.name}: {text}"
        )
        if variant.interventions:
            assert (found[row] - baseline).abs().max() > 0.1, f"{variant.name} did nothing"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_variant_alone_is_the_variant_in_a_batch(name: str, tiny: Tiny) -> None:
    chat = tiny(name)
    ids = chat.encode(QUESTION)
    expected = cases(chat, ids)
    together = steered(chat, ids, Steering(chat, [variant for variant, _, _ in expected]), len(expected))
    for row, (variant, _, _) in enumerate(expected):
        alone = steered(chat, ids, Steering(chat, [variant]), 1)
        torch.testing.assert_close(alone[0], together[row], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_neighbour_changes_no_bit(name: str, tiny: Tiny) -> None:
    chat = tiny(name)
    ids = chat.encode(QUESTION)
    first, wide = oracle.make_direction(chat, 1), oracle.make_direction(chat, 2, rank=3)
    variants = [Variant.baseline(), Variant.ablated(wide), Variant.added(first, 3.0), Variant.baseline("again")]
    found = steered(chat, ids, Steering(chat, variants), 4)
    expected = plain(chat, ids, rows=4)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[3], expected[3])
    assert not torch.equal(found[1], expected[1])


@pytest.mark.parametrize("name", FAMILIES)
def test_coefficient_zero_changes_no_bit(name: str, tiny: Tiny) -> None:
    chat = tiny(name)
    ids = chat.encode(QUESTION)
    first = oracle.make_direction(chat, 1)
    variants = [Variant.added(first, 0.0), Variant.added(first, 1.0), Variant("-0", [Addition(first, Dial(0.0))])]
    found = steered(chat, ids, Steering(chat, variants), 3)
    expected = plain(chat, ids, rows=3)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[2], expected[2])


# In bfloat16 the stream itself is rounded to 8 bits, after every ablation too; no x in it can be closer than that.
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-8)])
@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_of_an_ablated_direction_is_left(
    name: str, dtype: torch.dtype, bound: float, tiny: Tiny, family_folder: Callable
) -> None:
    chat = tiny(name)
    ids = chat.encode(QUESTION)
    strong, wide = oracle.strong_direction(chat, ids), oracle.make_direction(chat, 5, rank=3)
    if dtype != torch.float32:
        chat = load_model(str(family_folder(name)), device="cpu", dtype=dtype)
    variants = [
        Variant.ablated(strong),
        Variant("pushed back", [Ablation(strong), Addition(strong, 2.0)]),
        Variant("wide", [Ablation(wide), Ablation(strong)]),
    ]
    steering = Steering(chat, variants)
    with torch.inference_mode(), steering.applied(), oracle.watched(chat.model) as seen:
        chat.model(input_ids=torch.tensor([ids] * 3), use_cache=False)
    assert len(seen) == chat.n_layers + 1  # and the stream behind the last block
    for stream in seen:
        unit_stream = torch.nn.functional.normalize(stream.double(), dim=-1)
        assert (unit_stream @ strong.unit.double()).abs().max() < bound
        assert (unit_stream[2] @ wide.ablation_basis.double().T).norm(dim=-1).max() < bound
    assert steering.cosines().abs().max() < bound
    with oracle.watched(chat.model) as untouched:
        plain(chat, ids)
    assert (torch.nn.functional.normalize(untouched[1].double(), dim=-1) @ strong.unit.double()).abs().max() > 0.9


@pytest.mark.parametrize("name", FAMILIES)
def test_what_lies_along_an_ablated_direction_cannot_matter(name: str, tiny: Tiny) -> None:
    """Independent of any list of modules: with r taken out, moving every embedding along r moves no logit."""
    chat = tiny(name)
    ids = chat.encode(QUESTION)
    direction = oracle.make_direction(chat, 6)
    noise = torch.randn(len(ids), 1, generator=torch.Generator().manual_seed(0))

    def moved(module: torch.nn.Module, args: tuple, output: Tensor) -> Tensor:
        return output + noise * direction.vector

    steering = Steering(chat, [Variant.ablated(direction)])
    still = steered(chat, ids, steering, 1)
    handle = oracle.parts(chat.model).embedding.register_forward_hook(moved)
    try:
        assert (plain(chat, ids) - steered(chat, ids, Steering(chat, [Variant.baseline()]), 1)).abs().max() < 1e-5
        shaken = steered(chat, ids, steering, 1)
        shaken_plain = plain(chat, ids)
    finally:
        handle.remove()
    torch.testing.assert_close(shaken, still, atol=2e-4, rtol=1e-4)
    assert (shaken_plain - plain(chat, ids)).abs().max() > 0.05


@pytest.mark.parametrize("name", FAMILIES)
def test_cosines_of_one_pass_equal_those_of_the_stream(name: str, tiny: Tiny) -> None:
    chat = tiny(name)
    ids = chat.encode(QUESTION)
    direction = oracle.make_direction(chat, 7, layer=chat.n_layers - 1)
    steering = Steering(chat, [Variant.baseline(), Variant.added(direction, 2.0)])
    steered(chat, ids, steering, 2)
    twin = oracle.float64_twin(chat.model)
    unit = direction.unit.double()
    streams = [oracle.hidden_states(chat, ids)[:, -1]]
    with torch.no_grad(), oracle.by_hand(twin, name, {direction.layer: 2 * direction.vector}, None):
        with oracle.watched(twin) as seen:
            twin(input_ids=torch.tensor([ids]), use_cache=False)
        streams.append(torch.stack([stream[0, -1] for stream in seen[:-1]]))
    expected = torch.stack([stream @ unit / stream.norm(dim=-1) for stream in streams])
    found = steering.cosines()
    assert found.shape == (2, chat.n_layers)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=0)
    assert found[1, -1] > found[0, -1] + 0.1  # what was added is seen at its own layer


def test_cosines_with_a_basis_are_the_part_inside_it(tiny: Tiny) -> None:
    chat = tiny("llama3")
    ids = chat.encode(QUESTION)
    wide = oracle.make_direction(chat, 8, rank=3)
    steering = Steering(chat, [Variant.baseline()], probe=wide)
    steered(chat, ids, steering, 1)
    stream = oracle.hidden_states(chat, ids)[:, -1]
    expected = (stream @ wide.ablation_basis.double().T).norm(dim=-1) / stream.norm(dim=-1)
    torch.testing.assert_close(steering.cosines()[0].double(), expected, atol=1e-4, rtol=0)


def test_the_probe_may_differ_from_what_is_steered(tiny: Tiny) -> None:
    chat = tiny("qwen2")
    ids = chat.encode(QUESTION)
    steer, probe = oracle.make_direction(chat, 1), oracle.make_direction(chat, 2)
    steering = Steering(chat, [Variant.baseline(), Variant.ablated(steer)], probe=probe)
    steered(chat, ids, steering, 2)
    stream = oracle.hidden_states(chat, ids)[:, -1]
    expected = stream @ probe.unit.double() / stream.norm(dim=-1)
    torch.testing.assert_close(steering.cosines()[0].double(), expected, atol=1e-4, rtol=0)


def test_without_a_direction_cosines_are_zero(tiny: Tiny) -> None:
    chat = tiny("llama2")
    steering = Steering(chat, [Variant.baseline(), Variant.baseline()])
    steered(chat, chat.encode(QUESTION), steering, 2)
    assert torch.equal(steering.cosines(), torch.zeros(2, chat.n_layers))


def test_a_float64_model_is_steered_in_float64(tiny: Tiny) -> None:
    chat = tiny("gpt-neox")  # its LayerNorm computes in the stream's own type
    ids = chat.encode(QUESTION)
    twin = oracle.float64_twin(chat.model)
    exact = ChatModel(twin, chat.tokenizer, chat.name, chat.label)
    direction = oracle.make_direction(chat, 1)
    found = steered(exact, ids, Steering(exact, [Variant("x", [Ablation(direction), Addition(direction, 2.0)])]), 1)
    span = direction.vector[None]
    with torch.no_grad(), oracle.by_hand(twin, "gpt-neox", {1: 2 * direction.vector}, span):
        expected = twin(input_ids=torch.tensor([ids]), use_cache=False).logits
    assert found.dtype == torch.float64
    assert (found - expected).abs().max() < 1e-5


def test_a_dial_is_read_anew_at_every_pass(tiny: Tiny) -> None:
    chat = tiny("llama3")
    ids = chat.encode(QUESTION)
    direction = oracle.make_direction(chat, 1)
    dial = Dial(0.0)
    steering = Steering(chat, [Variant.added(direction, dial), Variant.added(direction, 1.0)])
    for value in (0.0, 1.0, -2.5, 0.0, 1.0):
        dial.value = value
        fixed = Steering(chat, [Variant.added(direction, value), Variant.added(direction, 1.0)])
        assert torch.equal(steered(chat, ids, steering, 2), steered(chat, ids, fixed, 2))


def test_a_dose_is_a_length_relative_to_the_streams(tiny: Tiny) -> None:
    direction = oracle.make_direction(tiny("llama3"), 1, length=4.0)  # mean residual norm 8
    addition = Addition.from_dose(direction, 0.75)
    assert addition.strength * direction.norm == pytest.approx(0.75 * 8.0)


def test_opposite_ablations_are_one(tiny: Tiny) -> None:
    chat = tiny("llama3")
    ids = chat.encode(QUESTION)
    direction = oracle.make_direction(chat, 1)
    opposite = replace(direction, vector=-direction.vector, ablation_basis=-direction.ablation_basis)
    nearly = replace(direction, ablation_basis=torch.nn.functional.normalize(direction.ablation_basis + 1e-9))
    twice = Variant("twice", [Ablation(direction), Ablation(opposite), Ablation(nearly)])
    found = steered(chat, ids, Steering(chat, [twice, Variant.ablated(direction)]), 2)
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt(), MemoryError(), GeneratorExit()])
@pytest.mark.parametrize("name", FAMILIES)
def test_an_exception_in_the_middle_of_a_pass_leaves_no_hook(name: str, error: BaseException, tiny: Tiny) -> None:
    chat = tiny(name)
    ids = chat.encode(QUESTION)
    direction = oracle.make_direction(chat, 1)
    steering = Steering(chat, [Variant.ablated(direction)])
    expected = plain(chat, ids)
    steered_before = steered(chat, ids, steering, 1)

    def fail(*_: object) -> None:
        raise error

    handle = oracle.parts(chat.model).blocks[1].register_forward_hook(fail)
    try:
        with pytest.raises(type(error)):
            steered(chat, ids, steering, 1)
    finally:
        handle.remove()
    assert oracle.count_hooks(chat.model) == 0
    assert torch.equal(plain(chat, ids), expected)
    assert torch.equal(steered(chat, ids, steering, 1), steered_before)  # and the same steering works again


@pytest.mark.parametrize(
    ("width", "layers", "layer"),
    [(32, 3, 1), (64, 4, 1), (64, 3, 3), (64, 3, -1)],
)
def test_a_direction_that_does_not_fit_is_refused_with_both_numbers(
    width: int, layers: int, layer: int, tiny: Tiny
) -> None:
    chat = tiny("llama3")
    vector = torch.ones(width)
    direction = Direction(vector, (vector / vector.norm())[None], layer, -1, 1.0, "odd", {"n_layers": layers})
    for arguments in (
        {"variants": [Variant.ablated(direction)]},
        {"variants": [Variant.baseline()], "probe": direction},
    ):
        with pytest.raises(DirectionError, match=rf"width {width} with {layers} layers.*width 64 and 3 layers"):
            Steering(chat, **arguments)


def test_only_the_newest_tokens_are_kept_after_a_pass(tiny: Tiny) -> None:
    """The cosines need one token a row; the whole prompt's stream of every layer would be hundreds of megabytes."""
    chat = tiny("llama3")
    ids = chat.encode(QUESTION) * 4
    steering = Steering(chat, [Variant.ablated(oracle.make_direction(chat, 1))])
    steered(chat, ids, steering, 1)
    kept = sum(tensor.untyped_storage().nbytes() for tensor in steering._newest)
    assert kept == chat.n_layers * chat.d_model * 4
