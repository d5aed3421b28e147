"""What the README shows must run as it stands."""

import re
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"


def test_the_python_example_runs_and_gives_three_replies() -> None:
    section = README.read_text(encoding="utf-8").partition("## From Python\n")[2].partition("\n## ")[0]
    (example,) = re.findall(r"```python\n(.*?)```", section, flags=re.S)
    assert len([line for line in example.splitlines() if line.strip()]) <= 12
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    step = names["step"]
    assert len(step.texts) == 3  # type: ignore[attr-defined]
    assert len(set(step.texts)) == 3  # type: ignore[attr-defined]
    assert step.cosines.shape == (3, 30)  # type: ignore[attr-defined]


def test_files_it_shows_are_there() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README.read_text(encoding="utf-8")):
        assert (README.parent / target).is_file(), target
