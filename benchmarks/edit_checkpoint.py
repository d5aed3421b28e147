"""What an edit of a checkpoint costs: peak memory, and seconds beside copying the same files.

    python -m benchmarks.edit_checkpoint [--folder DIR] [--shards 8] [--shard-mb 500] [--rounds 3]

Makes a checkpoint of Llama's layout with random bfloat16 weights, in shards of the same size, and edits it and the
bundled model, each edit in a process of its own. In every round `cp -r` of the source and the edit take turns, on the
same disk, with the source read before. An edit ends when all of it is on the disk, so that `cp` is timed with `sync` of
its files too. Needs three times the checkpoint's size on the disk.

Peak memory is that of the edit's process over what it had after its imports, when it had loaded nothing: the memory it
took for itself (not pages of files that the system may drop) and the resident peak.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig

from benchmarks.machine import print_machine

WIDTH, MLP, HEADS, VOCABULARY = 2048, 8192, 16, 64_000
MEMORY_GOAL, MEMORY_ROOM, TIME_GOAL = 1.5, 300e6, 4.0
# A thread watches what the process has taken for itself; the resident peak is the system's own count.
WORKER = """
import json, resource, sys, threading, time
from pathlib import Path
import torch
from safetensors import safe_open
from steering import Direction, orthogonalize
import steering.edited_model_card, steering.weights, transformers
from transformers import AutoConfig, LlamaConfig
from huggingface_hub import ModelCardData

def own():
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024

source, out, width, layers = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
vector = torch.randn(width, generator=torch.Generator().manual_seed(0))
direction = Direction(vector, (vector / vector.norm())[None], 1, -1, 1.0, "random", {"n_layers": layers})
before, most, ended = own(), [0], threading.Event()
resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def watch():
    while not ended.wait(0.005):
        most[0] = max(most[0], own())

threading.Thread(target=watch, daemon=True).start()
begin = time.perf_counter()
orthogonalize(source, direction, out, check=False)
seconds = time.perf_counter() - begin
ended.set()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"seconds": seconds, "own": most[0] - before, "resident": peak - resident}))
"""


def make_checkpoint(folder: Path, n_shards: int, shard_bytes: float) -> int:
    """Write the checkpoint; its number of layers."""
    embedding = 2 * VOCABULARY * WIDTH
    layer = 2 * (2 * WIDTH * WIDTH + 2 * WIDTH * WIDTH + 3 * WIDTH * MLP)
    layers = max(1, round((n_shards * shard_bytes - 2 * embedding) / layer))
    config = LlamaConfig(
        hidden_size=WIDTH, intermediate_size=MLP, num_attention_heads=HEADS, num_key_value_heads=HEADS,
        num_hidden_layers=layers, vocab_size=VOCABULARY, tie_word_embeddings=False,
    )  # fmt: skip
    folder.mkdir(parents=True)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    square, wide, tall = (WIDTH, WIDTH), (MLP, WIDTH), (WIDTH, MLP)
    parts = {"self_attn.q_proj": square, "self_attn.k_proj": square, "self_attn.v_proj": square}
    parts |= {"self_attn.o_proj": square, "mlp.gate_proj": wide, "mlp.up_proj": wide, "mlp.down_proj": tall}
    shapes: list[tuple[str, tuple[int, ...]]] = [("model.embed_tokens.weight", (VOCABULARY, WIDTH))]
    for number in range(layers):
        shapes += [(f"model.layers.{number}.{name}.weight", shape) for name, shape in parts.items()]
        norms = ("input_layernorm", "post_attention_layernorm")
        shapes += [(f"model.layers.{number}.{name}.weight", (WIDTH,)) for name in norms]
    shapes += [("model.norm.weight", (WIDTH,)), ("lm_head.weight", (VOCABULARY, WIDTH))]

    total = 2 * sum(torch.Size(shape).numel() for _, shape in shapes)
    weight_map: dict[str, str] = {}
    shard: dict[str, Tensor] = {}
    written, held, number = 0, 0, 1
    for name, shape in shapes:
        shard[name] = torch.randn(shape, dtype=torch.bfloat16).mul_(0.02)
        held += shard[name].nbytes
        last = name == shapes[-1][0]
        if last or (written + held >= number * total / n_shards):
            file = f"model-{number:05d}-of-{n_shards:05d}.safetensors"
            save_file(shard, folder / file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(shard, file)
            written, held, shard, number = written + held, 0, {}, number + 1
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return layers


def edited(source: str, out: Path, width: int, layers: int) -> dict[str, float]:
    """One edit in a process of its own."""
    command = [sys.executable, "-c", WORKER, source, str(out), str(width), str(layers)]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    shutil.rmtree(out)
    return json.loads(process.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def report(label: str, source: Path, given: str, width: int, layers: int, rounds: int, place: Path) -> None:
    """Edit and copy in turns; a table and whether the goals are reached."""
    shards = [file.stat().st_size for file in source.glob("model*.safetensors")]
    subprocess.run(["cat", *source.glob("*.safetensors")], stdout=subprocess.DEVNULL, check=True)
    edits, copies, plain = [], [], []
    for _ in range(rounds):
        begin = time.perf_counter()
        subprocess.run(["cp", "-rL", source, place / "copy"], check=True)
        plain.append(time.perf_counter() - begin)
        subprocess.run(["sync", *(place / "copy").iterdir()], check=True)
        copies.append(time.perf_counter() - begin)
        shutil.rmtree(place / "copy")
        edits.append(edited(given, place / "edited", width, layers))
    seconds = median(edit["seconds"] for edit in edits)
    ratio = median(edit["seconds"] / copy for edit, copy in zip(edits, copies, strict=True))
    own, resident = (max(edit[name] for edit in edits) for name in ("own", "resident"))
    allowed = MEMORY_GOAL * max(shards) + MEMORY_ROOM
    print(f"\n{label}: {len(shards)} shards of at most {max(shards) / 1e6:,.0f} MB, {sum(shards) / 1e9:.2f} GB\n")
    print("| | |\n| --- | --- |")
    print(f"| edit, s | {seconds:.1f} |")
    print(f"| cp and sync, s | {median(copies):.1f} |")
    print(f"| cp alone, s | {median(plain):.1f} |")
    print(f"| edit over cp and sync | {ratio:.2f} |")
    print(f"| edit over cp alone | {median(e['seconds'] / c for e, c in zip(edits, plain, strict=True)):.2f} |")
    print(f"| peak memory of its own, MB | {own / 1e6:,.0f} |")
    print(f"| resident peak over the start, MB | {resident / 1e6:,.0f} |")
    verdict = "reached" if max(own, resident) <= allowed else "**missed**"
    print(f"\nGoal, at most {MEMORY_GOAL} × the largest shard + 300 MB = {allowed / 1e6:,.0f} MB: {verdict}.")
    print(f"Goal, at most {TIME_GOAL:.0f} × cp and sync: {'reached' if ratio <= TIME_GOAL else '**missed**'}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="on which disk; default: a temporary folder")
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--shard-mb", type=float, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print_machine()
    from steering.weights import bundled_folder

    with tempfile.TemporaryDirectory(dir=arguments.folder) as made:
        place = Path(made)
        layers = make_checkpoint(place / "source", arguments.shards, arguments.shard_mb * 1e6)
        report("Random weights", place / "source", str(place / "source"), WIDTH, layers, arguments.rounds, place)
        report("The bundled model", bundled_folder(), "bundled", 576, 30, arguments.rounds, place)


if __name__ == "__main__":
    main()
