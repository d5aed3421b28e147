"""What “Take it home” does without the page: read a direction's file, and write a model with the library's exports.

`write_model` and `read_foreign` run on the model's thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from steering.errors import SteeringError
from steering.ui import take_home_words as words
from steering.ui.asked_model import own_files
from steering.ui.make_work import checked_direction, require_small
from steering.ui.methods import removed

if TYPE_CHECKING:
    from steering.direction import Direction
    from steering.exchange import Exported, Imported
    from steering.models import ChatModel
    from steering.progress import Progress
    from steering.ui.engine import Engine
    from steering.ui.worker import Job


@dataclass(frozen=True, eq=False)
class Order:
    """A model to be written.

    Attributes:
        form: a key of `take_home_words.FORMS`.
        idea, own: a preset's name, or a direction of the visitor's own.
        coefficient: how far it is turned up, where it is.
        removal, addition: the ways of the chat, as in `methods`; of those that weights can hold, the same is written.
        target: the folder to make.
        model: name and revision of the model that was in use when it was asked for.
    """

    form: str
    idea: str
    own: Direction | None
    coefficient: float
    removal: str
    addition: str
    target: Path
    model: tuple[str, str]


@dataclass(frozen=True)
class Written:
    """What the work of `write_model` reports at its end.

    Attributes:
        compared: how near it is to what was seen, in the library's words.
        code: a few lines of Python that load it.
        note: how it differs from what the chat does, if it does.
    """

    folder: Path
    compared: str
    code: str
    note: str


def write_file(direction: Direction, kind: str, folder: Path) -> Exported:
    """The direction as a file of this kind, named after it; raises DirectionError if the kind cannot hold it."""
    from steering.exchange import export_direction
    from steering.exchange_kinds import ENDINGS, KIND_BY_ENDING
    from steering.ui.make_words import file_name

    ending = ENDINGS[kind]
    tool = "" if KIND_BY_ENDING[ending] == kind else f"-{kind}"  # two kinds share an ending with another
    return export_direction(direction, folder / file_name(direction.name, f"{tool}{ending}"), kind)


# ---------------------------------------------------------------- the way back


def read_own(path: str, layer: int | None, model: ChatModel) -> Direction | None:
    """A direction of this library's, in whatever format, for the model in use; None for another tool's vector.

    Raises:
        DirectionError: if it is no direction's file, or was made for another model.
        LayerWantedError: if it holds vectors of several layers, or of a layer that it does not name.
    """
    from steering.exchange import import_direction

    direction = import_direction(require_small(path), layer=layer).direction
    is_foreign = "model" not in direction.card and "source" in direction.card
    return None if is_foreign else checked_direction(direction, model)


def read_foreign(engine: Engine, path: str, layer: int | None, job: Job) -> None:
    """Read another tool's vector, measuring on the model what it does not say; reports an `Imported`."""
    from dataclasses import replace

    from steering.exchange import import_direction

    model = engine.ready_model()
    model.thinking = False
    imported: Imported = import_direction(require_small(path), layer=layer, model=model)
    job.report(replace(imported, direction=checked_direction(imported.direction, model)))


# ---------------------------------------------------------------- a changed model


def cannot_be(form: str, model: ChatModel, layer: int | None) -> str:
    """Why the model in use cannot have this form, as far as is known before any file is read; "" if it may.

    layer: of the direction, if it is known.
    """
    from steering.added_checkpoint import no_place_for_it
    from steering.architectures import find_layout
    from steering.lora_adapter import experts_in_the_way

    if form == "added" and layer is not None:
        return no_place_for_it(model.config, layer)
    if form == "adapter":
        projections = [name for names in find_layout(model.config.model_type).projections for name in names]
        return experts_in_the_way(model.label) if any("expert" in name for name in projections) else ""
    return ""


def write_model(engine: Engine, order: Order, job: Job) -> None:
    """Write the model and compare it with what was seen; reports progress, and a `Written` at the end.

    Raises:
        SteeringError: the library's sentences; or if the model in use, or its files, have changed meanwhile.
        Cancelled: when the job was stopped; nothing has the target's name then.
    """
    from steering.edited_model_card import comparison_on_card

    model = engine.ready_model()
    if (model.name, model.revision) != order.model:
        raise SteeringError(words.OTHER_MODEL)

    def progress(what: str, done: float, total: float) -> None:
        job.progress(what, done, total)
        engine.let_others_go(job)

    job.check()
    direction = order.own or engine.preset_direction(order.idea, progress)
    if refusal := cannot_be(order.form, model, direction.layer):
        raise SteeringError(refusal)
    source, revision = own_files(model, progress)
    with engine.all_cores():
        _write(model, direction, order, revision, progress)
    base = (model.name, revision) if revision else (str(source), None)
    job.report(
        Written(
            order.target,
            comparison_on_card(order.target),
            loading_code(order.target, base if order.form == "adapter" else None),
            _differs(order, model),
        )
    )


def _differs(order: Order, model: ChatModel) -> str:
    """How what was written differs from what the chat does, if it does."""
    quantised = words.QUANTISED.format(how=model.quantization) if model.quantization else ""
    return " ".join(part for part in (words.other_way(order.form, order.removal, order.addition), quantised) if part)


def _write(model: ChatModel, direction: Direction, order: Order, revision: str | None, progress: Progress) -> None:
    from steering.added_checkpoint import add_to_weights
    from steering.lora_adapter import write_adapter
    from steering.orthogonalize import orthogonalize

    if order.form == "added":
        up = direction.projected() if order.addition == "projected" else direction
        add_to_weights(model.name, up, order.coefficient, order.target, revision=revision, progress=progress)
        return
    write = write_adapter if order.form == "adapter" else orthogonalize
    write(model.name, removed(order.removal, direction), order.target, revision=revision, progress=progress)


def loading_code(folder: Path, base: tuple[str, str | None] | None = None) -> str:
    """Plain transformers that load a folder; with PEFT beside ``base``, a folder or a repository with its commit."""
    if base is None:
        return (
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f"folder = {str(folder)!r}\n"
            "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
            "model = AutoModelForCausalLM.from_pretrained(folder)"
        )
    name, revision = base
    at = f", revision={revision!r}" if revision else ""
    return (
        "from peft import PeftModel\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f"base = {name!r}\n"
        f"tokenizer = AutoTokenizer.from_pretrained(base{at})\n"
        f"model = AutoModelForCausalLM.from_pretrained(base{at})\n"
        f"model = PeftModel.from_pretrained(model, {str(folder)!r})"
    )
