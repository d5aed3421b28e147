"""Affine ablation, capping and additions that keep the norm, against an oracle in float64 that takes one row at a time.

The oracle knows the negative side's whole mean activations and writes every formula out with them; the engine knows
only what a direction's file keeps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import oracle
import pytest
import torch
from families import FAMILIES
from torch import Tensor, nn

from steering.activations import RESPONSE
from steering.contrast import ContrastSet, Example
from steering.decoders import NewRow
from steering.directions import Direction, difference_in_means
from steering.errors import DirectionError, SteeringError
from steering.generation import stream_side_by_side
from steering.interventions import Ablation, Addition, AffineAblation, Capping, Dial, Intervention, Steering, Variant
from steering.models import ChatModel, load_model
from steering.module_decoder import ModuleDecoder
from steering.neutral_means import NeutralMeans

Tiny = Callable[[str], ChatModel]
Formula = Callable[[Tensor], Tensor]
QUESTIONS = ("Why is the sky blue?", "Sea?", "Tell me about a boat with a red sail, please.")


@dataclass(frozen=True)
class Known:
    """A direction, and the whole means, float64 ``[n_layers, d_model]``, of which it keeps a part."""

    direction: Direction
    means: Tensor


def known(chat: ChatModel, seed: int, layer: int = 1, rank: int = 1, centred: bool = False) -> Known:
    """A random direction, with random means on its other side, so that the tiny models' stream lies above them."""
    made = oracle.make_direction(chat, seed, layer, rank)
    if centred:
        made = replace(made, ablation_basis=oracle.make_direction(chat, seed + 100).unit[None])
    means = torch.randn(chat.n_layers, chat.d_model, generator=torch.Generator().manual_seed(seed + 1000)).double()
    means -= 4 * made.ablation_unit.double()
    vectors = torch.cat([made.unit[None], made.ablation_basis])
    return Known(replace(made, neutral=NeutralMeans.along(vectors, means)), means)


def prompts(chat: ChatModel) -> list[list[int]]:
    """Three prompts of different lengths, so that two of them are padded on the left."""
    ids = [chat.encode([{"role": "user", "content": question}]) for question in QUESTIONS]
    assert len({len(prompt) for prompt in ids}) == 3
    return ids


# --- the oracle -----------------------------------------------------------------------------------------------------


def identity(x: Tensor) -> Tensor:
    return x


def span(basis: Tensor) -> Tensor:
    """The projection onto the span of any rows, float64 ``[d_model, d_model]``."""
    rows = basis.double()
    return torch.linalg.pinv(rows) @ rows


def affinely(one: Known, layer: int) -> Formula:
    return lambda x: x - (x - one.means[layer]) @ span(one.direction.ablation_basis)


def capped(unit: Tensor, threshold: float) -> Formula:
    exact = unit.double()

    def formula(x: Tensor) -> Tensor:
        length = x @ exact
        return x + (length.minimum(torch.tensor(threshold)) - length)[..., None] * exact

    return formula


def keeping_norm(vector: Tensor) -> Formula:
    return lambda x: nn.functional.normalize(x + vector.double(), dim=-1) * x.norm(dim=-1, keepdim=True)


@contextmanager
def at_every_entry(model: nn.Module, formulas: Sequence[Sequence[Formula]]) -> Iterator[None]:
    """Within this context what enters block l goes through ``formulas[l]``, one after another."""

    def hook(steps: Sequence[Formula]) -> Callable:
        def before(module: nn.Module, args: tuple, kwargs: dict) -> tuple:
            hidden = args[0] if args else kwargs["hidden_states"]
            for step in steps:
                hidden = step(hidden)
            return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

        return before

    with ExitStack() as stack:
        for block, steps in zip(oracle.parts(model).blocks, formulas, strict=True):
            stack.callback(block.register_forward_pre_hook(hook(steps), with_kwargs=True).remove)
        yield


@dataclass(frozen=True)
class Case:
    """A variant, what the oracle does at each block's entry, and what it takes out of every write."""

    variant: Variant
    formulas: Sequence[Sequence[Formula]]
    removed: Tensor | None = None


@torch.no_grad()
def expected_logits(chat: ChatModel, name: str, case: Case, ids: Sequence[int]) -> Tensor:
    """Logits of every token, float64 ``[tokens, vocabulary]``, of one row alone."""
    twin = oracle.float64_twin(chat.model)
    with at_every_entry(twin, case.formulas), oracle.by_hand(twin, name, {}, case.removed):
        return twin(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0]


def cases(chat: ChatModel) -> list[Case]:
    """Every new intervention, alone and with others; the padded rows of a batch take turns."""
    layers, last = range(chat.n_layers), chat.n_layers - 1
    first, second, late = known(chat, 1), known(chat, 2, layer=last), known(chat, 3, layer=last)
    wide, centred = known(chat, 4, rank=3), known(chat, 5, centred=True)
    r, r_late = first.direction.vector, late.direction.vector
    unit = first.direction.unit

    def only(where: int, *steps: Formula) -> list[list[Formula]]:
        return [list(steps) if layer == where else [] for layer in layers]

    def default(one: Known, layer: int) -> Formula:
        tau = float(one.means[layer] @ one.direction.ablation_unit.double())
        return capped(one.direction.ablation_unit, tau) if layer >= one.direction.layer else identity

    def variant(name: str, *interventions: Intervention) -> Variant:
        return Variant(name, interventions)

    both = torch.cat([first.direction.ablation_basis, wide.direction.ablation_basis])
    towards = [
        torch.cat([o.means[layer] @ o.direction.ablation_basis.double().T for o in (first, wide)]) for layer in layers
    ]

    def jointly(layer: int) -> Formula:
        reached = torch.linalg.pinv(both.double()) @ towards[layer]
        return lambda x: x - x @ span(both) + reached

    def without_r(x: Tensor) -> Tensor:
        return x - x @ span(r[None])

    return [
        Case(variant("baseline"), [[] for _ in layers]),
        Case(variant("affine", AffineAblation(first.direction)), [[affinely(first, layer)] for layer in layers]),
        Case(variant("affine, wide", AffineAblation(wide.direction)), [[affinely(wide, layer)] for layer in layers]),
        Case(
            variant("affine, centred", AffineAblation(centred.direction)),
            [[affinely(centred, layer)] for layer in layers],
        ),
        Case(
            variant("affine, both", AffineAblation(first.direction), AffineAblation(wide.direction)),
            [[jointly(layer)] for layer in layers],
        ),
        Case(
            variant("affine, twice", AffineAblation(first.direction), AffineAblation(first.direction)),
            [[affinely(first, layer)] for layer in layers],
        ),
        Case(
            variant("capped", Capping(first.direction, -3.0)),
            [[capped(unit, -3.0) if layer >= 1 else identity] for layer in layers],
        ),
        Case(variant("capped, default", Capping(first.direction)), [[default(first, layer)] for layer in layers]),
        Case(variant("capped, late", Capping(second.direction)), [[default(second, layer)] for layer in layers]),
        Case(variant("capped, centred", Capping(centred.direction)), [[default(centred, layer)] for layer in layers]),
        Case(
            variant("capped twice", Capping(first.direction, -3.0), Capping(wide.direction)),
            [[capped(unit, -3.0) if layer >= 1 else identity, default(wide, layer)] for layer in layers],
        ),
        Case(variant("norm kept", Addition(first.direction, 2.0, keep_norm=True)), only(1, keeping_norm(2 * r))),
        Case(
            variant("sum, norm kept", Addition(second.direction, -1.0), Addition(late.direction, 1.5, keep_norm=True)),
            only(last, keeping_norm(1.5 * r_late - second.direction.vector)),
        ),
        Case(variant("plainly added", Addition(first.direction, 2.0)), only(1, lambda x: x + 2 * r.double())),
        Case(
            variant(  # listed the other way round
                "everything",
                Ablation(first.direction),
                AffineAblation(wide.direction),
                Capping(centred.direction),
                Addition(late.direction, 1.5, keep_norm=True),
            ),
            [
                [
                    keeping_norm(1.5 * r_late) if layer == last else identity,
                    default(centred, layer),
                    affinely(wide, layer),
                    without_r,
                ]
                for layer in layers
            ],
            r[None],
        ),
    ]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_variant_equals_the_oracle_in_a_padded_batch(name: str, tiny: Tiny) -> None:
    """The prompts and one token more, decoded as the side-by-side does it."""
    chat = tiny(name)
    ids, chosen = prompts(chat), cases(chat)
    rows = [ids[row % 3] for row in range(len(chosen))]
    decoder = ModuleDecoder(chat)
    found = [decoder.join([NewRow(row, case.variant) for row, case in zip(rows, chosen, strict=True)])]
    newest = found[0].argmax(dim=-1)
    found.append(decoder.step(newest))
    plain = ModuleDecoder(chat).join([NewRow(row, Variant.baseline()) for row in rows])
    for row, case in enumerate(chosen):
        logits = expected_logits(chat, name, case, [*rows[row], int(newest[row])])
        for place, step in ((-2, found[0]), (-1, found[1])):
            torch.testing.assert_close(
                step[row].double(), logits[place], atol=1e-4, rtol=1e-4, msg=lambda t, v=case.variant: f"{v.name}: {t}"
            )
        if case.variant.interventions:
            assert (found[0][row] - plain[row]).abs().max() > 0.05, f"{case.variant.name} did nothing"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_neighbour_changes_no_bit(name: str, tiny: Tiny) -> None:
    """Rows without an intervention, and rows whose own do nothing, are bit for bit what a batch without any gives."""
    chat = tiny(name)
    one, wide = known(chat, 1).direction, known(chat, 2, rank=3).direction
    variants = [
        Variant.baseline(),
        Variant("busy", [AffineAblation(wide), Capping(one, 0.0), Addition(one, 3.0, keep_norm=True)]),
        Variant("kept 0", [Addition(one, 0.0, keep_norm=True)]),
        Variant("dial at 0", [Addition(one, Dial(0.0), keep_norm=True)]),
        Variant("capped at 1e9", [Capping(one, 1e9)]),
        Variant("never capped", [Capping(one, math.inf)]),
    ]
    rows = [prompts(chat)[row % 3] for row in range(len(variants))]
    found = ModuleDecoder(chat).join([NewRow(row, variant) for row, variant in zip(rows, variants, strict=True)])
    plain = ModuleDecoder(chat).join([NewRow(row, Variant.baseline()) for row in rows])
    assert [torch.equal(found[row], plain[row]) for row in range(len(rows))] == [True, False, True, True, True, True]


@torch.inference_mode()
def streams(chat: ChatModel, steering: Steering, rows: int) -> list[Tensor]:
    """What enters each block and the final norm, after the interventions, ``[rows, tokens, d_model]``."""
    ids = prompts(chat)[0]
    with steering.applied(), oracle.watched(chat.model) as seen:
        chat.model(input_ids=torch.tensor([ids] * rows), use_cache=False)
    return seen


# In bfloat16 the stream is rounded to 8 bits after every intervention; the tiny models' is about 8 to 30 long.
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.bfloat16, 0.2)])
@pytest.mark.parametrize("name", FAMILIES)
def test_an_affine_ablation_leaves_the_negative_mean_at_every_entry(
    name: str, dtype: torch.dtype, bound: float, tiny: Tiny, family_folder: Callable
) -> None:
    chat = tiny(name) if dtype == torch.float32 else load_model(str(family_folder(name)), device="cpu", dtype=dtype)
    one, other, wide = known(chat, 1), known(chat, 2), known(chat, 3, rank=4)
    variants = [
        Variant("one", [AffineAblation(one.direction)]),
        Variant("two", [AffineAblation(one.direction), AffineAblation(other.direction), Addition(one.direction, 2.0)]),
        Variant("wide", [AffineAblation(wide.direction), Capping(wide.direction, -9.0)]),
        Variant("both", [AffineAblation(one.direction), Ablation(one.direction)]),
    ]
    steering = Steering(chat, variants)
    for layer, stream in enumerate(streams(chat, steering, len(variants))[:-1]):
        for row, held in ((0, [one]), (1, [one, other]), (2, [wide])):
            for member in held:
                basis = member.direction.ablation_basis.double()
                off = stream[row].double() @ basis.T - member.means[layer] @ basis.T
                assert off.abs().max() < bound, f"{variants[row].name}, layer {layer}"
        assert (stream[3].double() @ one.direction.unit.double()).abs().max() < bound  # what is ablated stays removed


@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_enters_a_block_above_the_cap(name: str, tiny: Tiny) -> None:
    chat = tiny(name)
    one = known(chat, 1)
    variants = [Variant.baseline(), Variant("at -3", [Capping(one.direction, -3.0), Addition(one.direction)])]
    plain = streams(chat, Steering(chat, [Variant.baseline()] * 2), 2)
    unit = one.direction.unit
    assert max(float((stream[1] @ unit).max()) for stream in plain[1:-1]) > -2.5
    for layer, stream in enumerate(streams(chat, Steering(chat, variants), 2)[:-1]):
        if layer >= 1:
            assert (stream[1] @ unit).max() < -3 + 1e-4
        else:
            assert torch.equal(stream[1], plain[layer][1])


@pytest.mark.parametrize("coefficient", [1.0, -3.0, 50.0])
def test_an_addition_that_keeps_the_norm_keeps_it(coefficient: float, tiny: Tiny) -> None:
    chat = tiny("gemma2")
    direction = known(chat, 1, layer=2).direction
    variants = [
        Variant("kept", [Addition(direction, coefficient, keep_norm=True)]),
        Variant("longer", [Addition(direction, coefficient)]),
    ]
    before = streams(chat, Steering(chat, [Variant.baseline()] * 2), 2)[2]
    after = streams(chat, Steering(chat, variants), 2)[2]
    torch.testing.assert_close(after[0].norm(dim=-1), before[0].norm(dim=-1), atol=1e-4, rtol=1e-5)
    assert (after[1].norm(dim=-1) - before[1].norm(dim=-1)).abs().max() > 0.1
    torch.testing.assert_close(*(nn.functional.normalize(row, dim=-1) for row in after), atol=1e-5, rtol=0)


def test_a_stream_added_to_nothing_stays_a_number(tiny: Tiny) -> None:
    chat = tiny("llama3")
    direction = known(chat, 1, layer=0).direction
    steering = Steering(chat, [Variant("undone", [Addition(direction, -1.0, keep_norm=True)])])

    def only_r(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        return direction.vector.expand_as(output).clone()

    handle = oracle.parts(chat.model).embedding.register_forward_hook(only_r)
    try:
        assert all(bool(stream.isfinite().all()) for stream in streams(chat, steering, 1))
    finally:
        handle.remove()


def test_a_dial_is_read_anew_at_every_pass(tiny: Tiny) -> None:
    chat = tiny("llama3")
    one, other = known(chat, 1).direction, known(chat, 2).direction
    dial = Dial(0.0)

    def variants(coefficient: float | Dial) -> list[Variant]:
        turned = Addition(one, coefficient, keep_norm=True)
        return [Variant("x", [turned, AffineAblation(other), Capping(one, 1.0)]), Variant.added(one, 2.0)]

    steering = Steering(chat, variants(dial))
    for value in (0.0, 1.0, -2.5, 0.0, 1.0):
        dial.value = value
        found, fixed = streams(chat, steering, 2), streams(chat, Steering(chat, variants(value)), 2)
        assert all(torch.equal(a, b) for a, b in zip(found, fixed, strict=True))


def test_a_float64_model_is_steered_in_float64(tiny: Tiny) -> None:
    chat = tiny("gpt-neox")  # its LayerNorm computes in the stream's own type
    exact = ChatModel(oracle.float64_twin(chat.model), chat.tokenizer, chat.name, chat.label)
    chosen = cases(chat)
    ids = prompts(chat)[0]
    found = ModuleDecoder(exact).join([NewRow(ids, case.variant) for case in chosen])
    assert found.dtype == torch.float64
    for row, case in enumerate(chosen):
        logits = expected_logits(chat, "gpt-neox", case, ids)[-1]
        torch.testing.assert_close(found[row], logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_side_by_side_each_is_what_it_is_alone_and_leaves_no_hook(name: str, tiny: Tiny) -> None:
    chat = tiny(name)
    one, wide = known(chat, 1).direction, known(chat, 2, rank=3).direction
    variants = [
        Variant.baseline(),
        Variant("affine", [AffineAblation(wide)]),
        Variant("capped", [Capping(one, -1.0)]),
        Variant("kept", [Addition(one, 2.0, keep_norm=True)]),
    ]
    conversations = [[{"role": "user", "content": QUESTIONS[row % 3]}] for row in range(4)]
    together = [*stream_side_by_side(chat, conversations, variants, max_new_tokens=8)][-1].token_ids
    for row, variant in enumerate(variants):
        alone = [*stream_side_by_side(chat, conversations[row], [variant], max_new_tokens=8)][-1].token_ids
        assert alone[0] == together[row]
    assert oracle.count_hooks(chat.model) == 0


# --- with directions as they are made -------------------------------------------------------------------------------


def contrast(with_responses: bool) -> ContrastSet:
    pairs = [
        ("Write about the sea.", "The sea is wide and cold."),
        ("Is the water cold?", "The waves are never still."),
    ]
    others = [("Write about tea.", "Boil the water."), ("Why is the sky blue?", "Air scatters blue light.")]

    def example(row: tuple[str, str]) -> Example:
        return Example(({"role": "user", "content": row[0]},), row[1] if with_responses else None)

    return ContrastSet.from_examples("sea-or-not", [*map(example, pairs)], [*map(example, others)])


@pytest.mark.parametrize("with_responses", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_made_direction_brings_the_negative_mean_with_it(
    name: str, with_responses: bool, tiny: Tiny, tmp_path: Path
) -> None:
    chat = tiny(name)
    candidates = difference_in_means(chat, contrast(with_responses))
    position = RESPONSE if with_responses else -1
    layer = chat.n_layers - 1
    means = candidates.negative.sums[candidates.positions.index(position)] / candidates.negative.count
    for projected in (False, True):
        made = candidates.direction(position, layer, projected=projected)
        assert made.is_centred == with_responses
        back = Direction.load(made.save(tmp_path / "sea.safetensors"), model=chat)
        variants = [
            Variant("affine", [AffineAblation(made)]),
            Variant("loaded", [AffineAblation(back)]),
            Variant("plain", [AffineAblation(back.plain())]),
            Variant("capped", [Capping(back)]),
        ]
        seen = streams(chat, Steering(chat, variants), len(variants))[:-1]
        for at, stream in enumerate(seen):
            for row, unit in ((0, made.ablation_unit), (1, made.ablation_unit), (2, made.unit)):
                expected = means[at] @ unit.double()
                assert (stream[row].double() @ unit.double() - expected).abs().max() < 1e-4
            torch.testing.assert_close(stream[0], stream[1], atol=1e-5, rtol=1e-5)
        highest = float(means[layer] @ made.ablation_unit.double())
        assert (seen[layer][3].double() @ made.ablation_unit.double()).max() < highest + 1e-4


@pytest.mark.parametrize(
    "intervention", [AffineAblation, Capping, lambda direction: Capping(direction, threshold=None)]
)
def test_without_the_negative_mean_there_is_a_sentence(
    intervention: Callable[[Direction], Any], tiny: Tiny, tmp_path: Path
) -> None:
    chat = tiny("llama3")
    old = oracle.make_direction(chat, 7)
    rebased = replace(known(chat, 7).direction, ablation_basis=known(chat, 8).direction.ablation_basis)
    for direction in (old, Direction.load(old.save(tmp_path / "old.safetensors")), rebased):
        with pytest.raises(DirectionError, match=r"“7” does not say where its negative side lies.*Compute it again"):
            intervention(direction)
        assert Capping(direction, 1.0).thresholds(3) == [math.inf, 1.0, 1.0]


@pytest.mark.parametrize("threshold", [math.nan, -math.inf])
def test_a_threshold_that_is_none_gets_a_sentence(threshold: float, tiny: Tiny) -> None:
    with pytest.raises(SteeringError, match=rf"“1” cannot be capped at {threshold}\. Give a number"):
        Capping(oracle.make_direction(tiny("llama3"), 1), threshold)
