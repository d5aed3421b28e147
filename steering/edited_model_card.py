"""The cards of edited models: what was done, to which model, with which direction, and how near it came."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from steering.checkpoints import Checkpoint
from steering.directions import Direction
from steering.export_check import Equality
from steering.version import library_version
from steering.weight_edits import RIDGE
from steering.weights import BUNDLED_HUB_ID, SOURCE_FILE

CARD_FILE = "README.md"
BESIDE = "Beside the hooked model: "
COULD_NOT = "It could not be compared with the hooked model: "
UNCOMPARED = "It was not compared with the hooked model."
PAPER = "Arditi et al. 2024, “Refusal in Language Models Is Mediated by a Single Direction” (arXiv 2406.11717"
APPROXIMATION = (
    "In this family a norm stands between each projection and the residual stream. The direction is gone from the "
    "stream, but the norm now divides by the length of what is left, so the model is close to the ablated one and not "
    "equal to it."
)


def public_label(source: str) -> str:
    """The model's name without the place it lies at, which is nobody's business in a card that may be published."""
    if source == "bundled":
        return BUNDLED_HUB_ID
    return Path(source).expanduser().resolve().name if _is_local(source) else source


def _is_local(source: str) -> bool:
    return Path(source).expanduser().exists()


def ablated_model_card(source: str, checkpoint: Checkpoint, direction: Direction, measured: Equality | str) -> str:
    """The card of a model with a direction taken out."""
    formula = "`W ← W − R̂ᵀ R̂ W`"
    if checkpoint.layout.norm_offset is not None:
        formula += (
            " for the embedding, and for each projection with the norm behind it, whose factors are `g`: "
            "`W ← W − U V W` with `A = R̂ diag(g)`, `U = (diag(g)² + λ)⁻¹ Aᵀ`, `V = (A U)⁻¹ A`, "
            f"`λ = {RIDGE} mean(g²)`.\n\n{APPROXIMATION}"
        )
    else:
        formula += " for each of them. Nothing stands between these matrices and the stream, so the edit is exact."
    untied = "\n\nThe output matrix was tied to the embedding. It is written untied, as it was." * checkpoint.is_tied
    return _card(
        source,
        checkpoint,
        direction,
        f"{checkpoint.label} without “{direction.name}”",
        "A direction was taken out of this model's weights for good: every matrix that writes to the residual stream "
        "(the token embedding, the output projections of attention and MLP, experts and biases included) was made "
        f"orthogonal to it, after {PAPER}, section 4.1 and appendix E).",
        f"R̂ is an orthonormal basis of what was taken out. The edit was {formula}{untied}",
        measured,
        tags=["orthogonalised", "steering"],
    )


def added_model_card(
    source: str, checkpoint: Checkpoint, direction: Direction, coefficient: float, how: str, measured: Equality | str
) -> str:
    """The card of a model with a direction turned up."""
    return _card(
        source,
        checkpoint,
        direction,
        f"{checkpoint.label} with “{direction.name}” turned up",
        f"A direction times {coefficient:g} is added to this model's residual stream at layer {direction.layer}, at "
        f"every token: activation addition after {PAPER}, section 2.4), as a part of the weights.",
        how,
        measured,
        tags=["activation-addition", "steering"],
    )


def adapter_card(
    source: str, checkpoint: Checkpoint, direction: Direction, left_out: str, measured: Equality | str
) -> str:
    """The card of a LoRA adapter that takes a direction out."""
    return _card(
        source,
        checkpoint,
        direction,
        f"{checkpoint.label} without “{direction.name}”, as a LoRA adapter",
        "This adapter takes a direction out of what attention and MLP write to the residual stream, after "
        f"{PAPER}, section 4.1 and appendix E): `W + B A` is `W − R̂ᵀ R̂ W`.",
        left_out,
        measured,
        tags=["orthogonalised", "steering", "lora"],
        library="peft",
    )


def _card(
    source: str,
    checkpoint: Checkpoint,
    direction: Direction,
    title: str,
    what: str,
    how: str,
    measured: Equality | str,
    *,
    tags: list[str],
    library: str = "transformers",
) -> str:
    facts = {"Base model": _base_model(checkpoint), **_direction_facts(direction)}
    facts["Written by"] = f"steering-playground {library_version()}"
    rows = "\n".join(f"| {name} | {_cell(value)} |" for name, value in facts.items())
    found = measured if isinstance(measured, str) else BESIDE + measured.sentence()
    load = {
        "transformers": "Load it like any model: `AutoModelForCausalLM.from_pretrained(folder)`.",
        "peft": "Load it beside its base model: `PeftModel.from_pretrained(model, folder)`.",
    }[library]
    return (
        f"---\n{_front_matter(source, checkpoint, tags, library)}\n---\n\n# {_cell(title)}\n\n{what}\n\n"
        f"| | |\n| --- | --- |\n{rows}\n\n{how}\n\n{_cell(found)}\n\n{load}\n"
    )


def comparison_on_card(folder: Path) -> str:
    """What the card in a folder says of how near it is to the hooked model."""
    lines = (folder / CARD_FILE).read_text(encoding="utf-8").splitlines()
    starts = (BESIDE, UNCOMPARED, COULD_NOT)
    return next((line for line in lines if line.startswith(starts)), "")


def _base_model(checkpoint: Checkpoint) -> str:
    try:
        origin = json.loads((checkpoint.folder / SOURCE_FILE).read_text(encoding="utf-8"))
        return f"{checkpoint.label} ({origin['gguf']}, SHA-256 {origin['sha256']}, dequantised)"
    except (OSError, ValueError, KeyError, TypeError):
        is_snapshot = checkpoint.folder.parent.name == "snapshots"
        return f"{checkpoint.label} (revision {checkpoint.folder.name})" if is_snapshot else checkpoint.label


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


def _front_matter(source: str, checkpoint: Checkpoint, tags: list[str], library: str) -> str:
    """The card's YAML; the licence and language are those of the source's card."""
    from huggingface_hub import ModelCardData
    from huggingface_hub.repocard import metadata_load

    card = checkpoint.folder / CARD_FILE
    try:
        known = (metadata_load(card) or {}) if card.is_file() else {}
        kept = {name: known[name] for name in ("license", "license_name", "license_link", "language") if name in known}
    except Exception:  # whatever YAML and encodings make of a stranger's card; the card itself is copied anyway
        kept = {}
    on_hub = source == "bundled" or not _is_local(source)
    return ModelCardData(
        base_model=checkpoint.label if on_hub else None,
        library_name=library,
        pipeline_tag="text-generation",
        tags=tags,
        **kept,
    ).to_yaml()


def _cell(value: Any) -> str:
    """``value`` on one line of a table."""
    return " ".join(str(value).split()).replace("|", "\\|")
