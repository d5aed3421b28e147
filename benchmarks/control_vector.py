"""An exported direction in llama.cpp against the same direction added here: are the same tokens written?

The bundled model's file runs in llama.cpp (`llama-cpp-python`, in an environment of its own) with the direction as a
control vector, read from the exported GGUF file as llama.cpp's own loader reads it; here it runs with `Variant.added`.
Both take the likeliest token each step. llama.cpp runs the file requantised to float32, where it differs from float32
here by rounding alone, and as it is (Q4_1 with 8-bit activations, which rounds for itself). As a control, the vector
is also given one block too early and too late: if that made no difference, agreement would prove nothing.

    python -m venv rival && rival/bin/pip install llama-cpp-python
    python -m benchmarks.control_vector --python rival/bin/python [--preset poetic] [--tokens 48] [--texts]

Run as ``control_vector.py worker`` inside that environment, this file is the worker: one request per line, one answer
per line.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any, TextIO

WORKER = "worker"
QUESTIONS = (
    "Why is the sky blue?",
    "How do I make pancakes?",
    "Tell me about rivers.",
    "What is a good way to learn to swim?",
    "Write a short note to thank a neighbour.",
    "What is the difference between a town and a city?",
    "Explain how bread rises.",
    "What can I do on a rainy Sunday?",
)
EXACT, AS_IT_IS = "float32", "as the file is"


def main() -> None:
    import torch

    from benchmarks.machine import print_machine
    from benchmarks.packed_accuracy import bundled_file
    from benchmarks.worker import Worker
    from steering import load_model
    from steering.exchange import export_direction
    from steering.machine import preferred_threads
    from steering.preset_directions import preset_direction

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, help="the interpreter of an environment with llama-cpp-python")
    parser.add_argument("--preset", default="poetic")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--texts", action="store_true", help="print the replies side by side")
    arguments = parser.parse_args()
    if arguments.python is None:
        raise SystemExit("Name the interpreter of an environment that has llama-cpp-python: --python FILE.")
    threads = arguments.threads or preferred_threads()
    torch.set_num_threads(threads)
    print_machine()

    model = load_model("bundled", device="cpu", dtype="float32")
    direction = preset_direction(model, arguments.preset)
    strength = direction.card["strength"]
    coefficients = (0.0, strength["start"], strength["end"])
    prompts = [model.encode([{"role": "user", "content": question}]) for question in QUESTIONS]
    ours = [replies(model, direction, coefficient, arguments.tokens) for coefficient in coefficients]
    print(f"\n{arguments.preset}, layer {direction.layer}, {len(prompts)} prompts, {arguments.tokens} tokens at most")
    print("\nKept of coefficient 0: leading tokens that are as without the vector, here and in llama.cpp.\n")
    print("| llama.cpp | at block | coefficient | equal leading tokens | equal texts | logits apart | kept of 0 |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        file = export_direction(direction, Path(folder) / "direction.gguf", "gguf").path
        setting = {"file": str(bundled_file()), "end": sorted(model.end_tokens), "threads": threads}
        setting["vector"] = str(file)
        with Worker(arguments.python, __file__, WORKER, "The worker with llama.cpp", setting) as rival:
            layers = rival.about["layers"]
            layers += [[0.0] * model.d_model] * (model.n_layers - 1 - len(layers))
            for way in (EXACT, AS_IT_IS):
                for shift in (0, -1, 1) if way == EXACT else (0,):
                    shifted = layers[shift:] + layers[:shift]  # the data of layer 1 stand first
                    for coefficient, own in zip(coefficients, ours, strict=True):
                        if shift and not coefficient:
                            continue
                        request = {"way": way, "prompts": prompts, "layers": shifted, "tokens": arguments.tokens}
                        theirs = rival.ask(request | {"coefficient": coefficient})["replies"]
                        if not coefficient:
                            without = theirs
                        apart = max(
                            float((torch.tensor(there["logits"]) - here["logits"]).abs().max())
                            for there, here in zip(theirs, own, strict=True)
                        )
                        same = shares(own, theirs)
                        where = str(direction.layer - 1 - shift) if coefficient else "—"
                        print(f"| {way} | {where} | {coefficient:.3g} | {mean(same):.1%} | ", end="")
                        print(f"{sum(one == 1 for one in same)} of {len(same)} | {apart:.2g} | ", end="")
                        print(f"{mean(shares(ours[0], own)):.1%}, {mean(shares(without, theirs)):.1%} |", flush=True)
                        if arguments.texts and not shift:
                            show(model, own, theirs)


def shares(some: list[dict[str, Any]], others: list[dict[str, Any]]) -> list[float]:
    """How much of each reply is the same on both sides."""
    return [share(one["tokens"], other["tokens"]) for one, other in zip(some, others, strict=True)]


def share(one: list[int], other: list[int]) -> float:
    """How much of two replies is the same from their beginning on, of the longer one."""
    same = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return same / max(len(one), len(other), 1)


def replies(model: Any, direction: Any, coefficient: float, tokens: int) -> list[dict[str, Any]]:
    """Each question's reply by this library's engine: its tokens, and the logits at the end of its prompt."""
    import torch

    from steering import Variant, stream_side_by_side
    from steering.interventions import Steering

    found = []
    variant = Variant.added(direction, coefficient)
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        written: list[int] = []
        for step in stream_side_by_side(model, messages, [variant], max_new_tokens=tokens, likeliest=1):
            newest = step.likeliest[0]
            assert newest is not None
            written.append(int(newest[0][0]))
        steering = Steering(model, [variant])
        with torch.inference_mode(), steering.applied():
            logits = model.model(torch.tensor([model.encode(messages)]), use_cache=False).logits[0, -1]
        found.append({"tokens": [one for one in written if one not in model.end_tokens], "logits": logits.float()})
    return found


def show(model: Any, own: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    """The replies side by side."""
    for question, here, there in zip(QUESTIONS, own, theirs, strict=True):
        print(f"\n  {question}")
        print(f"    here:      {model.tokenizer.decode(here['tokens'])!r}")
        print(f"    llama.cpp: {model.tokenizer.decode(there['tokens'])!r}")
    print(flush=True)


# ---- From here on: inside llama.cpp's environment. -----------------------------------------------------------------


def work(answers: TextIO) -> None:
    """Load the model both ways, then write the replies that each line asks for."""
    import llama_cpp

    setting = json.loads(sys.stdin.readline())
    with tempfile.TemporaryDirectory() as folder:
        exact = str(Path(folder) / "float32.gguf")
        settings = llama_cpp.llama_model_quantize_default_params()
        settings.ftype = llama_cpp.LLAMA_FTYPE_ALL_F32
        settings.allow_requantize = True
        if llama_cpp.llama_model_quantize(setting["file"].encode(), exact.encode(), ctypes.byref(settings)):
            raise SystemExit("llama.cpp could not write the model in float32.")
        contexts = {
            way: context_of(file, setting["threads"]) for way, file in ((EXACT, exact), (AS_IT_IS, setting["file"]))
        }
        about = {"version": llama_cpp.__version__, "layers": read_vector(setting["vector"])}
        print(json.dumps(about), file=answers, flush=True)
        for line in sys.stdin:
            request = json.loads(line)
            context, vocabulary = contexts[request["way"]]
            set_vector(context, request["layers"], request["coefficient"])
            found = [
                reply(context, vocabulary, prompt, request["tokens"], setting["end"]) for prompt in request["prompts"]
            ]
            print(json.dumps({"replies": found}), file=answers, flush=True)


def context_of(file: str, threads: int) -> tuple[Any, int]:
    """A context with keys and values in float32 and plain attention, and the size of the vocabulary."""
    import llama_cpp

    model = llama_cpp.llama_model_load_from_file(file.encode(), llama_cpp.llama_model_default_params())
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = 1024
    settings.n_threads = settings.n_threads_batch = threads
    settings.flash_attn_type = 0
    settings.type_k = settings.type_v = llama_cpp.GGML_TYPE_F32
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    return llama_cpp.llama_init_from_model(model, settings), vocabulary


class _InitParams(ctypes.Structure):
    """``gguf_init_params``."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.POINTER(ctypes.c_void_p)))


def read_vector(file: str) -> list[list[float]]:
    """What llama.cpp makes of a control vector's file: a vector for each layer from 1 to the last one in the file.

    The file is read by llama.cpp's own library; the rules are those of ``common_control_vector_load_one``, which the
    binding does not have.
    """
    import llama_cpp
    import numpy as np

    ggml = ctypes.CDLL(str(next((Path(llama_cpp.__file__).parent / "lib").glob("*ggml-base*"))))
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    for name, result, arguments in (
        ("gguf_init_from_file", pointer, (ctypes.c_char_p, _InitParams)),
        ("gguf_get_n_tensors", number, (pointer,)),
        ("gguf_get_tensor_name", ctypes.c_char_p, (pointer, number)),
        ("gguf_get_tensor_type", ctypes.c_int, (pointer, number)),
        ("ggml_get_tensor", pointer, (pointer, ctypes.c_char_p)),
        ("ggml_n_dims", ctypes.c_int, (pointer,)),
        ("ggml_nelements", number, (pointer,)),
        ("ggml_get_data_f32", ctypes.POINTER(ctypes.c_float), (pointer,)),
    ):
        function = getattr(ggml, name)
        function.restype, function.argtypes = result, arguments
    tensors = ctypes.c_void_p()
    opened = ggml.gguf_init_from_file(file.encode(), _InitParams(False, ctypes.pointer(tensors)))
    if not opened:
        raise SystemExit("llama.cpp could not read the file of the vector.")
    layers: dict[int, list[float]] = {}
    for i in range(ggml.gguf_get_n_tensors(opened)):
        name = ggml.gguf_get_tensor_name(opened, i)
        tensor = ggml.ggml_get_tensor(tensors, name)
        head, _, layer = name.decode().partition(".")
        if (
            head != "direction"
            or int(layer) < 1
            or ggml.gguf_get_tensor_type(opened, i)
            or ggml.ggml_n_dims(tensor) != 1
        ):
            raise SystemExit(f"llama.cpp's loader refuses a tensor such as {name.decode()}.")
        data = np.ctypeslib.as_array(ggml.ggml_get_data_f32(tensor), (ggml.ggml_nelements(tensor),))
        layers[int(layer)] = data.tolist()
    width = len(next(iter(layers.values())))
    return [layers.get(layer, [0.0] * width) for layer in range(1, max(layers) + 1)]


def set_vector(context: Any, layers: list[list[float]], coefficient: float) -> None:
    """Put the vector into the context; at 0 take it out."""
    import llama_cpp

    width, n_layers = len(layers[0]), len(layers)
    if coefficient == 0:
        failed = llama_cpp.llama_set_adapter_cvec(context, None, 0, width, 0, 0)
    else:
        flat = [coefficient * one for layer in layers for one in layer]
        data = (ctypes.c_float * len(flat))(*flat)
        failed = llama_cpp.llama_set_adapter_cvec(context, data, len(flat), width, 1, n_layers)
    if failed:
        raise SystemExit("llama.cpp did not take the control vector.")


def reply(context: Any, vocabulary: int, prompt: list[int], tokens: int, end: list[int]) -> dict[str, Any]:
    """The likeliest tokens after a prompt, and the logits at its end."""
    import llama_cpp
    import numpy as np

    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
    written: list[int] = []
    first: list[float] = []
    new = list(prompt)
    while len(written) < tokens:
        ids = (llama_cpp.llama_token * len(new))(*new)  # the batch only points at it
        batch = llama_cpp.llama_batch_get_one(ids, len(new))
        if llama_cpp.llama_decode(context, batch):
            raise SystemExit("llama.cpp could not decode.")
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), (vocabulary,))
        first = first or logits.tolist()
        newest = int(logits.argmax())
        if newest in end:
            break
        written.append(newest)
        new = [newest]
    return {"tokens": written, "logits": first}


if __name__ == "__main__":
    if sys.argv[1:] == [WORKER]:
        answers = sys.stdout
        with contextlib.redirect_stdout(sys.stderr):  # what a library prints must not get between the answers
            work(answers)
    else:
        main()
