"""What several processes do together, for tests to hold it against what one does: started by ``torchrun``.

``shared_program.py HOW FOLDER OUT``: HOW is “tensor” or “data”; the leader writes what it found to the file OUT. Or HOW
is “dies” or “stands”: then the last of them ends, or stands still, while the leader goes on and on; with “leader dies”
it is the leader, with “fails” memory runs out there in the middle of a shared step, and with “one cannot” the last of
them cannot load its share.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import oracle
import torch
from test_scoring import CHECK, CHECK_REPLIES, TOKENS, TRAIN, TRAIN_REPLIES

from steering import Variant, difference_in_means, score_candidates, shared_models
from steering.errors import ModelError, SteeringError
from steering.finding import Finder
from steering.metrics import FirstTokens
from steering.models import ChatModel
from steering.preparation import prepare
from steering.processes import Processes
from steering.reply_batch import ReplyBatch, ReplyRequest
from steering.sampling import SamplingSettings
from steering.selection import Limits
from steering.shared_models import follow, load_shared
from steering.variants import Dial

Json = dict[str, Any]


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def chat(model: ChatModel) -> Json:
    """Two turns in one batch that join and leave, one sampled, with a slider that is turned meanwhile."""
    direction = oracle.make_direction(model, layer=1)
    dial = Dial(1.0)
    variants = [Variant.baseline(), Variant.ablated(direction), Variant.added(direction, dial)]
    seen = []
    hooks = [
        block.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append((args or [kwargs["hidden_states"]])[0]), with_kwargs=True
        )
        for block in model.architecture.blocks
    ]
    batch = ReplyBatch(model)
    first = batch.join(ReplyRequest([asked("Why is the sky blue?")] * 3, variants, max_new_tokens=12))
    for hook in hooks:
        hook.remove()
    for _ in range(3):
        batch.step()
    settings = SamplingSettings(temperature=1.0, top_p=0.9, seed=7)
    longer = asked("Tell me how to make a soup of peas, please, as my mother makes it, and what to eat with it.")
    second = batch.join(
        ReplyRequest([longer, asked("Hi")], [Variant.added(direction, -2.0), Variant.baseline()], settings, 16)
    )
    dial.value = 4.0
    while batch.n_rows:
        batch.step()
    again = batch.join(ReplyRequest([asked("And now?")], [Variant.ablated(direction)], max_new_tokens=5))
    cosines = [again.newest.cosines.tolist()]
    while batch.n_rows:
        batch.step()
        cosines.append(again.newest.cosines.tolist())
    return {
        "texts": [one.newest.token_ids for one in (first, second, again)],
        "cosines": cosines,
        "streams": sorted({(type(one).__name__, one.shape[-1]) for one in seen}),
        "fingerprint": model.fingerprint,
    }


def finding(model: ChatModel) -> Json:
    """Directions, and the scores of all candidates, of prompts and of responses."""
    found: Json = {}
    tokens = FirstTokens(TOKENS, ("a", "b"), "for this test")
    for name, learn, check in (("prompts", TRAIN, CHECK), ("responses", TRAIN_REPLIES, CHECK_REPLIES)):
        candidates = difference_in_means(model, learn, batch_size=2)
        scores = score_candidates(model, candidates, check, tokens=None if check.has_responses else tokens)
        found[name] = {
            "vectors": candidates.vectors.double().tolist(),
            "norms": candidates.negative.norms.double().tolist(),
            "scores": [(one.place, one.bypass_score, one.induce_score, one.kl_score) for one in scores],
        }
    return found


def winner(model: ChatModel) -> Json:
    """The candidate that a whole selection chooses, with a search that leaves out what it can."""
    prepared = prepare(model, CHECK_REPLIES, seed=1)
    selection = Finder(model, prepared).find(Limits(induce=-1e3, kl=1e3, depth=1.0))
    return {"place": selection.score.place, "vector": selection.direction.vector.double().tolist()}


def everything(model: ChatModel) -> Json:
    return {"chat": chat(model), "finding": finding(model), "winner": winner(model)}


def main(how: str, folder: str, out: str) -> int:
    torch.set_num_threads(1)
    processes = Processes(torch.device("cpu"))
    whole = how == "data"
    if how == "one cannot" and not processes.leads:
        shared_models.load_model = cannot  # type: ignore[assignment]
    try:
        model = load_shared(processes, folder, device="cpu", dtype=torch.float32, whole=whole)
    except SteeringError as error:
        if processes.leads:
            print(f"Refused: {error}")
            processes.end()
            return 2
        follow_nothing(processes)
        return 0
    if not processes.leads:
        if how in ("dies", "dies later", "stands"):
            threading.Timer(2, go, (how, out, processes)).start()
        follow(model, processes, whole=whole)
        return 0
    if how in ("leader dies", "leader dies later"):
        threading.Timer(2, go, (how, out, processes)).start()
    if how == "fails":
        threading.Timer(2, fail_next, (model, out)).start()
    while how not in ("tensor", "data"):
        chat(model)
    Path(out).write_text(json.dumps(everything(model)))
    processes.end()
    return 0


def cannot(*_: Any, **__: Any) -> ChatModel:
    raise ModelError("This model needs 9.0 GB of memory.")


def go(how: str, out: str, processes: Processes) -> None:
    Path(out).write_text(str(time.time()))
    if how.endswith("later"):
        # As where torchrun is quicker than the connection, which ends when this one does.
        os.kill(processes._pids[1 - processes.rank], signal.SIGTERM)
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGSTOP if how == "stands" else signal.SIGKILL)


def fail_next(model: ChatModel, out: str) -> None:
    """Let memory run out in the next attention, before its sum is taken."""
    Path(out).write_text(str(time.time()))

    def no_memory(*_: Any) -> None:
        raise MemoryError

    model.architecture.blocks[1].self_attn.o_proj.register_forward_pre_hook(no_memory)  # type: ignore[union-attr]


def follow_nothing(processes: Processes) -> None:
    from contextlib import suppress

    from steering.processes import Over

    with suppress(Over):
        processes.wait_for_end()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
