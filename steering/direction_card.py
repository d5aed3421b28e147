"""The card of a published direction: what it does, what was measured, and how to load it without this project."""

from __future__ import annotations

from typing import Any

from steering.direction import Direction
from steering.version import library_version
from steering.weights import BUNDLED_HUB_ID

USE = """\
Steering changes how a model writes; it adds no knowledge and removes none. A direction that takes a refusal out takes
a safeguard out: use it to study the model, and do not serve the result to people without another safeguard. Small sets
give noisy directions; the intervals say how noisy. The base model's licence applies to what is made with it."""


def direction_card(direction: Direction, file: str, licence: str | None = None) -> str:
    """A model card in Markdown.

    Args:
        file: the direction's name in the repository.
        licence: the base model's, as the hub names it, if it is known.
    """
    from huggingface_hub import ModelCardData

    card = direction.card
    base = _base_model(card)
    tags = ["steering-vector", "activation-steering"]
    front = ModelCardData(base_model=base, license=licence, library_name="steering-playground", tags=tags).to_yaml()
    facts = {
        "Base model": base or card.get("model_label", "unknown"),
        "Revision": card.get("revision") or "unknown",
        "Layer": f"{direction.layer} of {card.get('n_layers', '?')}",
        "Position": direction.position or "mean over the response",
        "Width": len(direction.vector),
        "Norm": f"{direction.norm:.4g}",
        "Usual length of the stream there": f"{direction.mean_residual_norm:.4g}",
        "Data": card.get("data", "unknown"),
        "Data SHA-256": card.get("data_sha256", "unknown"),
        "Useful coefficients": _strength(card),
        "Made with": f"steering-playground {card.get('library', library_version())}",
    }
    rows = "\n".join(f"| {name} | {_cell(value)} |" for name, value in facts.items() if value not in (None, ""))
    title = f"{_cell(direction.name)}: a direction in the residual stream of {_cell(facts['Base model'])}"
    return (
        f"---\n{front}\n---\n\n# {title}\n\n"
        "The difference in means of texts that show an idea and texts that do not, after Arditi et al. 2024, “Refusal "
        "in Language Models Is Mediated by a Single Direction” (arXiv 2406.11717). Added to the residual stream it "
        "turns the idea up; projected out of it, the idea goes.\n\n"
        f"| | |\n| --- | --- |\n{rows}\n\n{_scores(card)}"
        f"## Load it in plain transformers\n\n{_code(direction, file)}\n\n"
        f"## Use it responsibly\n\n{USE}\n"
    )


def _base_model(card: dict[str, Any]) -> str | None:
    """The hub's name of the base model; None for one that has none there."""
    name = str(card.get("model", ""))
    if name == "bundled":
        return BUNDLED_HUB_ID
    return name if name.count("/") == 1 and not name.startswith((".", "/", "~")) else None


def _strength(card: dict[str, Any]) -> str:
    strength = card.get("strength")
    if not isinstance(strength, dict):
        return ""
    try:
        low, high = strength["sweet"]
        return f"{low:.3g} to {high:.3g}; the text breaks at {strength['end']:.3g}"
    except (KeyError, TypeError, ValueError):
        return ""


def _scores(card: dict[str, Any]) -> str:
    """What was measured, with its intervals; nothing where nothing was."""
    trust = card.get("trust")
    figures = {}
    if isinstance(trust, dict):
        figures = {name: trust[name] for name in ("separation", "length_ruler", "split_half") if name in trust}
        for group in ("scores", "random", "shuffled"):
            figures |= {f"{group}: {name}": figure for name, figure in _dict(trust.get(group)).items()}
    rows = []
    for name, figure in figures.items():
        try:
            interval = f"{figure['low']:.3g} to {figure['high']:.3g}"
            rows.append(f"| {_cell(name.replace('_', ' '))} | {figure['value']:.3g} | {interval} | {figure['n']} |")
        except (KeyError, TypeError, ValueError):
            continue
    if not rows:
        return "No figures of it were measured.\n\n"
    said = "".join(f"- {_cell(sentence)}\n" for sentence in _list(_dict(trust).get("sentences")))
    return (
        "## What was measured\n\n"
        "| figure | value | 95 % interval or range of controls | n |\n| --- | --- | --- | --- |\n"
        + "\n".join(rows)
        + f"\n\n{said}\n"
    )


def _code(direction: Direction, file: str) -> str:
    """Five lines of plain transformers, for blocks that are kept as most models keep them."""
    start = direction.measured_start
    coefficient = direction.coefficient(0.2) if start is None else start
    return (
        "```python\n"
        "from safetensors.torch import load_file\n"
        f'tensors, c = load_file("{file}"), {coefficient:.3g}\n'
        'r, basis = tensors["vector"], tensors["ablation_basis"]\n'
        f"block = model.model.layers[{direction.layer}]  # the stream that enters this block\n"
        "block.register_forward_pre_hook(lambda _, x: (x[0] + c * r.to(x[0]), *x[1:]))  # turned up\n"
        "```\n\n"
        "To take it out, subtract `(x @ basis.T) @ basis` from what every block reads and from every output of "
        "attention and MLP. It must enter as a positional argument, as it does in transformers' own models."
    )


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _cell(value: Any) -> str:
    """A value on one line, without markup of its own: what a stranger's card says is text and nothing else."""
    line = " ".join(str(value).split())
    return "".join(f"\\{c}" if c in "|[]<>`*_" else c for c in line)
