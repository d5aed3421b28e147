"""Load a chat model and know what the method needs of it: its blocks, its template, its post-instruction tokens."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from steering import template
from steering.architectures import Architecture, find_architecture
from steering.errors import ModelError, OutOfMemoryError
from steering.machine import free_memory, preferred_dtype
from steering.progress import Progress, silent
from steering.weights import BUNDLED_LABEL, PACKED_FILE, SOURCE_FILE, cache_folder, model_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = template.Message
Quantization = Literal["8bit", "4bit"]


@dataclass
class ChatModel:
    """A loaded chat model. Nothing in this library changes its weights or leaves a hook on it.

    Attributes:
        model: the transformers causal language model, in evaluation mode.
        name: what it was loaded from (``"bundled"``, a hub id, or a path).
        label: its name for people.
        revision: the commit or the content hash of its files, "" if unknown.
        quantization: ``"8bit"`` or ``"4bit"`` if bitsandbytes holds its weights, else None.
        thinking: whether the template lets the model think aloud before it answers.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    name: str
    label: str
    revision: str = ""
    quantization: Quantization | None = None
    thinking: bool = False
    # Only one forward pass may carry hooks at a time; whoever steers holds this lock for the length of one step.
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

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
        """Where token ids go: the device of the embedding."""
        return next(self.architecture.embedding.parameters()).device

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
    def end_tokens(self) -> frozenset[int]:
        """Token ids that end a reply, the same as ``generate`` stops at."""
        ids = self.model.generation_config.eos_token_id
        listed = ids if isinstance(ids, list) else [ids]
        return frozenset(i for i in [*listed, self.tokenizer.eos_token_id] if i is not None)

    @cached_property
    def fingerprint(self) -> str:
        """A hash that names these weights: of the revision where there is one, else of the weights themselves."""
        digest = hashlib.sha256(f"{self.name} {self.revision}".encode() if self.revision else b"")
        if not self.revision:
            for name, weight in self.model.state_dict().items():
                digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
                digest.update(weight.detach().contiguous().flatten().view(torch.uint8).cpu().numpy())
        return digest.hexdigest()

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
        """Token ids of :meth:`format`."""
        return template.encode(self.tokenizer, self.format(messages))


def load_model(
    source: str = "bundled",
    *,
    device: str | None = None,
    dtype: torch.dtype | str | None = None,
    quantization: Quantization | None = None,
    thinking: bool = False,
    revision: str | None = None,
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

    Raises:
        ModelError: if there is no such model, its architecture is unknown, it has no chat template, or there is no
            memory for it.
    """
    if quantization not in (None, "8bit", "4bit"):
        raise ModelError(f"Quantization is “8bit” or “4bit”, not “{quantization}”.")
    folder = model_folder(source, revision, progress)
    progress("Loading the model", 0, 10)
    config = _read_config(folder)
    target = _device(device)
    number_type = _dtype(dtype, target)
    placement = _placement(device, target, folder, config, number_type, quantization)
    tokenizer = _load_tokenizer(folder)
    progress("Loading the model", 3, 10)
    model = _load_weights(folder, number_type, placement, quantization)
    progress("Loading the model", 8, 10)
    if (folder / PACKED_FILE).is_file() and number_type == torch.bfloat16 and target.type == "cpu" and not quantization:
        _pack(model, folder / PACKED_FILE)
    label = BUNDLED_LABEL if source == "bundled" else _label(source)
    loaded = ChatModel(model, tokenizer, source, label, _revision(folder), quantization, thinking)
    loaded.post_instruction_tokens  # noqa: B018  refuses here a template that the method cannot use
    progress("Loading the model", 10, 10)
    return loaded


def _label(source: str) -> str:
    return Path(source).stem if source.endswith(".gguf") else source.rstrip("/").rsplit("/", 1)[-1]


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it holds no settings")
    except (OSError, ValueError) as error:
        raise ModelError(
            f"The model's config.json in {folder} cannot be read: {error}. Fetch the model again."
        ) from error
    if "auto_map" in config and config.get("model_type") not in _known_types():
        raise ModelError(
            f"The model in {folder} brings its own program code, which is not run here. "
            "Choose a model of a known family."
        )
    return config


def _known_types() -> set[str]:
    from transformers import CONFIG_MAPPING

    return set(CONFIG_MAPPING.keys())


def _device(device: str | None) -> torch.device:
    if device in (None, "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"There is no device “{device}” here. Use --device cpu, or leave it out.") from error
    return target


def _dtype(dtype: torch.dtype | str | None, device: torch.device) -> torch.dtype:
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point:
        return dtype
    if dtype in (None, "auto"):
        return preferred_dtype(device)
    named = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if not isinstance(dtype, str) or dtype not in named:
        raise ModelError(f"The number type is one of {', '.join(named)}, not “{dtype}”.")
    return named[dtype]


def _placement(
    asked: str | None,
    target: torch.device,
    folder: Path,
    config: dict[str, Any],
    dtype: torch.dtype,
    quantization: Quantization | None,
) -> str | dict[str, Any]:
    """A ``device_map``: one device, or ``"auto"`` where the model does not fit on it.

    Raises:
        ModelError: if it does not fit anywhere and the caller did not ask for ``"auto"``.
    """
    if asked == "auto":
        return "auto"
    needed = weight_bytes(folder, config, dtype, quantization)
    free = free_memory(target)
    if needed * 1.1 <= free:  # some room for activations and the key/value cache
        return {"": target}
    if target.type == "cuda" and needed * 1.1 <= free + free_memory(torch.device("cpu")):
        return "auto"
    raise ModelError(
        f"This model needs {needed * 1.1 / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free. Choose a smaller "
        "one, use --quantization 4bit, or --device auto to keep a part of it on disk (slow)."
    )


def weight_bytes(folder: Path, config: dict[str, Any], dtype: torch.dtype, quantization: Quantization | None) -> int:
    """Bytes the weights of the model in ``folder`` take once loaded."""
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors") if file.name != PACKED_FILE)
    named = config.get("dtype") or config.get("torch_dtype") or "bfloat16"
    parameters = stored / (4 if named == "float32" else 2)
    size = {"8bit": 1.1, "4bit": 0.65}.get(quantization or "", dtype.itemsize)
    return int(parameters * size)


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise ModelError(f"The tokenizer in {folder} cannot be read: {error}. Fetch the model again.") from error
    if not tokenizer.chat_template:
        raise ModelError(
            "This model has no chat template, so it is not a chat model. Choose one whose name ends in Instruct, it or "
            "chat, or put a chat_template.jinja into its folder."
        )
    tokenizer.padding_side = "left"
    return tokenizer


def _load_weights(
    folder: Path, dtype: torch.dtype, placement: str | dict[str, Any], quantization: Quantization | None
) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

    settings = None
    if quantization == "8bit":
        settings = BitsAndBytesConfig(load_in_8bit=True)
    elif quantization == "4bit":
        settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        extra = {"quantization_config": settings} if settings else {}
        if placement == "auto":
            extra["offload_folder"] = str(cache_folder() / "offload")
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            device_map=placement,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **extra,
        )
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemoryError("There is not enough memory for this model. Choose a smaller one.") from error
    except Exception as error:
        raise ModelError(f"The model in {folder} cannot be loaded: {error}") from error
    if lost := sorted(found["missing_keys"]):  # they now hold random numbers
        raise ModelError(
            f"The model in {folder} lacks {len(lost)} of its tensors, {lost[0]} among them. Fetch the model again."
        )
    return model.eval().requires_grad_(False)


def _pack(model: Any, file: Path) -> None:
    from safetensors.torch import load_file

    from steering.packed import pack

    pack(model, load_file(file))


def _revision(folder: Path) -> str:
    """A name for exactly these weights: the hub's commit, or the converted file's hash, or "" for a plain folder."""
    if folder.parent.name == "snapshots":
        return folder.name
    try:
        return str(json.loads((folder / SOURCE_FILE).read_text())["sha256"])
    except (OSError, ValueError, KeyError):
        return ""
