"""Where heads look and what a suffix changes, against attention computed by hand in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import oracle
import pytest
import torch
from families import FAMILIES

from steering.attribution import attribute
from steering.errors import ModelError, SteeringError
from steering.head_attention import TEMPLATE, attention_of_heads, parts_of_prompt, shares
from steering.models import ChatModel
from steering.suffixes import INSTRUCTION, SUFFIX, analyse_suffix, random_suffixes

Tiny = Callable[[str], ChatModel]
PROMPT, ENDING = "Why is the sea blue", "and tell me about boats"


def message(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize("name", FAMILIES)
def test_attention_of_heads(name: str, tiny: Tiny) -> None:
    model = tiny(name)
    ids = model.encode(message(PROMPT))
    before = model.model.config._attn_implementation
    heads = [(0, 1), (2, 3), (0, 0)]
    found = attention_of_heads(model, ids, heads)
    assert found.shape == (3, len(ids))
    assert model.model.config._attn_implementation == before
    assert oracle.count_hooks(model.model) == 0
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(3), atol=1e-5, rtol=0)
    expected = by_values(model, ids, heads)
    for row, weights in zip(found, expected, strict=True):
        torch.testing.assert_close(row.double(), weights, atol=1e-5, rtol=0)


def by_values(model: ChatModel, ids: list[int], heads: list[tuple[int, int]]) -> list[torch.Tensor]:
    """Attention read off without looking at it: with values of one at one token and zero elsewhere, a head gives it."""
    from torch.nn.functional import scaled_dot_product_attention as attend

    weights: dict[int, torch.Tensor] = {}
    layer = -1

    def spy(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal layer
        layer += 1
        eye = torch.eye(key.shape[-2], dtype=value.dtype)[None, None].expand(*key.shape[:2], -1, -1)
        weights[layer] = attend(query, key, eye, *args, **kwargs)[0, :, -1].double()
        return attend(query, key, value, *args, **kwargs)

    twin = oracle.float64_twin(model.model)
    before = twin.config._attn_implementation
    if getattr(twin.config, "attn_logit_softcapping", None):  # torch's own attention cannot do that
        twin.set_attn_implementation("eager")
        with torch.no_grad():
            output = twin.base_model(input_ids=torch.tensor([ids]), use_cache=False, output_attentions=True)
        twin.set_attn_implementation(before)
        return [output.attentions[at][0, head, -1].double() for at, head in heads]
    torch.nn.functional.scaled_dot_product_attention = spy
    twin.set_attn_implementation("sdpa")
    try:
        with torch.no_grad():
            twin.base_model(input_ids=torch.tensor([ids]), use_cache=False)
    finally:
        torch.nn.functional.scaled_dot_product_attention = attend
        twin.set_attn_implementation(before)
    return [weights[at][head] for at, head in heads]


def test_a_head_that_is_not_there(tiny: Tiny) -> None:
    model = tiny("llama3")
    with pytest.raises(ModelError, match=r"There is no head 4 in layer 0: .* layers 0 to 2 of 4 heads each"):
        attention_of_heads(model, model.encode(message(PROMPT)), [(0, 4)])


@pytest.mark.parametrize("name", FAMILIES)
def test_parts_of_a_prompt(name: str, tiny: Tiny) -> None:
    model = tiny(name)
    messages = message(f"{PROMPT} {ENDING}")
    parts = parts_of_prompt(model, messages, {INSTRUCTION: PROMPT, SUFFIX: ENDING})
    ids = model.encode(messages)
    assert len(parts) == len(ids)
    for part, text in ((INSTRUCTION, PROMPT), (SUFFIX, ENDING)):
        own = [token for token, name_ in zip(ids, parts, strict=True) if name_ == part]
        assert model.tokenizer.decode(own).strip() == text
    assert parts[0] == parts[-1] == TEMPLATE
    with pytest.raises(SteeringError, match="The suffix does not stand in the prompt"):
        parts_of_prompt(model, messages, {INSTRUCTION: PROMPT, SUFFIX: "something else"})


def test_shares_add_up() -> None:
    attention = torch.tensor([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]])
    found = shares(attention, ["template", "instruction", "template"])
    assert {name: share.tolist() for name, share in found.items()} == {
        "template": [0.75, 0.0],
        "instruction": [0.25, 1.0],
    }


def test_analysis(tiny: Tiny) -> None:
    model = tiny("llama3")
    direction = oracle.make_direction(model, layer=2)
    told: list[float] = []
    found = analyse_suffix(model, direction, PROMPT, ENDING, seed=3, progress=lambda _, done, total: told.append(done))
    assert told == list(range(22))
    whole = model.encode(message(f"{PROMPT} {ENDING}"))
    written = attribute(model, whole, direction, layer=2)
    plain = attribute(model, model.encode(message(PROMPT)), direction, layer=2)
    assert found.top_heads == [(layer, head) for layer, head, _ in plain.top_heads(3)]
    expected = [float(written.heads[layer, head, -1]) for layer, head in found.top_heads]
    assert found.with_suffix.heads.tolist() == expected
    assert set(found.with_suffix.attention) == {TEMPLATE, INSTRUCTION, SUFFIX}
    assert set(found.plain.attention) == {TEMPLATE, INSTRUCTION}
    torch.testing.assert_close(sum(found.with_suffix.attention.values()), torch.ones(3), atol=1e-5, rtol=0)
    assert len({look.text for look in found.with_random}) == len(found.with_random) == 20
    for look in found.with_random:
        assert len(model.encode(message(f"{PROMPT} {look.text}"))) == len(whole)
    mean, spread = found.random_cosines
    assert mean.shape == spread.shape == (model.n_layers,)
    again = analyse_suffix(model, direction, PROMPT, ENDING, seed=3)
    assert [look.text for look in again.with_random] == [look.text for look in found.with_random]
    assert [look.text for look in analyse_suffix(model, direction, PROMPT, ENDING, seed=4).with_random] != [
        look.text for look in found.with_random
    ]


@pytest.mark.parametrize(
    ("prompt", "suffix", "n", "words"),
    [
        ("", ENDING, 20, "one of them is empty"),
        (PROMPT, "  ", 20, "one of them is empty"),
        (PROMPT, ENDING, 19, "Fewer than 20 random suffixes"),
        (PROMPT, "boats " * 3000, 20, "reads at most 2048. Shorten it."),
    ],
)
def test_bad_input_is_a_sentence(prompt: str, suffix: str, n: int, words: str, tiny: Tiny) -> None:
    model = tiny("llama3")
    with pytest.raises(SteeringError, match=words):
        analyse_suffix(model, oracle.make_direction(model, layer=1), prompt, suffix, n_random=n)


@pytest.mark.parametrize("name", FAMILIES)
def test_random_suffixes_are_as_long(name: str, tiny: Tiny) -> None:
    model = tiny(name)
    length = len(model.encode(message(f"{PROMPT} {ENDING}")))
    for text in random_suffixes(model, PROMPT, length, 5, seed=1):
        assert len(model.encode(message(f"{PROMPT} {text}"))) == length
