"""Linear layers that read a GGUF file's own 4- and 8-bit weights when they have few rows to do.

A decode step is bound by reading the weights. torch ships a CPU kernel (``aten::_weight_int4pack_mm_for_cpu``) that
reads 4-bit weights in groups of 32 with a scale and a zero per group, which is just what a GGUF file's Q4_0 and Q4_1
blocks hold. So the blocks are moved over as they are; nothing is quantised a second time.

With ``q`` the 4-bit number of the kernel, a weight is ``(q - 8) * scale + zero``. Per group of 32, ``d`` and ``m``
being the file's float16 scale and minimum:

========  =========================================  ==================================================================
in file   a weight there                             here
========  =========================================  ==================================================================
Q4_0      ``d * (n - 8)``, n in 0..15                ``q = n, scale = d, zero = 0``
Q4_1      ``d * n + m``, n in 0..15                  ``q = n, scale = d, zero = m + 8 * d``
Q8_0      ``d * n``, n in -128..127                  two numbers, for which the input is read twice: with n + 128 =
                                                     16 * high + low, ``q = high, scale = 16 * d, zero = 0`` and
                                                     ``q = low, scale = d, zero = 8 * d``
========  =========================================  ==================================================================

Exact: every 4- and 8-bit number, and the products and sums of the kernel, which are float32. Not exact: the kernel
takes scales and zeros in bfloat16, so each is rounded, by at most one part in 256. In the bundled model that moves the
matrices by 0.20 to 0.24 % (relative Frobenius norm; 0.16 % for the Q8_0 head); rounding every weight to bfloat16, as
the ordinary copy does, by 0.13 %. ``benchmarks/packed_accuracy.py`` measures what either does to the model's answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn

from steering.errors import ModelError

if TYPE_CHECKING:
    from os import PathLike

    from gguf import ReaderTensor
    from numpy.typing import NDArray
    from transformers import PretrainedConfig

GROUP_SIZE = 32
"""Weights that share a scale and a zero, in the GGUF formats read here and in the kernel."""

MAX_ROWS_4BIT = 12
MAX_ROWS_8BIT = 4
"""Up to so many rows the packed weights are faster than bfloat16 ones, with one thread and with two (AVX-512)."""

_PROJECTIONS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LLAMA_SHAPED = frozenset({"llama", "qwen2", "qwen3"})  # GGUF's names; Mistral's files say "llama"
_ROW_MULTIPLE = 16  # the kernel refuses other numbers of output features
_PROBE_TOLERANCE = 0.01


def pack_gguf(path: str | PathLike[str], config: PretrainedConfig) -> dict[str, Tensor]:
    """Read the 4- and 8-bit matrices of a Llama-shaped GGUF file, to be handed to :func:`pack`.

    Args:
        path: a GGUF file.
        config: the transformers config of the same model; read for its numbers of heads and whether the
            output layer shares the embedding's matrix.

    Returns:
        Two tensors per linear layer, named after its transformers module (``model.layers.0.self_attn.q_proj``, …,
        ``lm_head``), ready for safetensors and the same on every machine:

        - ``<module>.qweight``, uint8 ``[out, columns / 2]``: column ``2 j`` in the low four bits of byte ``j``,
          column ``2 j + 1`` in its high four. ``columns`` is ``in`` for Q4_0 and Q4_1; for Q8_0 it is ``2 * in``,
          first every ``high``, then every ``low`` (see the module's text);
        - ``<module>.scales_and_zeros``, bfloat16 ``[columns / 32, out, 2]``.

        Layers stored in any other format are left out, and so is a matrix whose number of rows is not a multiple of
        16. The dictionary is empty for files of another shape than Llama's.

    Layers that read the same input (q, k and v; gate and up) join by concatenating ``qweight`` along dimension 0 and
    ``scales_and_zeros`` along dimension 1.

    Raises:
        ModelError: the file is missing or is not a GGUF file.
    """
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is not a GGUF file that can be read ({error}); check the path.") from error
    architecture = reader.get_field("general.architecture")
    if architecture is None or architecture.contents() not in _LLAMA_SHAPED:
        return {}

    packed: dict[str, Tensor] = {}
    for tensor in reader.tensors:
        name = _module_name(tensor.name, tied=bool(config.tie_word_embeddings))
        if name is None or len(tensor.shape) != 2 or int(tensor.shape[1]) % _ROW_MULTIPLE:
            continue
        if (read := _read_blocks(tensor)) is None:
            continue
        numbers, scales, zeros = read
        if architecture.contents() == "llama" and name.endswith((".q_proj", ".k_proj")):
            heads = config.num_attention_heads if name.endswith(".q_proj") else config.num_key_value_heads
            order = _transformers_row_order(len(numbers), heads)
            numbers, scales, zeros = numbers[order], scales[order], zeros[order]
        packed[f"{name}.qweight"] = torch.from_numpy(numbers[:, 0::2] | (numbers[:, 1::2] << 4))
        both = torch.from_numpy(np.stack([scales.T, zeros.T], axis=-1))
        packed[f"{name}.scales_and_zeros"] = both.to(torch.bfloat16).contiguous()
    return packed


def _module_name(tensor_name: str, *, tied: bool) -> str | None:
    """The transformers module of a GGUF tensor, or None for tensors that no linear layer multiplies by."""
    parts = tensor_name.split(".")
    if parts[-1] != "weight":
        return None
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in _PROJECTIONS:
        return f"model.layers.{parts[1]}.{_PROJECTIONS[parts[2]]}"
    return "lm_head" if parts[0] == ("token_embd" if tied else "output") else None


def _read_blocks(tensor: ReaderTensor) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]] | None:
    """Take a tensor's blocks apart: 4-bit numbers ``[out, columns]``, scales and zeros ``[out, columns / 32]``."""
    from gguf import GGMLQuantizationType

    header_sizes = {GGMLQuantizationType.Q4_0: 2, GGMLQuantizationType.Q4_1: 4, GGMLQuantizationType.Q8_0: 2}
    header_size = header_sizes.get(tensor.tensor_type)
    if header_size is None:
        return None
    in_features, out_features = (int(size) for size in tensor.shape)
    blocks = np.asarray(tensor.data).reshape(out_features, in_features // GROUP_SIZE, -1)
    header = np.ascontiguousarray(blocks[..., :header_size]).view(np.float16).astype(np.float32)
    scale, body = header[..., 0], blocks[..., header_size:]

    if tensor.tensor_type == GGMLQuantizationType.Q8_0:
        shifted = (body ^ 0x80).reshape(out_features, in_features)  # a signed byte n becomes n + 128
        numbers = np.concatenate([shifted >> 4, shifted & 15], axis=1)
        scales = np.concatenate([16 * scale, scale], axis=1)
        return numbers, scales, np.concatenate([np.zeros_like(scale), 8 * scale], axis=1)
    # A block's first 16 numbers lie in the low halves of its bytes, the other 16 in the high halves.
    numbers = np.concatenate([body & 15, body >> 4], axis=-1).reshape(out_features, in_features)
    if tensor.tensor_type == GGMLQuantizationType.Q4_0:
        return numbers, scale, np.zeros_like(scale)
    return numbers, scale, header[..., 1] + 8 * scale


def _transformers_row_order(n_rows: int, n_heads: int) -> NDArray[np.intp]:
    """Where each of transformers' rows of a query or key matrix lies in a "llama" GGUF file.

    The file alternates the two coordinates that a rotary angle turns; transformers keeps a head's first coordinates
    together, then its second ones.
    """
    in_file = np.arange(n_rows).reshape(n_heads, n_rows // n_heads // 2, 2)
    return in_file.swapaxes(1, 2).reshape(n_rows)


def available() -> bool:
    """Whether this CPU has a fast packed kernel; elsewhere the kernel is right but many times slower than bfloat16."""
    return torch.backends.cpu.get_cpu_capability().startswith(("AVX512", "AVX2"))


def kernel_layout(qweight: Tensor) -> Tensor:
    """Bring ``qweight`` (uint8 ``[out, columns / 2]``) into the order this machine's kernel reads; same shape.

    The order depends on the CPU's vector width, so the result must not be stored in a file.
    """
    numbers = torch.stack([qweight & 15, qweight >> 4], dim=-1).flatten(1).to(torch.int32)
    return torch.ops.aten._convert_weight_to_int4pack_for_cpu(numbers, 1)


def packed_linear(rows: Tensor, kernel_weight: Tensor, scales_and_zeros: Tensor) -> Tensor:
    """Multiply bfloat16 ``rows`` ``[n, in]`` (contiguous, CPU) by a packed matrix; gives bfloat16 ``[n, out]``.

    ``kernel_weight`` comes from :func:`kernel_layout`. Products are summed in float32 and rounded once, at the end.
    No gradient flows through it.
    """
    if 2 * kernel_weight.shape[1] != rows.shape[1]:  # 8-bit weights: high and low parts read the same input
        rows = torch.cat([rows, rows], dim=1)
    return torch.ops.aten._weight_int4pack_mm_for_cpu(rows, kernel_weight, GROUP_SIZE, scales_and_zeros)


class PackedLinear(nn.Linear):
    """A linear layer with two copies of its weight: packed for few rows, the ordinary bfloat16 one for many.

    It is an ``nn.Linear`` in all else: ``weight`` and ``bias`` are the layer's own (tied embeddings stay tied), the
    state dict holds nothing new, hooks work. The packed copy does not follow changes of ``weight``: :func:`unpack`
    before editing it. :func:`pack` makes instances; there is no other constructor.

    The packed copy answers bfloat16 input on the CPU of at most ``max_rows`` rows (batch times tokens) that needs no
    gradient; the ordinary weight answers all else. The two answers agree within bfloat16's rounding of weights.
    """

    kernel_weight: Tensor
    scales_and_zeros: Tensor
    max_rows: int

    def forward(self, input: Tensor) -> Tensor:
        """Map ``[..., in]`` to ``[..., out]``."""
        n_rows = input.numel() // self.in_features
        few = 0 < n_rows <= self.max_rows and input.dtype == torch.bfloat16 and input.is_cpu
        if not few or (torch.is_grad_enabled() and (input.requires_grad or self.weight.requires_grad)):
            return super().forward(input)
        rows = input.reshape(n_rows, self.in_features).contiguous()
        output = packed_linear(rows, self.kernel_weight, self.scales_and_zeros)
        if self.bias is not None:
            output = output + self.bias
        return output.view(*input.shape[:-1], self.out_features)


def pack(model: nn.Module, tensors: dict[str, Tensor]) -> list[str]:
    """Give the linear layers of ``model`` their packed weights, in place.

    A layer stays the same object and only changes its class, so hooks on it and lists that hold it go on working.
    Packed are plain ``nn.Linear`` layers with bfloat16 weights on a CPU for which :func:`available` is true; a
    float32 model is left as it is, always.

    Args:
        tensors: what :func:`pack_gguf` returned for the same weights.

    Returns:
        The names of the packed layers; empty if there was nothing to pack.

    Raises:
        ModelError: the tensors belong to other weights than the model's (found by comparing both answers to the same
            random row). Nothing is packed then.
    """
    if not available():
        return []
    ready: list[tuple[str, nn.Linear, Tensor, Tensor]] = []
    for name, qweight in _suffixed(tensors, ".qweight"):
        try:
            layer = model.get_submodule(name)
        except AttributeError as error:
            raise _other_model(name, "the model has no such layer") from error
        if type(layer) is not nn.Linear or layer.weight.dtype != torch.bfloat16 or not layer.weight.is_cpu:
            continue
        scales_and_zeros = tensors[f"{name}.scales_and_zeros"]
        columns = 2 * qweight.shape[1]
        if qweight.shape[0] != layer.out_features or columns not in (layer.in_features, 2 * layer.in_features):
            raise _other_model(name, f"{tuple(qweight.shape)} bytes for a {tuple(layer.weight.shape)} matrix")
        kernel_weight = kernel_layout(qweight)
        _check_same_weight(name, layer, kernel_weight, scales_and_zeros)
        ready.append((name, layer, kernel_weight, scales_and_zeros))

    for _, layer, kernel_weight, scales_and_zeros in ready:
        cast(nn.Module, layer).__class__ = PackedLinear
        packed = cast(PackedLinear, layer)
        packed.register_buffer("kernel_weight", kernel_weight, persistent=False)
        packed.register_buffer("scales_and_zeros", scales_and_zeros, persistent=False)
        packed.max_rows = MAX_ROWS_4BIT if 2 * kernel_weight.shape[1] == layer.in_features else MAX_ROWS_8BIT
    return [name for name, *_ in ready]


def unpack(model: nn.Module) -> None:
    """Undo :func:`pack`: every layer is a plain ``nn.Linear`` again, with the weight it always had."""
    for layer in model.modules():
        if isinstance(layer, PackedLinear):
            del layer.kernel_weight, layer.scales_and_zeros, layer.max_rows
            cast(nn.Module, layer).__class__ = nn.Linear


def _suffixed(tensors: dict[str, Tensor], suffix: str) -> Iterator[tuple[str, Tensor]]:
    return ((key.removesuffix(suffix), tensor) for key, tensor in tensors.items() if key.endswith(suffix))


def _check_same_weight(name: str, layer: nn.Linear, kernel_weight: Tensor, scales_and_zeros: Tensor) -> None:
    """Compare both weights' answers to one random row: rounding differs by some 0.3 %, another matrix by far more."""
    row = torch.randn(1, layer.in_features, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    with torch.no_grad():
        expected = nn.functional.linear(row, layer.weight).float()
        difference = (packed_linear(row, kernel_weight, scales_and_zeros).float() - expected).norm() / expected.norm()
    if not difference <= _PROBE_TOLERANCE:
        raise _other_model(name, f"its answers differ by {difference:.1%}")


def _other_model(name: str, what: str) -> ModelError:
    return ModelError(f"The packed weights are not this model's: {name}, {what}; pack the model's own GGUF file again.")
