"""What a change must pass. `nox` alone runs lint, types, package and tests.

Types and tests look at the wheel, never at the source tree: the folders become `glm5_hal.backends`,
`glm5_hal.model` and so on only when they are installed.
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

WORKERS = 2
NOT_BY_DEFAULT = "slow or hardware"


def group(name: str) -> list[str]:
    """Requirements of a dependency group of pyproject.toml."""
    return list(nox.project.dependency_groups(PROJECT, name))


def install(session: nox.Session, *requirements: str) -> None:
    """Install under the constraints.

    Bytecode is left to the first import: pip would spend half a minute on compiling all of torch.
    """
    session.env.update(
        PIP_DISABLE_PIP_VERSION_CHECK="1",
        PIP_NO_INPUT="1",
        PYTHONDONTWRITEBYTECODE="",  # empty is off
        PYTHONPATH="",
        PYTHONSAFEPATH="1",  # or `python -c` in the root would find half a package there
    )
    session.install("--no-compile", "-c", str(ROOT / "constraints.txt"), *requirements)


def install_wheel(session: nox.Session, *requirements: str) -> None:
    """Install requirements, then the wheel that `dist` has built, whatever was there before."""
    (wheel,) = BUILT.glob("*.whl")
    install(session, *requirements)
    pip = ("python", "-m", "pip", "install", "-q", "--no-compile", "--no-deps")
    session.run(*pip, "--force-reinstall", str(wheel))


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: rules and formatting."""
    install(session, *group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session(default=False)
def dist(session: nox.Session) -> None:
    """Build the sdist, and the wheel from it."""
    install(session, "build", *PROJECT["build-system"]["requires"])
    shutil.rmtree(BUILT, ignore_errors=True)
    session.run("python", "-m", "build", "--no-isolation", "--outdir", str(BUILT), silent=True)
    session.log("built %s", ", ".join(sorted(path.name for path in BUILT.iterdir())))


@nox.session(requires=["dist"])
def types(session: nox.Session) -> None:
    """Mypy, strict, on the installed package."""
    install_wheel(session, *RUNTIME, *group("types"))
    config, cache = ROOT / "pyproject.toml", ROOT / ".mypy_cache"
    with session.chdir(session.create_tmp()):  # where the source cannot be imported first
        session.run(
            *("mypy", "--strict", "--config-file", str(config), "--cache-dir", str(cache)),
            *("-p", "glm5_hal"),
        )


@nox.session(requires=["dist"], reuse_venv=False)
def package(session: nox.Session) -> None:
    """The wheel in an environment that holds its declared dependencies and nothing else."""
    install_wheel(session, *RUNTIME)
    session.run("python", "-m", "pip", "check")
    check = ROOT / "tests" / "packaging" / "check_wheel.py"
    (wheel,) = BUILT.glob("*.whl")
    with session.chdir(session.create_tmp()):
        session.run("python", str(check), str(wheel), str(ROOT))
        session.run("glm5-hal", "--help", silent=True)
        session.run("glm5-hal", "backends")


def run_tests(session: nox.Session, marks: str, *arguments: str) -> None:
    """Pytest on the installed wheel.

    Every worker may use all cores: with one thread each, what depends on the number of threads
    would stay unseen. Waiting threads sleep, because spinning ones would starve the other worker.
    """
    install_wheel(session, *RUNTIME, *group("test"))
    session.env.update(
        OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", str(os.cpu_count() or 1)),
        OMP_WAIT_POLICY="PASSIVE",
        TOKENIZERS_PARALLELISM="false",
    )
    session.run("pytest", "-m", marks, *arguments, *session.posargs)


@nox.session(requires=["dist"])
def tests(session: nox.Session) -> None:
    """Every test that takes seconds and needs no accelerator; names those it leaves out."""
    run_tests(
        session,
        f"not ({NOT_BY_DEFAULT})",
        *("-n", str(WORKERS), "--dist", "worksteal"),
    )


@nox.session(requires=["dist"], default=False)
def slow(session: nox.Session) -> None:
    """The tests that take minutes."""
    run_tests(session, "slow and not hardware", "--durations=0")


@nox.session(requires=["dist"], default=False)
def docs(session: nox.Session) -> None:
    """Write the generated parts of README.md and docs/."""
    install_wheel(session, *RUNTIME)
    session.run("python", "docs/generate.py")
    session.run("python", "-m", "glm5_hal.conformance.spec", "docs/spec")
