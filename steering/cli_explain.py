"""The command ``explain``: where a direction shows, which heads write it, what it speaks for, what a suffix changes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steering.directions import Direction
    from steering.explain import Profile
    from steering.models import ChatModel
    from steering.progress import Progress

MOST_PROMPTS = 32  # of each side of a set


def about_explain(command: argparse.ArgumentParser) -> None:
    """What ``explain`` takes."""
    command.add_argument("--direction", required=True, help="a file or a preset's name")
    command.add_argument("--prompt", default="Tell me about rivers.", help="the prompt whose heads are looked at")
    command.add_argument("--suffix", help="text behind the prompt, looked at beside random suffixes of equal length")
    command.add_argument("--random", type=int, default=20, metavar="N", help="how many of those (at least 20)")
    command.add_argument("--data", help="a preset's name or a file of examples, whose two sides are profiled")
    command.add_argument("--top", type=int, default=3, metavar="N", help="how many heads are named")


def explain_to(
    options: argparse.Namespace, model: ChatModel, direction: Direction, progress: Progress
) -> dict[str, Any]:
    """Explain the direction on this model; tables go into the folder ``options.out``, if it is given."""
    from steering import explain_tables as tables
    from steering.attribution import attribute
    from steering.contrast import Example
    from steering.explain import layer_profile, neighbours
    from steering.suffixes import analyse_suffix

    messages = [{"role": "user", "content": options.prompt}]
    profiles: dict[str, Profile] = {"the prompt": layer_profile(model, direction, [Example(tuple(messages))])}
    if options.data:
        profiles |= _sides(options.data, model, direction, progress)
    heads = attribute(model, model.encode(messages), direction, direction.layer or None)
    tokens = neighbours(model, direction)
    said: dict[str, Any] = {
        "layers": [tables.peak_said(model, group, found) for group, found in profiles.items()],
        "heads": tables.heads_said(heads, options.top),
        "promotes": ", ".join(repr(text) for text, _ in tokens.promoted[:8]),
        "demotes": ", ".join(repr(text) for text, _ in tokens.demoted[:8]),
    }
    written = {
        "profile": (("group", "layer", "cosine", "deviation", "projection", "n"), tables.profile_rows(profiles)),
        "heads": (("layer", "part", "along the direction"), tables.head_rows(heads)),
        "tokens": (("side", "token", "logit"), tables.neighbour_rows(tokens)),
    }
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


def _sides(data: str, model: ChatModel, direction: Direction, progress: Progress) -> dict[str, Profile]:
    """The profiles of a set's two sides."""
    from steering.contrast import ContrastSet
    from steering.explain import layer_profile

    examples = ContrastSet.load(data)
    return {
        side: layer_profile(model, direction, some[:MOST_PROMPTS], progress=progress)
        for side, some in (("with the idea", examples.positive), ("without it", examples.negative))
    }
