"""Every Python block of README.md and docs/ runs as written: in order, in one namespace per page, in an empty folder.

A page may use top-level `await`, and gets a real server of its own under `nats://127.0.0.1:4222`. What a reader need
not see goes into `<!-- invisible-code-block: python ... -->`; shell blocks are not run.
"""

import ast
import asyncio
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from sybil import Document, Example
from sybil.evaluators.python import pad
from sybil.parsers.markdown import CodeBlockParser

from kvorm.testing.servers import NatsServer

ROOT = Path(__file__).parents[2]
PAGES = [page for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if page.exists()]
DOCUMENTED_SERVER = "nats://127.0.0.1:4222"


class Page:
    """Runs the blocks of one page on one event loop, as if they were one script."""

    def __init__(self, runner: asyncio.Runner, server: str) -> None:
        self.module = ModuleType("__main__")
        self._runner = runner
        self._server = server

    def run(self, path: Path) -> int:
        examples = list(Document.parse(str(path), CodeBlockParser("python", self._evaluate)))
        for example in examples:
            example.evaluate()
        return len(examples)

    def _evaluate(self, example: Example) -> None:
        source = pad(example.parsed, example.line + example.parsed.line_offset).replace(DOCUMENTED_SERVER, self._server)
        code = compile(source, example.path, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        # A block without `await` runs outside of the loop, so that `asyncio.run(main())` works in it.
        if code.co_flags & inspect.CO_COROUTINE:
            self._runner.run(eval(code, vars(self.module)))
        else:
            exec(code, vars(self.module))


def run_page(path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run all blocks of a page; return how many there were."""
    with asyncio.Runner() as runner:
        page = Page(runner, server)
        # Pydantic and pickle look classes up in the module that a class names as its own.
        monkeypatch.setitem(sys.modules, "__main__", page.module)
        return page.run(path)


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real server, empty."""
    with NatsServer(tmp_path_factory.mktemp("server")) as running:
        yield running.url


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KVORM_URL", "memory:")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_page_runs(path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run_page(path, server, monkeypatch)


PAGE = """
# A page

```python
import asyncio
import socket
from pydantic import BaseModel


class Late(BaseModel):
    other: "Other"


class Other(BaseModel):
    n: int


async def main() -> None:
    await asyncio.sleep(0)


if __name__ == "__main__":
    asyncio.run(main())
loops = []
```

```shell
exit 1
```

<!-- invisible-code-block: python
assert Late(other={"n": 1}).other.n == 1
hidden = "nats://127.0.0.1:4222"
-->

1. Indented:

   ```python
   loops.append(asyncio.get_running_loop())
   async with asyncio.timeout(5):
       await asyncio.sleep(0)
   ```

```python
loops.append(asyncio.get_running_loop())
assert loops[0] is loops[1]
await asyncio.sleep(0)
```
"""


def test_the_blocks_of_a_page_share_a_namespace_and_a_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    assert run_page(path, "nats://server", monkeypatch) == 4


@pytest.mark.parametrize("block", ["assert 1 == 2", "await asyncio.sleep(0)\nassert 1 == 2"])
def test_a_wrong_block_fails_at_its_line(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "page.md"
    path.write_text(f"# Text\n\n```python\nimport asyncio\n```\n\n```python\n{block}\n```\n")
    with pytest.raises(AssertionError) as caught:
        run_page(path, "nats://server", monkeypatch)
    assert caught.traceback[-1].path == path
    assert caught.traceback[-1].lineno + 1 == path.read_text().splitlines().index("assert 1 == 2") + 1


def test_the_documented_server_is_a_real_one(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "page.md"
    path.write_text(
        f"```python\nimport nats\n\nclient = await nats.connect({DOCUMENTED_SERVER!r})\n```\n\n"
        "```python\nassert (await client.jetstream().account_info()).streams == 0\nawait client.close()\n```\n"
    )
    assert run_page(path, server, monkeypatch) == 2
