"""How fast the search for the best candidate is, against the paper's loop written plainly, and that both agree.

    python -m benchmarks.selection [--model bundled] [--rounds 3] [--sample 6] [--whole] [--json]

The preset “refusal”, 128 + 128 prompts to learn from and 32 + 32 to score with, not filtered, in float32: every
position and layer. The plain loop (benchmarks/plain_selection.py) scores one candidate as fast as any other, so it is
timed on ``--sample`` of them, in turn with the search, and multiplied; ``--whole`` runs it over all of them, which
takes from half an hour to an hour, and holds its winner against the search's.

The tricks alone: what one pass over the 32 prompts gains from each, everything else being as in the plain loop, or,
where a trick needs the tree, as in the tree without it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from tqdm import tqdm

from benchmarks.machine import describe_machine, print_machine
from benchmarks.plain_selection import PlainLoop
from steering import ContrastSet, Variant, difference_in_means, load_model
from steering.candidate_search import CandidateSearch
from steering.directions import Candidates
from steering.errors import DirectionError
from steering.float32_linear import FastLinears
from steering.models import ChatModel
from steering.preparation import Prepared, prepare
from steering.prompt_trees import SparseMask, prompt_tree
from steering.scoring import PromptScorer
from steering.selection import CandidateScore, Limits, relaxed, select_candidate
from steering.tree_pass import TreePass

GOAL = 20.0
LARGEST_DIFFERENCE = 1e-4
ROWS = (2, 4)
Place = tuple[int, int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sample", type=int, default=6, help="candidates that the plain loop scores")
    parser.add_argument("--whole", action="store_true", help="run the plain loop over all candidates")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = load_model(arguments.model, device="cpu", dtype=torch.float32)
    report = measured(model, arguments.rounds, arguments.sample, arguments.whole)
    if arguments.json:
        print(json.dumps(report, indent=1))
    else:
        print_report(report)
    if report["largest_difference"] > LARGEST_DIFFERENCE or not report["same_winner"]:
        raise SystemExit("The search and the plain loop disagree, so equals are not compared.")


def measured(model: ChatModel, rounds: int, sample: int, whole: bool) -> dict[str, Any]:
    prepared = prepare(model, ContrastSet.load("refusal"), filtered=False)
    began = time.perf_counter()
    candidates = difference_in_means(model, prepared.train)
    means_seconds = time.perf_counter() - began
    assert prepared.tokens is not None
    validation = prepared.validation
    plain = PlainLoop(model, validation.positive, validation.negative, list(prepared.tokens.ids))
    scorer = PromptScorer(model, validation, prepared.tokens)
    limits = relaxed(Limits(), "induce", induce=scorer.unsteered.midpoint)
    n = len(candidates.positions) * candidates.n_layers
    places = spread(candidates, limits, max(sample, rounds))

    searches: list[float] = []
    loops: list[float] = []
    plain_scores: dict[Place, CandidateScore] = {}
    plain_score(plain, candidates, places[0])  # warm up
    for number in range(rounds):
        print(f"Round {number + 1} of {rounds}", file=sys.stderr)
        began = time.perf_counter()
        winner, search = searched(model, prepared, candidates, limits)
        searches.append(time.perf_counter() - began)
        for place in places[number::rounds]:
            began = time.perf_counter()
            plain_scores[place] = plain_score(plain, candidates, place)
            loops.append(time.perf_counter() - began)
    best = winner.position, winner.layer
    chosen = [best] if not whole else every_place(candidates)
    began = time.perf_counter()
    for place in tqdm(chosen, desc="Plain loop", leave=False):
        plain_scores[place] = plain_score(plain, candidates, place)
    whole_seconds = time.perf_counter() - began if whole else None

    ours = {place: search.complete(place) for place in tqdm([*places, best], desc="To the end", leave=False)}
    differences = [difference(ours[place], plain_scores[place]) for place in ours]
    plain_seconds = whole_seconds or n * median(loops)
    return {
        "machine": describe_machine(),
        "model": model.label,
        "candidates": n,
        "eligible": len(eligible(candidates, limits)),
        "limits": {"induce": limits.induce, "kl": limits.kl, "depth": limits.depth},
        "winner": [*best, winner.bypass_score, winner.induce_score, winner.kl_score],
        "same_winner": not whole or same_winner(list(plain_scores.values()), candidates.n_layers, limits, best),
        "plain_loop_was_whole": whole,
        "largest_difference": max(differences),
        "compared": len(ours),
        "difference_in_means_seconds": means_seconds,
        "plain_seconds_each": loops,
        "plain_seconds": plain_seconds,
        "search_seconds": searches,
        "ratio": plain_seconds / median(searches),
        "tricks": tricks(model, prepared, candidates, limits, plain, scorer, median(searches), rounds),
    }


def searched(
    model: ChatModel, prepared: Prepared, candidates: Candidates, limits: Limits
) -> tuple[CandidateScore, CandidateSearch]:
    """The whole search from nothing: the scorer with its trees and unsteered passes, and the scores that are needed."""
    assert prepared.tokens is not None
    search = CandidateSearch(candidates, PromptScorer(model, prepared.validation, prepared.tokens))
    return select_candidate(search.run(limits), candidates.n_layers, limits), search


def every_place(candidates: Candidates) -> list[Place]:
    """Those at which the two sides differ."""
    places = []
    for position in candidates.positions:
        for layer in range(candidates.n_layers):
            try:
                candidates.direction(position, layer)
            except DirectionError:
                continue
            places.append((position, layer))
    return places


def eligible(candidates: Candidates, limits: Limits) -> list[Place]:
    """Without the layers that the rule leaves out."""
    return [place for place in every_place(candidates) if place[1] < limits.depth * candidates.n_layers]


def spread(candidates: Candidates, limits: Limits, n: int) -> list[Place]:
    """``n`` candidates, evenly among the eligible ones."""
    places = eligible(candidates, limits)
    return [places[(2 * i + 1) * len(places) // (2 * n)] for i in range(n)]


def plain_score(plain: PlainLoop, candidates: Candidates, place: Place) -> CandidateScore:
    vector = candidates.direction(*place).vector
    return CandidateScore(*place, plain.bypass(vector), plain.induce(vector, place[1]), plain.kl(vector))


def difference(one: CandidateScore, other: CandidateScore) -> float:
    pairs = zip(
        (one.bypass_score, one.induce_score, one.kl_score),
        (other.bypass_score, other.induce_score, other.kl_score),
        strict=True,
    )
    return max(abs(float(a or 0) - float(b or 0)) for a, b in pairs)


def same_winner(scores: list[CandidateScore], n_layers: int, limits: Limits, best: Place) -> bool:
    chosen = select_candidate(scores, n_layers, limits)
    return (chosen.position, chosen.layer) == best


@contextmanager
def no_linears() -> Iterator[FastLinears]:
    """A model's linear layers as they are."""
    with patch("steering.float32_linear.onednn_float32_is_faster", lambda: False):
        yield FastLinears(torch.nn.Linear(1, 1))


def tricks(
    model: ChatModel,
    prepared: Prepared,
    candidates: Candidates,
    limits: Limits,
    plain: PlainLoop,
    scorer: PromptScorer,
    search_seconds: float,
    rounds: int,
) -> dict[str, float]:
    """How many times faster each trick makes what it is about."""
    prompts = [model.encode(list(example.messages)) for example in prepared.validation.positive]
    tree = prompt_tree(prompts)
    fast = FastLinears(model.model)
    place = spread(candidates, limits, 1)[0]
    direction = candidates.direction(*place)
    ablated, vector = [Variant.ablated(direction)], direction.vector

    def plain_by_onednn() -> None:
        with fast.in_use():
            plain.bypass(vector)

    with no_linears() as slow:
        with patch.object(SparseMask, "over", lambda mask: mask):
            dense = TreePass(model, tree, tree.ends, slow)
        sparse = TreePass(model, tree, tree.ends, slow)
        whole = TreePass(model, tree, tree.ends, fast, from_any_layer=True)
    ways: dict[str, Callable[[], Any]] = {
        "plain": lambda: plain.bypass(vector),
        "oneDNN": plain_by_onednn,
        "tree": lambda: dense.logits(ablated),
        "sparse": lambda: sparse.logits(ablated),
        "all": lambda: whole.logits(ablated),
        **{f"{rows} rows": lambda rows=rows: whole.logits(ablated * rows) for rows in ROWS},
    }
    layers = sorted({layer for _, layer in eligible(candidates, limits)})
    added = [Variant.added(direction)]
    ways["from layer 0"] = lambda: whole.logits(added, 0)
    ways |= {f"from layer {layer}": lambda layer=layer: whole.logits(added, layer) for layer in layers[1::3]}
    seconds = in_turn(ways, rounds)
    from_own = [seconds[f"from layer {layer}"] for layer in layers[1::3]]
    n_eligible = len(eligible(candidates, limits))
    to_the_end = [
        seconds_of(lambda step=step: scorer.run(step.name, [direction])) for step in scorer.steps for _ in range(2)
    ][1::2]
    return {
        "candidates the rule leaves out": len(candidates.positions) * candidates.n_layers / n_eligible,
        "prompts in one tree": seconds["plain"] / seconds["tree"],
        "oneDNN's product": seconds["plain"] / seconds["oneDNN"],
        "attention in runs, in the tree": seconds["tree"] / seconds["sparse"],
        "all of them, a pass under ablation": seconds["plain"] / seconds["all"],
        "additions from their own layer": seconds["from layer 0"] / (sum(from_own) / len(from_own)),
        **{f"{rows} candidates as rows": rows * seconds["all"] / seconds[f"{rows} rows"] for rows in ROWS},
        "candidates dropped early": n_eligible * sum(to_the_end) / search_seconds,
    }


def in_turn(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each way, after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            taken = seconds_of(way)
            if number:
                times[name].append(taken)
    return {name: median(taken) for name, taken in times.items()}


def seconds_of(way: Callable[[], Any]) -> float:
    began = time.perf_counter()
    way()
    return time.perf_counter() - began


def print_report(report: dict[str, Any]) -> None:
    print_machine()
    position, layer, bypass, induce, kl = report["winner"]
    limits = report["limits"]
    print(f"\n{report['model']}, float32: {report['candidates']} candidates, {report['eligible']} of them eligible")
    print(f"limits: induce > {limits['induce']:.3f}, KL < {limits['kl']:g}, layer < {limits['depth']:g} L")
    print(f"winner: position {position}, layer {layer}; bypass {bypass:.3f}, induce {induce:.3f}, KL {kl:.4f}")
    how = "run over all of them" if report["plain_loop_was_whole"] else "multiplied from the sample"
    winner = "the same winner; " if report["plain_loop_was_whole"] else ""
    print(
        f"against the plain loop: {winner}largest difference of a score {report['largest_difference']:.1e}, of "
        f"{report['compared']} candidates\n"
    )
    print("| | seconds | |\n| --- | --- | --- |")
    print(f"| plain loop, {how} | {report['plain_seconds']:.0f} | 1 |")
    searches = report["search_seconds"]
    print(f"| search | {median(searches):.1f} ({min(searches):.1f} to {max(searches):.1f}) | {report['ratio']:.1f} × |")
    print(f"| difference in means before it | {report['difference_in_means_seconds']:.1f} | |")
    print("\n| trick | times faster, alone |\n| --- | --- |")
    for name, ratio in report["tricks"].items():
        print(f"| {name} | {ratio:.2f} |")
    print(f"\nGoal ≥ {GOAL:.0f} ×: {'reached' if report['ratio'] >= GOAL else '**missed**'}")


if __name__ == "__main__":
    main()
