"""What is seen of a direction in a prompt and in the idea's texts: read on the model's thread, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from steering.ui import explain_words as words
from steering.ui.explain_asked import Asked, step, texts_of, tried
from steering.ui.explain_found import Curve, Heads, Looks, Speaks, Texts, Where
from steering.ui.methods import taken_out, turned_up

if TYPE_CHECKING:
    from steering.attribution import Attribution
    from steering.contrast import Example
    from steering.explain import Profile
    from steering.ui.engine import Engine
    from steering.ui.worker import Job

TOKENS_SHOWN = 12  # of each side
TOP_HEADS = 3


def read_texts(engine: Engine, asked: Asked, job: Job) -> Texts | None:
    """What the idea's texts say; None where they are not known."""
    from steering.explain import MOST_PROMPTS, layer_profile
    from steering.explain_tables import peak_said, profile_rows

    data = texts_of(asked.question, asked.direction)
    if data is None:
        return None
    sides = (
        (words.WITH_IDEA, data.positive, words.READING_WITH),
        (words.WITHOUT_IDEA, data.negative, words.READING_WITHOUT),
    )
    profiles = {
        name: layer_profile(asked.model, asked.probe, side[:MOST_PROMPTS], progress=step(engine, job, reading))
        for name, side, reading in sides
    }
    said = [peak_said(asked.model.n_layers, name[0].upper() + name[1:], found) for name, found in profiles.items()]
    return Texts(_curves(profiles), data.has_responses, said, profile_rows(profiles))


def where_of(asked: Asked, texts: Texts | None) -> Where:
    from steering.contrast import Example
    from steering.explain import layer_profile
    from steering.explain_tables import PROFILE, as_csv, peak_said, profile_rows

    prompt = [Example(tuple(asked.messages))]
    plain = layer_profile(asked.model, asked.probe, prompt)
    found, problem = tried(lambda: _ways(asked, prompt))
    ways = {words.AS_IT_IS: plain} | (found or {})
    name = words.YOUR_PROMPT
    said = peak_said(asked.model.n_layers, name[0].upper() + name[1:], plain)
    rows = profile_rows({f"{name}, {way}": profile for way, profile in ways.items()})
    return Where(
        texts,
        _curves({name: plain})[name],
        _curves(ways),
        problem,
        [*(texts.said if texts else ()), said],
        as_csv(PROFILE, [*(texts.rows if texts else ()), *rows]),
    )


def _ways(asked: Asked, prompt: Sequence[Example]) -> dict[str, Profile]:
    from steering.explain import layer_profile
    from steering.interventions import Dial

    question = asked.question
    out = taken_out(question.removal, asked.direction)
    up = turned_up(question.addition, asked.direction, Dial(question.coefficient))
    return {
        words.TAKEN_OUT: layer_profile(asked.model, asked.probe, prompt, out),
        words.turned_up(question.coefficient): layer_profile(asked.model, asked.probe, prompt, up),
    }


def _curves(profiles: Mapping[str, Profile]) -> dict[str, Curve]:
    return {
        name: Curve(found.mean.tolist(), found.spread.tolist(), len(found.cosines)) for name, found in profiles.items()
    }


def attribution(asked: Asked) -> Attribution:
    from steering.attribution import attribute

    return attribute(asked.model, asked.ids, asked.probe, asked.before)


def heads_of(found: Attribution) -> Heads:
    from steering.explain_tables import HEADS, as_csv, head_rows, heads_said

    return Heads(
        found.heads[:, :, -1].tolist(),
        found.mlps[:, -1].tolist(),
        float(found.total[-1]),
        [(layer, head) for layer, head, _ in found.top_heads(TOP_HEADS)],
        heads_said(found, TOP_HEADS),
        as_csv(HEADS, head_rows(found)),
    )


def looks_of(asked: Asked, n_layers: int, n_heads: int) -> Looks:
    from steering.head_attention import attention_of_heads, parts_of_prompt
    from steering.suffixes import INSTRUCTION

    parts = parts_of_prompt(asked.model, asked.messages, {INSTRUCTION: asked.question.prompt})
    every = [(layer, head) for layer in range(n_layers) for head in range(n_heads)]
    weights = attention_of_heads(asked.model, asked.ids, every)
    return Looks(_pieces(asked), parts, weights.view(n_layers, n_heads, -1).numpy())


def _pieces(asked: Asked) -> list[str]:
    """The prompt's text, cut where its tokens meet; of a letter that several tokens make, the first has all."""
    text = asked.model.format(asked.messages)
    encoded: Any = asked.model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    pieces, reached = [], 0
    for begin, end in encoded["offset_mapping"]:
        pieces.append(text[max(begin, reached) : end])
        reached = max(reached, end)
    return pieces


def speaks_of(engine: Engine, asked: Asked) -> Speaks:
    from steering.contrast import preset_card, preset_names
    from steering.explain import cosines_between, neighbours
    from steering.explain_tables import TOKENS, as_csv, neighbour_rows

    tokens = neighbours(asked.model, asked.direction, TOKENS_SHOWN)
    others = [(name, engine.readable_direction(name)) for name in preset_names() if name != asked.question.idea]
    presets = [
        (str(preset_card(name)["title"]), float(cosines_between([asked.direction, other])[0, 1]))
        for name, other in others
        if other is not None and len(other.vector) == len(asked.direction.vector)
    ]
    presets.sort(key=lambda one: -abs(one[1]))
    return Speaks(
        tokens.promoted,
        tokens.demoted,
        presets,
        as_csv(TOKENS, neighbour_rows(tokens)),
        as_csv(("preset", "cosine"), presets),
    )
