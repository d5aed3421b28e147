"""What the “Explain” tab has the model do: read prompts and say what was seen of a direction. Nothing is answered.

All of it runs on the model's thread, or where the GPU is, and reports plain values (`explain_found`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from steering.errors import SteeringError
from steering.ui import explain_words as words
from steering.ui.explain_found import (
    BaseFound,
    Curve,
    Explained,
    HeadBeside,
    Heads,
    Looks,
    Of,
    Question,
    Speaks,
    SuffixFound,
    Where,
)
from steering.ui.ideas import fits_model
from steering.ui.make_words import GONE
from steering.ui.methods import removed, taken_out, turned_up

if TYPE_CHECKING:
    from steering.attribution import Attribution
    from steering.contrast import ContrastSet, Example
    from steering.directions import Direction
    from steering.explain import Profile
    from steering.models import ChatModel
    from steering.progress import Progress
    from steering.suffixes import Look, SuffixAnalysis
    from steering.ui.engine import Engine
    from steering.ui.worker import Job

# A head's attention is computed as it is written down, in memory that grows with the square of this.
MOST_TOKENS = 1024
TOKENS_SHOWN = 12  # of each side
TOP_HEADS = 3

Found = TypeVar("Found")


@dataclass(frozen=True, eq=False)
class _Asked:
    """A question on the model that it was asked of.

    Attributes:
        direction: as the chat adds it.
        probe: what the chat takes out, along which everything here is measured.
        messages: the prompt as a conversation, of the tokens ``ids``.
    """

    model: ChatModel
    question: Question
    direction: Direction
    probe: Direction
    messages: list[dict[str, str]]
    ids: list[int]

    @property
    def of(self) -> Of:
        return Of(
            self.question.title, self.question.prompt, self.model.label, self.model.n_layers, self.direction.layer
        )

    @property
    def before(self) -> int | None:
        """The layer before which heads are looked at; None for all of them."""
        return self.probe.layer or None


def explain(engine: Engine, question: Question, job: Job) -> None:
    """Look at a prompt from all sides but those that are asked for by themselves; reports an `Explained` at the end.

    Raises:
        SteeringError: if the prompt is too long, or another model is in use than the one that was meant.
    """
    asked = _asked(engine, question, job)
    with engine.all_cores():
        where = _where(engine, asked, job)
        reading = _step(engine, job, words.READING_PROMPT)
        reading("", 1, 3)
        heads, looks = None, None
        written, heads_problem = _tried(lambda: _attribution(asked))
        looks_problem = ""
        if written is not None:
            heads = _heads(written)
            reading("", 2, 3)
            n_layers, n_heads = len(heads.values), len(heads.values[0])
            looks, looks_problem = _tried(lambda: _looks(asked, n_layers, n_heads))
        speaks = _speaks(engine, asked)
    job.report(Explained(asked.of, where, heads, heads_problem, looks, looks_problem, speaks))


def explain_suffix(engine: Engine, question: Question, suffix: str, job: Job) -> None:
    """Look at the prompt with a suffix, and with random ones of equal length; reports a `SuffixFound` at the end.

    Raises:
        SteeringError: as `explain`; or if prompt and suffix are too long together.
    """
    from steering.suffixes import analyse_suffix

    asked = _asked(engine, question, job)
    whole = [{"role": "user", "content": f"{question.prompt} {suffix}"}]
    _require_short(asked.model, asked.model.encode(whole), words.WITH_SUFFIX)
    with engine.all_cores():
        found = analyse_suffix(
            asked.model,
            asked.probe,
            question.prompt,
            suffix,
            n_heads=TOP_HEADS,
            progress=_step(engine, job, words.READING_SUFFIXES),
        )
    job.report(_suffix_found(asked, suffix, found))


def explain_base(engine: Engine, question: Question, base: ChatModel, job: Job) -> None:
    """Hold the model beside its base on the texts of the idea; reports a `BaseFound` at the end.

    Raises:
        SteeringError: as `explain`; or if the idea's texts are not known.
        DirectionError: if the direction does not fit the base model.
    """
    from steering.explain import MOST_PROMPTS, compare_with_base
    from steering.explain_tables import as_csv, base_rows, base_said

    asked = _asked(engine, question, job)
    asked.probe.require_fit(base)
    data = _texts(question, asked.direction)
    if data is None:
        raise SteeringError(words.NO_TEXTS)
    with engine.all_cores():
        found = compare_with_base(
            asked.model,
            base,
            asked.probe,
            data.positive[:MOST_PROMPTS],
            data.negative[:MOST_PROMPTS],
            progress=_step(engine, job, words.READING_BOTH),
        )
    curves = {words.CHAT_MODEL: found.chat, words.BASE_MODEL: found.base}
    layer = min(asked.of.layer, len(found.chat) - 1)
    table = as_csv(("layer", "chat", "base"), base_rows(found))
    job.report(BaseFound(asked.of, base.label, curves, base_said(found, layer), table))


# ---------------------------------------------------------------- what is asked


def _asked(engine: Engine, question: Question, job: Job) -> _Asked:
    model = engine.ready_model()
    if (model.name, model.revision) != question.model:
        raise SteeringError(words.OTHER_MODEL)
    if question.own is not None and not fits_model(question.own, model.name, model.revision):
        raise SteeringError(GONE)
    model.thinking = False
    direction = question.own or engine.preset_direction(question.idea, _through(engine, job))
    direction.require_fit(model)
    messages = [{"role": "user", "content": question.prompt}]
    ids = model.encode(messages)
    _require_short(model, ids, words.THE_PROMPT)
    return _Asked(model, question, direction, removed(question.removal, direction), messages, ids)


def _require_short(model: ChatModel, ids: Sequence[int], what: str) -> None:
    most = min(MOST_TOKENS, model.max_length)
    if len(ids) > most:
        raise SteeringError(words.TOO_LONG.format(what=what, n=len(ids), most=most))


def _texts(question: Question, direction: Direction) -> ContrastSet | None:
    """The set that the direction was made from, where it is known."""
    from steering.contrast import ContrastSet, preset_names

    if question.own is None:
        return ContrastSet.load(question.idea)
    made_from = direction.card.get("data_sha256")
    known = ([question.data] if question.data is not None else []) + [ContrastSet.load(name) for name in preset_names()]
    return next((data for data in known if data.sha256 == made_from), None)


def _through(engine: Engine, job: Job) -> Progress:
    """The library's progress callback: ends the work when a stop was asked for, and lets replies go first."""

    def report(what: str, done: float, total: float) -> None:
        job.progress(what, done, total)
        engine.let_others_go(job)

    return report


def _step(engine: Engine, job: Job, name: str) -> Progress:
    """As `_through`, for a step of this tab's own."""
    through = _through(engine, job)
    return lambda what, done, total: through(name, done, total)


def _tried(find: Callable[[], Found]) -> tuple[Found | None, str]:
    """What was found, or the sentence that says why it could not be: one part of an explanation may be missing."""
    try:
        return find(), ""
    except SteeringError as error:
        return None, str(error)


# ---------------------------------------------------------------- what is found


def _where(engine: Engine, asked: _Asked, job: Job) -> Where:
    from steering.contrast import Example
    from steering.explain import MOST_PROMPTS, layer_profile
    from steering.explain_tables import PROFILE, as_csv, peak_said, profile_rows

    def profile(examples: Sequence[Example], step: str) -> Profile:
        return layer_profile(asked.model, asked.probe, examples, progress=_step(engine, job, step))

    sides: dict[str, Profile] = {}
    data = _texts(asked.question, asked.direction)
    if data is not None:
        sides[words.WITH_IDEA] = profile(data.positive[:MOST_PROMPTS], words.READING_WITH)
        sides[words.WITHOUT_IDEA] = profile(data.negative[:MOST_PROMPTS], words.READING_WITHOUT)
    prompt = [Example(tuple(asked.messages))]
    sides[words.YOUR_PROMPT] = plain = profile(prompt, words.READING_PROMPT)
    ways, problem = _tried(lambda: _ways(asked, prompt))
    ways = {words.AS_IT_IS: plain} | (ways or {})
    said = [peak_said(asked.model.n_layers, name[0].upper() + name[1:], found) for name, found in sides.items()]
    prompts = {f"{words.YOUR_PROMPT}, {name}": found for name, found in ways.items() if found is not plain}
    return Where(
        _curves(sides),
        data is not None and data.has_responses,
        _curves(ways),
        problem,
        said,
        as_csv(PROFILE, profile_rows(sides | prompts)),
    )


def _ways(asked: _Asked, prompt: Sequence[Example]) -> dict[str, Profile]:
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


def _attribution(asked: _Asked) -> Attribution:
    from steering.attribution import attribute

    return attribute(asked.model, asked.ids, asked.probe, asked.before)


def _heads(found: Attribution) -> Heads:
    from steering.explain_tables import HEADS, as_csv, head_rows, heads_said

    return Heads(
        found.heads[:, :, -1].tolist(),
        found.mlps[:, -1].tolist(),
        float(found.total[-1]),
        [(layer, head) for layer, head, _ in found.top_heads(TOP_HEADS)],
        heads_said(found, TOP_HEADS),
        as_csv(HEADS, head_rows(found)),
    )


def _looks(asked: _Asked, n_layers: int, n_heads: int) -> Looks:
    from steering.head_attention import attention_of_heads, parts_of_prompt
    from steering.suffixes import INSTRUCTION

    parts = parts_of_prompt(asked.model, asked.messages, {INSTRUCTION: asked.question.prompt})
    every = [(layer, head) for layer in range(n_layers) for head in range(n_heads)]
    weights = attention_of_heads(asked.model, asked.ids, every)
    return Looks(_pieces(asked), parts, weights.view(n_layers, n_heads, -1).numpy())


def _pieces(asked: _Asked) -> list[str]:
    """The prompt's text, cut where its tokens meet; of a letter that several tokens make, the first has all."""
    text = asked.model.format(asked.messages)
    encoded: Any = asked.model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    pieces, reached = [], 0
    for begin, end in encoded["offset_mapping"]:
        pieces.append(text[max(begin, reached) : end])
        reached = max(reached, end)
    return pieces


def _speaks(engine: Engine, asked: _Asked) -> Speaks:
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


def _suffix_found(asked: _Asked, suffix: str, found: SuffixAnalysis) -> SuffixFound:
    from steering.explain_tables import as_csv, suffix_head_rows, suffix_rows, suffix_said

    mean, spread = found.random_cosines
    none = [0.0] * len(mean)
    curves = {
        words.AS_IT_IS: Curve(found.plain.cosines.tolist(), none, 1),
        words.WITH_IT: Curve(found.with_suffix.cosines.tolist(), none, 1),
        words.WITH_RANDOM: Curve(mean.tolist(), spread.tolist(), len(found.with_random)),
    }
    return SuffixFound(
        asked.of,
        suffix,
        curves,
        [_beside(found, row) for row in range(len(found.top_heads))],
        suffix_said(found, min(asked.of.layer, len(none) - 1)),
        as_csv(("prompt", "layer", "cosine"), suffix_rows(found)),
        as_csv(
            ("prompt", "layer", "head", "along the direction", "part", "attention"),
            suffix_head_rows(found),
        ),
    )


def _beside(found: SuffixAnalysis, row: int) -> HeadBeside:
    import torch

    def shares(looks: Sequence[Look]) -> dict[str, float]:
        parts = looks[0].attention
        return {part: float(torch.stack([look.attention[part][row] for look in looks]).mean()) for part in parts}

    random = torch.stack([look.heads[row] for look in found.with_random])
    return HeadBeside(
        found.top_heads[row],
        (float(found.plain.heads[row]), float(found.with_suffix.heads[row]), float(random.mean())),
        float(random.std()),
        (shares([found.plain]), shares([found.with_suffix]), shares(found.with_random)),
    )


__all__ = ["MOST_TOKENS", "explain", "explain_base", "explain_suffix"]
