"""Three variants with all cosines against llama.cpp's decode of three rows of the same file, which does neither.

llama.cpp runs through its Python binding, `llama-cpp-python`, in an environment of its own, as the file is and as
llama.cpp itself requantises it (Q4_0, which it repacks for the processor, and Q8_0), with and without flash attention.
"Its best" is whichever of these was fastest. Decode steps a second, alternately in one run, medians; both sides take
each row's likeliest token.

    python -m venv rival && rival/bin/pip install llama-cpp-python
    python -m benchmarks.llama_cpp --python rival/bin/python [--rounds 5] [--tokens 48] [--threads N] [--rows 3]

Run as ``llama_cpp.py worker`` inside that environment, this file is the worker: one request per line, one answer per
line.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, TextIO

WORKER = "worker"


def main() -> None:
    import torch

    from benchmarks.machine import print_machine
    from benchmarks.packed_accuracy import bundled_file
    from benchmarks.side_by_side import QUESTION, decoder_steps
    from benchmarks.worker import Worker
    from steering import Variant, load_model
    from steering.fused import FusedDecoder
    from steering.machine import preferred_threads
    from steering.preset_directions import preset_direction

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, help="the interpreter of an environment with llama-cpp-python")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--rows", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.python is None:
        raise SystemExit("Name the interpreter of an environment that has llama-cpp-python: --python FILE.")
    threads = arguments.threads or preferred_threads()
    torch.set_num_threads(threads)
    print_machine()

    model = load_model("bundled", device="cpu", dtype="bfloat16")
    direction = preset_direction(model, "sounds-like-ai")
    three = [Variant.baseline(), Variant.ablated(direction), Variant.added(direction, 1.0)]
    rows = [three[row % 3] for row in range(arguments.rows)]
    prompt = model.encode(QUESTION)
    setting = {"file": str(bundled_file()), "prompt": prompt, "rows": arguments.rows, "threads": threads}
    setting["tokens"] = arguments.tokens
    with Worker(arguments.python, __file__, WORKER, "The worker with llama.cpp", setting) as rival:
        ours: list[float] = []
        theirs: dict[str, list[float]] = {way: [] for way in rival.about["ways"]}

        def measure() -> float:
            return decoder_steps(FusedDecoder(model), prompt, rows, direction, arguments.tokens)

        measure()
        for _ in range(arguments.rounds):
            ours.append(measure())
            for way, rates in theirs.items():
                rates.append(rival.ask({"run": way})["steps_per_second"])
    best = max(theirs, key=lambda way: median(theirs[way]))
    print(f"llama-cpp-python {rival.about['version']}, {arguments.rows} rows, threads {threads}\n")
    print("| way | steps/s | ours over it |\n| --- | --- | --- |")
    print(f"| steering, fused, packed, with interventions and all cosines | {median(ours):.1f} | 1.00 |")
    for way, rates in theirs.items():
        ratio = median(own / other for own, other in zip(ours, rates, strict=True))
        print(f"| llama.cpp, {way}{' (its best)' if way == best else ''} | {median(rates):.1f} | {ratio:.2f} |")


# ---- From here on: inside llama.cpp's environment. -----------------------------------------------------------------

FORMATS = {"as the file is": None, "Q4_0": "LLAMA_FTYPE_MOSTLY_Q4_0", "Q8_0": "LLAMA_FTYPE_MOSTLY_Q8_0"}
FLASH_ATTENTION = {"flash attention": 1, "plain attention": 0}


def work(answers: TextIO) -> None:
    """Load the model in every way, then decode with the one that each line names."""
    import llama_cpp

    setting = json.loads(sys.stdin.readline())
    with tempfile.TemporaryDirectory() as folder:
        ways: dict[str, Callable[[], float]] = {}
        for name, file_type in FORMATS.items():
            file = setting["file"] if file_type is None else requantised(setting["file"], folder, name, file_type)
            model = llama_cpp.llama_model_load_from_file(file.encode(), llama_cpp.llama_model_default_params())
            for kind, flash in FLASH_ATTENTION.items():
                ways[f"{name}, {kind}"] = decoding(model, setting, flash)
        for way in ways.values():  # warm up
            way()
        print(json.dumps({"version": llama_cpp.__version__, "ways": list(ways)}), file=answers, flush=True)
        for line in sys.stdin:
            rate = ways[json.loads(line)["run"]]()
            print(json.dumps({"steps_per_second": rate}), file=answers, flush=True)


def requantised(file: str, folder: str, name: str, file_type: str) -> str:
    """The model in another of llama.cpp's formats, made by llama.cpp itself; its path."""
    import llama_cpp

    path = str(Path(folder) / f"{name}.gguf")
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = getattr(llama_cpp, file_type)
    settings.allow_requantize = True
    if llama_cpp.llama_model_quantize(file.encode(), path.encode(), ctypes.byref(settings)):
        raise SystemExit(f"llama.cpp could not write the model as {name}.")
    return path


def decoding(model: Any, setting: dict[str, Any], flash: int) -> Callable[[], float]:
    """A function that writes a reply in every row and says how many steps a second that took, the prompt not timed."""
    import llama_cpp
    import numpy as np

    prompt, rows, tokens = setting["prompt"], setting["rows"], setting["tokens"]
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx = rows * 512
    settings.n_batch = settings.n_ubatch = max(512, rows * len(prompt))
    settings.n_seq_max = rows
    settings.n_threads = settings.n_threads_batch = setting["threads"]
    settings.flash_attn_type = flash
    context = llama_cpp.llama_init_from_model(model, settings)
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    batch = llama_cpp.llama_batch_init(rows * len(prompt), 0, 1)

    def read(new: list[list[int]], start: int) -> list[int]:
        """Read one list of tokens a row; the likeliest next token of each row."""
        place, last = 0, []
        for row, own in enumerate(new):
            for offset, token in enumerate(own):
                batch.token[place], batch.pos[place], batch.logits[place] = (
                    token,
                    start + offset,
                    offset == len(own) - 1,
                )
                batch.n_seq_id[place], batch.seq_id[place][0] = 1, row
                place += 1
            last.append(place - 1)
        batch.n_tokens = place
        if llama_cpp.llama_decode(context, batch):
            raise SystemExit("llama.cpp could not decode.")
        logits = (llama_cpp.llama_get_logits_ith(context, one) for one in last)
        return [int(np.ctypeslib.as_array(one, (vocabulary,)).argmax()) for one in logits]

    def run() -> float:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        newest = read([prompt] * rows, 0)
        newest = read([[token] for token in newest], len(prompt))
        start = time.perf_counter()
        for step in range(1, tokens):
            newest = read([[token] for token in newest], len(prompt) + step)
        return (tokens - 1) / (time.perf_counter() - start)

    return run


if __name__ == "__main__":
    if sys.argv[1:] == [WORKER]:
        answers = sys.stdout
        with contextlib.redirect_stdout(sys.stderr):  # what a library prints must not get between the answers
            work(answers)
    else:
        main()
