"""The commands ``explain`` and ``report``: where a direction shows, which heads write it, what a suffix changes."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steering.contrast import Example
    from steering.directions import Direction
    from steering.explain import BaseComparison, Profile
    from steering.models import ChatModel
    from steering.progress import Progress


def about_explain(command: argparse.ArgumentParser) -> None:
    """What ``explain`` takes."""
    command.add_argument("--direction", required=True, help="a file or a preset's name")
    command.add_argument("--prompt", default="Tell me about rivers.", help="the prompt whose heads are looked at")
    command.add_argument("--suffix", help="text behind the prompt, looked at beside random suffixes of equal length")
    command.add_argument("--random", type=int, default=20, metavar="N", help="how many of those (at least 20)")
    command.add_argument("--data", help="a preset's name or a file of examples, whose two sides are profiled")
    command.add_argument("--base", help="the base model of this one, which is held beside it on the sides of --data")
    command.add_argument("--top", type=int, default=3, metavar="N", help="how many heads are named")


def explain_to(
    options: argparse.Namespace, model: ChatModel, direction: Direction, progress: Progress
) -> dict[str, Any]:
    """Explain the direction on this model; tables go into the folder ``options.out``, if it is given."""
    from steering import explain_tables as tables
    from steering.attribution import attribute
    from steering.contrast import Example
    from steering.explain import layer_profile, neighbours, side_profiles
    from steering.suffixes import analyse_suffix

    messages = [{"role": "user", "content": options.prompt}]
    profiles: dict[str, Profile] = {"the prompt": layer_profile(model, direction, [Example(tuple(messages))])}
    if options.data:
        profiles |= side_profiles(model, direction, *_examples(options.data), progress)
    heads = attribute(model, model.encode(messages), direction, direction.layer or None)
    tokens = neighbours(model, direction)
    said: dict[str, Any] = {
        "layers": [tables.peak_said(model.n_layers, group, found) for group, found in profiles.items()],
        "heads": tables.heads_said(heads, options.top),
        "promotes": ", ".join(repr(text) for text, _ in tokens.promoted[:8]),
        "demotes": ", ".join(repr(text) for text, _ in tokens.demoted[:8]),
    }
    written: dict[str, tuple[tables.Row, Sequence[tables.Row]]] = {
        "profile": (tables.PROFILE, tables.profile_rows(profiles)),
        "heads": (tables.HEADS, tables.head_rows(heads)),
        "tokens": (tables.TOKENS, tables.neighbour_rows(tokens)),
    }
    if presets := _cosines_with_presets(model, direction):
        said["cosine with presets"] = ", ".join(f"{name} {cosine:+.2f}" for name, cosine in presets)
        written["presets"] = (("preset", "cosine"), presets)
    if options.base:
        compared = _beside_base(options, model, direction, progress)
        said["base"] = tables.base_said(compared, direction.layer)
        written["base"] = (("layer", "chat", "base"), tables.base_rows(compared))
    if options.suffix:
        found = analyse_suffix(
            model,
            direction,
            options.prompt,
            options.suffix,
            n_random=options.random,
            n_heads=options.top,
            seed=options.seed,
            progress=progress,
        )
        said["suffix"] = tables.suffix_said(found, direction.layer)
        written["suffix"] = (("prompt", "layer", "cosine"), tables.suffix_rows(found))
        written["suffix-heads"] = (
            ("prompt", "layer", "head", "along the direction", "part", "attention"),
            tables.suffix_head_rows(found),
        )
    if options.out is not None:
        folder: Path = options.out
        folder.mkdir(parents=True, exist_ok=True)
        said["files"] = [
            str(tables.write_table(folder / f"{name}.csv", head, rows)) for name, (head, rows) in written.items()
        ]
    return said


def about_report(command: argparse.ArgumentParser) -> None:
    """What ``report`` takes."""
    command.add_argument("direction", help="a file or a preset's name")
    command.add_argument("--data", help="a preset's name or a file of examples, whose two sides are profiled")
    command.add_argument("--prompt", help="the prompt whose heads are looked at (default: a harmless one)")


def report_to(
    options: argparse.Namespace, model: ChatModel, direction: Direction, progress: Progress
) -> dict[str, Any]:
    """Write the report of a direction on this model."""
    from steering.report import QUESTIONS, make_report
    from steering.report_page import write_report

    parts = [
        f"--{name} {shlex.quote(str(getattr(options, name)))}"
        for name in ("model", "data", "prompt")
        if getattr(options, name)
    ]
    made = make_report(
        model,
        direction,
        prompt=options.prompt or QUESTIONS[0],
        sides=_examples(options.data) if options.data else None,
        command=f"python -m steering report {' '.join([shlex.quote(options.direction), *parts])}",
        progress=progress,
    )
    return {"file": str(write_report(made, options.out or Path(f"{direction.name}.html")))}


def _examples(data: str) -> tuple[list[Example], list[Example]]:
    from steering.contrast import ContrastSet
    from steering.explain import MOST_PROMPTS

    examples = ContrastSet.load(data)
    return examples.positive[:MOST_PROMPTS], examples.negative[:MOST_PROMPTS]


def _beside_base(
    options: argparse.Namespace, model: ChatModel, direction: Direction, progress: Progress
) -> BaseComparison:
    from steering.errors import SteeringError
    from steering.explain import compare_with_base
    from steering.models import load_model

    if not options.data:
        raise SteeringError("--base needs examples to compare on: give --data too.")
    base = load_model(
        options.base,
        device=options.device,
        dtype=model.dtype,
        chat_template=str(model.tokenizer.chat_template),
        progress=progress,
    )
    return compare_with_base(model, base, direction, *_examples(options.data), progress=progress)


def _cosines_with_presets(model: ChatModel, direction: Direction) -> list[tuple[str, float]]:
    """The cosine with each preset's direction for this model, of those that are known already."""
    from steering.contrast import preset_names
    from steering.explain import cosines_between
    from steering.preset_directions import existing_preset_direction

    found = [(name, existing_preset_direction(model, name)) for name in preset_names()]
    return [(name, float(cosines_between([direction, one])[0, 1])) for name, one in found if one is not None]
