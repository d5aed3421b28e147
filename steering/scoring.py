"""The three scores of candidates, example by example, in steps that can be taken in any order and left out.

A step is one kind of forward pass over some of the examples. What it gives is what the plain loop over hooked, padded
batches gives, up to rounding: prompts lie in one tree (`prompt_trees`), additions begin at their layer (`tree_pass`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from steering.contrast import ContrastSet, Example
from steering.float32_linear import FastLinears
from steering.interventions import Variant
from steering.metrics import FirstTokens, first_token_log_odds, kl_divergence, token_log_probabilities
from steering.out_of_memory import half
from steering.progress import Progress, Tick, no_tick, of_several
from steering.prompt_trees import PromptTree, prompt_trees
from steering.tree_pass import TreePass

if TYPE_CHECKING:
    from steering.directions import Direction
    from steering.models import ChatModel

BYPASS, INDUCE, KL = "bypass", "induce", "kl"
# KL is taken of so many examples, then of so many more, and so on, then of the rest: a few show of most candidates
# with a large KL that it exceeds the limit.
FIRST_LOOKS = (3, 6, 10)
# Tokens in a tree: attention grows with their square, and so may the logits of responses with the vocabulary.
NODES_A_TREE = 1_000
Tokens = tuple[list[int], list[int]]  # of a prompt and of its response
KL_TOKENS = 8  # of each negative response; all would have to be kept for the whole vocabulary


@dataclass(frozen=True)
class Step:
    """One kind of pass: which scores it gives, and of how many of the examples that each of them is a mean over.

    ``from_own_layer``: whether layers below a candidate's own need not be run (for additions).
    """

    name: str
    gives: dict[str, int]
    from_own_layer: bool = False


@dataclass(frozen=True, eq=False)
class Unsteered:
    """The metric of the model as it is, by example: float64 ``[n]`` on either side (equal for sets with responses)."""

    positive: Tensor
    negative: Tensor

    @property
    def midpoint(self) -> float:
        """Between the two sides' means."""
        return float(self.positive.mean() + self.negative.mean()) / 2

    @property
    def standard_error(self) -> float:
        """Of the negative side's mean; 0 for a single example."""
        n = len(self.negative)
        return float(self.negative.std() / n**0.5) if n > 1 else 0.0


class Scorer(Protocol):
    """Scores of a set of validation examples under any direction."""

    steps: tuple[Step, ...]
    totals: dict[str, int]
    unsteered: Unsteered

    def run(self, step: str, directions: Sequence[Direction], tick: Tick = no_tick) -> list[dict[str, Tensor]]:
        """Take a step for each direction: by score, float64 ``[n]``, one number an example looked at.

        ``tick`` is called before every block with the part of the step that is done; what it raises ends the step.
        """

    def metric(self, side: str, variants: Sequence[Variant], first_layer: int = 0, tick: Tick = no_tick) -> Tensor:
        """The metric by example under any variants, float64 ``[rows, n]``; ``side`` is “positive” or “negative”.

        ``first_layer`` is the lowest that any of the variants changes.
        """


def scorer_for(model: ChatModel, validation: ContrastSet, tokens: FirstTokens | None, tick: Tick = no_tick) -> Scorer:
    """The scorer that suits the set: by its responses if it has them, else by the first token of the reply.

    ``tick`` is told how far the unsteered passes are.
    """

    def own() -> Scorer:
        if validation.has_responses:
            return ResponseScorer(model, validation, tick)
        assert tokens is not None, "a set of prompts needs first tokens"
        return PromptScorer(model, validation, tokens, tick)

    return own() if model.helpers is None else model.helpers.scorer(own, validation, tokens)


def scores_of(
    scorer: Scorer, directions: Sequence[Direction], wanted: Collection[str], tick: Tick = no_tick
) -> list[dict[str, Tensor]]:
    """The ``wanted`` scores of each direction to the end: by score, float64 ``[n]``, one number an example."""
    found: list[dict[str, list[Tensor]]] = [{score: [] for score in wanted} for _ in directions]
    steps = [step for step in scorer.steps if step.gives.keys() & set(wanted)]
    for i, step in enumerate(steps):
        for one, result in zip(found, scorer.run(step.name, directions, of_several(tick, i, len(steps))), strict=True):
            for score in one.keys() & result.keys():
                one[score].append(result[score])
    return [{score: torch.cat(numbers) for score, numbers in one.items()} for one in found]


def scores_in_turn(
    scorer: Scorer, directions: Sequence[Direction], wanted: Collection[str], rows: int, told: tuple[str, Progress]
) -> list[dict[str, Tensor]]:
    """:func:`scores_of` many directions, ``rows`` of them a pass; fewer if memory runs out.

    Args:
        told: what this is called and who is told how many directions are done, also while a pass is running.

    Raises:
        OutOfMemoryError: if even one direction does not fit into memory.
    """
    found: list[dict[str, Tensor]] = []
    what, progress = told

    def tick(part: float) -> None:
        progress(what, len(found) + min(rows, len(directions) - len(found)) * part, len(directions))

    while len(found) < len(directions):
        try:
            found += scores_of(scorer, directions[len(found) :][:rows], wanted, tick)
        except (RuntimeError, MemoryError) as error:
            advice = "Give shorter examples or choose a smaller model."
            rows = half(rows, error, "score even one direction", advice)
    progress(what, len(directions), len(directions))
    return found


class PromptScorer:
    """Scores by the first token of the reply (section 2.3): log P(R) − log P(not R), R being ``tokens``.

    KL is of that token's distribution too; it is taken of the negative side in parts.
    """

    def __init__(self, model: ChatModel, validation: ContrastSet, tokens: FirstTokens, tick: Tick = no_tick) -> None:
        self._tokens = tokens.ids
        positive, negative = (
            [model.encode(list(example.messages)) for example in side]
            for side in (validation.positive, validation.negative)
        )
        linears = FastLinears(model.model)
        self._positive = _LastTokens(model, positive, linears, of_several(tick, 0, 2))
        self._negative = _LastTokens(model, negative, linears, of_several(tick, 1, 2), from_any_layer=True)
        looks = {f"kl {start}": slice(start, end) for start, end in _looks(len(negative))}
        self._parts = {
            name: (_LastTokens(model, negative[part], linears, after=self._negative), self._negative.unsteered[part])
            for name, part in looks.items()
        }
        self.steps = (
            Step("induce", {INDUCE: len(negative)}, from_own_layer=True),
            *(Step(name, {KL: part.stop - part.start}) for name, part in looks.items()),
            Step("bypass", {BYPASS: len(positive)}),
        )
        self.totals = {BYPASS: len(positive), INDUCE: len(negative), KL: len(negative)}
        self.unsteered = Unsteered(self._log_odds(self._positive.unsteered), self._log_odds(self._negative.unsteered))

    def _log_odds(self, logits: Tensor) -> Tensor:
        return first_token_log_odds(logits, self._tokens).double().cpu()

    def metric(self, side: str, variants: Sequence[Variant], first_layer: int = 0, tick: Tick = no_tick) -> Tensor:
        of_side = self._positive if side == "positive" else self._negative
        return self._log_odds(of_side.logits(variants, first_layer, tick))

    def run(self, step: str, directions: Sequence[Direction], tick: Tick = no_tick) -> list[dict[str, Tensor]]:
        if step == "induce":
            added = [Variant.added(direction) for direction in directions]
            first = min(direction.layer for direction in directions)
            return [{INDUCE: values} for values in self.metric("negative", added, first, tick)]
        ablated = [Variant.ablated(direction) for direction in directions]
        if step == "bypass":
            return [{BYPASS: values} for values in self.metric("positive", ablated, tick=tick)]
        part, unsteered = self._parts[step]
        values = kl_divergence(unsteered, part.logits(ablated, tick=tick)).double().cpu()
        return [{KL: row} for row in values]


def _looks(total: int) -> list[tuple[int, int]]:
    """Beginning and end of each part of the examples whose KL is taken at once."""
    ends = [end for end in accumulate(FIRST_LOOKS) if end < total]
    return list(pairwise([0, *ends, total]))


class _LastTokens:
    """Prompts in as few trees as their length allows, read at each prompt's last token.

    ``unsteered`` are the model's own logits, float32 ``[n_prompts, vocabulary]``; not to be had of prompts that are
    ``after`` others, as in :class:`TreePass`.
    """

    def __init__(
        self,
        model: ChatModel,
        prompts: list[list[int]],
        linears: FastLinears,
        tick: Tick = no_tick,
        *,
        from_any_layer: bool = False,
        after: _LastTokens | None = None,
    ) -> None:
        trees = [tree for _, tree in prompt_trees([[prompt] for prompt in prompts], NODES_A_TREE)]
        self._passes: list[TreePass] = [
            TreePass(
                model,
                tree,
                tree.ends,
                linears,
                from_any_layer=from_any_layer,
                after=after._passes[0] if after else None,
                tick=of_several(tick, i, len(trees)),
            )
            for i, tree in enumerate(trees)
        ]
        if after is None:
            self.unsteered: Tensor = torch.cat([one.take_unsteered() for one in self._passes])

    def logits(self, variants: Sequence[Variant], first_layer: int = 0, tick: Tick = no_tick) -> Tensor:
        """Next-token logits, float32 ``[rows, n_prompts, vocabulary]``."""
        n = len(self._passes)
        parts = [one.logits(variants, first_layer, of_several(tick, i, n)) for i, one in enumerate(self._passes)]
        return torch.cat(parts, dim=1)


class ResponseScorer:
    """Scores by whole responses: the mean log P of a response's tokens, positive minus negative.

    The i-th number of bypass and induce is that difference for the i-th positive and the i-th negative response, pairs
    first, so that their mean is the difference of the sides' means. KL is of the first 8 next tokens of the negative
    responses, each response's mean one number. A step under ablation gives both bypass and KL.
    """

    def __init__(self, model: ChatModel, validation: ContrastSet, tick: Tick = no_tick) -> None:
        positive, negative, _ = pairs_first(validation)
        pairs = list(zip(positive, negative, strict=False))  # what has no counterpart at the end is left out
        sequences = [[response_sequence(model, example) for example in pair] for pair in pairs]
        linears = FastLinears(model.model)
        trees: list[tuple[PromptTree, list[list[Tokens]]]] = []
        for start, end in _looks(len(pairs)):
            of_part = sequences[start:end]
            whole = [[prompt + response for prompt, response in pair] for pair in of_part]
            trees += [(tree, [of_part[i] for i in ids]) for ids, tree in prompt_trees(whole, NODES_A_TREE)]
        self._parts = [
            _ResponsePass(model, tree, own, linears, of_several(tick, i, len(trees)))
            for i, (tree, own) in enumerate(trees)
        ]
        steps = [Step("induce", {INDUCE: len(pairs)}, from_own_layer=True)]
        for i, part in enumerate(self._parts):
            steps.append(Step(f"ablated {i}", {BYPASS: len(part), KL: len(part)}))
        self.steps = tuple(steps)
        self.totals = dict.fromkeys((BYPASS, INDUCE, KL), len(pairs))
        values = torch.cat([part.unsteered for part in self._parts])
        self.unsteered = Unsteered(values, values)

    def run(self, step: str, directions: Sequence[Direction], tick: Tick = no_tick) -> list[dict[str, Tensor]]:
        if step == "induce":
            added = [Variant.added(direction) for direction in directions]
            first = min(direction.layer for direction in directions)
            return [{INDUCE: values} for values in self.metric("negative", added, first, tick)]
        part = self._parts[int(step.removeprefix("ablated "))]
        steered = part.passed.logits([Variant.ablated(direction) for direction in directions], tick=tick)
        return [{BYPASS: odds, KL: kl} for odds, kl in zip(part.log_odds(steered), part.kl(steered), strict=True)]

    def metric(self, side: str, variants: Sequence[Variant], first_layer: int = 0, tick: Tick = no_tick) -> Tensor:
        odds = []
        for i, part in enumerate(self._parts):
            logits = part.passed.logits(variants, first_layer, of_several(tick, i, len(self._parts)))
            odds.append(part.log_odds(logits))
        return torch.cat(odds, dim=-1)


class _ResponsePass:
    """Some pairs in one tree: a prompt that both responses answer stands once.

    Args:
        tree: its paths are those of each pair's positive and negative sequence in turn.
        pairs: for each of them prompt and response of the positive and of the negative side.
    """

    def __init__(
        self, model: ChatModel, tree: PromptTree, pairs: Sequence[Sequence[Tokens]], linears: FastLinears, tick: Tick
    ) -> None:
        reads: dict[int, int] = {}  # node → its place among those read
        self._reads: list[Tensor] = []
        self._responses: list[Tensor] = []
        sequences = [pair[side] for side in (0, 1) for pair in pairs]
        for (prompt, response), path in zip(sequences, [*tree.paths[::2], *tree.paths[1::2]], strict=True):
            before = path[len(prompt) - 1 : len(prompt) + len(response) - 1]
            self._reads.append(torch.tensor([reads.setdefault(node, len(reads)) for node in before]))
            self._responses.append(torch.tensor(response))
        self._n = len(pairs)
        self.passed = TreePass(model, tree, torch.tensor(list(reads)), linears, from_any_layer=True, tick=tick)
        unsteered = self.passed.take_unsteered()
        self.unsteered = self.log_odds(unsteered)
        looked_at = [read[:KL_TOKENS] for read in self._reads[self._n :]]
        self._kl_reads = torch.cat(looked_at)
        self._kl_sizes = [len(read) for read in looked_at]
        self._kl_base = unsteered[self._kl_reads.to(unsteered.device)]

    def __len__(self) -> int:
        return self._n

    def log_odds(self, logits: Tensor) -> Tensor:
        """Mean log P a token of each positive response minus that of its negative one, float64 ``[…, n_pairs]``."""
        means = []
        for read, response in zip(self._reads, self._responses, strict=True):
            probabilities = token_log_probabilities(logits[..., read.to(logits.device), :], response)
            means.append(probabilities.double().mean(dim=-1).cpu())
        stacked = torch.stack(means, dim=-1)
        return stacked[..., : self._n] - stacked[..., self._n :]

    def kl(self, logits: Tensor) -> Tensor:
        """Mean KL from the unsteered model over the tokens looked at of each negative response, ``[…, n_pairs]``."""
        divergence = kl_divergence(self._kl_base, logits[..., self._kl_reads.to(logits.device), :]).double().cpu()
        return torch.stack([part.mean(dim=-1) for part in divergence.split(self._kl_sizes, dim=-1)], dim=-1)


def next_token_logits(model: ChatModel, examples: Sequence[Example], tick: Tick = no_tick) -> Tensor:
    """The unsteered model's logits of the reply's first token, float32 ``[n_examples, vocabulary]``, on the CPU."""
    prompts = [model.encode(list(example.messages)) for example in examples]
    return _LastTokens(model, prompts, FastLinears(model.model), tick).unsteered.cpu()


def response_sequence(model: ChatModel, example: Example) -> Tokens:
    """Token ids of an example's prompt and of its response."""
    response = model.tokenizer(example.response or "", add_special_tokens=False)["input_ids"]
    return model.encode(list(example.messages)), response


def pairs_first(data: ContrastSet) -> tuple[list[Example], list[Example], int]:
    """Both sides with their pairs first, in the same order on either, and how many pairs there are."""
    partner: dict[str | None, Example] = {one.pair: one for one in data.negative if one.pair is not None}
    paired = [example for example in data.positive if example.pair in partner]
    taken = {example.pair for example in paired}
    return (
        [*paired, *(example for example in data.positive if example.pair not in taken)],
        [*(partner[one.pair] for one in paired), *(example for example in data.negative if example.pair not in taken)],
        len(paired),
    )
