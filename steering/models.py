"""Load a chat model and know what the method needs of it: its blocks, its template, its post-instruction tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from steering import own_words, template
from steering.architectures import Architecture, find_architecture
from steering.errors import ModelError
from steering.model_files import load_tokenizer, load_weights, pack_weights, read_config, revision_of
from steering.pass_lock import PassLock
from steering.placement import Quantization, chosen_device, chosen_dtype, device_map, weight_bytes
from steering.progress import Progress, silent
from steering.weights import BUNDLED_HUB_ID, BUNDLED_LABEL, PACKED_FILE, is_stand_in, model_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from steering.processes import Helps, Leads, Processes

__all__ = ["ChatModel", "Message", "Quantization", "load_model", "weight_bytes"]

Message = template.Message


@dataclass
class ChatModel:
    """A loaded chat model. Nothing in this library changes its weights or leaves a hook on it.

    Attributes:
        model: the transformers causal language model, in evaluation mode.
        name: what it was loaded from (``"bundled"``, a hub id, or a path); the published model's id where it stands in
            for the bundled one.
        label: its name for people.
        revision: the commit or the content hash of its files, "" if unknown.
        quantization: ``"8bit"`` or ``"4bit"`` if bitsandbytes holds its weights, else None.
        thinking: whether the template lets the model think aloud before it answers.
        leader: who hands what is run here to the other processes, if several hold the model together.
        helpers: other processes with the same model, which take their part of reading and scoring.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    name: str
    label: str
    revision: str = ""
    quantization: Quantization | None = None
    thinking: bool = False
    leader: Leads | None = field(default=None, repr=False)
    helpers: Helps | None = field(default=None, repr=False)
    # Only one forward pass may carry hooks at a time; whoever steers holds this lock for the length of one step.
    lock: PassLock = field(default_factory=PassLock, repr=False)

    def __post_init__(self) -> None:
        self.architecture: Architecture = find_architecture(self.model, self.config.model_type)

    @property
    def config(self) -> Any:
        """The configuration of the text model."""
        return self.model.config.get_text_config()

    @property
    def n_layers(self) -> int:
        return len(self.architecture.blocks)

    @property
    def d_model(self) -> int:
        return int(self.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where token ids go: the device of the embedding, or the one it computes on when it lies on the disk."""
        embedding = self.architecture.embedding
        device = next(embedding.parameters()).device
        return device if device.type != "meta" else torch.device(embedding._hf_hook.execution_device)  # type: ignore[union-attr, arg-type]

    @property
    def dtype(self) -> torch.dtype:
        return self.architecture.embedding.weight.dtype  # type: ignore[return-value]

    @property
    def max_length(self) -> int:
        """The longest conversation in tokens, prompt and reply together."""
        return int(getattr(self.config, "max_position_embeddings", 0) or 4096)

    @property
    def can_think(self) -> bool:
        return template.knows_thinking(self.tokenizer)

    @cached_property
    def thought_marks(self) -> template.ThoughtMarks | None:
        """What stands around a thought, or None for models that do not think aloud."""
        return template.thought_marks(self.tokenizer)

    @property
    def thought_end(self) -> list[int] | None:
        """Token ids that end a thought, or None for models that do not think aloud."""
        return None if self.thought_marks is None else self.thought_marks.end_tokens

    @property
    def open_thought(self) -> bool | None:
        """Whether the prompt ends within a thought (True) or behind one (False); None if it leaves that to the model.

        Without a thought to be had it is False: what comes is the answer.
        """
        if self.thought_marks is None:
            return False
        cache = self.__dict__.setdefault("_open_thought", {})
        if self.thinking not in cache:
            cache[self.thinking] = template.open_thought(self.tokenizer, self.thought_marks, self.thinking)
        # Not asked to think, a model whose prompt says nothing of a thought answers.
        return cache[self.thinking] if self.thinking or cache[self.thinking] else False

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """Token ids that end a reply, the same as ``generate`` stops at."""
        ids = self.model.generation_config.eos_token_id
        listed = ids if isinstance(ids, list) else [ids]
        return frozenset(i for i in [*listed, self.tokenizer.eos_token_id] if i is not None)

    @cached_property
    def fingerprint(self) -> str:
        """A hash that names these weights: of the revision where there is one, else of the weights themselves."""
        if self.revision:
            return hashlib.sha256(f"{self.name} {self.revision}".encode()).hexdigest()
        return fingerprint_of(weights(self.model))

    @property
    def pad_token(self) -> int:
        """A token id to fill rows with on the left; what it is does not matter, for it is masked."""
        pad = self.tokenizer.pad_token_id
        return pad if pad is not None else min(self.end_tokens, default=0)

    @property
    def post_instruction_tokens(self) -> list[int]:
        """Token ids after the user's text in the rendered prompt; positions -k … -1 of the paper."""
        return self._post_instruction_tokens(self.thinking)

    def _post_instruction_tokens(self, thinking: bool) -> list[int]:
        cache = self.__dict__.setdefault("_post_instruction", {})
        if thinking not in cache:
            cache[thinking] = template.post_instruction_tokens(self.tokenizer, thinking)
        return cache[thinking]

    def format(self, messages: list[Message]) -> str:
        """The prompt for the next reply, as the chat template writes it.

        Raises:
            ModelError: if the template does not take this conversation.
        """
        return template.render(self.tokenizer, messages, self.thinking)

    def encode(self, messages: list[Message]) -> list[int]:
        """Token ids of :meth:`format`; replies that remember theirs stand in it with them (`steering.own_words`)."""
        return own_words.encode(self.tokenizer, messages, self.thinking)


def fingerprint_of(named: Iterable[tuple[str, torch.Tensor]]) -> str:
    """A hash of the weights themselves, with their names, shapes and number types."""
    digest = hashlib.sha256()
    for name, weight in named:
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        content: Any = weight.detach().contiguous().flatten().view(torch.uint8).cpu().numpy()
        digest.update(content)
    return digest.hexdigest()


def weights(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Every entry of the state dict; what lies on the disk (accelerate) is fetched a module at a time."""
    for path, module in model.named_modules():
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        kept = [(name, tensor) for name, tensor in own if name not in module._non_persistent_buffers_set]
        away = {name for name, tensor in kept if tensor.device.type == "meta"}
        for name, tensor in kept:
            whole = f"{path}.{name}" if path else name
            yield whole, module._hf_hook.weights_map[name] if name in away else tensor


def load_model(
    source: str = "bundled",
    *,
    device: str | None = None,
    dtype: torch.dtype | str | None = None,
    quantization: Quantization | None = None,
    thinking: bool = False,
    revision: str | None = None,
    processes: Processes | None = None,
    chat_template: str | None = None,
    progress: Progress = silent,
) -> ChatModel:
    """Load a chat model.

    Args:
        source: ``"bundled"``, a hub id, a folder, or a ``.gguf`` file.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, or ``"auto"`` to spread the model over what there is (accelerate).
            By default a GPU if there is one; ``"auto"`` is taken by itself when the model does not fit on it.
        dtype: of the weights, for instance ``torch.float32`` or ``"bfloat16"``; by default what is faster here.
        quantization: ``"8bit"`` or ``"4bit"`` through bitsandbytes, on CPU and CUDA.
        thinking: for models that can think aloud before they answer.
        revision: commit of a hub id.
        chat_template: for a base model, which has none: that of the chat model made from it.
        processes: those that load it together, each its part (`steering.shared_models` does more than load).

    Raises:
        ModelError: if there is no such model, its architecture is unknown, it has no chat template, or there is no
            memory for it.
    """
    if quantization not in (None, "8bit", "4bit"):
        raise ModelError(f"Quantization is “8bit” or “4bit”, not “{quantization}”.")
    folder = model_folder(source, revision, progress)
    progress("Loading the model", 0, 10)
    config = read_config(folder)
    target = chosen_device(device)
    number_type = chosen_dtype(dtype, target)
    alone = processes is None
    placement = device_map(device, target, folder, config, number_type, quantization) if alone else ""
    tokenizer = load_tokenizer(folder, chat_template)
    progress("Loading the model", 3, 10)
    model = load_weights(folder, number_type, placement, quantization, processes.size if processes else 1)
    progress("Loading the model", 8, 10)
    packs = alone and number_type == torch.bfloat16 and target.type == "cpu" and not quantization
    if packs and (folder / PACKED_FILE).is_file():
        pack_weights(model, folder / PACKED_FILE)
    label = BUNDLED_LABEL if source == "bundled" else _label(source)
    # Other weights have another name, so that no direction made for the bundled ones is taken for theirs.
    name = BUNDLED_HUB_ID if source == "bundled" and is_stand_in(folder) else source
    loaded = ChatModel(model, tokenizer, name, label, revision_of(folder), quantization, thinking)
    loaded.post_instruction_tokens  # noqa: B018  refuses here a template that the method cannot use
    progress("Loading the model", 10, 10)
    return loaded


def _label(source: str) -> str:
    return Path(source).stem if source.endswith(".gguf") else source.rstrip("/").rsplit("/", 1)[-1]
