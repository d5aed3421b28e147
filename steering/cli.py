"""The command line: ``python -m steering COMMAND``. It does what the page does, with the same code.

Results go to the standard output, as a few lines or (``--json``) as one object; progress and errors go to the standard
error. Exit status: 0, 2 for a mistake of whoever called it, 1 for anything else, 130 when interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steering.cli_evaluate import about_compare, about_evaluate, compare_to, evaluate_to
from steering.cli_exchange import about_check, about_export, about_import, export_to, import_from
from steering.cli_explain import about_explain, about_report, explain_to, report_to
from steering.cli_hub import about_pull, about_push, pull_from, push_to
from steering.cli_output import ProgressBar, as_text
from steering.cli_processes import about_processes, load_in_all, run_in_all, started_together
from steering.errors import SteeringError

if TYPE_CHECKING:
    from steering.directions import Direction
    from steering.finding import Prepared
    from steering.models import ChatModel

SWEET_SPOT, BREAKING_POINT = "sweet_spot", "breaking_point"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    options = _parser().parse_args(arguments)
    options.processes = None
    if started_together() > 1:
        return run_in_all(options, lambda: _run(options))
    return _run(options)


def _run(options: argparse.Namespace) -> int:
    try:
        result = options.run(options)
    except SteeringError as error:
        print(f"{options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{options.command}: stopped.", file=sys.stderr)
        return 130
    except Exception as error:
        print(f"{options.command}: something went wrong: {error!r}", file=sys.stderr)
        return 1
    if result is not None:
        print(json.dumps(result) if options.json else as_text(result))
    return 0


# ---------------------------------------------------------------- what there is


_ITS_FILE = "its file, which gets the figures unless --out is given"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m steering", description="Directions in a chat model's residual stream."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    compute = _command(commands, "compute", _compute, "difference in means of a contrast set, at one place")
    _about_data(compute)
    compute.add_argument("--position", type=int, help="default: where held-out texts are told apart best")
    compute.add_argument("--layer", type=int)
    select = _command(commands, "select", _select, "the best place by the three scores, and its useful strength")
    _about_data(select)
    _about_selection(select)
    calibrate = _command(commands, "calibrate", _calibrate, "measure how far a direction can be turned up")
    calibrate.add_argument("--direction", required=True, type=Path, help=_ITS_FILE)
    card = _command(commands, "card", _card, "how far to trust a direction: its figures beside those of controls")
    _about_data(card)
    card.add_argument("--direction", required=True, type=Path, help=_ITS_FILE)
    edit = _command(commands, "orthogonalize", _orthogonalize, "write a model without the direction, for good")
    edit.add_argument("--direction", required=True, help="a file or a preset's name")
    about_check(edit)
    chat = _command(commands, "chat", _chat, "three answers side by side")
    chat.add_argument("--direction", default="poetic", help="a file or a preset's name (default: poetic)")
    chat.add_argument("--message", help="ask this once; without it, ask as long as you like")
    chat.add_argument("--coefficient", type=float, help="default: the direction's own start")
    chat.add_argument("--tokens", type=int, default=120, help="the longest answer")
    chat.add_argument("--temperature", type=float, default=0.0)
    give = _command(commands, "export", _export, "write a direction for llama.cpp and other tools, or into a model")
    about_export(give)
    take = _command(commands, "import", _import, "read a direction from another tool's file, and keep it as our own")
    about_import(take)
    about_explain(
        _command(commands, "explain", _explain, "where a direction shows, which heads write it, what a suffix changes")
    )
    about_report(_command(commands, "report", _report, "write one HTML file with all that is known of a direction"))
    for command in (compute, select, calibrate, card, chat):
        about_processes(command)
    about_evaluate(
        _command(commands, "evaluate", _evaluate, "a table with intervals of what a direction does", one_model=False)
    )
    about_compare(_command(commands, "compare", _compare, "two evaluations side by side", one_model=False))
    about_push(
        _command(commands, "push", _push, "publish a direction, a set or an edited model on the hub, with a card")
    )
    about_pull(
        _command(commands, "pull", _pull, "fetch a direction, a set or an edited model from the hub, and check it")
    )
    record = _command(commands, "record", _record, "make anew the runs that the page shows before anything is asked")
    record.add_argument("ideas", nargs="*", metavar="IDEA", help="presets' names (default: all that are shown)")
    return parser


def _command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], dict[str, Any] | None],
    words: str,
    *,
    one_model: bool = True,
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=words, description=f"{words[0].upper()}{words[1:]}."
    )
    command.set_defaults(run=run)
    if one_model:
        command.add_argument("--model", default="bundled", help="“bundled”, a hub id, a folder, or a .gguf file")
    command.add_argument("--device", help="cpu, cuda, or auto")
    command.add_argument("--dtype", choices=["auto", "float32", "bfloat16", "float16"])
    command.add_argument("--quantization", choices=["8bit", "4bit"], help="through bitsandbytes")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--out", type=Path, help="where to write")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.add_argument("--quiet", action="store_true", help="no progress")
    return command


def _about_data(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data", required=True, help="a preset's name, or a file of examples")
    command.add_argument("--negative", type=Path, help="the side without the idea, when it is a file of its own")
    command.add_argument("--name", help="what to call the direction")


def _about_selection(command: argparse.ArgumentParser) -> None:
    command.add_argument("--first-tokens", nargs="+", metavar="TEXT", help="first tokens that stand for the idea")
    command.add_argument("--refusal", action="store_true", help="the paper's limits and filter (the preset has them)")
    command.add_argument("--no-filter", action="store_true", help="keep examples on the wrong side of the metric")
    command.add_argument("--relax", action="store_true", help="if nothing passes, relax the limit in the way")
    command.add_argument("--fresh", action="store_true", help="score anew, and keep no scores")
    command.add_argument("--no-calibration", action="store_true", help="leave the strength unmeasured")


# ---------------------------------------------------------------- commands


def _compute(options: argparse.Namespace) -> dict[str, Any]:
    from dataclasses import replace

    from steering.directions import difference_in_means
    from steering.separation import separation

    model, data = _model(options), _data(options)
    train, held_out = data.split(seed=options.seed)
    with ProgressBar(options) as progress:
        candidates = difference_in_means(model, train, progress=progress)
        measured = separation(model, candidates, held_out, progress=progress)
    position, layer = measured.suggested()
    position = position if options.position is None else options.position
    layer = layer if options.layer is None else options.layer
    direction = candidates.direction(position, layer, options.name)
    scores = measured.as_card(position, layer)
    direction = replace(direction, card=direction.card | {"data_sha256": data.sha256, "seed": options.seed} | scores)
    file = direction.save(options.out or Path(f"{data.name}.safetensors"))
    return {"position": position, "layer": layer, "norm": direction.norm, **scores, "file": str(file)}


def _select(options: argparse.Namespace) -> dict[str, Any]:
    from steering.calibration import calibrated, metric_plateau
    from steering.finding import Finder, prepare, scores_folder

    model, data = _model(options), _data(options)
    prepared = prepare(
        model,
        data,
        tokens=options.first_tokens,
        is_refusal=True if options.refusal else None,
        filtered=False if options.no_filter else None,
        seed=options.seed,
    )
    _tell_notes(prepared)
    with ProgressBar(options) as progress:
        finder = Finder(model, prepared, store=None if options.fresh else scores_folder(), progress=progress)
        find = finder.find_relaxed if options.relax else finder.find
        found = find(name=options.name, progress=progress)
        direction = found.direction
        if not options.no_calibration:
            direction = calibrated(model, direction, progress=progress)
            strength = direction.card["strength"]
            strength["metric"] = metric_plateau(finder.scorer, direction, strength["coefficients"])
    file = direction.save(options.out or Path(f"{data.name}.safetensors"))
    score = found.score
    return {
        "position": score.position,
        "layer": score.layer,
        "bypass_score": score.bypass_score,
        "induce_score": score.induce_score,
        "kl_score": score.kl_score,
        "coefficient": _coefficient(direction),
        "relaxed": found.limits.relaxed,
        "file": str(file),
    }


def _calibrate(options: argparse.Namespace) -> dict[str, Any]:
    from steering.calibration import calibrated
    from steering.directions import Direction

    model = _model(options)
    direction = Direction.load(options.direction, model)
    with ProgressBar(options) as progress:
        direction = calibrated(model, direction, progress=progress)
    file = direction.save(options.out or options.direction)
    return {"coefficient": _coefficient(direction), "file": str(file)}


def _card(options: argparse.Namespace) -> dict[str, Any]:
    from dataclasses import replace

    from steering.directions import Direction, difference_in_means
    from steering.finding import prepare
    from steering.scoring import scorer_for
    from steering.trust import trust

    model, data = _model(options), _data(options)
    direction = Direction.load(options.direction, model)
    prepared = prepare(model, data, filtered=direction.card.get("filtered"), seed=options.seed)
    with ProgressBar(options) as progress:
        candidates = difference_in_means(model, prepared.train, progress=progress)
        scorer = scorer_for(model, prepared.validation, prepared.tokens)
        card = trust(
            model, prepared, direction, candidates=candidates, scorer=scorer, seed=options.seed, progress=progress
        )
    figures = card.as_card()
    file = replace(direction, card=direction.card | {"trust": figures}).save(options.out or options.direction)
    return {**figures, "file": str(file)}


def _orthogonalize(options: argparse.Namespace) -> dict[str, Any]:
    from steering.edited_model_card import comparison_on_card
    from steering.orthogonalize import orthogonalize

    if options.out is None:
        raise SteeringError("Say where the edited model goes: --out FOLDER.")
    direction = _direction(options, None)
    with ProgressBar(options) as progress:
        folder = orthogonalize(
            source=options.model,
            direction=direction,
            out=options.out,
            check=not options.no_check,
            progress=progress,
        )
    return {"folder": str(folder), "check": comparison_on_card(folder)}


def _export(options: argparse.Namespace) -> dict[str, Any]:
    if options.out is None:
        raise SteeringError("Say where the file goes: --out FILE.")
    direction = _direction(options, None)
    with ProgressBar(options) as progress:
        return export_to(options, direction, progress)


def _import(options: argparse.Namespace) -> dict[str, Any]:
    return import_from(options, None if options.model is None else _model(options))


def _explain(options: argparse.Namespace) -> dict[str, Any]:
    model = _model(options)
    direction = _direction(options, model)
    with ProgressBar(options) as progress:
        return explain_to(options, model, direction, progress)


def _report(options: argparse.Namespace) -> dict[str, Any]:
    model = _model(options)
    direction = _direction(options, model)
    with ProgressBar(options) as progress:
        return report_to(options, model, direction, progress)


def _evaluate(options: argparse.Namespace) -> dict[str, Any] | None:
    from steering.placement import chosen_device

    # Many tokens are read at once here: float32 is the faster one on a CPU then, and the exact one.
    if options.dtype is None and options.quantization is None and chosen_device(options.device).type == "cpu":
        options.dtype = "float32"

    def of(source: str, **others: Any) -> argparse.Namespace:
        return argparse.Namespace(**{**vars(options), "model": source, **others})

    with ProgressBar(options) as progress:
        result = evaluate_to(
            options,
            lambda source: _model(of(source)),
            lambda name, source, model: _direction(of(source, direction=name), model),
            progress,
        )
    return result if options.json else None


def _compare(options: argparse.Namespace) -> dict[str, Any] | None:
    result = compare_to(options)
    return result if options.json else None


def _push(options: argparse.Namespace) -> dict[str, Any]:
    with ProgressBar(options) as progress:
        return push_to(options, progress)


def _pull(options: argparse.Namespace) -> dict[str, Any]:
    with ProgressBar(options) as progress:
        return pull_from(options, progress)


def _chat(options: argparse.Namespace) -> dict[str, Any] | None:
    from steering.cli_chat import Columns, chat_once

    model = _model(options)
    direction = _direction(options, model)
    start = direction.measured_start or direction.coefficient(0.2)
    coefficient = options.coefficient if options.coefficient is not None else start
    if options.json and options.message is None:
        raise SteeringError("With --json give the question: --message “…”.")
    histories: list[list[dict[str, str]]] = [[], [], []]
    settings = {"max_new_tokens": options.tokens, "temperature": options.temperature, "seed": options.seed}
    columns = None if options.json else Columns(sys.stdout)
    if options.message is not None:
        texts = chat_once(model, direction, coefficient, histories, options.message, columns, **settings)
        names = ("baseline", "ablated", "added")
        return {"texts": dict(zip(names, texts, strict=True)), "coefficient": coefficient} if options.json else None
    print("Ask, or press Ctrl-D to leave.", file=sys.stderr)
    while (question := _asked()) is not None:
        if question:
            chat_once(model, direction, coefficient, histories, question, columns, **settings)
    return None


# ---------------------------------------------------------------- parts


def _record(options: argparse.Namespace) -> dict[str, Any]:
    from steering.ui.engine import Engine, ModelOptions
    from steering.ui.recorded import recorded_ideas
    from steering.ui.recording import record

    if options.model != "bundled":
        raise SteeringError("Runs are recorded with the bundled model, which the page begins with. Leave --model out.")
    shown = recorded_ideas()
    if unknown := [idea for idea in options.ideas if idea not in shown]:
        raise SteeringError(f"No run is shown of {', '.join(unknown)}. Choose from {', '.join(shown)}.")
    engine = Engine(ModelOptions(options.device, options.dtype, options.quantization))
    engine.model = _model(options)
    with ProgressBar(options) as progress:
        files = [str(record(engine, idea, progress)) for idea in options.ideas or shown]
    return {"files": files}


def _asked() -> str | None:
    """The next question, or None at the end."""
    try:
        return input("\n> ").strip()
    except EOFError:
        return None


def _model(options: argparse.Namespace) -> ChatModel:
    from transformers.utils import logging

    from steering.models import load_model

    logging.disable_progress_bar()
    how = {"device": options.device, "dtype": options.dtype, "quantization": options.quantization}
    with ProgressBar(options) as progress:
        if options.processes is None:
            return load_model(options.model, **how, progress=progress)
        return load_in_all(options, how, progress)


def _data(options: argparse.Namespace) -> Any:
    from steering.contrast import ContrastSet

    return ContrastSet.load(options.data, options.negative)


def _direction(options: argparse.Namespace, model: ChatModel | None) -> Direction:
    """A direction from its file, or a preset's; without a model only one that comes with the project."""
    from steering.contrast import preset_names
    from steering.directions import Direction
    from steering.preset_directions import SHIPPED, preset_direction

    if options.direction not in preset_names():
        return Direction.load(options.direction, model)
    if model is not None:
        return preset_direction(model, options.direction)
    if options.model == "bundled":
        return Direction.load(SHIPPED / f"{options.direction}.safetensors")
    return preset_direction(_model(options), options.direction)


def _coefficient(direction: Direction) -> dict[str, Any] | None:
    """The measured strength as every tool can read it."""
    strength = direction.card.get("strength")
    if not strength:
        return None
    return {SWEET_SPOT: strength["sweet"], BREAKING_POINT: strength["end"], "start": strength["start"]}


def _tell_notes(prepared: Prepared) -> None:
    for note in prepared.notes:
        print(note, file=sys.stderr)
    if prepared.tokens is not None:
        named = ", ".join(repr(text) for text in prepared.tokens.texts)
        print(f"First tokens {named}: {prepared.tokens.source}.", file=sys.stderr)
