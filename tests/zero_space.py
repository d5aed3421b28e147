"""A ZeroGPU Space without a GPU: the real package `spaces`, whose scheduler is a stub and whose GPU is the processor.

`python zero_space.py FOLDER` lives through what such a Space lives through, with the model in that folder, and prints
what it saw as JSON; `test_zero_gpu.py` judges it. It is a program of its own because `spaces` reads the environment
when it is imported, and forks this process for real: arguments and yields are pickled, memory is copied.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
import types
from functools import partial
from itertools import count, pairwise
from multiprocessing import active_children
from pathlib import Path
from typing import Any

os.environ |= {"SPACES_ZERO_GPU": "true", "SPACES_ZERO_DEVICE_API_URL": "http://127.0.0.1:9"}
_NO_GPU = types.ModuleType("spaces.zero.torch")
for _name in ("enter_mode", "patch", "unpatch", "init", "move"):
    setattr(_NO_GPU, _name, lambda *args, **kwargs: None)
for _name in ("pack", "size"):
    setattr(_NO_GPU, _name, lambda *args, **kwargs: 0)
_NO_GPU.is_in_bad_fork = lambda: False  # type: ignore[attr-defined]
sys.modules["spaces.zero.torch"] = _NO_GPU

from steering.ui.gpu import ZERO_GPU  # noqa: E402  before torch, as on a Space

assert ZERO_GPU
assert "torch" not in sys.modules

import gradio as gr  # noqa: E402
import spaces.zero.client as client  # noqa: E402
from spaces.zero.api import ScheduleResponse  # noqa: E402


class Scheduler:
    """Lends any number of GPUs, each to one call at a time; a worker that had one before is used again."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.lent: dict[str, int] = {}
        self.refusal = ""
        self._tokens = count()
        self._lock = threading.Lock()

    def schedule(self, *, task_id: int, request: Any, duration: Any, gpu_size: Any) -> ScheduleResponse:
        if self.refusal:
            raise gr.Error(self.refusal, print_exception=False)
        with self._lock:
            self.seconds.append(duration.total_seconds())
            index = next(index for index in count() if index not in self.lent.values())
            token = f"token {next(self._tokens)}"
            self.lent[token] = index
        return ScheduleResponse(idle=True, nvidiaIndex=index, nvidiaUUID=f"GPU-{index}", allowToken=token)

    def release(self, token: str, *, fail: bool = False, allow_404: bool = False) -> None:
        with self._lock:
            del self.lent[token]


SCHEDULER = Scheduler()
client.schedule, client.release, client.allow = SCHEDULER.schedule, SCHEDULER.release, lambda token: None
client.startup_report = lambda: None

import torch  # noqa: E402

from steering.contrast import ContrastSet  # noqa: E402
from steering.directions import Direction, difference_in_means  # noqa: E402
from steering.interventions import Dial  # noqa: E402
from steering.ui import gpu_call, shared_slots  # noqa: E402
from steering.ui.best_search import BestRequest, Search  # noqa: E402
from steering.ui.best_work import find_best  # noqa: E402
from steering.ui.chat import FIRST_IDEA, Chat  # noqa: E402
from steering.ui.engine import Engine, ModelOptions  # noqa: E402
from steering.ui.layout import page_options  # noqa: E402
from steering.ui.make_work import Found, find  # noqa: E402
from steering.ui.model_choice import ModelChoice  # noqa: E402
from steering.ui.operator import Operator  # noqa: E402
from steering.ui.page import build_page  # noqa: E402
from steering.ui.scope import parse  # noqa: E402
from steering.ui.session import Session  # noqa: E402
from steering.ui.settings import SETTINGS  # noqa: E402
from steering.ui.turn import Tick, TurnRequest, turn_work  # noqa: E402
from steering.ui.worker import Job  # noqa: E402
from steering.ui.zero_desk import ZeroDesk, ZeroJob  # noqa: E402


class Collecting(Job):
    """The job of work that is done here and now: what the ordinary host's thread does."""

    def __init__(self) -> None:
        super().__init__(gpu_call.NoLine(), lambda job: None)
        self.values: list[Any] = []

    def report(self, value: Any) -> None:
        self.values.append(value)


def last_texts(reports: list[Any]) -> list[str]:
    return [report for report in reports if isinstance(report, Tick)][-1].texts


def here(engine: Engine, request: TurnRequest) -> list[str]:
    job = Collecting()
    turn_work(engine, request, job)
    return last_texts(job.values)


# ---------------------------------------------------------------- work that looks around in the GPU's process


def look(engine: Engine, job: Job) -> None:
    """Report what is in the process where the work is done."""
    model = engine.ready_model()
    job.report(
        {
            "pid": os.getpid(),
            "threads": sorted(thread.name.split("-")[0].split("_")[0] for thread in threading.enumerate()),
            "hooks": sum(
                len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.model.modules()
            ),
            "kept_search": engine.kept_search is not None,
            "label": model.label,
        }
    )


def keep_something(engine: Engine, secret: str, job: Job) -> None:
    engine.kept_search = secret  # type: ignore[assignment]  what a search leaves, for this purpose


def fail(engine: Engine, job: Job) -> None:
    raise ValueError("of a visitor's text")


def looked(engine: Engine) -> dict[str, Any]:
    [seen] = [report for report in engine.worker.submit(partial(look, engine)).reports() if report]
    return dict(seen)


# ---------------------------------------------------------------- what happens


class Space:
    def __init__(self, folder: Path) -> None:
        self.desk = ZeroDesk()
        self.engine = Engine(ModelOptions(device="cpu", dtype="float32"), worker=self.desk)
        assert self.engine.load(str(folder), folder.name)
        self.model = self.engine.ready_model()  # there at once, without a thread
        torch.set_num_threads(1)
        self.cheerful, self.sad = self.direction(1), self.direction(2)

    def direction(self, seed: int) -> Direction:
        model, generator = self.model, torch.Generator().manual_seed(seed)
        vector = torch.randn(model.d_model, generator=generator)
        return Direction(vector, (vector / vector.norm())[None], model.n_layers // 2, -1, 4.0, f"idea {seed}")

    def request(self, own: Direction | None, n: int = 24, dial: Dial | None = None, text: str = "Rain?") -> TurnRequest:
        return TurnRequest(FIRST_IDEA, own, [[], [], []], text, dial or Dial(0.5), max_new_tokens=n)

    def job(self, request: TurnRequest) -> ZeroJob:
        return self.desk.submit(partial(turn_work, self.engine, request), short=True)

    def turn(self) -> Any:
        """One turn: what it reports and when, and what the same turn gives without another process."""
        request = self.request(self.cheerful, 48)
        times, reports = [time.monotonic()], []
        job = self.job(request)
        begun = job.started.is_set()
        for report in job.reports():
            times.append(time.monotonic())
            reports.append(report)
        ticks = [report for report in reports if isinstance(report, Tick)]
        return {
            "begun before it is read": begun,
            "first": reports[0],
            "ticks": len([tick for tick in ticks if any(tick.n_tokens)]),
            "gap": max(later - earlier for earlier, later in pairwise(times[1:])),
            "texts": ticks[-1].texts,
            "texts here": here(self.engine, request),
            "tokens": [len([1 for kind, content in parse("".join(t.lines for t in ticks)) if kind == "T"])],
            "n_tokens": ticks[-1].n_tokens,
            "ended": job.ended.is_set(),
            "seconds": SCHEDULER.seconds[-1],
        }

    def preset(self) -> Any:
        """A preset's direction is found there once, and the page knows it from then on."""
        before = list(self.engine.known_directions)
        texts = last_texts(list(self.job(self.request(None)).reports()))
        [(key, learnt)] = self.engine.known_directions.items()
        return {
            "before": before,
            "seconds": SCHEDULER.seconds[-1],
            "key": list(key),
            "layer": learnt.layer,
            "texts": texts,
            "texts here": here(self.engine, self.request(None)),
        }

    def stop(self) -> Any:
        job, seen, after = self.job(self.request(self.cheerful, 500)), 0, 0
        for report in job.reports():
            if not isinstance(report, Tick) or not any(report.n_tokens):
                continue
            if not job.stopped:
                job.stop()
                seen, asked = report.n_tokens[0], time.monotonic()
            after = report.n_tokens[0]
        return {"at": seen, "after": after, "seconds": time.monotonic() - asked, "slots": shared_slots.slots_in_use()}

    def closed(self) -> Any:
        """The page goes away in the middle of a reply."""
        running = self.job(self.request(self.cheerful, 500)).reports()
        for report in running:
            if isinstance(report, Tick) and any(report.n_tokens):
                break
        left = time.monotonic()
        running.close()
        return {"seconds": time.monotonic() - left, "lent": len(SCHEDULER.lent), "slots": shared_slots.slots_in_use()}

    def live(self) -> Any:
        dial = self.desk.dial(0.0)
        turned = {}
        lines = ""
        for report in self.job(self.request(self.cheerful, 300, dial)).reports():
            if isinstance(report, Tick):
                lines += report.lines
                if any(report.n_tokens) and not turned:
                    turned["at"] = report.n_tokens[2]
                    dial.value = 8.0
        [change] = [content for kind, content in parse(lines) if kind == "C"]
        texts = report.texts if isinstance(report, Tick) else []
        del dial
        return turned | {"change": change, "differs": texts[2] != texts[0], "slots": shared_slots.slots_in_use()}

    def two(self) -> Any:
        """Two visitors at once, each with an idea of their own, and each alone."""
        requests = [self.request(one, 64, text=text) for one, text in ((self.cheerful, "Rain?"), (self.sad, "Snow?"))]
        together: dict[int, list[str]] = {}

        def visit(number: int) -> None:
            together[number] = last_texts(list(self.job(requests[number]).reports()))

        visitors = [threading.Thread(target=visit, args=(number,)) for number in range(2)]
        for visitor in visitors:
            visitor.start()
        for visitor in visitors:
            visitor.join()
        return {"together": [together[0], together[1]], "alone": [here(self.engine, one) for one in requests]}

    def leaks(self) -> Any:
        """What the page's process does after the fork is not seen there, and a visitor leaves nothing behind there."""
        before = looked(self.engine)
        self.model.label = "changed on the page"
        threading.Thread(target=threading.Event().wait, name="thread of the page", daemon=True).start()
        list(self.desk.submit(partial(keep_something, self.engine, "secret")).reports())
        after = looked(self.engine)
        return {"page": os.getpid(), "before": before, "after": after}

    def compute(self) -> Any:
        data = ContrastSet.load("sea")
        [found] = [
            one for one in self.desk.submit(partial(find, self.engine, data)).reports() if isinstance(one, Found)
        ]
        train, _ = data.split(seed=0)
        expected = difference_in_means(self.model, train).vectors
        return {"same": torch.allclose(found.candidates.vectors, expected, atol=1e-5), "type": type(found).__name__}

    def search(self) -> Any:
        """“Find the best”, cancelled once its map is there: what was found so far is there."""
        job = self.desk.submit(partial(find_best, self.engine, BestRequest(ContrastSet.load("sea"), "Sea")))
        maps, ended = [], ""
        try:
            for report in job.reports():
                if isinstance(report, Search):
                    maps.append(report)
                    job.stop()
        except Exception as error:
            ended = type(error).__name__
        return {"places": maps[0].n_places, "ended": ended, "seconds": SCHEDULER.seconds[-1]}

    def served(self) -> Any:
        """The page itself, asked over HTTP: the process is forked from one of the server's threads."""
        from gradio_client import Client

        models = ModelChoice(self.engine, self.model.name, anything=True)
        page = build_page(self.engine, models, Operator())
        _, address, _ = page.queue().launch(
            prevent_thread_lock=True, server_name="127.0.0.1", quiet=True, ssr_mode=False, **page_options()
        )
        try:
            answer = Client(address, verbose=False).predict(
                "Rain?", idea=FIRST_IDEA, coefficient=0.5, max_new_tokens=24, api_name="/steer"
            )
        finally:
            page.close()
        return {
            "texts": list(answer["texts"].values()),
            "choices": models.choices(),
            "exchange": models.exchange("bundled"),
        }

    def failures(self) -> Any:
        def sentence(work: partial[None]) -> str:
            try:
                list(self.desk.submit(work).reports())
            except Exception as error:
                return f"{type(error).__name__}: {error}"
            return ""

        wrong = Direction(torch.ones(3), torch.tensor([[1.0, 0, 0]]), 1, -1, 1.0, "too narrow")
        unfit = sentence(partial(turn_work, self.engine, self.request(wrong)))
        unforeseen = sentence(partial(fail, self.engine))
        SCHEDULER.refusal = "You have exceeded your free ZeroGPU quota (23s requested vs. 4s left)."
        refused = sentence(partial(look, self.engine))
        SCHEDULER.refusal = ""
        try:
            self.desk.submit(lambda job: None)
            closure = ""
        except TypeError as error:
            closure = str(error)
        return {
            "unfit": unfit,
            "unforeseen": unforeseen,
            "refused": refused,
            "closure": closure,
            "slots": shared_slots.slots_in_use(),
            "lent": len(SCHEDULER.lent),
        }

    def conversation(self, end: Any) -> Any:
        """A question on the page whose process ends in the middle of the reply."""
        chat, session = Chat(self.engine), Session("visitor", FIRST_IDEA)
        session.own["own:1"], session.idea = self.cheerful, "own:1"
        chat.accept(session, "Rain?")
        seen = 0
        for _ in chat.respond(session, 0.5, SETTINGS | {"max_new_tokens": 500}):
            if session.live and any(session.live.replies):
                seen = max(seen, len(session.live.replies[0]))
                end()
                end = lambda: None  # noqa: E731
        [turn] = session.conversation("own:1").turns
        states = [content for kind, content in parse(session.log) if kind == "S"]
        return {"seen": seen, "kept": len(turn.replies[0]), "end": states[-1], "slots": shared_slots.slots_in_use()}

    def killed(self) -> Any:
        def kill() -> None:
            for child in active_children():
                os.kill(child.pid, signal.SIGKILL)  # type: ignore[arg-type]

        told = self.conversation(kill)
        return told | {"texts again": last_texts(list(self.job(self.request(self.cheerful, 48)).reports()))}

    def out_of_time(self) -> Any:
        """The last: processes forked from now on have less time."""
        for child in active_children():
            child.kill()
            child.join()
        gpu_call.MARGIN = gpu_call.LONGEST_CALL - 1  # type: ignore[assignment]
        return self.conversation(lambda: None)


STAGES = ("turn", "preset", "stop", "closed", "live", "two", "leaks", "compute", "search", "served", "failures",
          "killed", "out_of_time")  # fmt: skip


def main() -> None:
    logging.basicConfig(level=logging.CRITICAL)
    space = Space(Path(sys.argv[1]))
    told = {}
    for stage in STAGES:
        begun = time.monotonic()
        told[stage] = getattr(space, stage)()
        print(stage, round(time.monotonic() - begun, 2), file=sys.stderr, flush=True)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
