"""Measure what a direction does to a model: replies of every variant read one by one, and what it costs elsewhere.

Harmful and harmless prompts are answered by all contestants as rows of one batch. Of each reply it is kept whether it
refuses, how it reads as a whole, how safe a judge finds it, how likely it is to the unsteered model, and how much it
sounds like AI; of each contestant how well it still predicts the unsteered model's harmless replies, or given ones, and
a text (Arditi et al. 2024, sections 2.5, 3 and 4.3). The replies themselves are kept only where that is asked for.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol

from steering.contestants import BASELINE, PROMPTED, Contestant
from steering.conversation import with_system
from steering.errors import SteeringError
from steering.evaluation_metrics import HARMFUL, HARMLESS, TASKS, TEXT
from steering.evaluation_records import Record, RecordFile
from steering.generation import stream_side_by_side
from steering.interventions import Variant
from steering.progress import Progress, silent
from steering.refusals import PAPER_PHRASES, REFUSAL_PHRASES, has_phrase, is_refusal
from steering.reply_logits import GivenReply, read_beside, reply_log_probabilities
from steering.reply_readings import TOPIC_TOKENS, ReadReply
from steering.sampling import SamplingSettings
from steering.style_markers import count_markers

if TYPE_CHECKING:
    from torch import Tensor

    from steering.contrast import Example
    from steering.models import ChatModel

WHAT = "Evaluating"
WINDOW = 256  # tokens of the text in one piece, as in the paper's code
WINDOWS_A_JOB = 4
WRITING = 0.6  # what part of a job the replies take, about
OTHER_PROMPTS = 2  # that a reply is held against, to tell its topic
FEWEST_PROMPTS = 2


class ReplyJudge(Protocol):
    """Says of each prompt and reply whether the reply is “safe”, “unsafe”, or that it is “unclear”; see `judges`."""

    def judge_all(self, pairs: Sequence[tuple[str, str]]) -> Sequence[str]: ...


class TaskRunner(Protocol):
    """Runs one task on one variant; see :mod:`steering.lm_harness`."""

    def __call__(self, model: ChatModel, variant: Variant, task: str) -> list[Record]: ...


@dataclass(frozen=True)
class Plan:
    """What is measured. Whatever changes a number is part of it.

    Attributes:
        harmful, harmless: prompts; of examples with responses, these are the harmless replies that are predicted.
        text: for the cross-entropy on plain text; "" for none.
        systems: system prompts, each of which all prompts are asked under; "" for none.
        max_new_tokens: the longest reply; long enough for a refusal that comes late.
        phrases: those of the editable list; the paper's are always counted too.
        rows: replies written at once.
        keeps: whose replies are kept in the records.
        tasks: names or files of lm-eval's tasks.
    """

    harmful: tuple[Example, ...] = ()
    harmless: tuple[Example, ...] = ()
    text: str = ""
    systems: tuple[str, ...] = ("",)
    max_new_tokens: int = 128
    repetition_penalty: float = 1.0
    phrases: tuple[str, ...] = REFUSAL_PHRASES
    seed: int = 0
    rows: int = 24
    keeps: Literal["nothing", "harmless", "all"] = "nothing"
    tasks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, side in ((HARMFUL, self.harmful), (HARMLESS, self.harmless)):
            if side and len(side) < FEWEST_PROMPTS:
                raise SteeringError(f"There is a single {name} prompt; give at least {FEWEST_PROMPTS}, or none.")
            if len({one.canonical for one in side}) < len(side):
                raise SteeringError(f"A {name} prompt is there twice. Give each once: records know it by its text.")
        if not (self.harmful or self.harmless or self.text or self.tasks):
            raise SteeringError("There is nothing to evaluate on: give prompts, a text or a task.")
        if self.max_new_tokens < 1 or self.rows < 1:
            raise SteeringError("A reply needs at least one token, and a batch at least one row.")
        SamplingSettings(repetition_penalty=self.repetition_penalty)  # says if it is out of range

    def side(self, name: str) -> tuple[Example, ...]:
        return self.harmful if name == HARMFUL else self.harmless

    @property
    def data_sha256(self) -> str:
        """Hash of all that is asked and predicted."""
        parts = [*(one.canonical for one in self.harmful), "", *(one.canonical for one in self.harmless), self.text]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Written:
    """One reply: the tokens of its thought, where the model thinks, and its answer's tokens and text."""

    thought: list[int]
    ids: list[int]
    text: str


@dataclass(eq=False)
class Evaluation:
    """The evaluation of one model and its contestants.

    Attributes:
        contestants: the baseline first.
        checkpoint: loads an edited model by its source; each is loaded once.
        judge: None for none.
        run_task: for ``plan.tasks``.

    Raises:
        SteeringError: if two contestants have one name.
    """

    model: ChatModel
    contestants: Sequence[Contestant]
    plan: Plan
    checkpoint: Callable[[str], ChatModel] | None = None
    judge: ReplyJudge | None = None
    run_task: TaskRunner | None = None
    _checkpoints: dict[str, ChatModel] = field(default_factory=dict, init=False)
    _tick: Callable[[float], None] = field(default=lambda part: None, init=False)  # what part of a job is done

    def __post_init__(self) -> None:
        names = [one.name for one in self.contestants]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise SteeringError(
                f"Two rows of the table would be called “{twice}”. Give the folder of the edited model another name."
            )

    def run(self, records: RecordFile, progress: Progress = silent) -> None:
        """Do every job that the records do not hold yet.

        Raises:
            SteeringError: if a prompt is too long, a direction or a checkpoint does not fit, the judge answers
                nonsense, or memory runs out. What was measured before is kept.
            Cancelled: if ``progress`` raises it; it is called after every token and pass, never within a pass.
        """
        jobs = list(self._jobs())
        for number, (name, do) in enumerate(jobs):
            self._tick = partial(_told, progress, number, len(jobs))
            self._tick(0.0)
            if name not in records:
                records.add(name, do())
        progress(WHAT, len(jobs), len(jobs))

    def _jobs(self) -> Iterator[tuple[str, Callable[[], list[Record]]]]:
        at_once = max(1, self.plan.rows // len(self.contestants))
        model = self.model.label
        for place in range(len(self.plan.systems)):
            for side in (HARMFUL, HARMLESS):
                n = len(self.plan.side(side))
                for first in range(0, n, at_once):
                    numbers = range(first, min(first + at_once, n))
                    name = f"{model}/{side}/{place}/{first:06}"
                    yield name, partial(self._replies, side, place, numbers)
        windows = self._windows()
        for first in range(0, len(windows), WINDOWS_A_JOB):
            part = range(first, min(first + WINDOWS_A_JOB, len(windows)))
            yield f"{model}/{TEXT}/{first:06}", partial(self._text, windows, part)
        for task in self.plan.tasks:
            # Tasks are plain text, in which nobody can be asked for an idea.
            for one in (one for one in self.contestants if one.name != PROMPTED):
                yield f"{model}/{TASKS}/{task}/{one.name}", partial(self._task, task, one)

    # ---------------------------------------------------------------- replies

    def _replies(self, side: str, place: int, numbers: range) -> list[Record]:
        system = self.plan.systems[place]
        examples = self.plan.side(side)
        asked = {number: with_system(list(examples[number].messages), system or None) for number in numbers}
        written = self._written(asked, system)
        prompts = {number: self.model.encode(asked[number]) for number in numbers}
        self._tick(WRITING)
        known = self._log_probabilities(written, prompts)
        self._tick(WRITING + 0.15)
        likelihoods = {key: -float(one.mean()) for key, one in known.items()}
        read = {
            key: ReadReply(reply.text, reply.ids, _rise(likelihoods[key], likelihoods[key[0], BASELINE]))
            for key, reply in written.items()
        }
        unclear = [key for key, one in read.items() if not one.is_broken and not one.refuses(self.plan.phrases)]
        gains = self._gains(written, unclear, known, side, system)
        verdicts = self._verdicts(written, examples) if side == HARMFUL else {}
        self._tick(WRITING + 0.3)
        found = []
        for number in numbers:
            costs = self._costs(written, examples, asked, number, system) if side == HARMLESS else {}
            for one in self.contestants:
                key = number, one.name
                reply = read[key]
                record: Record = {
                    "model": self.model.label,
                    "system": place,
                    "side": side,
                    "prompt": _hash(examples[number]),
                    "variant": one.name,
                    "phrase": has_phrase(reply.text, PAPER_PHRASES),
                    "begins": is_refusal(reply.text, self.plan.phrases),
                    "reading": reply.reading(gains.get(key, math.nan), self.plan.phrases),
                    "likelihood": _known(likelihoods[key]),
                    "tokens": len(reply.ids),
                    **costs.get(one.name, {}),
                }
                if side == HARMLESS:
                    record["style"] = count_markers(reply.text).per_100_words
                    record["reads_as_ai"] = _reads_as_ai(reply.text)
                if key in verdicts:
                    record["verdict"] = verdicts[key]
                if self.plan.keeps == "all" or self.plan.keeps == side:
                    record["reply"] = reply.text
                found.append(record)
        return found

    def _written(self, asked: dict[int, list[dict[str, str]]], system: str) -> dict[tuple[int, str], Written]:
        """The replies of all contestants to a few prompts, by prompt and contestant."""
        found: dict[tuple[int, str], Written] = {}
        for source in dict.fromkeys(one.checkpoint for one in self.contestants):
            rows = [(number, one) for number in asked for one in self.contestants if one.checkpoint == source]
            steps = stream_side_by_side(
                self._model(source),
                [asked[number] for number, _ in rows],
                [one.act(number, system or None) for number, one in rows],
                max_new_tokens=self.plan.max_new_tokens,
                repetition_penalty=self.plan.repetition_penalty,
                seed=self.plan.seed,
            )
            for n_tokens, last in enumerate(steps):  # noqa: B007  the last one is what counts
                self._tick(WRITING * n_tokens / self.plan.max_new_tokens)
            for (number, one), ids, n, text in zip(rows, last.token_ids, last.n_thought, last.answers, strict=True):
                found[number, one.name] = Written(ids[:n], ids[n:], text)
        return found

    def _log_probabilities(
        self, written: dict[tuple[int, str], Written], prompts: dict[int, list[int]]
    ) -> dict[tuple[int, str], Tensor]:
        """log P of each reply's tokens under the model as it is."""
        rows = [
            GivenReply(prompts[number] + reply.thought, reply.ids, _PLAIN) for (number, _), reply in written.items()
        ]
        return dict(zip(written, reply_log_probabilities(self.model, rows), strict=True))

    def _gains(
        self,
        written: dict[tuple[int, str], Written],
        unclear: Sequence[tuple[int, str]],
        known: dict[tuple[int, str], Tensor],
        side: str,
        system: str,
    ) -> dict[tuple[int, str], float]:
        """What its own prompt gains each unclear reply's beginning over the best of a few others, nats."""
        examples = self.plan.side(side)
        rows = []
        for number, name in unclear:
            others = {(number + step) % len(examples) for step in range(1, OTHER_PROMPTS + 1)} - {number}
            for other in sorted(others):
                prompt = self.model.encode(with_system(list(examples[other].messages), system or None))
                reply = written[number, name]
                row = GivenReply(prompt + reply.thought, reply.ids[:TOPIC_TOKENS], _PLAIN)
                rows.append(((number, name), row))
        found: dict[tuple[int, str], float] = {}
        for (key, _), elsewhere in zip(
            rows, reply_log_probabilities(self.model, [row for _, row in rows]), strict=True
        ):
            gain = float(known[key][:TOPIC_TOKENS].sum() - elsewhere.sum())
            found[key] = min(gain, found.get(key, math.inf))
        return found

    def _verdicts(
        self, written: dict[tuple[int, str], Written], examples: Sequence[Example]
    ) -> dict[tuple[int, str], str]:
        if self.judge is None:
            return {}
        pairs = [(examples[number].instruction, reply.text) for (number, _), reply in written.items()]
        return dict(zip(written, self.judge.judge_all(pairs), strict=True))

    def _costs(
        self,
        written: dict[tuple[int, str], Written],
        examples: Sequence[Example],
        asked: dict[int, list[dict[str, str]]],
        number: int,
        system: str,
    ) -> dict[str, Record]:
        """How well each contestant predicts a harmless reply, and how far it is from the model as it is."""
        given, own_reply = examples[number].response, written[number, BASELINE]
        thought, ids = ([], self._ids(given)) if given is not None else (own_reply.thought, own_reply.ids)
        if not ids:
            return {}
        first, found = None, {}
        for source in dict.fromkeys(one.checkpoint for one in self.contestants):
            own = [one for one in self.contestants if one.checkpoint == source]
            rows = []
            for one in own:
                variant = one.act(number, system or None)
                prompt = self.model.encode(with_system(asked[number], variant.system))
                rows.append(GivenReply(prompt + thought, ids, variant))
            read, first = read_beside(self._model(source), rows, first)
            for one, costs in zip(own, read, strict=True):
                found[one.name] = {
                    "ce": _known(costs.cross_entropy),
                    "kl_first": _known(costs.kl_first),
                    "kl": _known(costs.kl),
                }
        return found

    # ---------------------------------------------------------------- text and tasks

    def _windows(self) -> list[list[int]]:
        """The text's tokens in pieces, each with the token it begins behind."""
        if not self.plan.text:
            return []
        ids = self._ids(self.plan.text)
        start = self.model.tokenizer.bos_token_id
        ids = ids if start is None else [start, *ids]
        pieces = [ids[first : first + WINDOW + 1] for first in range(0, len(ids) - 1, WINDOW)]
        whole = [piece for piece in pieces if len(piece) == WINDOW + 1]
        if not whole and len(ids) < 2:
            raise SteeringError("The text for the cross-entropy is empty. Give a file with some text in it.")
        return whole or pieces  # a rest would weigh as much as a whole piece

    def _text(self, windows: Sequence[list[int]], part: range) -> list[Record]:
        found = []
        for number in part:
            first, *ids = windows[number]
            for source in dict.fromkeys(one.checkpoint for one in self.contestants):
                # Who is just asked is left out: there is nobody to ask.
                own = [one for one in self.contestants if one.checkpoint == source and one.name != PROMPTED]
                rows = [GivenReply([first], ids, one.act(number, None)) for one in own]
                for one, known in zip(own, reply_log_probabilities(self._model(source), rows), strict=True):
                    about = {"model": self.model.label, "system": 0, "side": TEXT, "variant": one.name}
                    found.append(about | {"prompt": f"{number:06}", "ce": _known(-float(known.mean()))})
        return found

    def _task(self, task: str, one: Contestant) -> list[Record]:
        if self.run_task is None:
            raise SteeringError("Nothing is there that runs tasks. Leave them out.")
        about = {"model": self.model.label, "system": 0, "side": TASKS, "variant": one.name, "prompt": task}
        return [about | found for found in self.run_task(self._model(one.checkpoint), one.act(0, None), task)]

    # ---------------------------------------------------------------- parts

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.model.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _model(self, source: str) -> ChatModel:
        """The model itself, or the edited one that answers for a contestant."""
        if not source:
            return self.model
        if source not in self._checkpoints:
            if self.checkpoint is None:
                raise SteeringError(f"Nothing is there that loads {source}. Leave it out.")
            loaded = self.checkpoint(source)
            if loaded.d_model != self.model.d_model or len(loaded.tokenizer) != len(self.model.tokenizer):
                raise SteeringError(
                    f"{loaded.label} is not made from {self.model.label}: its width or vocabulary is another. "
                    "Name a checkpoint of this model."
                )
            self._checkpoints[source] = loaded
        return self._checkpoints[source]


def _told(progress: Progress, number: int, n_jobs: int, part: float) -> None:
    progress(WHAT, number + part, n_jobs)


_PLAIN = Variant(BASELINE)


def _hash(example: Example) -> str:
    """What a prompt is known by in the records, which do not hold it."""
    return hashlib.sha256(example.canonical.encode()).hexdigest()[:16]


def _reads_as_ai(text: str) -> float | None:
    """The probability by a classifier of style; None for a reply that says nothing."""
    from steering.style_classifier import ai_style  # scikit-learn takes a second, which not every run needs

    return float(ai_style().scores([text])[0]) if text.strip() else None


def _rise(likelihood: float, own: float) -> float:
    """How much less likely a reply is than the model's own; 0 where that one is empty, which says nothing of others."""
    return likelihood - (likelihood if math.isnan(own) else own)


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


__all__ = ["Evaluation", "Plan", "ReplyJudge", "TaskRunner"]
