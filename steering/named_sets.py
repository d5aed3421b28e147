"""The data sets the field measures on, by name: each at a pinned revision, with its licence and source.

A set is fetched at its first use and then read from ``<folder>/<name>/<file>``, where it may as well be put by hand.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from steering.contrast import PRESETS, Example
from steering.contrast_files import read_rows
from steering.contrast_rows import LABELS, Row
from steering.errors import SteeringError
from steering.named_set_files import NamedFile, Repository, fetched, texts_of
from steering.progress import Progress, silent
from steering.weights import cache_folder

Side = Literal["harmful", "harmless", "text"]


@dataclass(frozen=True)
class NamedSet:
    """Where a set lies and what it is.

    Attributes:
        title: its usual name.
        repository: where it lies, and the commit that is read.
        licence: of the set, as its source states it.
        about: what it holds and which part of it is read, in a sentence.
        sides: the file of each side: ``"harmful"`` and ``"harmless"`` prompts, or plain ``"text"``. The first is read
            where none is named.
    """

    name: str
    title: str
    repository: Repository
    licence: str
    about: str
    sides: Mapping[Side, NamedFile]


@dataclass(frozen=True)
class NamedData:
    """A sample of a set.

    Attributes:
        prompts: without repeats, in the sample's order; of plain text, its documents.
        label: set, side, how many of how many, revision and licence, to stand beside what was measured on it.
        revision: the commit it is from; "" for a file of somebody's own.
        sha256: of the prompts in their order; two runs over the same data have it in common.
    """

    prompts: list[str]
    label: str
    licence: str
    revision: str
    sha256: str

    @property
    def text(self) -> str:
        """All of it as one text."""
        return "\n\n".join(self.prompts)

    @property
    def examples(self) -> tuple[Example, ...]:
        """Each prompt as a user's only message."""
        return tuple(Example(({"role": "user", "content": prompt},)) for prompt in self.prompts)


_XSTEST = "11783fb294ed017473ee53c207d71f2161c7672c8d0b037501e78387f801cb5a"
SETS: MappingProxyType[str, NamedSet] = MappingProxyType(
    {
        one.name: one
        for one in (
            NamedSet(
                "jailbreakbench",
                "JailbreakBench",
                Repository("JailbreakBench/JBB-Behaviors", "886acc352a31533ffbcf4ef22c744658688086fc", on_hub=True),
                "MIT",
                "100 harmful behaviours in ten categories, 100 benign ones on the same subjects (Chao et al. 2024).",
                {
                    "harmful": NamedFile(
                        "data/harmful-behaviors.csv",
                        "Goal",
                        "4a8ec6832056b631eb092dccc60d37a61c3d441268268888b3d006288afeffa1",
                    ),
                    "harmless": NamedFile(
                        "data/benign-behaviors.csv",
                        "Goal",
                        "3cda234d21a991fa309bbfea4b6d9dae31ccdf8e9d452424b6a983e4fdc33468",
                    ),
                },
            ),
            NamedSet(
                "harmbench",
                "HarmBench",
                Repository("centerforaisafety/HarmBench", "8e1604d1171fe8a48d8febecd22f600e462bdcdd"),
                "MIT",
                "The 200 standard behaviours; not those about copyright, nor those that need a context (Mazeika et al. "
                "2024).",
                {
                    "harmful": NamedFile(
                        "data/behavior_datasets/harmbench_behaviors_text_all.csv",
                        "Behavior",
                        "8d81accedd38eaaf8b760618622bb888417d1fd0c86eba65c427a16f1cbb4afc",
                        only=("FunctionalCategory", "standard"),
                    )
                },
            ),
            NamedSet(
                "advbench",
                "AdvBench",
                Repository("llm-attacks/llm-attacks", "098262edf85f807224e70ecd87b9d83716bf6b73"),
                "MIT",
                "520 harmful behaviours (Zou et al. 2023).",
                {
                    "harmful": NamedFile(
                        "data/advbench/harmful_behaviors.csv",
                        "goal",
                        "6cd1a5c63c07610d7eb67307772ee5606017ee950b5770ab288a2c487489d3e1",
                    )
                },
            ),
            NamedSet(
                "alpaca",
                "Alpaca",
                Repository("tatsu-lab/stanford_alpaca", "761dc5bfbdeeffa89b8bff5d038781a4055f796a"),
                "CC BY-NC 4.0",
                "52,002 instructions of every kind, of which those without an input of their own (Taori et al. 2023).",
                {
                    "harmless": NamedFile(
                        "alpaca_data.json",
                        "instruction",
                        "2eddafc6b977608d778aaab8dfc7e50e547b3af9826dfb9e909d9fc362e4a419",
                        only=("input", ""),
                    )
                },
            ),
            NamedSet(
                "xstest",
                "XSTest",
                Repository("paul-rottger/xstest", "d7bb5bd738c1fcbc36edd83d5e7d1b71a3e2d84d"),
                "CC BY 4.0",
                "250 safe prompts that look unsafe, and 200 unsafe ones to tell them from (Röttger et al. 2024).",
                {
                    "harmless": NamedFile("xstest_prompts.csv", "prompt", _XSTEST, only=("label", "safe")),
                    "harmful": NamedFile("xstest_prompts.csv", "prompt", _XSTEST, only=("label", "unsafe")),
                },
            ),
            NamedSet(
                "pile",
                "The Pile (a sample)",
                Repository("NeelNanda/pile-10k", "127bfedcd5047750df5ccf3a12979a47bfa0bafa", on_hub=True),
                "bigscience-bloom-rail-1.0, as its page says; the texts have licences of their own",
                "The first 10,000 documents of The Pile (Gao et al. 2020), plain text of many kinds.",
                {
                    "text": NamedFile(
                        "data/train-00000-of-00001-4746b8785c874cc7.parquet",
                        "text",
                        "a1a9475a8684ac8f1b17a36eccb2ec49c127edd7aae9beb2f240726972d93f31",
                    )
                },
            ),
        )
    }
)


HELD_OUT = PRESETS / "evaluation"
OWN_LICENCE = "Apache-2.0"
OWN_WORDS = f"written for this project, {OWN_LICENCE}"


def datasets_folder() -> Path:
    """Where sets are kept: ``STEERING_DATASETS``, else ``datasets`` in the cache folder."""
    named = os.environ.get("STEERING_DATASETS")
    return Path(named).expanduser() if named else cache_folder() / "datasets"


def load_named(
    name: str,
    *,
    side: Side | None = None,
    n: int | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    progress: Progress = silent,
) -> NamedData:
    """A sample of a set, fetched if it is not there.

    Args:
        name: one of SETS.
        side: by default the set's first.
        n: at most so many prompts; by default all. A larger sample holds every smaller one of the same seed.
        seed: of the sample, which is the same every time.
        folder: where sets are kept, by default :func:`datasets_folder`.

    Raises:
        SteeringError: if there is no such set or side, it cannot be fetched, or its file is damaged.
    """
    if name not in SETS:
        raise SteeringError(f"There is no data set “{name}”. There are {_listed(SETS)}; or give a file of your own.")
    return load_set(SETS[name], side=side, n=n, seed=seed, folder=folder, progress=progress)


def load_set(
    chosen: NamedSet,
    *,
    side: Side | None = None,
    n: int | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    progress: Progress = silent,
) -> NamedData:
    """:func:`load_named` of a set that need not be in the table."""
    one = side if side is not None else next(iter(chosen.sides))
    if one not in chosen.sides:
        raise SteeringError(f"{chosen.title} has no {one} side, but {_listed(chosen.sides)}.")
    kept_in = (Path(folder).expanduser() if folder is not None else datasets_folder()) / chosen.name
    file = chosen.sides[one]
    path, is_pinned = fetched(chosen.title, chosen.repository, file, kept_in, progress)
    revision = chosen.repository.revision if is_pinned else ""
    whose = f"revision {revision[:10]}" if is_pinned else "a file of your own, not the pinned one"
    return _sample(
        texts_of(path, file), n, seed, f"{chosen.title}, {one}", f"{whose}, {chosen.licence}", chosen.licence, revision
    )


def load_prompts(path: str | Path, *, side: Side | None = None, n: int | None = None, seed: int = 0) -> NamedData:
    """A sample of a file of one's own: a prompt a line (TXT), an ``instruction`` or ``text`` a row (JSONL, JSON, CSV).

    Args:
        side: only the rows with such a label (``harmful`` or ``positive``, ``harmless`` or ``negative``), and those
            without any.
        n, seed: as for :func:`load_named`.

    Raises:
        SteeringError: if it cannot be read, holds no prompts, or a row is a conversation.
    """
    path = Path(path).expanduser()
    return _sample(_prompts_in(path, side), n, seed, path.name, "a file of your own", licence="", revision="")


def load_held_out(side: Side, *, n: int | None = None, seed: int = 0) -> NamedData:
    """The requests or the plain text that come with the project; no preset's direction was learned from them."""
    if side == "text":
        return replace(load_text(HELD_OUT / "text.txt"), label=f"plain text, {OWN_WORDS}", licence=OWN_LICENCE)
    texts = _prompts_in(HELD_OUT / "requests.jsonl", side)
    return _sample(texts, n, seed, f"held-out requests, {side}", OWN_WORDS, OWN_LICENCE, revision="")


def load_text(path: str | Path) -> NamedData:
    """A plain text of one's own, as it is.

    Raises:
        SteeringError: if it cannot be read or is empty.
    """
    path = Path(path).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise SteeringError(f"The text {path} cannot be read: {error}. Give a plain text file in UTF-8.") from error
    if not text.strip():
        raise SteeringError(f"{path} is empty. Give a file with some text in it.")
    label = f"{path.name}: {len(text.split()):,} words; a file of your own"
    return NamedData([text], label, "", "", hashlib.sha256(text.encode()).hexdigest())


def _prompts_in(path: Path, side: Side | None) -> list[str]:
    """A file's prompts of one side, and those without any."""
    texts = [_single_prompt(row) for row in read_rows(path) if side is None or row.side in (None, LABELS[side])]
    if not texts:
        raise SteeringError(f"{path.name} holds no {side} prompts: every row has the other label.")
    return texts


def _single_prompt(row: Row) -> str:
    if len(row.messages) > 1:
        raise SteeringError(
            f"Row {row.number} of {row.file} has several messages: a prompt is one text. Leave the others out; a "
            "system prompt is given for the whole evaluation."
        )
    return row.messages[0]["content"]


def _sample(
    texts: Iterable[str], n: int | None, seed: int, title: str, whose: str, licence: str, revision: str
) -> NamedData:
    """So many of the texts, without repeats: the first ones in an order that only the seed and the texts decide."""
    different = list(dict.fromkeys(texts))
    if n is not None and n < 1:
        raise SteeringError(f"A sample of {n} prompts holds nothing. Ask for at least 1.")
    order = random.Random(seed).sample(range(len(different)), len(different))
    prompts = [different[place] for place in order[:n]]
    sha256 = hashlib.sha256(json.dumps(prompts, ensure_ascii=False).encode()).hexdigest()
    label = f"{title}: {len(prompts):,} of {len(different):,}, seed {seed}; {whose}"
    return NamedData(prompts, label, licence, revision, sha256)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
