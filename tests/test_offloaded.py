"""One process, many devices: a model of which a part lies on the disk does all that one in memory does."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import oracle
import pytest
import torch
from test_scoring import CHECK, CHECK_REPLIES, TOKENS, TRAIN, TRAIN_REPLIES
from transformers import AutoModelForCausalLM

from steering import ContrastSet, Variant, difference_in_means, score_candidates, stream_side_by_side
from steering.metrics import FirstTokens
from steering.models import ChatModel, weights

FAMILIES = ("llama3", "gemma2", "qwen3-moe", "gpt-neox")  # one write, norms, experts, parallel blocks
Pair = tuple[ChatModel, ChatModel]


@pytest.fixture(params=FAMILIES)
def pair(
    request: pytest.FixtureRequest,
    tiny: Callable[[str], ChatModel],
    family_folder: Callable[[str], Path],
    tmp_path: Path,
) -> Pair:
    """A tiny model in memory, and the same with every block but the first on the disk."""
    name: str = request.param
    whole = tiny(name)
    blocks = {id(block): number for number, block in enumerate(whole.architecture.blocks)}
    places = {}
    for path, module in whole.model.named_modules():
        if id(module) in blocks:
            places[path] = "disk" if blocks[id(module)] else "cpu"
        elif not list(module.children()) and not any(path.startswith(f"{block}.") for block in places):
            places[path] = "cpu"
    model = AutoModelForCausalLM.from_pretrained(
        shutil.copytree(family_folder(name), tmp_path / "model"),
        dtype=torch.float32,
        device_map=places,
        offload_folder=tmp_path / "offloaded",
    ).eval()
    away = ChatModel(model, whole.tokenizer, name, name)
    devices = {parameter.device.type for parameter in model.parameters()}
    assert devices == {"cpu", "meta"}, "nothing lies elsewhere"
    return whole, away


def test_chat_and_cosines(pair: Pair) -> None:
    whole, away = pair
    direction = oracle.make_direction(whole, layer=1)
    variants = [Variant.baseline(), Variant.ablated(direction), Variant.added(direction, 1.0)]
    question = [{"role": "user", "content": "Why is the sky blue?"}]
    expected = list(stream_side_by_side(whole, question, variants, max_new_tokens=10))
    found = list(stream_side_by_side(away, question, variants, max_new_tokens=10))
    assert [step.token_ids for step in found] == [step.token_ids for step in expected]
    assert len({tuple(ids) for ids in expected[-1].token_ids}) > 1, "the interventions do nothing here"
    for one, other in zip(found, expected, strict=True):
        assert abs(one.cosines - other.cosines).max() < 1e-5


@pytest.mark.parametrize("with_replies", [False, True])
def test_extraction_and_selection(pair: Pair, with_replies: bool) -> None:
    whole, away = pair
    check: ContrastSet = CHECK_REPLIES if with_replies else CHECK
    learn: ContrastSet = TRAIN_REPLIES if with_replies else TRAIN
    candidates = [difference_in_means(model, learn) for model in (whole, away)]
    torch.testing.assert_close(candidates[1].vectors, candidates[0].vectors, atol=1e-5, rtol=0)
    tokens = None if with_replies else FirstTokens(TOKENS, ("a", "b"), "for this test")
    expected, found = (
        score_candidates(model, some, check, tokens=tokens) for model, some in zip(pair, candidates, strict=True)
    )
    assert len(found) == len(expected) > 2
    assert sum(math.isfinite(score.kl_score or math.nan) for score in expected) > 1
    for one, other in zip(found, expected, strict=True):
        assert (one.position, one.layer) == (other.position, other.layer)
        for name in ("bypass_score", "induce_score", "kl_score"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-4, nan_ok=True)


def test_the_weights_have_the_same_name(pair: Pair) -> None:
    """What was scored with the model in memory is known again when it lies on the disk."""
    whole, away = pair
    assert whole.fingerprint == away.fingerprint
    assert [name for name, _ in weights(whole.model)] == list(whole.model.state_dict())


def test_an_embedding_on_the_disk(
    tiny: Callable[[str], ChatModel], family_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    whole = tiny("llama3")
    places = {"model.embed_tokens": "disk", "model.layers": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu"}
    model = AutoModelForCausalLM.from_pretrained(
        shutil.copytree(family_folder("llama3"), tmp_path / "model"),
        dtype=torch.float32,
        device_map=places | {"lm_head": "cpu"},
        offload_folder=tmp_path / "offloaded",
    ).eval()
    away = ChatModel(model, whole.tokenizer, "llama3", "llama3")
    assert model.get_input_embeddings().weight.device.type == "meta"
    assert away.device.type == "cpu"
    question = [{"role": "user", "content": "Why is the sky blue?"}]
    variants = [Variant.added(oracle.make_direction(whole, layer=1), 1.0)]
    *_, expected = stream_side_by_side(whole, question, variants, max_new_tokens=6)
    *_, found = stream_side_by_side(away, question, variants, max_new_tokens=6)
    assert found.token_ids == expected.token_ids
