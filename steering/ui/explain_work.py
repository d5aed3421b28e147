"""What the “Explain” tab has the model do: read prompts and say what was seen of a direction. Nothing is answered.

All of it runs on the model's thread, or where the GPU is, and reports plain values (`explain_found`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from steering.errors import SteeringError
from steering.ui import explain_words as words
from steering.ui.explain_asked import Asked, asked_of, require_short, step, texts_of, tried
from steering.ui.explain_found import BaseFound, Curve, Explained, HeadBeside, Question, SuffixFound, Texts
from steering.ui.explain_reading import TOP_HEADS, attribution, heads_of, looks_of, read_texts, speaks_of, where_of

if TYPE_CHECKING:
    from steering.models import ChatModel
    from steering.suffixes import Look, SuffixAnalysis
    from steering.ui.engine import Engine
    from steering.ui.worker import Job


def explain(engine: Engine, question: Question, texts: Texts | None, job: Job) -> None:
    """Look at a prompt from all sides but those that are asked for by themselves; reports an `Explained` at the end.

    Args:
        texts: what the idea's texts say, if they were read before for this direction and model.

    Raises:
        SteeringError: if the prompt is too long, or another model is in use than the one that was meant.
    """
    asked = asked_of(engine, question, job)
    with engine.all_cores():
        texts = texts or read_texts(engine, asked, job)
        reading = step(engine, job, words.READING_PROMPT)
        reading("", 0, 3)
        where = where_of(asked, texts)
        reading("", 1, 3)
        heads, looks = None, None
        written, heads_problem = tried(lambda: attribution(asked))
        looks_problem = ""
        if written is not None:
            heads = heads_of(written)
            reading("", 2, 3)
            n_layers, n_heads = len(heads.values), len(heads.values[0])
            looks, looks_problem = tried(lambda: looks_of(asked, n_layers, n_heads))
        speaks = speaks_of(engine, asked)
    job.report(Explained(question, asked.of, where, heads, heads_problem, looks, looks_problem, speaks))


def explain_suffix(engine: Engine, question: Question, suffix: str, job: Job) -> None:
    """Look at the prompt with a suffix, and with random ones of equal length; reports a `SuffixFound` at the end.

    Raises:
        SteeringError: as `explain`; or if prompt and suffix are too long together.
    """
    from steering.suffixes import analyse_suffix

    asked = asked_of(engine, question, job)
    whole = [{"role": "user", "content": f"{question.prompt} {suffix}"}]
    require_short(asked.model, asked.model.encode(whole), words.WITH_SUFFIX)
    with engine.all_cores():
        found = analyse_suffix(
            asked.model,
            asked.probe,
            question.prompt,
            suffix,
            n_heads=TOP_HEADS,
            progress=step(engine, job, words.READING_SUFFIXES),
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

    asked = asked_of(engine, question, job)
    asked.probe.require_fit(base)
    data = texts_of(question, asked.direction)
    if data is None:
        raise SteeringError(words.NO_TEXTS)
    with engine.all_cores():
        found = compare_with_base(
            asked.model,
            base,
            asked.probe,
            data.positive[:MOST_PROMPTS],
            data.negative[:MOST_PROMPTS],
            progress=step(engine, job, words.READING_BOTH),
        )
    curves = {words.CHAT_MODEL: found.chat, words.BASE_MODEL: found.base}
    layer = min(asked.of.layer, len(found.chat) - 1)
    table = as_csv(("layer", "chat", "base"), base_rows(found))
    job.report(BaseFound(asked.of, base.label, curves, base_said(found, layer), table))


def _suffix_found(asked: Asked, suffix: str, found: SuffixAnalysis) -> SuffixFound:
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


__all__ = ["explain", "explain_base", "explain_suffix"]
