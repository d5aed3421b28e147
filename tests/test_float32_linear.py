"""oneDNN's product in a model's linear layers: the same numbers, and no trace afterwards."""

from __future__ import annotations

from collections.abc import Callable

import oracle
import pytest
import torch
from torch import nn

from steering import float32_linear
from steering.float32_linear import FastLinears, OneDnnLinear
from steering.models import ChatModel

Tiny = Callable[[str], ChatModel]


@pytest.fixture(params=[True, False], ids=["reordered", "as they are"])
def faster(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """As on a machine on which oneDNN is faster, with and without room for a second copy of the weights."""
    monkeypatch.setattr(float32_linear, "onednn_float32_is_faster", lambda: True)
    monkeypatch.setattr(float32_linear, "free_memory", lambda device: 10**12 if request.param else 0)
    return bool(request.param)


@pytest.mark.usefixtures("faster")
@pytest.mark.parametrize("name", ["llama3", "qwen2", "gpt-neox"])
def test_the_same_logits_and_no_trace(name: str, tiny: Tiny) -> None:
    model = tiny(name).model
    before = oracle.fingerprint(model)
    classes = [type(layer) for layer in model.modules()]
    linears = FastLinears(model)
    for shape in ((1, 3), (2, 17)):
        ids = torch.arange(shape[0] * shape[1]).view(shape)
        with torch.inference_mode():
            expected = model(input_ids=ids, use_cache=False).logits
            with linears.in_use():
                assert any(type(layer) is OneDnnLinear for layer in model.modules())
                found = model(input_ids=ids, use_cache=False).logits
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert [type(layer) for layer in model.modules()] == classes
        assert oracle.fingerprint(model) == before


@pytest.mark.usefixtures("faster")
def test_an_error_leaves_the_layers_as_they_were(tiny: Tiny) -> None:
    model = tiny("llama3").model
    with pytest.raises(RuntimeError, match="in the middle"), FastLinears(model).in_use():
        raise RuntimeError("in the middle")
    assert not any(type(layer) is OneDnnLinear for layer in model.modules())
    assert not any(hasattr(layer, "onednn_weight") for layer in model.modules())


@pytest.mark.usefixtures("faster")
def test_other_number_types_and_other_layers_are_let_be() -> None:
    class Own(nn.Linear):
        """A layer of another library, whose product is its own."""

    model = nn.Sequential(nn.Linear(4, 4).bfloat16(), Own(4, 4), nn.Linear(4, 4))
    with FastLinears(model).in_use():
        assert [type(layer) for layer in model] == [nn.Linear, Own, OneDnnLinear]


def test_where_onednn_is_no_faster_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float32_linear, "onednn_float32_is_faster", lambda: False)
    model = nn.Sequential(nn.Linear(4, 4))
    with FastLinears(model).in_use():
        assert type(model[0]) is nn.Linear
