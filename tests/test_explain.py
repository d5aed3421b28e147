"""Profiles and neighbours of a direction against the slow way, in float64."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import oracle
import pytest
import torch
from families import FAMILIES

from steering.contrast import Example
from steering.errors import DirectionError, ModelError
from steering.explain import compare_with_base, cosines_between, layer_profile, neighbours
from steering.interventions import Variant
from steering.models import ChatModel, load_model

Tiny = Callable[[str], ChatModel]
QUESTIONS = ("Why is the sea blue?", "Hi", "Tell me how to make tea, please.")


def prompts() -> list[Example]:
    return [Example(({"role": "user", "content": question},)) for question in QUESTIONS]


@pytest.mark.parametrize("how", ["plain", "ablated", "added"])
@pytest.mark.parametrize("name", ["llama3", "gemma2", "gpt-neox"])
def test_profile(name: str, how: str, tiny: Tiny) -> None:
    model = tiny(name)
    direction = oracle.make_direction(model, layer=1)
    variant = {"plain": None, "ablated": Variant.ablated(direction), "added": Variant.added(direction, 2.0)}[how]
    found = layer_profile(model, direction, prompts(), variant)
    twin = oracle.float64_twin(model.model)
    added = {1: 2.0 * direction.vector} if how == "added" else {}
    unit = direction.ablation_unit.double()
    for row, example in enumerate(prompts()):
        ids = torch.tensor([model.encode(list(example.messages))])
        removed = direction.ablation_basis if how == "ablated" else None
        with torch.no_grad(), oracle.by_hand(twin, name, added, removed), oracle.watched(twin) as seen:
            twin.base_model(input_ids=ids, use_cache=False)
        last = torch.stack([hidden[0, -1] for hidden in seen[: model.n_layers]])
        torch.testing.assert_close(found.projections[row].double(), last @ unit, atol=1e-4, rtol=1e-4)
        cosines = torch.cosine_similarity(last, unit[None], dim=-1)
        torch.testing.assert_close(found.cosines[row].double(), cosines, atol=1e-5, rtol=0)
    assert torch.equal(found.mean, found.cosines.mean(dim=0))
    assert torch.allclose(found.spread, found.cosines.std(dim=0))


def test_profile_of_one_prompt_has_no_spread(tiny: Tiny) -> None:
    model = tiny("llama3")
    direction = oracle.make_direction(model, layer=1)
    assert not layer_profile(model, direction, prompts()[:1]).spread.any()
    with pytest.raises(DirectionError, match="Give at least one"):
        layer_profile(model, direction, [])


@pytest.mark.parametrize("name", FAMILIES)
def test_neighbours(name: str, tiny: Tiny) -> None:
    """What the last layer's logits do when ever more of the direction is added: they turn to its neighbours."""
    model = tiny(name)
    direction = oracle.make_direction(model, layer=1)
    found = neighbours(model, direction, n=3)
    twin = oracle.float64_twin(model.model)
    norm = oracle.parts(twin).final_norm
    head = twin.get_output_embeddings()
    with torch.no_grad():
        far = head(norm(1e6 * direction.unit.double())) - head(norm(-1e6 * direction.unit.double()))
    far = far[: len(model.tokenizer)]
    for sign, tokens in ((1, found.promoted), (-1, found.demoted)):
        expected = (sign * far).topk(3).indices.tolist()
        assert [text for text, _ in tokens] == [model.tokenizer.decode([token]) for token in expected]
        values = [value for _, value in tokens]
        assert values == sorted(values, reverse=sign > 0)
    assert found.promoted[0][1] > 0 > found.demoted[0][1]


def test_cosines_between_directions(tiny: Tiny) -> None:
    model = tiny("llama3")
    some = [oracle.make_direction(model, seed, layer=1) for seed in (0, 1)]
    found = cosines_between(some)
    torch.testing.assert_close(found.diagonal(), torch.ones(2))
    expected = torch.cosine_similarity(some[0].vector, some[1].vector, dim=0)
    torch.testing.assert_close(found[0, 1], expected)
    torch.testing.assert_close(found, found.T)


def test_comparison_with_a_base_model(tiny: Tiny, family_folder: Callable[[str], Path], tmp_path: Path) -> None:
    chat = tiny("llama3")
    folder = shutil.copytree(family_folder("llama3"), tmp_path / "base")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="This model has no chat template"):
        load_model(str(folder), device="cpu", dtype=torch.float32)
    template = str(chat.tokenizer.chat_template)
    base = load_model(str(folder), device="cpu", dtype=torch.float32, chat_template=template)
    direction = oracle.make_direction(chat, layer=1)
    positive, negative = prompts(), [Example(({"role": "user", "content": text},)) for text in ("Soup", "Tea, please")]
    found = compare_with_base(chat, base, direction, positive, negative)
    assert found.chat == found.base  # the same weights
    for layer in range(chat.n_layers):
        lies = [profile.projections[:, layer].tolist() for profile in found.chat_profiles]
        ahead = [float(a > b) + 0.5 * float(a == b) for a in lies[0] for b in lies[1]]
        assert found.chat[layer] == pytest.approx(sum(ahead) / len(ahead))
    with pytest.raises(DirectionError, match="was made for a model of width 64"):
        compare_with_base(chat, tiny("gemma2-narrow"), direction, positive, negative)
