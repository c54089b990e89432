"""What users of type checkers see: right code passes, wrong use is reported, in mypy --strict and in pyright strict."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

Reports = dict[int, str]
"""Line -> what the checker says there."""


def mypy(path: Path) -> Reports:
    command = ["mypy", "--strict", "--show-error-end", "--output=json", str(path)]
    lines = [json.loads(line) for line in run(*command).splitlines() if line.startswith("{")]
    return {
        line["line"]: line["message"] for line in lines if line["severity"] == "error" and is_same(line["file"], path)
    }


def pyright(path: Path) -> Reports:
    report = json.loads(run("pyright", "--outputjson", "--pythonpath", sys.executable, str(path)))
    assert report["summary"]["filesAnalyzed"] == 1
    found = [each for each in report["generalDiagnostics"] if each["severity"] == "error"]
    return {each["range"]["start"]["line"] + 1: each["message"] for each in found if is_same(each["file"], path)}


def run(name: str, *args: str) -> str:
    """Run a checker of this environment and return its output; a checker that fails to run is a failure."""
    command = [str(Path(sys.executable).with_name(name)), *args]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    return done.stdout


def is_same(name: str, path: Path) -> bool:
    return (ROOT / name).resolve() == path.resolve()


def marked(path: Path) -> Iterator[int]:
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if line.endswith("# error"):
            yield number


CHECKERS: dict[str, Callable[[Path], Reports]] = {"mypy": mypy, "pyright": pyright}

checkers = pytest.mark.parametrize("checker", CHECKERS)


@checkers
@pytest.mark.parametrize("name", ["user_code.py", "faststream_code.py"])
def test_right_code_passes(checker: str, name: str) -> None:
    assert CHECKERS[checker](HERE / name) == {}


@checkers
@pytest.mark.parametrize("name", ["wrong_use.py", "faststream_use.py"])
def test_wrong_use_is_reported_on_its_line_and_on_no_other(checker: str, name: str) -> None:
    path = HERE / name
    text = path.read_text().splitlines()
    reports = CHECKERS[checker](path)
    expected = set(marked(path))
    assert {n: text[n - 1] for n in expected - reports.keys()} == {}, "not reported"
    assert {n: reports[n] for n in reports.keys() - expected} == {}, "reported, but not marked"
