"""The limits: one table, and the command line, the environment and the README made from it."""

import argparse
import dataclasses
from pathlib import Path

import pytest

from steering.errors import SteeringError
from steering.ui.limits import Limits, add_options, as_table, option, variable
from steering.ui.options import parsed

README = Path(__file__).resolve().parent.parent / "README.md"
NAMES = [field.name for field in dataclasses.fields(Limits)]
NUMBERS = [field for field in dataclasses.fields(Limits) if field.name != "models"]


def typed(*words: str) -> dict[str, str | None]:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return vars(parser.parse_args(words))


def test_without_a_word_the_defaults_hold() -> None:
    assert Limits.of(typed(), {}) == Limits()
    assert Limits.of({}, {"PATH": "/bin", "STEERING": "7"}) == Limits()


@pytest.mark.parametrize("field", NUMBERS, ids=lambda field: field.name)
def test_each_limit_is_set_by_its_option_and_by_its_variable(field: dataclasses.Field) -> None:
    name, least, most = field.name, field.metadata["least"], field.metadata["most"]
    assert least <= field.default <= most
    assert Limits.of(typed(option(name), str(most)), {}) == dataclasses.replace(Limits(), **{name: most})
    assert Limits.of(typed(), {variable(name): str(least)}) == dataclasses.replace(Limits(), **{name: least})
    assert getattr(Limits.of(typed(option(name), str(most)), {variable(name): str(least)}), name) == most


@pytest.mark.parametrize("field", NUMBERS, ids=lambda field: field.name)
def test_a_limit_out_of_its_range_is_refused_with_its_names(field: dataclasses.Field) -> None:
    for text in (str(field.metadata["least"] - 1), str(field.metadata["most"] + 1), "many", "", "1.5", "nan"):
        with pytest.raises(SteeringError) as refused:
            Limits.of({field.name: text}, {})
        for part in (option(field.name), variable(field.name), f"“{text}”", f"{field.metadata['most']:,}"):
            assert part in str(refused.value)


def test_models_are_a_list_with_commas() -> None:
    assert Limits.of(typed("--models", "bundled, Qwen/Qwen3-0.6B"), {}).models == ("bundled", "Qwen/Qwen3-0.6B")
    assert Limits.of(typed(), {"STEERING_MODELS": ""}).models == ()
    with pytest.raises(SteeringError, match="STEERING_MODELS"):
        Limits.of(typed("--models", "bundled,,x"), {})


def test_a_limit_cannot_be_moved_afterwards() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Limits().rows = 3  # type: ignore[misc]


@pytest.mark.parametrize("words", [["--tokens", "7"], ["--grace", "soon"], ["--models", "a,,b"]])
def test_the_program_ends_with_status_2_and_a_sentence(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed(words, {})
    assert ended.value.code == 2
    assert f"{words[0]} (" in capsys.readouterr().err


def test_the_readme_has_the_same_table() -> None:
    assert as_table() in README.read_text(encoding="utf-8")
    assert all(as_table().count(f"`{option(name)}`") == 1 for name in NAMES)
