"""Other libraries as worker processes, each in its own virtual environment, timed through their documented calls.

Imported, it makes the environments and talks to the workers; it then needs the standard library only. Run as a script
inside a rival's environment, it is the worker: it loads the model once and answers one request per line.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

RIVALS = {"repeng": "0.4.0", "steering-vectors": "0.12.2"}


def environment(name: str, cache: Path) -> Path:
    """The interpreter of an environment with one rival in it, made at the first call.

    Torch, and whatever else of this environment satisfies the rival's own requirements, is shared; what does not
    (repeng wants NumPy 1, steering-vectors wants transformers 4) is installed beside the rival and found first.
    """
    shared_versions = [f"{library}-{metadata.version(library)}" for library in ("torch", "transformers")]
    folder = cache / "benchmarks" / "-".join([name, RIVALS[name], *shared_versions])
    python = folder / "bin" / "python"
    complete = folder / "complete"
    if not complete.exists():
        print(f"Making an environment for {name} {RIVALS[name]} in {folder}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        site_packages = folder / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
        shared = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
        (site_packages / "shared.pth").write_text("\n".join(shared) + "\n")
        command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"{name}=={RIVALS[name]}"]
        # pip warns of conflicts with shared packages that the rival never imports; they are shown on failure only.
        installed = subprocess.run(command, capture_output=True, text=True)
        if installed.returncode:
            raise SystemExit(f"pip could not install {name}:\n{installed.stderr}")
        complete.touch()
    return python


# ---- From here on: inside the rival's environment. -----------------------------------------------------------------


def work(name: str, answers: TextIO) -> None:
    """Load the model that the first line names, then do what each further line asks for."""
    setting = json.loads(sys.stdin.readline())
    runs, about = WORKERS[name](setting)
    for run in runs.values():  # warm up
        run()
    print(json.dumps(about), file=answers, flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        result = runs[json.loads(line)["run"]]()
        seconds = time.perf_counter() - start
        vectors = None if result is None else result()
        print(json.dumps({"seconds": seconds, "vectors": vectors}), file=answers, flush=True)


def load(setting: dict[str, Any]) -> tuple[Any, Any, dict[str, str]]:
    """Model, tokenizer, and the versions they run with."""
    import numpy
    import torch
    import transformers

    torch.set_num_threads(setting["threads"])
    folder = setting["folder"]
    dtype = {"dtype" if transformers.__version__ >= "5" else "torch_dtype": getattr(torch, setting["dtype"])}
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, **dtype).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    modules = (torch, transformers, numpy)
    return model, tokenizer, {module.__name__: module.__version__ for module in modules}


# A run gives back either nothing or a function that makes the vectors, so that making them is not timed.
Run = Callable[[], Callable[[], list[list[float]]] | None]


def repeng_runs(setting: dict[str, Any]) -> tuple[dict[str, Run], dict[str, str]]:
    """``ControlVector.train`` as in repeng's README; and the part of it that reads activations, without the PCA."""
    from repeng import ControlModel, ControlVector, DatasetEntry
    from repeng.extract import batched_get_hiddens

    model, tokenizer, about = load(setting)
    n_layers = model.config.num_hidden_layers
    wrapped = ControlModel(model, list(range(-5, -18, -1)))
    pairs = list(zip(setting["positive"], setting["negative"], strict=True))
    dataset = [DatasetEntry(positive=positive, negative=negative) for positive, negative in pairs]

    def train() -> None:
        ControlVector.train(wrapped, tokenizer, dataset)

    def read() -> Callable[[], list[list[float]]]:
        texts = [text for pair in pairs for text in pair]
        hidden = batched_get_hiddens(wrapped, tokenizer, texts, list(range(n_layers)), 32)
        return lambda: [(hidden[i][::2] - hidden[i][1::2]).mean(axis=0).tolist() for i in range(n_layers)]

    return {"train": train, "read": read}, about


def steering_vectors_runs(setting: dict[str, Any]) -> tuple[dict[str, Run], dict[str, str]]:
    """``train_steering_vector`` with its default batch of 1, and with a batch of 32."""
    from steering_vectors import train_steering_vector

    model, tokenizer, about = load(setting)
    layers = list(range(model.config.num_hidden_layers))
    samples = list(zip(setting["positive"], setting["negative"], strict=True))

    def train(**options: int) -> Callable[[], list[list[float]]]:
        vector = train_steering_vector(model, tokenizer, samples, layers=layers, read_token_index=-1, **options)
        return lambda: [vector.layer_activations[i].float().tolist() for i in layers]

    return {"train": train, "train in batches": lambda: train(batch_size=32)}, about


WORKERS = {"repeng": repeng_runs, "steering-vectors": steering_vectors_runs}


if __name__ == "__main__":
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # what a library prints must not get between the answers
        work(sys.argv[1], answers)
