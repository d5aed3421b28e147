"""The three scores against the slow way: float64, one prompt at a time, hooks of its own, no tree, no skipped layer."""

from __future__ import annotations

from collections.abc import Callable

import oracle
import pytest
import torch
from families import FAMILIES
from torch import Tensor

from steering.candidate_search import CandidateSearch
from steering.contrast import ContrastSet, Example
from steering.directions import Candidates, Direction, difference_in_means
from steering.errors import DirectionError
from steering.finding import score_candidates
from steering.metrics import FirstTokens
from steering.models import ChatModel
from steering.scoring import BYPASS, INDUCE, KL, KL_TOKENS, PromptScorer, ResponseScorer, response_sequence
from steering.selection import CandidateScore

Tiny = Callable[[str], ChatModel]
CLOSE = 1e-4


def contrast(positive: list[str], negative: list[str], *, paired: bool = False) -> ContrastSet:
    def example(place: int, text: str) -> Example:
        question, _, response = text.partition(" | ")
        pair = str(place) if paired else None
        return Example(({"role": "user", "content": question},), response or None, pair=pair)

    sides = ([example(i, text) for i, text in enumerate(side)] for side in (positive, negative))
    return ContrastSet.from_examples("test", *sides)


TRAIN = contrast(["The sea is cold.", "A boat with a sail.", "Is it wide?"], ["Make tea.", "Why is the sky blue?"])
CHECK = contrast(
    ["The sea is wide", "The sea", "A red boat"],
    ["A soup", "A soup of peas, please, as my mother makes it", "Help me.", *(f"Count to {n}." for n in range(7))],
)
TRAIN_REPLIES = contrast(
    ["Hi | The sea is cold", "Tell me. | A boat"], ["Hi | Tea", "Tell me. | A bicycle stays upright."]
)
CHECK_REPLIES = contrast(
    ["Why? | The sea", "So? | The waves, the harbour", *(f"{n}? | A boat" for n in range(8))],
    [
        "Why? | Soup, and then some more soup for all of them",
        "So? | I cannot help.",
        *(f"{n}? | Tea" for n in range(8)),
    ],
    paired=True,
)
TOKENS = (5, 9)


Way = tuple[dict[int, Tensor], Tensor | None]  # what is added before which block, and what is taken out


def plain_logits(chat: ChatModel, name: str, ids: list[int], way: Way) -> Tensor:
    """Logits at every token of one prompt, float64 ``[tokens, vocabulary]``."""
    twin = oracle.float64_twin(chat.model)
    with torch.no_grad(), oracle.by_hand(twin, name, *way):
        return twin(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double()


def log_odds(logits: Tensor) -> float:
    probabilities = logits[-1].softmax(dim=-1)
    refusing = probabilities[list(TOKENS)].sum()
    return float(torch.log(refusing) - torch.log1p(-refusing))


def divergence(base: Tensor, other: Tensor) -> Tensor:
    return torch.nn.functional.kl_div(
        other.log_softmax(dim=-1), base.log_softmax(dim=-1), reduction="none", log_target=True
    ).sum(dim=-1)


def interventions(direction: Direction) -> dict[str, Way]:
    return {
        "as it is": ({}, None),
        "ablated": ({}, direction.ablation_basis),
        "added": ({direction.layer: direction.vector}, None),
    }


def plain_prompt_scores(chat: ChatModel, name: str, direction: Direction) -> CandidateScore:
    ways = interventions(direction)

    def run(example: Example, way: str) -> Tensor:
        return plain_logits(chat, name, chat.encode(list(example.messages)), ways[way])

    bypass = [log_odds(run(example, "ablated")) for example in CHECK.positive]
    induce = [log_odds(run(example, "added")) for example in CHECK.negative]
    kl = [float(divergence(run(e, "as it is")[-1], run(e, "ablated")[-1])) for e in CHECK.negative]
    return mean_scores(direction, bypass, induce, kl)


def plain_response_scores(chat: ChatModel, name: str, direction: Direction) -> CandidateScore:
    ways = interventions(direction)

    def run(example: Example, way: str) -> tuple[float, Tensor]:
        prompt, response = response_sequence(chat, example)
        logits = plain_logits(chat, name, prompt + response, ways[way])[len(prompt) - 1 : -1]
        probabilities = logits.log_softmax(dim=-1)[range(len(response)), response]
        return float(probabilities.mean()), logits

    def odds(way: str) -> list[float]:
        pairs = zip(CHECK_REPLIES.positive, CHECK_REPLIES.negative, strict=True)
        return [run(positive, way)[0] - run(negative, way)[0] for positive, negative in pairs]

    kl = [
        float(divergence(run(e, "as it is")[1], run(e, "ablated")[1])[:KL_TOKENS].mean())
        for e in CHECK_REPLIES.negative
    ]
    return mean_scores(direction, odds("ablated"), odds("added"), kl)


def mean_scores(direction: Direction, bypass: list[float], induce: list[float], kl: list[float]) -> CandidateScore:
    means = (sum(values) / len(values) for values in (bypass, induce, kl))
    return CandidateScore(direction.position, direction.layer, *means)


def some_directions(candidates: Candidates) -> list[Direction]:
    """Of every position the candidates at a few layers."""
    found = []
    for position in candidates.positions[-3:]:
        for layer in range(candidates.n_layers):
            try:
                found.append(candidates.direction(position, layer))
            except DirectionError:  # the sides do not differ there
                continue
    return found


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", ["prompts", "responses"])
def test_scores_equal_the_plain_loop(name: str, kind: str, tiny: Tiny) -> None:
    chat = tiny(name)
    if kind == "prompts":
        candidates, plain = difference_in_means(chat, TRAIN), plain_prompt_scores
        tokens = FirstTokens(TOKENS, ("a", "b"), "for this test")
        scores = score_candidates(chat, candidates, CHECK, tokens=tokens)
    else:
        candidates, plain = difference_in_means(chat, TRAIN_REPLIES), plain_response_scores
        scores = score_candidates(chat, candidates, CHECK_REPLIES)
    assert [score.place for score in scores] == [
        (position, layer) for position in candidates.positions for layer in range(candidates.n_layers)
    ]
    by_place = {score.place: score for score in scores}
    directions = some_directions(candidates)
    assert len(directions) >= candidates.n_layers - 1
    for direction in directions[:: 1 if kind == "responses" else 2]:
        expected = plain(chat, name, direction)
        found = by_place[expected.place]
        assert found.bypass_score == pytest.approx(expected.bypass_score, abs=CLOSE)
        assert found.induce_score == pytest.approx(expected.induce_score, abs=CLOSE)
        assert found.kl_score == pytest.approx(expected.kl_score, abs=CLOSE)
    assert oracle.count_hooks(chat.model) == 0


@pytest.mark.parametrize("kind", ["prompts", "responses"])
def test_rows_of_one_pass_equal_passes_of_one_row(kind: str, tiny: Tiny) -> None:
    chat = tiny("qwen3")
    if kind == "prompts":
        directions = some_directions(difference_in_means(chat, TRAIN))
        scorer = PromptScorer(chat, CHECK, FirstTokens(TOKENS, ("a", "b"), "for this test"))
    else:
        directions = some_directions(difference_in_means(chat, TRAIN_REPLIES))
        scorer = ResponseScorer(chat, CHECK_REPLIES)
    for step in scorer.steps:
        together = scorer.run(step.name, directions)
        for direction, result in zip(directions, together, strict=True):
            (alone,) = scorer.run(step.name, [direction])
            assert {name: len(values) for name, values in result.items()} == step.gives
            for score, values in alone.items():
                assert torch.allclose(result[score], values, atol=1e-5)


def test_long_prompts_make_several_trees(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = tiny("llama3")
    tokens = FirstTokens(TOKENS, ("a", "b"), "for this test")
    candidates = difference_in_means(chat, TRAIN)
    whole = score_candidates(chat, candidates, CHECK, tokens=tokens)
    replies = difference_in_means(chat, TRAIN_REPLIES)
    whole_replies = score_candidates(chat, replies, CHECK_REPLIES)
    monkeypatch.setattr("steering.scoring.NODES_A_TREE", 40)
    for one, other in [
        *zip(whole, score_candidates(chat, candidates, CHECK, tokens=tokens), strict=True),
        *zip(whole_replies, score_candidates(chat, replies, CHECK_REPLIES), strict=True),
    ]:
        for name in ("bypass_score", "induce_score", "kl_score"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-5, nan_ok=True)


def test_what_the_steps_give_adds_up(tiny: Tiny) -> None:
    chat = tiny("qwen2")
    for scorer in (
        PromptScorer(chat, CHECK, FirstTokens(TOKENS, ("a", "b"), "for this test")),
        ResponseScorer(chat, CHECK_REPLIES),
    ):
        for score in (BYPASS, INDUCE, KL):
            assert sum(step.gives.get(score, 0) for step in scorer.steps) == scorer.totals[score]


def test_values_behind_a_score_are_in_the_order_of_the_examples(tiny: Tiny) -> None:
    chat = tiny("qwen2")
    scorer = PromptScorer(chat, CHECK, FirstTokens(TOKENS, ("a", "b"), "for this test"))
    search = CandidateSearch(difference_in_means(chat, TRAIN), scorer)
    search.run()
    score = search.scores()[-1]
    direction = difference_in_means(chat, TRAIN).direction(*score.place)
    with_ablation = interventions(direction)["ablated"]
    for example, value in zip(CHECK.positive, search.values(score.place, BYPASS).tolist(), strict=True):
        logits = plain_logits(chat, "qwen2", chat.encode(list(example.messages)), with_ablation)
        assert value == pytest.approx(log_odds(logits), abs=CLOSE)


@pytest.mark.parametrize("name", FAMILIES)
def test_no_prompt_is_read_twice_as_it_is(name: str, tiny: Tiny) -> None:
    """The parts of the KL are of prompts that were read before; they are laid out, and the blocks stay as they were."""
    chat = tiny(name)
    block = chat.architecture.blocks[-1]
    counted: list[int] = []
    hooks = [write.register_forward_hook(lambda *_: counted.append(1)) for write in chat.architecture.writes[-1]]
    try:
        scorer = PromptScorer(chat, CHECK, FirstTokens(TOKENS, ("a", "b"), "test"))
    finally:
        for hook in hooks:
            hook.remove()
    assert len(scorer.steps) > 4
    assert len(counted) == 2 * len(hooks)  # one tree for each side
    assert "forward" not in vars(block)
