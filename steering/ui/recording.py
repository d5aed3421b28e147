"""Recording the runs that the page shows before anything is asked (`recorded`): the page's own code, run once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from steering.contrast import preset_card
from steering.progress import Progress
from steering.ui.chat import Chat
from steering.ui.conversations import Turn
from steering.ui.engine import Engine
from steering.ui.ideas import prompt_of
from steering.ui.recorded import COLUMNS, COMMAND, FOLDER, KEPT
from steering.ui.scope import header, parse, state_line
from steering.ui.session import Session
from steering.ui.settings import SETTINGS
from steering.ui.strengths import preset_strength
from steering.ui.turn import TOLD, TurnRequest, run_turn, told


def record(engine: Engine, idea: str, progress: Progress) -> Path:
    """Write an idea's own question as the page does at its first settings, in five columns, and keep the run.

    Call it on the thread that may use the model.

    Raises:
        SteeringError: if the idea is no preset, or the model is not the one the presets' directions are for.
    """
    turn = written(engine, idea, progress)
    content: dict[str, Any] = {name: getattr(turn, name) for name in KEPT}
    content["likeliest"] = [
        [column, number, [[text, round(probability, 4)] for text, probability in words]]
        for (column, number), words in sorted(turn.likeliest.items())
    ]
    model = engine.ready_model()
    content["made"] = {"command": f"{COMMAND} {idea}", "model": model.name, "revision": model.revision}
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{idea}.json"
    lines = [f"{json.dumps(name)}: {json.dumps(part, ensure_ascii=False)}" for name, part in content.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")  # a line for each part
    return path


def written(engine: Engine, idea: str, progress: Progress) -> Turn:
    """The turn that `record` keeps: an idea's own question at the page's first settings, answered in five columns."""
    from steering.interventions import Dial

    card = preset_card(idea)
    session = Session("", idea)
    request = TurnRequest(
        idea=idea,
        own=None,
        histories=[[] for _ in COLUMNS],
        question=card["example"],
        dial=Dial(preset_strength(idea).start),
        columns=COLUMNS,
        prompt=prompt_of(idea, card["title"]),
        **{name: SETTINGS[name] for name in TOLD},
    )
    turn = Turn(request.question, COLUMNS, [""] * len(COLUMNS), "", settings=told(request))
    chat = Chat(engine)
    run_turn(engine, request, lambda tick: chat.take(tick, turn), progress)
    lines = []
    for line in turn.log.splitlines(keepends=True):
        if line.startswith("H|"):
            run = parse(line)[0][1]
            lines.append(
                header(
                    f"recorded {idea}",
                    run["layers"],
                    layer=run["layer"],
                    max_new_tokens=run["max_new_tokens"],
                    coefficient=run["coefficient"],
                    recorded=f"{COMMAND} {idea}",
                )
            )
        elif line.startswith("T|"):
            lines.append(line)
    turn.log = chat.names_line(session) + "".join(lines) + state_line("idle")
    return turn
