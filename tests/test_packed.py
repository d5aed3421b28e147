"""Packed weights: the file's own numbers, moved and not rounded again, and layers that choose between two copies."""

from __future__ import annotations

import copy
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PretrainedConfig, Qwen2Config

from steering.errors import ModelError
from steering.packed import (
    GROUP_SIZE,
    MAX_ROWS_4BIT,
    MAX_ROWS_8BIT,
    PackedLinear,
    available,
    kernel_layout,
    pack,
    pack_gguf,
    packed_linear,
    unpack,
)

Q4_0, Q4_1, Q8_0 = (gguf.GGMLQuantizationType[name] for name in ("Q4_0", "Q4_1", "Q8_0"))
F16, F32 = gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.F32
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 80,
    "max_position_embeddings": 64,
}
LAYERS = {
    "attn_q": ("self_attn.q_proj", 64, 64),
    "attn_k": ("self_attn.k_proj", 32, 64),
    "attn_v": ("self_attn.v_proj", 32, 64),
    "attn_output": ("self_attn.o_proj", 64, 64),
    "ffn_gate": ("mlp.gate_proj", 96, 64),
    "ffn_up": ("mlp.up_proj", 96, 64),
    "ffn_down": ("mlp.down_proj", 64, 96),
}
needs_kernel = pytest.mark.skipif(not available(), reason="this CPU has no fast packed kernel, so nothing is packed")


def write_gguf(
    path: Path,
    matrices: gguf.GGMLQuantizationType,
    embedding: gguf.GGMLQuantizationType,
    architecture: str = "llama",
    output: gguf.GGMLQuantizationType | None = None,
) -> Path:
    """A small random model in a GGUF file; tied unless ``output`` names the output layer's format."""
    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(16)
    writer.add_vocab_size(80)

    def add(name: str, shape: tuple[int, ...], kind: gguf.GGMLQuantizationType) -> None:
        # Groups of unlike size and mean, so that a scale or a zero read from the wrong group is seen.
        values = random.normal(size=shape).astype(np.float32) * 0.1
        if len(shape) == 2:
            groups = values.reshape(shape[0], -1, GROUP_SIZE)
            groups *= random.uniform(0.3, 3.0, size=(*groups.shape[:2], 1))
            groups += random.normal(size=(*groups.shape[:2], 1)) * 0.05
        else:
            values += 1
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)

    add("token_embd.weight", (80, 64), embedding)
    add("output_norm.weight", (64,), F32)
    if output is not None:
        add("output.weight", (80, 64), output)
    for block in range(2):
        add(f"blk.{block}.attn_norm.weight", (64,), F32)
        add(f"blk.{block}.ffn_norm.weight", (64,), F32)
        for name, (_, *shape) in LAYERS.items():
            add(f"blk.{block}.{name}.weight", tuple(shape), matrices)
        if architecture == "qwen2":
            for name, width in (("attn_q", 64), ("attn_k", 32), ("attn_v", 32)):
                add(f"blk.{block}.{name}.bias", (width,), F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def load_float32(path: Path) -> nn.Module:
    """The file read by transformers, which undoes the order of q and k rows by its own code."""
    return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()


def in_bfloat16(model: nn.Module) -> nn.Module:
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    fresh = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    fresh.load_state_dict(model.state_dict())
    fresh.tie_weights()
    return fresh.requires_grad_(False)


def numbers_of(qweight: Tensor) -> Tensor:
    return torch.stack([qweight & 15, qweight >> 4], dim=-1).flatten(1)


def dequantised(qweight: Tensor, scales: Tensor, zeros: Tensor, in_features: int) -> Tensor:
    """The kernel's formula in float32; scales and zeros are ``[columns / 32, out]``."""
    groups = numbers_of(qweight).float().view(len(qweight), -1, GROUP_SIZE)
    weight = ((groups - 8) * scales.T[..., None] + zeros.T[..., None]).flatten(1)
    return weight.view(len(qweight), -1, in_features).sum(dim=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf")


@pytest.fixture(scope="module")
def file(folder: Path) -> Path:
    return write_gguf(folder / "q4_1.gguf", Q4_1, Q8_0)


@pytest.fixture(scope="module")
def reference(file: Path) -> nn.Module:
    return load_float32(file)


@pytest.fixture(scope="module")
def tensors(file: Path, reference: nn.Module) -> dict[str, Tensor]:
    return pack_gguf(file, reference.config)


@pytest.fixture
def model(reference: nn.Module) -> nn.Module:
    return in_bfloat16(reference)


@pytest.mark.parametrize(
    ("kind", "architecture"),
    [(Q4_0, "llama"), (Q4_1, "llama"), (Q8_0, "llama"), (Q4_1, "qwen2")],
    ids=["Q4_0", "Q4_1", "Q8_0", "Q4_1-qwen2"],
)
def test_repacked_weights_are_the_files_own_but_for_the_rounding_of_scales(
    folder: Path, kind: gguf.GGMLQuantizationType, architecture: str
) -> None:
    path = write_gguf(folder / f"{kind.name}-{architecture}.gguf", kind, Q8_0, architecture)
    model = load_float32(path)
    packed = pack_gguf(path, model.config)
    assert len(packed) == 2 * (2 * len(LAYERS) + 1)
    for name in (key.removesuffix(".qweight") for key in packed if key.endswith(".qweight")):
        weight = model.get_submodule(name).weight.detach()
        scales, zeros = packed[f"{name}.scales_and_zeros"].float().unbind(dim=-1)
        found = dequantised(packed[f"{name}.qweight"], scales, zeros, weight.shape[1])
        # Two roundings to bfloat16, of at most one part in 256 each: of (q - 8) * scale and of the zero.
        groups = packed[f"{name}.scales_and_zeros"].float().abs()
        bound = (8 * groups[..., 0] + groups[..., 1]) / 250
        bound = bound.T.repeat_interleave(GROUP_SIZE, dim=1).view(len(weight), -1, weight.shape[1]).sum(dim=1)
        assert bool(((found - weight).abs() <= bound).all()), name
        assert float((found - weight).norm() / weight.norm()) < 0.003, name


def test_numbers_are_exact_with_the_files_own_scales(file: Path, tensors: dict[str, Tensor]) -> None:
    """With the float16 scales in place of the bfloat16 ones, nothing is left of the difference."""
    for tensor in gguf.GGUFReader(file).tensors:
        if not tensor.name.startswith("blk.0.ffn") or tensor.tensor_type != Q4_1:
            continue
        name = f"model.layers.0.{LAYERS[tensor.name.split('.')[2]][0]}"
        expected = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type))
        rows, columns = expected.shape
        header = np.ascontiguousarray(tensor.data.reshape(rows, columns // GROUP_SIZE, -1)[..., :4]).view(np.float16)
        scale, minimum = torch.from_numpy(header.astype(np.float32)).unbind(dim=-1)
        found = dequantised(tensors[f"{name}.qweight"], scale.T, (minimum + 8 * scale).T, columns)
        assert torch.allclose(found, expected, rtol=0, atol=1e-6)


def test_an_8_bit_number_is_kept_whole(file: Path, tensors: dict[str, Tensor]) -> None:
    (embedding,) = (tensor for tensor in gguf.GGUFReader(file).tensors if tensor.name == "token_embd.weight")
    expected = torch.from_numpy(embedding.data.reshape(80, 2, -1)[..., 2:].reshape(80, 64).view(np.int8).copy())
    high, low = numbers_of(tensors["lm_head.qweight"]).int().chunk(2, dim=1)
    assert torch.equal(16 * high + low - 128, expected.int())


def test_an_untied_output_layer_is_read_from_its_own_matrix(folder: Path) -> None:
    path = write_gguf(folder / "untied.gguf", Q4_1, F16, output=Q4_0)
    model = load_float32(path)
    packed = pack_gguf(path, model.config)
    scales, zeros = packed["lm_head.scales_and_zeros"].float().unbind(dim=-1)
    assert torch.allclose(dequantised(packed["lm_head.qweight"], scales, zeros, 64), model.lm_head.weight, atol=0.01)


def test_files_without_such_matrices_give_nothing(folder: Path) -> None:
    config = LlamaConfig(**SHAPE, tie_word_embeddings=True)
    assert pack_gguf(write_gguf(folder / "f16.gguf", F16, F16), config) == {}
    assert pack_gguf(write_gguf(folder / "other.gguf", Q4_1, Q8_0, "phi2"), config) == {}


def test_a_file_of_another_kind_is_refused_by_name(folder: Path) -> None:
    path = folder / "notes.gguf"
    path.write_text("no model at all")
    with pytest.raises(ModelError, match=r"notes\.gguf"):
        pack_gguf(path, LlamaConfig(**SHAPE))
    with pytest.raises(ModelError, match=r"missing\.gguf"):
        pack_gguf(folder / "missing.gguf", LlamaConfig(**SHAPE))


@needs_kernel
class TestPackedModel:
    def test_answers_are_close_to_float32(
        self, reference: nn.Module, model: nn.Module, tensors: dict[str, Tensor]
    ) -> None:
        names = pack(model, tensors)
        assert len(names) == 2 * len(LAYERS) + 1
        for name in names:
            layer, exact = model.get_submodule(name), reference.get_submodule(name)
            row = torch.randn(3, layer.in_features).to(torch.bfloat16)
            with torch.inference_mode():
                difference = layer(row).float() - exact(row.float())
                assert float(difference.norm() / exact(row.float()).norm()) < 0.006, name

    def test_the_packed_copy_answers_few_rows_and_the_ordinary_one_many(
        self, model: nn.Module, tensors: dict[str, Tensor]
    ) -> None:
        pack(model, tensors)
        for name, most in (("model.layers.1.mlp.down_proj", MAX_ROWS_4BIT), ("lm_head", MAX_ROWS_8BIT)):
            layer = model.get_submodule(name)
            rows = torch.randn(most + 1, layer.in_features).to(torch.bfloat16)
            with torch.inference_mode():
                many, few = layer(rows), layer(rows[:most])
                assert torch.equal(many, nn.functional.linear(rows, layer.weight))
                assert torch.equal(few, packed_linear(rows[:most], layer.kernel_weight, layer.scales_and_zeros))
                # Weights and outputs are rounded differently, by some 0.3 % of an output's typical size.
                assert float((few - many[:most]).float().norm() / few.float().norm()) < 0.008
                assert torch.equal(layer(rows[:0]), rows.new_zeros(0, layer.out_features))

    def test_shapes_strides_and_bias(self, folder: Path) -> None:
        path = write_gguf(folder / "bias.gguf", Q4_1, Q8_0, "qwen2")
        reference = load_float32(path)
        model = in_bfloat16(reference)
        pack(model, pack_gguf(path, reference.config))
        layer, exact = (m.get_submodule("model.layers.0.self_attn.q_proj") for m in (model, reference))
        assert isinstance(layer, PackedLinear)
        assert bool((exact.bias.abs() > 0.1).all())  # so that a bias left out would be seen
        hidden = torch.randn(2, 5, 64).to(torch.bfloat16)[:, -1:]  # not contiguous, as a last position is
        with torch.inference_mode():
            found = layer(hidden)
            assert found.shape == (2, 1, 64)
            assert float((found.float() - exact(hidden.float())).norm() / exact(hidden.float()).norm()) < 0.006

    def test_joined_layers_answer_as_one_by_one(self, model: nn.Module, tensors: dict[str, Tensor]) -> None:
        names = [f"model.layers.0.self_attn.{name}_proj" for name in "qkv"]
        joined = kernel_layout(torch.cat([tensors[f"{name}.qweight"] for name in names]))
        scales_and_zeros = torch.cat([tensors[f"{name}.scales_and_zeros"] for name in names], dim=1)
        pack(model, tensors)
        rows = torch.randn(3, 64).to(torch.bfloat16)
        with torch.inference_mode():
            alone = torch.cat([model.get_submodule(name)(rows) for name in names], dim=1)
            assert torch.equal(packed_linear(rows, joined, scales_and_zeros), alone)

    def test_hooks_from_before_and_after_run(self, model: nn.Module, tensors: dict[str, Tensor]) -> None:
        layer = model.get_submodule("model.layers.0.mlp.down_proj")
        calls: list[str] = []
        layer.register_forward_hook(lambda module, inputs, output: calls.append("before") or output * 0)
        pack(model, tensors)
        layer.register_forward_pre_hook(lambda module, inputs: calls.append("after"))
        with torch.inference_mode():
            assert not layer(torch.ones(1, 96, dtype=torch.bfloat16)).any()
            model(torch.tensor([[1, 2, 3]]))
        assert calls == ["after", "before"] * 2

    def test_unpack_gives_back_the_model_it_was(self, model: nn.Module, tensors: dict[str, Tensor]) -> None:
        modules = dict(model.named_modules())
        parameters = dict(model.named_parameters())
        state = {key: value.clone() for key, value in model.state_dict().items()}
        tokens = torch.tensor([[1, 2, 3]])
        with torch.inference_mode():
            plain = model(tokens).logits
        pack(model, tensors)
        assert list(model.state_dict()) == list(state)
        assert model.lm_head.weight is model.model.embed_tokens.weight
        with torch.inference_mode():
            assert not torch.equal(model(tokens).logits, plain)  # the packed copies did answer
        unpack(model)
        assert all(modules[name] is module for name, module in model.named_modules())
        assert all(parameters[name] is parameter for name, parameter in model.named_parameters())
        assert not any(isinstance(module, PackedLinear) for module in model.modules())
        assert not list(model.lm_head.buffers())
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
        with torch.inference_mode():
            assert torch.equal(model(tokens).logits, plain)

    def test_a_copy_of_a_packed_model_is_packed(self, model: nn.Module, tensors: dict[str, Tensor]) -> None:
        pack(model, tensors)
        twin = copy.deepcopy(model)
        unpack(model)
        assert isinstance(twin.lm_head, PackedLinear)

    def test_gradients_flow_through_the_ordinary_weight(self, model: nn.Module, tensors: dict[str, Tensor]) -> None:
        pack(model, tensors)
        row = torch.randn(1, 64, dtype=torch.bfloat16, requires_grad=True)
        model.lm_head(row).float().sum().backward()
        assert row.grad is not None
        assert torch.allclose(row.grad.float(), model.lm_head.weight.float().sum(dim=0), rtol=0.05, atol=0.05)

    def test_float32_models_are_left_alone(self, file: Path, tensors: dict[str, Tensor]) -> None:
        model = load_float32(file)
        assert pack(model, tensors) == []
        assert not any(isinstance(module, PackedLinear) for module in model.modules())

    def test_a_packed_model_turned_to_float32_computes_in_float32(
        self, reference: nn.Module, model: nn.Module, tensors: dict[str, Tensor]
    ) -> None:
        pack(model, tensors)
        model.float()
        row = torch.randn(1, 64)
        with torch.inference_mode():
            assert torch.equal(model.lm_head(row), nn.functional.linear(row, model.lm_head.weight))

    @pytest.mark.parametrize("name", ["model.layers.1.self_attn.q_proj", "lm_head"])
    def test_weights_of_another_model_are_refused_and_nothing_is_packed(
        self, model: nn.Module, tensors: dict[str, Tensor], name: str
    ) -> None:
        model.get_submodule(name).weight.mul_(1.05)
        with pytest.raises(ModelError, match=name):
            pack(model, tensors)
        assert not any(isinstance(module, PackedLinear) for module in model.modules())

    @pytest.mark.parametrize(
        "config",
        [
            LlamaConfig(**{**SHAPE, "num_hidden_layers": 1}),
            LlamaConfig(**{**SHAPE, "intermediate_size": 128}),
            Qwen2Config(**{**SHAPE, "hidden_size": 128}),
        ],
    )
    def test_a_model_of_another_shape_is_refused(self, config: PretrainedConfig, tensors: dict[str, Tensor]) -> None:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        with pytest.raises(ModelError, match="packed weights are not this model's"):
            pack(model, tensors)


def test_the_kernels_order_of_numbers_is_the_only_thing_that_depends_on_the_machine(tensors: dict[str, Tensor]) -> None:
    """The kernel gives back the formula's weights, whatever order this CPU wants them in."""
    name = "model.layers.0.mlp.down_proj"
    qweight, both = tensors[f"{name}.qweight"], tensors[f"{name}.scales_and_zeros"]
    identity = torch.eye(96, dtype=torch.bfloat16)
    found = packed_linear(identity, kernel_layout(qweight), both)
    scales, zeros = both.float().unbind(dim=-1)
    assert torch.equal(found, dequantised(qweight, scales, zeros, 96).T.to(torch.bfloat16))


def test_nothing_is_packed_where_the_kernel_is_slow(
    model: nn.Module, tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert pack(model, tensors) == []
    assert isinstance(model, LlamaForCausalLM)
    assert type(model.lm_head) is nn.Linear
