"""The fused decoder gives what transformers' own modules give, on every family it takes, whatever its rows do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from oracle import make_direction, plain_greedy, strong_direction
from torch import Tensor
from transformers import DynamicCache

from steering.decoder_choice import decoder_for, takes_fused
from steering.decoders import Decoder, NewRow
from steering.directions import Direction
from steering.errors import DirectionError
from steering.fused import LONGEST_PIECE, FusedDecoder, fused_model
from steering.interventions import Steering
from steering.models import ChatModel, load_model
from steering.neutral_means import NeutralMeans
from steering.packed import PackedLinear
from steering.preset_directions import preset_direction
from steering.row_cache import RowCache
from steering.variants import Ablation, Addition, AffineAblation, Capping, Dial, Variant

Tiny = Callable[[str], ChatModel]

TAKEN = ("llama2", "llama3", "qwen1.5", "qwen2", "qwen3", "yi", "smollm3", "llama-merging", "mistral-wide")
NOT_TAKEN = ("mistral", "gemma", "gemma3", "phi3", "olmo2", "cohere", "qwen3-moe", "gpt-neox")
QUESTIONS = (
    "Hello there! What is the tide, and why does it come twice a day?",
    "Hi",
    "Name three rivers, one a line.",
)


@pytest.fixture(scope="module")
def taken(tiny: Tiny) -> Tiny:
    """As ``tiny``; ``"mistral-wide"`` is Mistral as its later versions are, without a window."""

    def model(name: str) -> ChatModel:
        if name != "mistral-wide":
            return tiny(name)
        narrow = tiny("mistral")
        config = type(narrow.config)(**{**narrow.config.to_dict(), "sliding_window": None})
        wide = type(narrow.model)(config).eval()
        wide.load_state_dict(narrow.model.state_dict())
        wide.generation_config = narrow.model.generation_config
        return replace(narrow, model=wide)

    return cache(model)


def prompts(chat: ChatModel) -> list[list[int]]:
    """Three prompts of different lengths."""
    return [chat.encode([{"role": "user", "content": question}]) for question in QUESTIONS]


def measured(chat: ChatModel, seed: int = 0, rank: int = 1, layer: int = 1) -> Direction:
    """A direction that knows where its negative side lies, so that any intervention can use it."""
    direction = make_direction(chat, seed=seed, rank=rank, layer=layer)
    means = torch.randn(chat.n_layers, chat.d_model, generator=torch.Generator().manual_seed(100 + seed)) * 0.3
    return replace(direction, neutral=NeutralMeans.along(direction.ablation_basis, means))


def steered(chat: ChatModel) -> list[Variant]:
    """One variant of every kind, alone and together."""
    one, other, plane = measured(chat), measured(chat, seed=1, layer=2), measured(chat, seed=2, rank=3)
    return [
        Variant.baseline(),
        Variant.ablated(one),
        Variant("plane", [Ablation(plane), Ablation(other)]),
        Variant("affine", [AffineAblation(one), AffineAblation(plane)]),
        Variant("capped", [Capping(one), Capping(other, -0.2)]),
        Variant.added(one, 0.8),
        Variant("length kept", [Addition(one, 1.5, keep_norm=True), Addition(other, -0.5)]),
        Variant("first layer", [Addition(measured(chat, layer=0), 1.0), Ablation(plane)]),
        Variant("all", [Addition(one, 1.0), Capping(other), AffineAblation(plane), Ablation(other)]),
    ]


class Replay:
    """One row by transformers' modules with hooks: the slow way to what a row of a decoder does."""

    def __init__(self, chat: ChatModel) -> None:
        self.chat = chat
        self.cache = DynamicCache(config=chat.config)

    @torch.no_grad()
    def read(self, tokens: Sequence[int], variant: Variant, probe: Direction | None = None) -> tuple[Tensor, Tensor]:
        """Logits after the last token, ``[vocabulary]``, and the cosines there, ``[n_layers]``."""
        steering = Steering(self.chat, [variant], [probe])
        with steering.applied():
            output = self.chat.model(input_ids=torch.tensor([list(tokens)]), cache=self.cache, use_cache=True)
        return output.logits[0, -1], steering.cosines()[0]


def assert_same(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    """Logits and cosines of one row are those of the oracle, and the likeliest token is the same."""
    torch.testing.assert_close(found[0], expected[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[1], expected[1], atol=1e-5, rtol=1e-4)
    assert found[0].argmax() == expected[0].argmax()


def written(decoder: Decoder, logits: Tensor, n_tokens: int) -> list[list[int]]:
    """What each row writes greedily from ``logits`` on; end tokens are tokens like any other."""
    replies: list[list[int]] = [[] for _ in range(decoder.n_rows)]
    for _ in range(n_tokens):
        tokens = logits.argmax(dim=-1)
        for reply, token in zip(replies, tokens.tolist(), strict=True):
            reply.append(token)
        logits = decoder.step(tokens)
    return replies


def alone(chat: ChatModel, prompt: list[int], variant: Variant, n_tokens: int) -> list[int]:
    """What a row writes that has the decoder to itself."""
    decoder = FusedDecoder(chat)
    return written(decoder, decoder.join([NewRow(prompt, variant)]), n_tokens)[0]


def test_what_is_taken(taken: Tiny) -> None:
    assert [name for name in (*TAKEN, *NOT_TAKEN) if takes_fused(taken(name))] == list(TAKEN)


def test_a_model_with_hooks_or_changed_layers_is_left_to_its_modules(taken: Tiny) -> None:
    chat = taken("llama3")
    hook = chat.model.model.layers[1].mlp.register_forward_hook(lambda *_: None)
    assert not takes_fused(chat)
    hook.remove()
    layer = chat.model.model.layers[1].mlp
    plain, layer.up_proj = layer.up_proj, torch.nn.Sequential(layer.up_proj)
    assert not takes_fused(chat)
    layer.up_proj = plain
    assert takes_fused(chat)
    assert isinstance(decoder_for(chat), FusedDecoder)


def test_a_changing_rope_is_not_taken(taken: Tiny) -> None:
    chat = taken("llama2")
    config = type(chat.config)(**chat.config.to_dict())
    config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
    assert not takes_fused(replace(chat, model=type(chat.model)(config).eval()))


@pytest.mark.parametrize("name", TAKEN)
def test_every_intervention_is_as_by_the_modules(taken: Tiny, name: str) -> None:
    chat = taken(name)
    variants, probe = steered(chat), measured(chat, seed=5, rank=2)
    asked = [prompts(chat)[row % 3] for row in range(len(variants))]
    probes = [None, *[measured(chat, seed=4)] * 4, *[probe] * (len(variants) - 5)]
    decoder, replays = FusedDecoder(chat), [Replay(chat) for _ in variants]
    rows = [NewRow(*row) for row in zip(asked, variants, probes, strict=True)]
    logits, reading = decoder.join(rows), asked
    for _ in range(6):
        cosines = decoder.cosines()
        for place, (replay, row) in enumerate(zip(replays, rows, strict=True)):
            expected = replay.read(reading[place], row.variant, row.probe)
            assert_same((logits[place], cosines[place]), expected)
        tokens = logits.argmax(dim=-1)
        logits, reading = decoder.step(tokens), tokens[:, None].tolist()


@pytest.mark.parametrize("name", TAKEN)
def test_the_baseline_writes_what_generate_does(taken: Tiny, name: str) -> None:
    chat = taken(name)
    decoder = FusedDecoder(chat)
    replies = written(decoder, decoder.join([NewRow(prompt, Variant.baseline()) for prompt in prompts(chat)]), 24)
    for prompt, reply in zip(prompts(chat), replies, strict=True):
        expected = plain_greedy(chat, prompt, 24)
        assert reply[: len(expected)] == expected


@pytest.mark.parametrize("name", TAKEN)
def test_a_second_turn_goes_on_from_what_is_kept(taken: Tiny, name: str) -> None:
    chat = taken(name)
    one = measured(chat)
    variants = [Variant.baseline(), Variant.ablated(one), Variant.added(one, 1.0)]
    decoder = FusedDecoder(chat)
    logits = decoder.join([NewRow(prompt, v) for prompt, v in zip(prompts(chat), variants, strict=True)])
    replies = written(decoder, logits, 5)
    kept = [decoder.kept(row) for row in range(3)]
    assert [row.tokens for row in kept] == [p + reply for p, reply in zip(prompts(chat), replies, strict=True)]
    assert kept[0].keys[0].shape[1] == len(kept[0].tokens)
    more = [4, 5, 6, 7]
    again = [row.tokens + more[: 2 + place] for place, row in enumerate(kept)]
    rows = [NewRow(*row) for row in zip(again, variants, [one] * 3, kept, strict=True)]
    second = FusedDecoder(chat)
    whole = FusedDecoder(chat)
    logits = second.join(rows)
    torch.testing.assert_close(logits, whole.join([replace(row, kept=None) for row in rows]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(second.cosines(), whole.cosines(), atol=1e-5, rtol=1e-4)
    assert written(second, logits, 8) == written(whole, logits, 8)


def test_a_kept_row_survives_that_a_longer_one_is_read_beside_it(taken: Tiny) -> None:
    chat = taken("llama2")
    generator = torch.Generator().manual_seed(0)
    short, long = (torch.randint(10, 200, (n,), generator=generator).tolist() for n in (700, LONGEST_PIECE + 200))
    first = FusedDecoder(chat)
    first.step(first.join([NewRow(short, Variant.baseline())]).argmax(dim=-1))
    kept = first.kept(0)
    again = [*kept.tokens, 4, 5]
    decoder = FusedDecoder(chat)
    logits = decoder.join([NewRow(long, Variant.baseline()), NewRow(again, Variant.baseline(), kept=kept)])
    for place, prompt in enumerate((long, again)):
        expected, _ = Replay(chat).read(prompt, Variant.baseline())
        torch.testing.assert_close(logits[place], expected, atol=1e-4, rtol=1e-4)


def test_rows_join_and_leave_and_nobody_notices(taken: Tiny) -> None:
    chat = taken("smollm3")
    variants, asked = steered(chat), prompts(chat)
    decoder, logits = FusedDecoder(chat), torch.empty(0, 0)
    expected = [alone(chat, asked[place % 3], variant, 12) for place, variant in enumerate(variants)]
    present: list[int] = []
    replies: list[list[int]] = [[] for _ in variants]
    comings = {0: [0, 1], 2: [2, 3, 4], 3: [5], 6: [6, 7, 8]}
    goings = {2: [0], 4: [3, 1], 5: [2, 5]}
    for turn in range(12):
        if turn in goings:
            leaving = [present.index(variant) for variant in goings[turn]]
            decoder.leave(leaving)
            staying = [place for place in range(len(present)) if place not in leaving]
            present, logits = [present[place] for place in staying], logits[staying]
        if turn in comings:
            new = decoder.join([NewRow(asked[place % 3], variants[place]) for place in comings[turn]])
            assert len(decoder.cosines()) == len(comings[turn])
            logits = torch.cat([logits, new]) if present else new
            present = [*present, *comings[turn]]
        assert decoder.n_rows == len(present)
        tokens = logits.argmax(dim=-1)
        for variant, token in zip(present, tokens.tolist(), strict=True):
            replies[variant].append(token)
        logits = decoder.step(tokens)
    for found, wanted in zip(replies, expected, strict=True):
        assert len(found) > 1
        assert found == wanted[: len(found)]


def test_rows_are_taken_apart(taken: Tiny) -> None:
    chat = taken("qwen3")
    variants = steered(chat)[:4]
    decoder = FusedDecoder(chat)
    logits = decoder.join([NewRow(prompts(chat)[place % 3], variant) for place, variant in enumerate(variants)])
    tokens = logits.argmax(dim=-1)
    part = decoder.taken([2, 0])
    assert part.n_rows == 2
    stepped = part.step(tokens[[2, 0]])
    part.step(stepped.argmax(dim=-1))
    torch.testing.assert_close(decoder.step(tokens)[[2, 0]], stepped, atol=1e-4, rtol=1e-4)
    assert decoder.kept(2).tokens == part.kept(0).tokens[:-1]


def test_a_row_is_changed_from_the_next_token_on(taken: Tiny) -> None:
    chat = taken("llama3")
    one, dial = measured(chat), Dial(0.5)
    first, then = Variant.added(one, dial), Variant.ablated(one)
    prompt, replay = prompts(chat)[0], Replay(chat)
    decoder = FusedDecoder(chat)
    logits = decoder.join([NewRow(prompts(chat)[1], Variant.baseline()), NewRow(prompt, first, one)])
    replay.read(prompt, first, one)
    dial.value = 2.0
    for variant in (first, then):
        decoder.change(1, variant)
        tokens = logits.argmax(dim=-1)
        logits = decoder.step(tokens)
        assert_same((logits[1], decoder.cosines()[1]), replay.read([int(tokens[1])], variant, one))


def test_ablation_leaves_nothing(taken: Tiny) -> None:
    for name in TAKEN:
        chat = taken(name)
        for direction in (measured(chat), strong_direction(chat, prompts(chat)[0])):
            decoder = FusedDecoder(chat)
            rows = [NewRow(prompt, Variant.ablated(direction), direction) for prompt in prompts(chat)]
            logits = decoder.join(rows)
            assert decoder.cosines().abs().max() < 1e-6
            decoder.step(logits.argmax(dim=-1))
            assert decoder.cosines().abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strength_nothing_is_the_baseline_bit_for_bit(family_folder: Callable[[str], Path], dtype: torch.dtype) -> None:
    chat = load_model(str(family_folder("llama3")), device="cpu", dtype=dtype)
    one, prompt = measured(chat), prompts(chat)[0]
    decoder = FusedDecoder(chat)
    nothing = Variant("nothing", [Addition(one, 0.0, keep_norm=True)])
    logits = decoder.join([NewRow(prompt, v) for v in (Variant.baseline(), nothing, Variant.ablated(one))])
    for _ in range(3):
        assert torch.equal(logits[0], logits[1])
        logits = decoder.step(logits.argmax(dim=-1))


def test_what_raises_has_changed_nothing(taken: Tiny) -> None:
    chat = taken("qwen2")
    asked = prompts(chat)
    decoder = FusedDecoder(chat)
    logits = decoder.join([NewRow(asked[0], Variant.baseline()), NewRow(asked[1], Variant.ablated(measured(chat)))])
    tokens, before = logits.argmax(dim=-1), decoder.cosines()
    no_token = chat.model.config.vocab_size
    stranger = make_direction(taken("gemma3"))
    with pytest.raises(IndexError):
        decoder.step(torch.tensor([3, no_token]))
    with pytest.raises(IndexError):
        decoder.join([NewRow(asked[2], Variant.baseline()), NewRow([3, no_token], Variant.baseline())])
    with pytest.raises(DirectionError):
        decoder.join([NewRow(asked[2], Variant.ablated(stranger))])
    with pytest.raises(DirectionError):
        decoder.change(0, Variant.ablated(stranger))
    assert decoder.n_rows == 2
    assert torch.equal(decoder.cosines(), before)
    assert not chat.lock.is_held
    undisturbed = FusedDecoder(chat)
    undisturbed.join([NewRow(asked[0], Variant.baseline()), NewRow(asked[1], Variant.ablated(measured(chat)))])
    assert torch.equal(decoder.step(tokens), undisturbed.step(tokens))
    assert decoder.kept(0).tokens == [*asked[0], int(tokens[0])]


def test_a_row_that_overflows_leaves_the_others_alone(taken: Tiny) -> None:
    chat = taken("yi")
    asked = prompts(chat)
    expected = alone(chat, asked[1], Variant.baseline(), 6)
    overflowing = Variant.added(measured(chat), 1e39)
    decoder = FusedDecoder(chat)
    logits = decoder.join([NewRow(asked[0], overflowing), NewRow(asked[1], Variant.baseline())])
    assert not logits[0].isfinite().all()
    assert written(decoder, logits, 6)[1] == expected
    decoder.leave([0])
    # The shorter row comes into a slot where the longer one has left what is no number.
    logits = decoder.join([NewRow(asked[1], Variant.baseline())])
    assert logits.isfinite().all()
    assert int(logits.argmax()) == expected[0]


def test_long_prompts_are_read_in_pieces(taken: Tiny) -> None:
    chat = taken("llama3")
    generator = torch.Generator().manual_seed(0)
    lengths = (2 * LONGEST_PIECE + 40, 30, LONGEST_PIECE + 5)
    asked = [torch.randint(10, 200, (n,), generator=generator).tolist() for n in lengths]
    one = measured(chat)
    variants = [Variant.added(one, 1.0), Variant.baseline(), Variant.ablated(one)]
    decoder = FusedDecoder(chat)
    rows = [NewRow(prompt, variant, one) for prompt, variant in zip(asked, variants, strict=True)]
    logits, cosines = decoder.join(rows), decoder.cosines()
    for place, row in enumerate(rows):
        assert_same((logits[place], cosines[place]), Replay(chat).read(row.prompt, row.variant, one))
    tokens = logits.argmax(dim=-1)
    decoder.step(tokens)
    kept = decoder.kept(0)
    assert kept.pieces == [0, LONGEST_PIECE, 2 * LONGEST_PIECE, lengths[0]]
    assert kept.tokens == [*asked[0], int(tokens[0])]


@pytest.mark.parametrize("n_tokens", [30, LONGEST_PIECE + 40])
def test_a_question_asked_again_gives_the_same_bits(family_folder: Callable[[str], Path], n_tokens: int) -> None:
    chat = load_model(str(family_folder("llama3")), device="cpu", dtype=torch.bfloat16)
    prompt = torch.randint(10, 200, (n_tokens,), generator=torch.Generator().manual_seed(0)).tolist()
    variant = Variant.added(measured(chat), 1.0)
    decoder = FusedDecoder(chat)
    first = decoder.join([NewRow(prompt, variant)])
    decoder.step(first.argmax(dim=-1))
    retry = FusedDecoder(chat)
    assert torch.equal(retry.join([NewRow(prompt, variant, kept=decoder.kept(0))]), first)


def test_an_edited_weight_is_noticed_when_rows_join(family_folder: Callable[[str], Path]) -> None:
    chat = load_model(str(family_folder("qwen2")), device="cpu", dtype=torch.bfloat16)
    prompt = prompts(chat)[0]
    decoder = FusedDecoder(chat)
    before = decoder.join([NewRow(prompt, Variant.baseline())])
    model = fused_model(chat)
    assert fused_model(chat) is model
    with torch.no_grad():
        chat.model.model.layers[1].mlp.down_proj.weight.mul_(1.5)
    after = decoder.join([NewRow(prompt, Variant.baseline())])
    assert fused_model(chat) is not model
    expected = chat.model(torch.tensor([prompt])).logits[0, -1]
    assert (after[0] - before[0]).norm() > 5 * (after[0] - expected).norm()


def test_the_packed_weights_are_joined_without_a_copy(bundled: ChatModel) -> None:
    attention = bundled.model.model.layers[3].self_attn
    if not isinstance(attention.q_proj, PackedLinear):
        pytest.skip("this processor has no packed kernel")
    joined = fused_model(bundled).layers[3].query_key_value
    assert fused_model(bundled).layers[3].query_key_value is joined
    layers = [attention.q_proj, attention.k_proj, attention.v_proj]
    for n_rows in (1, 3, 40):
        rows = torch.randn(n_rows, bundled.d_model, generator=torch.Generator().manual_seed(n_rows)).bfloat16()
        with torch.inference_mode():
            expected = torch.cat([layer(rows) for layer in layers], dim=1)
            torch.testing.assert_close(joined(rows), expected, atol=0.05, rtol=0.02)
    assert len({layer.kernel_weight.untyped_storage().data_ptr() for layer in layers}) == 1


def test_the_bundled_model_in_float32_writes_what_its_modules_do(bundled_float32: ChatModel) -> None:
    chat = bundled_float32
    one = preset_direction(chat, "sounds-like-ai")
    variants = [Variant.baseline(), Variant.ablated(one), Variant.added(one, 1.0)]
    asked = prompts(chat)
    decoder = FusedDecoder(chat)
    logits = decoder.join([NewRow(prompt, v, one) for prompt, v in zip(asked, variants, strict=True)])
    assert decoder.cosines()[1].abs().max() < 1e-6
    replies = written(decoder, logits, 12)
    for prompt, variant, reply in zip(asked, variants, replies, strict=True):
        replay, reading = Replay(chat), prompt
        for token in reply:
            logits, _ = replay.read(reading, variant, one)
            assert int(logits.argmax()) == token
            reading = [token]


def test_the_cache_grows_and_gives_memory_back() -> None:
    cache = RowCache(n_layers=2, heads=1, head_dim=4, dtype=torch.float32)
    cache.reserve(3, 100)
    cache.lengths = [100, 7, 20]
    for number, layer in enumerate(cache.layers):
        layer[:] = torch.arange(3)[:, None, None, None] + 10 * number
    cache.reserve(4, 2000)
    assert cache.layers[0].shape[0] >= 4
    assert cache.room >= 2000
    keys, values = cache.row(2)
    assert [tuple(layer.shape) for layer in (*keys, *values)] == [(1, 20, 4)] * 4
    assert [float(layer[0, 0, 0]) for layer in keys] == [2, 12]
    assert cache.leave([0]) == [2, 1]
    assert cache.lengths == [20, 7]
    assert float(cache.row(0)[0][1].min()) == 12
    assert cache.layers[0].shape == (2, 2, 128, 4)
    assert cache.leave([1, 0]) == []
    assert cache.layers[0].numel() == 0
