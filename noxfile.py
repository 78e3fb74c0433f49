"""What a change must pass. `nox` alone runs lint, types, package and tests.

Types and tests look at the installed wheel, never at the source tree: the folders become
`glm5_hal.backends`, `glm5_hal.model` and so on only when they are installed. Installing torch is
what takes time, so these sessions share one environment, made by `env`.

A process either interprets Triton kernels or compiles them, so their tests are sessions of their
own, `interpret` and `audit`.
"""

import os
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "package", "tests"]

ROOT = Path(__file__).parent.resolve()
BUILT = ROOT / ".nox" / "built"
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
RUNTIME = PROJECT["project"]["dependencies"]
EXTRAS = PROJECT["project"]["optional-dependencies"]
WORKERS = 2
INTERPRETED = ("tests/triton_kernels", "tests/torch_device", "tests/simulated")
COMPILED = ("tests/audit",)
AUDITED = ("sm_80", "sm_90", "sm_100", "gfx90a", "gfx942", "gfx936")
"""A part of the targets; the last one is not taken, which must stay so."""

SHARED: dict[str, Path] = {}
"""Where the programs of the environment made by `env` lie, under "bin"."""


def group(name: str) -> list[str]:
    """Requirements of a dependency group of pyproject.toml."""
    return list(nox.project.dependency_groups(PROJECT, name))


def settle(session: nox.Session) -> None:
    """The same surroundings for every session, whoever calls."""
    session.env.update(
        PIP_DISABLE_PIP_VERSION_CHECK="1",
        PIP_NO_INPUT="1",
        PYTHONDONTWRITEBYTECODE="",  # empty is off
        PYTHONPATH="",
        PYTHONSAFEPATH="1",  # or `python -c` in the root would find half a package there
    )


def install(session: nox.Session, *requirements: str) -> None:
    """Install under the constraints.

    Bytecode is left to the first import: pip would spend half a minute on compiling all of torch.
    """
    settle(session)
    session.install("--no-compile", "-c", str(ROOT / "constraints.txt"), *requirements)


def install_wheel(session: nox.Session) -> Path:
    """Install the wheel that `env` has built, whatever was there before."""
    (wheel,) = BUILT.glob("*.whl")
    pip = ("python", "-m", "pip", "install", "-q", "--no-compile", "--no-deps")
    session.run(*pip, "--force-reinstall", str(wheel))
    return wheel


def run(session: nox.Session, program: str, *arguments: str) -> None:
    """Run a program of the shared environment."""
    settle(session)
    session.env["PATH"] = os.pathsep.join((str(SHARED["bin"]), os.environ.get("PATH", "")))
    session.run(str(SHARED["bin"] / program), *arguments, external=True)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: rules and formatting."""
    install(session, *group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session(default=False)
def env(session: nox.Session) -> None:
    """Build the sdist and from it the wheel; install that with everything types and tests need."""
    build = ("build", *PROJECT["build-system"]["requires"])
    extras = (*EXTRAS["onnx"], *EXTRAS["triton"])
    install(session, *build, *RUNTIME, *extras, *group("types"), *group("test"))
    shutil.rmtree(BUILT, ignore_errors=True)
    session.run("python", "-m", "build", "--no-isolation", "--outdir", str(BUILT), silent=True)
    install_wheel(session)
    SHARED["bin"] = Path(session.bin).resolve()


@nox.session(requires=["env"], venv_backend="none")
def types(session: nox.Session) -> None:
    """Mypy, strict, on the installed package."""
    config, cache = ROOT / "pyproject.toml", ROOT / ".mypy_cache"
    with session.chdir(session.create_tmp()):  # where the source cannot be imported first
        run(
            *(session, "mypy", "--strict", "-p", "glm5_hal"),
            *("--config-file", str(config), "--cache-dir", str(cache)),
        )


@nox.session(requires=["env"], reuse_venv=False)
def package(session: nox.Session) -> None:
    """The wheel in an environment that holds its declared dependencies and nothing else."""
    install(session, *RUNTIME)
    wheel = install_wheel(session)
    session.run("python", "-m", "pip", "check")
    check = ROOT / "tests" / "packaging" / "check_wheel.py"
    with session.chdir(session.create_tmp()):
        session.run("python", str(check), str(wheel), str(ROOT))
        session.run("glm5-hal", "--help", silent=True)
        session.run("glm5-hal", "backends")


def pytest(session: nox.Session, *arguments: str) -> None:
    """Pytest on the installed wheel.

    Every worker may use all cores: with one thread each, what depends on the number of threads
    would stay unseen. Waiting threads sleep, because spinning ones would starve the other worker.
    """
    session.env.update(
        OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", str(os.cpu_count() or 1)),
        OMP_WAIT_POLICY="PASSIVE",
        TOKENIZERS_PARALLELISM="false",
    )
    run(session, "pytest", *arguments, *session.posargs)


def parallel() -> tuple[str, ...]:
    """Tests that take seconds and need no accelerator, on every core."""
    return ("-n", str(WORKERS), "--dist", "worksteal", "-m", "not slow and not hardware")


@nox.session(requires=["env"], venv_backend="none")
def tests(session: nox.Session) -> None:
    """Every test that takes seconds and needs no accelerator; the others are named as not run."""
    others = (f"--ignore={folder}" for folder in (*INTERPRETED, *COMPILED))
    pytest(session, *parallel(), *others)


@nox.session(requires=["env"], venv_backend="none", default=False)
def interpret(session: nox.Session) -> None:
    """The Triton kernels under Triton's interpreter: their tests, then the golden digests.

    The tests hold the fast profile to its bounds. Whole models would take hours there.
    """
    pytest(session, *parallel(), *INTERPRETED)
    run(
        *(session, "glm5-hal", "conformance", "run", "--backend", "triton-interpret"),
        *("--numerics", "exact", "--quick", "--aspects", "cross-backend", "--ops=-model"),
        *("--workers", str(WORKERS)),
    )


@nox.session(requires=["env"], venv_backend="none", default=False)
def audit(session: nox.Session) -> None:
    """The Triton kernels compiled for chips that are not here, and the code read."""
    pytest(session, *COMPILED)
    run(session, "glm5-hal", "audit", "--bad")
    run(session, "glm5-hal", "audit", "--target", ",".join(AUDITED))
    table = "glm5_hal.backends.cuda:sm_90.yaml"
    run(session, "glm5-hal", "audit", "--target", "sm_90", "--tiles", table)


@nox.session(requires=["env"], default=False)
def lowering(session: nox.Session) -> None:
    """A vendor's own Triton front end on every kernel; it stands in the place of Triton."""
    install(session, *RUNTIME, *group("lowering"))
    install_wheel(session)
    with session.chdir(session.create_tmp()):
        session.run("glm5-hal", "lowering")
    session.run("pytest", "tests/lowering", "-m", "not slow")


@nox.session(requires=["env"], venv_backend="none", default=False)
def slow(session: nox.Session) -> None:
    """The tests that take minutes."""
    pytest(session, "-m", "slow and not hardware", "--durations=0")


@nox.session(requires=["env"], venv_backend="none", default=False)
def docs(session: nox.Session) -> None:
    """Write what the documentation repeats from the code."""
    run(session, "python", "docs/generate.py")
    run(session, "python", "-m", "glm5_hal.conformance.spec", "docs/spec")
