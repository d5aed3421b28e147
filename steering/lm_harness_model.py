"""A variant as lm-eval's own interface to a model: what a task asks is answered with the interventions in place.

This module imports lm-eval, which not everybody has; :mod:`steering.lm_harness` is how one comes here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, has_bos_prefix, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from steering.continuations import continuations, memory_errors
from steering.conversation import with_system
from steering.errors import SteeringError
from steering.interventions import Steering
from steering.progress import Progress, silent
from steering.sampling import SamplingSettings
from steering.variants import Variant

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

    from steering.models import ChatModel

ROWS_AT_ONCE = 8
MOST_WRITTEN = 256  # tokens, where a task does not say; lm-eval's own number
_GREEDY_IGNORES = {"do_sample", "temperature", "top_p", "top_k", "min_p"}  # of a task's settings, without sampling

# A text asked about, what stands before what is scored, and what is scored; lm-eval's own form.
Scored = tuple[Any, list[int], list[int]]


@dataclass(frozen=True)
class _Row:
    """A reply to be written."""

    place: int  # among the requests
    prompt: list[int]
    stops: list[str]
    most: int


class SteeredLM(TemplateLM):
    """Scores and writes texts with a variant's interventions at every position, whichever side of a thought it acts on.

    A context that is too long loses its beginning, as with lm-eval's own models.

    Args:
        batch_size: rows of a pass.
        progress: told after every batch.
    """

    def __init__(
        self, model: ChatModel, variant: Variant, batch_size: int = ROWS_AT_ONCE, progress: Progress = silent
    ) -> None:
        super().__init__()
        self.model, self.variant = model, variant
        self.tokenizer = model.tokenizer
        self.batch_size = batch_size
        self._progress = progress
        self._what = f"Answering as “{variant.name}”"
        self._device = model.device

    @property
    def eot_token_id(self) -> int:
        own = self.tokenizer.eos_token_id
        return int(own if own is not None else min(self.model.end_tokens))

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has nothing before it."""
        own = self.tokenizer.bos_token_id
        return int(own if own is not None else self.eot_token_id)

    @property
    def max_length(self) -> int:
        return self.model.max_length

    @property
    def tokenizer_name(self) -> str:
        return self.model.name.replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as the model's template writes it, with the variant's own system prompt if it has one.

        Raises:
            ModelError: if the template does not take it.
        """
        messages = with_system(chat_history, self.variant.system)
        if add_generation_prompt:
            return self.model.format(messages)
        return str(
            self.tokenizer.apply_chat_template(
                messages, tokenize=False, continue_final_message=True, enable_thinking=self.model.thinking
            )
        )

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        if add_special_tokens is None and has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id)):
            add_special_tokens = False  # the chat template has written it
        settings = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return list(self.tokenizer.encode(string, **settings))

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """log P(continuation | context) of each pair, nats, and whether greedy writing gives it."""
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """log P of each text, nats: every token once, with as much before it as the model reads."""
        windows: list[Scored] = []
        owners: list[int] = []
        for place, request in enumerate(requests):
            tokens = self.tok_encode(request.args[0])
            for window in get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length, context_len=1):
                windows.append((None, *make_disjoint_window(window)))
                owners.append(place)
        sums = [0.0] * len(requests)
        for place, (value, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            sums[place] += value
        return sums

    def _loglikelihood_tokens(self, requests: Sequence[Scored], **_: Any) -> list[tuple[float, bool]]:
        """As :meth:`loglikelihood`, of token ids. Requests that read the same share a row: answers of one token do."""
        readers: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for place, (_, context, continuation) in enumerate(requests):
            if len(continuation) > self.max_length:
                raise SteeringError(
                    f"A text to be scored has {len(continuation)} tokens; {self.model.label} reads at most "
                    f"{self.max_length}."
                )
            readers[tuple((context + continuation)[-(self.max_length + 1) : -1])].append(place)
        rows = sorted(readers, key=len, reverse=True)  # what takes most memory first
        found: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        for first in range(0, len(rows), self.batch_size):
            part = rows[first : first + self.batch_size]
            scored = [max(len(requests[place][2]) for place in readers[row]) for row in part]
            for row, likelihoods in zip(part, self._read(part, scored), strict=True):
                for place in readers[row]:
                    found[place] = _score(likelihoods, requests[place][2])
            self._progress(self._what, min(first + self.batch_size, len(rows)), len(rows))
        return found

    def _read(self, rows: Sequence[Sequence[int]], scored: Sequence[int]) -> list[torch.Tensor]:
        """log P of what follows each of the last so many tokens of each row, float32 ``[scored, vocabulary]`` each."""
        width, first = max(map(len, rows)), min(len(row) - n for row, n in zip(rows, scored, strict=True))
        # Padding on the right: attention is causal, so no token sees it.
        ids = torch.tensor([[*row, *[self.model.pad_token] * (width - len(row))] for row in rows])
        steering = Steering(self.model, [self.variant] * len(rows))
        kept = torch.arange(first, width, device=self.model.device)
        with memory_errors(), torch.inference_mode(), steering.applied():
            output: Any = self.model.model(input_ids=ids.to(self.model.device), use_cache=False, logits_to_keep=kept)
            return [
                logits[len(row) - n - first : len(row) - first].float().log_softmax(dim=-1)
                for logits, row, n in zip(output.logits, rows, scored, strict=True)
            ]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """What the variant writes behind each context until the task's stop, its thought left out.

        Raises:
            SteeringError: if a task asks for a way of writing that there is not here.
        """
        groups: dict[SamplingSettings, list[_Row]] = defaultdict(list)
        for place, request in enumerate(requests):
            context, asked = request.args
            settings, row = self._row(place, context, asked)
            groups[settings].append(row)
        texts = [""] * len(requests)
        n_done = 0
        for settings, rows in groups.items():
            rows.sort(key=lambda row: -len(row.prompt))
            for first in range(0, len(rows), self.batch_size):
                part = rows[first : first + self.batch_size]
                is_written = partial(self._is_written, part)
                written = continuations(self.model, [row.prompt for row in part], self.variant, is_written, settings)
                for row, ids in zip(part, written, strict=True):
                    texts[row.place] = self._text(row, ids)
                n_done += len(part)
                self._progress(self._what, n_done, len(requests))
        return texts

    def _row(self, place: int, context: str, asked: dict[str, Any]) -> tuple[SamplingSettings, _Row]:
        kwargs: dict[str, Any] = dict(normalize_gen_kwargs(asked, MOST_WRITTEN))
        stops = handle_stop_sequences(
            kwargs.pop("until", None), eos=self.tokenizer.decode(self.eot_token_id, skip_special_tokens=False)
        )
        most = int(kwargs.pop("max_gen_toks"))
        if most >= self.max_length:
            raise SteeringError(
                f"The task lets replies have {most} tokens, and {self.model.label} reads at most {self.max_length} in "
                "all. Give it fewer (max_gen_toks)."
            )
        samples = bool(kwargs.get("do_sample"))
        known = {"do_sample", "temperature", "top_p"} if samples else _GREEDY_IGNORES
        if others := sorted(set(kwargs) - known):
            raise SteeringError(f"The task asks for {', '.join(others)} in writing, which there is not here.")
        settings = SamplingSettings(float(kwargs["temperature"]), float(kwargs.get("top_p", 1.0))) if samples else None
        prompt = self.tok_encode(context)[-(self.max_length - most) :]
        return settings or SamplingSettings(), _Row(place, prompt, stops, most)

    def _is_written(self, rows: Sequence[_Row], number: int, ids: list[int]) -> bool:
        row = rows[number]
        if len(ids) >= row.most:
            return True
        answer = self.tokenizer.decode(ids, skip_special_tokens=True)
        if self._thought_end is not None:
            if self._thought_end not in answer:
                return False
            answer = answer.rpartition(self._thought_end)[2]
        return any(stop and stop in answer for stop in row.stops)

    def _text(self, row: _Row, ids: list[int]) -> str:
        written = self.tokenizer.decode(ids, skip_special_tokens=True)
        return str(postprocess_generated_text(written, row.stops, self._thought_end))

    @property
    def _thought_end(self) -> str | None:
        marks = self.model.thought_marks
        return marks.end if marks is not None and self.model.thinking else None


def _score(likelihoods: torch.Tensor, continuation: list[int]) -> tuple[float, bool]:
    """log P of the continuation, and whether each of its tokens is the likeliest; ``likelihoods`` may begin earlier."""
    own = likelihoods[len(likelihoods) - len(continuation) :]
    wanted = torch.tensor(continuation, device=own.device)
    return float(own.gather(1, wanted[:, None]).sum()), bool((own.argmax(dim=-1) == wanted).all())
