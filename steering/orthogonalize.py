"""Take a direction out of a model's weights for good, shard by shard; the result is an ordinary model folder.

Every matrix that writes to the residual stream is edited so that it cannot write along the direction (Arditi et al.
2024, arXiv 2406.11717, section 4.1 and appendix E). The edited model then does without hooks what
:class:`steering.interventions.Ablation` does with them.

Where a norm stands between a projection and the stream (Gemma 2 and 3, OLMo 2), W ← W − R̂ᵀR̂ W would leave a part of
the direction, because the norm's factors g turn what they multiply. There W is edited so that g ⊙ W x, and with it the
stream, has no part along R̂. This is still not the ablation itself: that acts behind the norm, which now divides by the
length of something slightly shorter, so each write comes out a little longer.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steering.architectures import Layout, StoredWrite, find_layout, stored_write
from steering.directions import Direction, _library_version
from steering.errors import DirectionError, ModelError, SteeringError
from steering.progress import Progress, silent
from steering.weights import BUNDLED_HUB_ID, SOURCE_FILE, model_folder

logger = logging.getLogger(__name__)

CARD_FILE = "README.md"
APPROXIMATION = (
    "In this family a norm stands between each projection and the residual stream. The direction is gone from the "
    "stream, but the norm now divides by the length of what is left, so the model is close to the ablated one and not "
    "equal to it."
)
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"  # in the order transformers looks for them
_FLOATS = {"F16", "BF16", "F32", "F64"}
_TEMPLATES = "additional_chat_templates"
# What does not come along: weights in other forms, which would be those of the unedited model, and their indices.
_WEIGHT_ENDINGS = (
    *(".safetensors", ".index.json", ".gguf", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".npz", ".ot"),
    *(".onnx", ".onnx_data", ".tflite"),
)
_LARGEST_COMPANION = 100_000_000  # bytes; a tokenizer has a third of it at most
# How much of g's mean square is added to g² below: enough that factors near zero do not blow an edit up.
_RIDGE = 0.01


def orthogonalize(
    source: str = "bundled",
    direction: Direction | None = None,
    out: str | Path | None = None,
    *,
    progress: Progress = silent,
) -> Path:
    """Write a copy of a model that cannot write along ``direction``: W ← W − R̂ᵀR̂ W (section 4.1, appendix E).

    R̂ is the direction's ablation basis, ``[k, d_model]``; W is every matrix ``[d_model, in]`` whose product is added to
    the residual stream, its bias, and the embedding (from the right). Computed in float32, kept in the source's type.
    A tied unembedding stays as it was and is written untied. Only one shard is in memory at a time.

    Args:
        source: ``"bundled"``, a hub id, a folder, or a ``.gguf`` file.
        direction: what to take out; a must.
        out: the folder to make; a must. It appears when it is whole and checked, and not otherwise.

    Returns:
        ``out``, a folder that transformers loads, with a model card.

    Raises:
        DirectionError: if the direction was made for a model of another width or depth.
        ModelError: if there is no such model, its family is unknown, or its weights are quantised or incomplete.
        SteeringError: if ``out`` exists, cannot be written, or there is no room for it.
        Cancelled: if ``progress`` raises it; it is called for every tensor.
    """
    if direction is None or out is None:
        raise SteeringError("Say which direction to take out of the weights, and which folder to write.")
    target = Path(out).expanduser()
    if os.path.lexists(target):
        raise SteeringError(f"{target} exists already. Choose another folder, or remove it first.")
    checkpoint = Checkpoint.read(model_folder(source, progress=progress))
    _require_fit(direction, checkpoint, source)
    edits = _edits(checkpoint, direction.ablation_basis)
    card = _card(source, checkpoint, direction)
    try:
        _require_space(checkpoint, target.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        with _renamed_when_whole(target) as partial:
            _copy_companions(checkpoint, partial)
            _write_weights(checkpoint, edits, partial, progress)
            (partial / CARD_FILE).write_text(card, encoding="utf-8")
            _verify(checkpoint, edits, partial, progress)
    except OSError as error:
        raise SteeringError(f"{target} cannot be written: {error}. Choose another folder.") from error
    if checkpoint.layout.norm_offset is not None:
        logger.warning(APPROXIMATION)
    return target


@contextmanager
def _renamed_when_whole(target: Path) -> Iterator[Path]:
    """A folder beside ``target`` that gets its name at the end; whatever ends it before leaves nothing."""
    partial = Path(tempfile.mkdtemp(prefix=f"{target.name}.part-", dir=target.parent))
    try:
        yield partial
        partial.chmod(0o755)
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


# --- what there is to edit ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkpoint:
    """A model folder as it lies on disk.

    Attributes:
        config: what transformers makes of config.json, with the defaults of the family.
        shards: the tensors of each weight file, by its name.
        shapes: of every tensor.
    """

    folder: Path
    config: Any
    layout: Layout
    shards: dict[str, list[str]]
    shapes: dict[str, list[int]]

    @classmethod
    def read(cls, folder: Path) -> Checkpoint:
        """Look at config and headers; no weight is read.

        Raises:
            ModelError: if the family is unknown, or the weights are quantised, damaged or incomplete.
        """
        config = _read_config(folder)
        layout = find_layout(config.model_type)
        shards, shapes = {}, {}
        for shard in _shard_names(folder):
            with _opened(folder / shard) as file:
                shards[shard] = list(file.keys())
                for name in shards[shard]:
                    stored = file.get_slice(name)
                    shapes[name] = list(stored.get_shape())
                    if stored_write(layout, name) and stored.get_dtype() not in _FLOATS:
                        raise _quantised(folder, stored.get_dtype())
        checkpoint = cls(folder, config, layout, shards, shapes)
        checkpoint._require_whole()
        return checkpoint

    @property
    def d_model(self) -> int:
        return int(self.config.hidden_size)

    @property
    def n_layers(self) -> int:
        return int(self.config.num_hidden_layers)

    @cached_property
    def writes(self) -> dict[str, StoredWrite]:
        """The tensors that write to the stream, by name."""
        found = {name: stored_write(self.layout, name) for name in self.shapes}
        return {name: write for name, write in found.items() if write is not None}

    @property
    def embedding(self) -> str:
        return f"{self.layout.embedding}.weight"

    @property
    def output(self) -> str:
        """The name of the output matrix, in the files or, if it is tied, for them."""
        # A family's own name in its files may differ from the one transformers gives it once loaded, and may save.
        return "lm_head.weight" if "lm_head.weight" in self.shapes else f"{self.layout.output}.weight"

    @property
    def says_tied(self) -> bool:
        return bool(getattr(self.config, "tie_word_embeddings", False))

    @property
    def is_tied(self) -> bool:
        """Whether the output matrix is the embedding, and not a tensor of its own."""
        return self.says_tied and self.output not in self.shapes

    def _require_whole(self) -> None:
        """Raise ModelError unless every write of every layer is here with the right width."""
        expected = {(layer, write) for layer in range(self.n_layers) for write in range(len(self.layout.projections))}
        found = {(write.layer, write.write) for write in self.writes.values() if write.axis == -2}
        lost = [f"what layer {layer} writes" for layer, _ in sorted(expected - found)]
        lost += [] if self.embedding in self.shapes else [self.embedding]
        lost += [] if self.is_tied or self.output in self.shapes else [self.output]
        norms = {write.norm for write in self.writes.values() if write.norm}
        lost += sorted(norms - set(self.shapes))
        if lost:
            raise ModelError(
                f"The weights in {self.folder} lack {lost[0]}, or have it under an unknown name. Fetch the model again."
            )
        for name, write in self.writes.items():
            if self.shapes[name][write.axis] != self.d_model:
                raise ModelError(
                    f"{name} in {self.folder} has the shape {self.shapes[name]}, which does not fit the width "
                    f"{self.d_model} in config.json. Fetch the model again."
                )


def _read_config(folder: Path) -> Any:
    from transformers import AutoConfig

    try:
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if "quantization_config" in raw:
            raise _quantised(folder, str(raw["quantization_config"].get("quant_method", "unknown method")))
        find_layout(str(raw.get("model_type")))  # the sentence for families that transformers does not know either
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except SteeringError:
        raise
    except Exception as error:
        raise ModelError(
            f"The model's config.json in {folder} cannot be read: {error}. Fetch the model again."
        ) from error


def _quantised(folder: Path, how: str) -> ModelError:
    return ModelError(
        f"The weights in {folder} are quantised ({how}), and an edit of them would not hold. Choose the model they "
        "were made from."
    )


def _shard_names(folder: Path) -> list[str]:
    """The weight files that transformers reads; a folder may have others as well."""
    if (folder / _WEIGHTS).is_file():
        return [_WEIGHTS]
    try:
        names = sorted(set(json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    except FileNotFoundError as error:
        raise ModelError(
            f"The model in {folder} has no safetensors weights, and other formats are not edited. Choose another."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{_INDEX} in {folder} cannot be read: {error}. Fetch the model again.") from error
    for name in names:
        if Path(str(name)).name != name or not (folder / name).is_file():
            raise ModelError(f"The weights {name} are not in {folder}. Fetch the model again.")
    return names


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file, open for reading.

    Raises:
        ModelError: if it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        opened = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read: {error}. Fetch the model again.") from error
    with opened as file:
        yield file


def _require_fit(direction: Direction, checkpoint: Checkpoint, source: str) -> None:
    """Raise DirectionError unless width and depth are those of the model, as :meth:`Direction.require_fit` does."""
    width, depth = len(direction.vector), direction.card.get("n_layers", checkpoint.n_layers)
    if width != checkpoint.d_model or depth != checkpoint.n_layers or not 0 <= direction.layer < checkpoint.n_layers:
        raise DirectionError(
            f"“{direction.name}” was made for a model of width {width} with {depth} layers (layer {direction.layer}); "
            f"{_label(source)} has width {checkpoint.d_model} and {checkpoint.n_layers} layers. Choose the model it "
            "was made for."
        )


def _require_space(checkpoint: Checkpoint, parent: Path) -> None:
    """Raise SteeringError unless the disk under ``parent``, which need not exist yet, has room for the edited model."""
    needed = sum((checkpoint.folder / shard).stat().st_size for shard in checkpoint.shards)
    needed += sum(file.stat().st_size for file in _companions(checkpoint.folder))
    if checkpoint.is_tied:
        needed += 4 * checkpoint.shapes[checkpoint.embedding][0] * checkpoint.d_model
    existing = next(folder for folder in [parent.absolute(), *parent.absolute().parents] if folder.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise SteeringError(
            f"The edited model needs {needed / 1e9:.1f} GB and {existing} has {free / 1e9:.1f} GB free. Choose a "
            "folder on another disk, or make room."
        )


# --- the edit -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Edit:
    """x ← x − U V x with V U = 1, for every vector x along one axis of a tensor.

    Attributes:
        axis: -2 (the columns of matrices) or -1 (a bias, or the rows of an embedding).
        into: U, ``[d_model, k]``; R̂ᵀ where nothing stands between the tensor and the stream.
        along: V, ``[k, d_model]``; R̂ there.
    """

    axis: int
    into: Tensor
    along: Tensor

    def inside(self, weight: Tensor) -> Tensor:
        """V x, what is to be taken out: ``[…, k, in]``, or ``[…, k]`` if d_model is the last axis; float32."""
        exact = weight.to(_exact(weight))
        along = self.along.to(exact.dtype)
        return along @ exact if self.axis == -2 else exact @ along.T

    def apply(self, weight: Tensor) -> Tensor:
        """The edited tensor, a new one of the same type."""
        inside = self.inside(weight)
        into = self.into.to(inside.dtype)
        exact = weight.to(inside.dtype, copy=True)
        exact -= into @ inside if self.axis == -2 else inside @ into.T
        return exact.to(weight.dtype).contiguous()

    def tolerance(self, before: Tensor, after: Tensor) -> float:
        """How long :meth:`inside` of an edited tensor may be: what rounding to its type, and in float32, can leave."""
        limits = torch.finfo(after.dtype)
        per_entry = after.to(_exact(after)).abs().clamp_min(limits.tiny)
        reach = self.along.norm(dim=0).to(per_entry.dtype)
        per_entry *= reach[:, None] if self.axis == -2 else reach
        return float(8 * limits.eps * per_entry.norm() + 1e-5 * self.inside(before).norm())


def _exact(weight: Tensor) -> torch.dtype:
    """The type to compute in: float32, or float64 where the weights are."""
    return torch.promote_types(weight.dtype, torch.float32)


def _edits(checkpoint: Checkpoint, basis: Tensor) -> dict[str, Edit]:
    """What is done to each tensor that writes to the stream."""
    # A direction's basis may be orthonormal to three digits only, and what is left behind must not depend on that.
    rows = torch.linalg.qr(basis.double().T).Q.T  # R̂, [k, d_model]
    factors = _norm_factors(checkpoint)
    return {
        name: Edit(write.axis, rows.T, rows)
        if write.norm is None
        else _edit_before_norm(write.axis, rows, factors[write.norm])
        for name, write in checkpoint.writes.items()
    }


def _edit_before_norm(axis: int, rows: Tensor, factor: Tensor) -> Edit:
    """The edit of what a norm with the factors g multiplies, y, such that R̂ (g ⊙ y) = 0.

    Of all such y' it is the one with the smallest ‖g ⊙ (y' − y)‖² + λ‖y' − y‖², with A = R̂ diag(g):
    y' = y − U V y, U = (diag(g)² + λ)⁻¹ Aᵀ, V = (A U)⁻¹ A. With λ = 0 g ⊙ y' would be the ablated g ⊙ y exactly, but
    where a factor is near zero y' would become so long that the norm, which divides by its length, shrinks all else.
    """
    reads = rows * factor
    ridge = _RIDGE * factor.square().mean()
    into = (reads / (factor.square() + ridge)).T
    return Edit(axis, into, torch.linalg.solve(reads @ into, reads))


def _norm_factors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """g of every norm between a projection and the stream, float64 ``[d_model]``, by the name of its weight."""
    offset = checkpoint.layout.norm_offset
    names = {write.norm for write in checkpoint.writes.values() if write.norm}
    factors: dict[str, Tensor] = {}
    for shard, held in checkpoint.shards.items():
        with _opened(checkpoint.folder / shard) as file:
            factors |= {name: file.get_tensor(name).double() + (offset or 0) for name in held if name in names}
    return factors


def _write_weights(checkpoint: Checkpoint, edits: dict[str, Edit], folder: Path, progress: Progress) -> None:
    """Write every shard under its own name, one after the other, then config and index."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    what, done, total = "Editing the weights", 0, len(checkpoint.shapes)
    added = None
    for shard, names in checkpoint.shards.items():
        with _opened(checkpoint.folder / shard) as file:
            tensors = {}
            for name in names:
                progress(what, done, total)
                done += 1
                tensor = file.get_tensor(name)
                tensors[name] = edits[name].apply(tensor) if name in edits else tensor
                if name == checkpoint.embedding and checkpoint.is_tied:
                    tensors[checkpoint.output], added = tensor, (shard, tensor)
            try:
                save_file(tensors, folder / shard, metadata=file.metadata() or {"format": "pt"})
            except SafetensorError as error:  # as on a disk that is full after all
                raise OSError(str(error)) from error
            (folder / shard).chmod(0o644)  # which safetensors leaves to its owner alone
    progress(what, done, total)
    _write_settings(checkpoint, folder, added)


def _write_settings(checkpoint: Checkpoint, folder: Path, added: tuple[str, Tensor] | None) -> None:
    """Write config.json and the index, which change only if an output matrix was added to a shard."""
    config = json.loads((checkpoint.folder / "config.json").read_text(encoding="utf-8"))
    if checkpoint.says_tied:
        config["tie_word_embeddings"] = False
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if list(checkpoint.shards) == [_WEIGHTS]:
        return
    index = json.loads((checkpoint.folder / _INDEX).read_text(encoding="utf-8"))
    if added is not None:
        shard, tensor = added
        index["weight_map"][checkpoint.output] = shard
        for size, more in (("total_size", tensor.nbytes), ("total_parameters", tensor.numel())):
            if size in index.get("metadata", {}):
                index["metadata"][size] = int(index["metadata"][size]) + more
    (folder / _INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _verify(checkpoint: Checkpoint, edits: dict[str, Edit], folder: Path, progress: Progress) -> None:
    """Read back what was written.

    Raises:
        SteeringError: if a tensor is missing or changed its form, or anything of the direction is left in one.
    """
    what, done, total = "Checking the weights", 0, len(checkpoint.shapes)
    found: dict[str, str] = {}
    for shard, names in checkpoint.shards.items():
        with _opened(folder / shard) as written, _opened(checkpoint.folder / shard) as source:
            found |= dict.fromkeys(written.keys(), shard)
            for name in names:
                progress(what, done, total)
                done += 1
                before, after = source.get_tensor(name), written.get_tensor(name)
                if (before.shape, before.dtype) != (after.shape, after.dtype):
                    raise _broken(folder, f"{name} has another form than in the source")
                if name in edits and not _is_out(edits[name], before, after):
                    raise _broken(folder, f"{name} still writes along the direction, or holds numbers that are none")
    if set(found) != {*checkpoint.shapes, checkpoint.output}:
        raise _broken(folder, "tensors are missing")
    if (folder / _INDEX).is_file() and json.loads((folder / _INDEX).read_text())["weight_map"] != found:
        raise _broken(folder, "the index does not name the tensors there are")
    progress(what, done, total)


def _is_out(edit: Edit, before: Tensor, after: Tensor) -> bool:
    return float(edit.inside(after).norm()) <= edit.tolerance(before, after)


def _broken(folder: Path, what: str) -> SteeringError:
    return SteeringError(
        f"The edited model in {folder.parent} did not pass its check: {what}. Fetch the source again, or report this."
    )


# --- what comes along -----------------------------------------------------------------------------------------------


def _companions(folder: Path) -> list[Path]:
    """The files that belong to the model beside its weights and config: tokenizer, templates, licence."""
    own = {SOURCE_FILE, "config.json"}  # the first names the packed weights, which are not these any more
    candidates = [*folder.iterdir(), *(folder / _TEMPLATES).glob("*")]
    return [
        path
        for path in sorted(candidates)
        if path.is_file()
        and path.name not in own
        and not path.name.startswith(".")
        and not path.name.endswith(_WEIGHT_ENDINGS)
        and path.stat().st_size <= _LARGEST_COMPANION
    ]


def _copy_companions(checkpoint: Checkpoint, folder: Path) -> None:
    """Copy them; the source's own card, with its terms and thanks, stays beside the new one."""
    for path in _companions(checkpoint.folder):
        place = folder / path.relative_to(checkpoint.folder)
        if path.suffix == ".md" and path.stem.startswith("README"):
            place = place.with_name(path.name.replace("README", "README.base", 1))
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, place)


def _label(source: str) -> str:
    """The model's name without the place it lies at, which is nobody's business in a card that may be published."""
    if source == "bundled":
        return BUNDLED_HUB_ID
    return Path(source).expanduser().resolve().name if _is_local(source) else source


def _is_local(source: str) -> bool:
    return Path(source).expanduser().exists()


def _card(source: str, checkpoint: Checkpoint, direction: Direction) -> str:
    """The model card: what was done, to which model, with which direction."""
    facts = {"Base model": _base_model(source, checkpoint.folder), **_direction_facts(direction)}
    facts["Written by"] = f"steering-playground {_library_version()}"
    formula = "`W ← W − R̂ᵀ R̂ W`"
    if checkpoint.layout.norm_offset is not None:
        formula += (
            " for the embedding, and for each projection with the norm behind it, whose factors are `g`: "
            "`W ← W − U V W` with `A = R̂ diag(g)`, `U = (diag(g)² + λ)⁻¹ Aᵀ`, `V = (A U)⁻¹ A`, "
            f"`λ = {_RIDGE} mean(g²)`.\n\n{APPROXIMATION}"
        )
    else:
        formula += " for each of them. Nothing stands between these matrices and the stream, so the edit is exact."
    untied = "\n\nThe output matrix was tied to the embedding. It is written untied, as it was." * checkpoint.is_tied
    rows = "\n".join(f"| {name} | {_cell(value)} |" for name, value in facts.items())
    return (
        f"---\n{_front_matter(source, checkpoint.folder)}\n---\n\n"
        f"# {_cell(_label(source))} without “{_cell(direction.name)}”\n\n"
        "A direction was taken out of this model's weights for good: every matrix that writes to the residual stream "
        "(the token embedding, the output projections of attention and MLP, experts and biases included) was made "
        "orthogonal to it, after Arditi et al. 2024, “Refusal in Language Models Is Mediated by a Single Direction” "
        "(arXiv 2406.11717, section 4.1 and appendix E).\n\n"
        f"| | |\n| --- | --- |\n{rows}\n\n"
        f"R̂ is an orthonormal basis of what was taken out. The edit was {formula}{untied}\n\n"
        "Load it like any model: `AutoModelForCausalLM.from_pretrained(folder)`.\n"
    )


def _base_model(source: str, folder: Path) -> str:
    try:
        origin = json.loads((folder / SOURCE_FILE).read_text(encoding="utf-8"))
        return f"{_label(source)} ({origin['gguf']}, SHA-256 {origin['sha256']}, dequantised)"
    except (OSError, ValueError, KeyError, TypeError):
        is_snapshot = folder.parent.name == "snapshots"
        return f"{_label(source)} (revision {folder.name})" if is_snapshot else _label(source)


def _direction_facts(direction: Direction) -> dict[str, Any]:
    rank = len(direction.ablation_basis)
    facts = {
        "Direction": direction.name,
        "Layer": direction.layer,
        "Position": direction.position or "mean over the response",
        "Rank k": rank,
        "Data": direction.card.get("data", "unknown"),
        "Data SHA-256": direction.card.get("data_sha256", "unknown"),
        "Direction computed on": direction.card.get("model_label", "unknown"),
    }
    if rank == 1 and direction.is_centred:
        facts["Taken out"] = "the centred direction: without its part in the span of the neutral side's means"
    return facts


def _front_matter(source: str, folder: Path) -> str:
    """The card's YAML; the licence and language are those of the source's card."""
    from huggingface_hub import ModelCardData
    from huggingface_hub.repocard import metadata_load

    try:
        known = (metadata_load(folder / CARD_FILE) or {}) if (folder / CARD_FILE).is_file() else {}
        kept = {name: known[name] for name in ("license", "license_name", "license_link", "language") if name in known}
    except Exception:  # whatever YAML and encodings make of a stranger's card; the card itself is copied anyway
        kept = {}
    on_hub = source == "bundled" or not _is_local(source)
    return ModelCardData(
        base_model=_label(source) if on_hub else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["orthogonalised", "steering"],
        **kept,
    ).to_yaml()


def _cell(value: Any) -> str:
    """``value`` on one line of a table."""
    return " ".join(str(value).split()).replace("|", "\\|")
