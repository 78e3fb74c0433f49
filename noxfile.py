"""What a change must pass. `nox` alone runs lint, types, package and tests.

Types and tests look at the installed wheel, never at the source tree: the folders become
`glm5_hal.backends`, `glm5_hal.model` and so on only when they are installed. Installing torch is
what takes time, so these sessions share one environment, made by `env`.

A process either interprets Triton kernels or compiles them, so their tests are sessions of their
own, `interpret` and `audit`.
"""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "package", "tests"]

ROOT = Path(__file__).parent.resolve()
BUILT = ROOT / ".nox" / "built"
PAGES = ROOT / "build" / "pages"
"""What mkdocs.yml reads beside docs/."""
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
RUNTIME = PROJECT["project"]["dependencies"]
EXTRAS = PROJECT["project"]["optional-dependencies"]
WORKERS = 2
INTERPRETED = ("tests/triton_kernels", "tests/torch_device", "tests/simulated", "tests/ascend")
COMPILED = ("tests/audit",)
AUDITED = ("sm_80", "sm_90", "sm_100", "gfx90a", "gfx942", "gfx936")
"""A part of the targets; the last one is not taken, which must stay so."""
RUN = (
    ("cpu", "fast"),
    ("cpu", "exact"),
    ("cpu-limbs", "exact", "--quick"),
    ("onnxruntime", "fast", "--quick"),
    ("onnxruntime", "exact", "--quick"),
    ("triton-interpret", "exact", "--quick", "--aspects", "cross-backend", "--ops=-model"),
)
"""Evidence of runs: backend, profile and what is left out."""
SIMULATED = tuple(
    (backend, profile, "--quick")
    for backend in ("ascend", "cambricon", "enflame", "hygon", "kunlun", "metax", "moore_threads")
    for profile in ("fast", "exact")
)
BASELINE = ROOT / "conformance" / "bench" / "baseline_cpu.json"
"""Ratios to torch's ops that `bench` holds: of mid's shapes, on two threads."""
LOWERED = ROOT / ".nox" / "lowering.json"
CHECKED = ROOT / ".nox" / "ascend.json"
"""What `lowering` and `ascend` leave for `evidence`."""
READ = (
    ("sm_80", "glm5_hal.backends.cuda:sm_80.yaml"),
    ("sm_90", "glm5_hal.backends.cuda:sm_90.yaml"),
    ("sm_100", "glm5_hal.backends.cuda:sm_100.yaml"),
    ("gfx90a,gfx942", "glm5_hal.kernels.triton:portable.yaml"),
)
"""Evidence of audits: targets, and the table of tiles."""

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


def run(session: nox.Session, program: str, *arguments: str, silent: bool = False) -> object:
    """Run a program of the shared environment; what it prints, where it is silent."""
    settle(session)
    session.env["PATH"] = os.pathsep.join((str(SHARED["bin"]), os.environ.get("PATH", "")))
    return session.run(str(SHARED["bin"] / program), *arguments, external=True, silent=silent)


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
    """The Triton kernels under Triton's interpreter; whole models would take hours there."""
    pytest(session, *parallel(), *INTERPRETED)


@nox.session(requires=["env"], venv_backend="none", default=False)
def simulated(session: nox.Session) -> None:
    """Every vendor's backend on its simulated device: the quick suite, and a model's logits.

    Several runs at a time, one worker each: a worker's first launch of a kernel takes longest.
    """
    pytest(session, "tests/simulated", "-m", "slow and not hardware")
    session.env["GLM5_HAL_SIMULATED"] = "1"

    def judged(chosen: tuple[str, ...]) -> object:
        backend, profile, *selected = chosen
        return run(
            *(session, "glm5-hal", "conformance", "run", "--backend", backend),
            *("--numerics", profile, *selected, "--workers", "1"),
            silent=True,
        )

    longest_first = sorted(SIMULATED, key=lambda chosen: chosen[1])
    with ThreadPoolExecutor(WORKERS) as pool:
        for printed in pool.map(judged, longest_first):
            session.log("%s", printed)


@nox.session(requires=["env"], venv_backend="none", default=False)
def audit(session: nox.Session) -> None:
    """The Triton kernels compiled for chips that are not here, and the code read."""
    pytest(session, *COMPILED)
    run(session, "glm5-hal", "audit", "--bad")
    run(session, "glm5-hal", "audit", "--target", ",".join(AUDITED))
    table = "glm5_hal.backends.cuda:sm_90.yaml"
    run(session, "glm5-hal", "audit", "--target", "sm_90", "--tiles", table)


@nox.session(requires=["env"], default=False)
def sanitize(session: nox.Session) -> None:
    """The C++ kernels under AddressSanitizer and UndefinedBehaviorSanitizer: the op tests.

    Built from the sdist, so that no instrumented object stays beside the sources. Leaks are not
    looked for: Python keeps what it has until it ends.
    """
    install(session, *PROJECT["build-system"]["requires"], *RUNTIME, *group("test"))
    (sdist,) = BUILT.glob("*.tar.gz")
    flags = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g1"
    pip = ("python", "-m", "pip", "install", "-q", "--no-compile", "--no-deps", "--no-cache-dir")
    session.run(
        *(*pip, "--no-build-isolation", "--force-reinstall", str(sdist)),
        env={"CFLAGS": flags, "CXXFLAGS": flags, "LDFLAGS": flags},
    )
    names = ("libasan.so", "libubsan.so", "libstdc++.so")
    found = (
        session.run("g++", f"-print-file-name={name}", silent=True, external=True) for name in names
    )
    session.env.update(
        LD_PRELOAD=":".join(str(path).strip() for path in found),
        ASAN_OPTIONS="detect_leaks=0",
        UBSAN_OPTIONS="print_stacktrace=1",
    )
    # an extension that was not built would only be skipped
    modules = ("glm5_hal.kernels.cpu", "glm5_hal.kernels.cpu.fast")
    with session.chdir(session.create_tmp()):
        session.run("python", "-c", f"import {', '.join(modules)}")
    session.run("pytest", "tests/ops", "-m", "not slow and not hardware", *session.posargs)


@nox.session(requires=["env"], default=False)
def lowering(session: nox.Session) -> None:
    """A vendor's own Triton front end on every kernel; it stands in the place of Triton."""
    install(session, *RUNTIME, *group("lowering"))
    install_wheel(session)
    with session.chdir(session.create_tmp()):
        session.run("glm5-hal", "lowering", "--out", str(LOWERED))
    session.run("pytest", "tests/lowering", "-m", "not slow")


@nox.session(requires=["env"], default=False)
def ascend(session: nox.Session) -> None:
    """The calls of torch_npu's fused functions held to its real signatures and meta kernels.

    Libraries that fail on every call stand in for CANN's, or torch_npu could not be imported.
    """
    install(session, *RUNTIME, *EXTRAS["triton"], *EXTRAS["ascend"])
    install_wheel(session)
    tests = ROOT / "tests" / "ascend"
    libraries = Path(session.create_tmp()).resolve()
    session.run("python", str(tests / "stub_libraries.py"), str(libraries))
    session.env["LD_LIBRARY_PATH"] = str(libraries)
    with session.chdir(libraries):
        session.run("python", str(tests / "check_calls.py"), "--out", str(CHECKED))


@nox.session(requires=["env"], venv_backend="none", default=False)
def bench(session: nox.Session) -> None:
    """The speed of the CPU's ops held to torch's, by ratio; wants the machine for itself."""
    run(session, "glm5-hal", "bench", "--check", str(BASELINE))


@nox.session(requires=["env"], venv_backend="none", default=False)
def slow(session: nox.Session) -> None:
    """The tests that take minutes."""
    pytest(session, "-m", "slow and not hardware", "--durations=0")


@nox.session(requires=["env"], venv_backend="none", default=False)
def docs(session: nox.Session) -> None:
    """Write what the documentation repeats from the code."""
    run(session, "python", "docs/generate.py")
    run(session, "python", "-m", "glm5_hal.conformance.spec", "docs/spec")


@nox.session(default=False)
def evidence(session: nox.Session) -> None:
    """Make what the support matrix is made of; behind `--` may stand the backends to run.

    From an editable install, so that each package names its commit: of a checkout with changes none
    is taken. Two checks need environments of their own: `nox -s lowering ascend evidence` has them.
    """
    tools = (*PROJECT["build-system"]["requires"], *EXTRAS["onnx"], *EXTRAS["triton"])
    install(session, *tools, *RUNTIME)
    session.install("--no-deps", "--no-build-isolation", "-e", str(ROOT))
    room = Path(session.create_tmp()) / "runs"
    shutil.rmtree(room, ignore_errors=True)
    room.mkdir()

    def add(name: str) -> None:
        session.run("glm5-hal", "matrix", "--add", str(room / name), silent=True)

    for backend, *options in (*RUN, *SIMULATED):
        if session.posargs and backend not in session.posargs:
            continue
        out = "-".join((backend, *options)).replace("--", "").replace("=", "")
        command = ("glm5-hal", "conformance", "run", "--backend", backend, "--numerics", *options)
        simulated = (backend, *options) in SIMULATED
        session.run(
            *(*command, "--out", str(room / out)),
            # a simulated device is computed by its process: several of them do not share it
            *(("--workers", str(WORKERS)) if simulated else ()),
            env={"GLM5_HAL_SIMULATED": "1"} if simulated else {},
            success_codes=[0, 1],  # a case that fails is evidence too
        )
        add(f"{out}.tar")
    if session.posargs and "audit" not in session.posargs:
        return
    for targets, table in READ:
        out = f"{targets.replace(',', '-')}.json"
        session.run(
            *("glm5-hal", "audit", "--target", targets, "--tiles", table),
            *("--out", str(room / out)),
            silent=True,
            success_codes=[0, 1],
        )
        add(out)
    for left in (LOWERED, CHECKED):
        if left.exists():
            add(str(left))


@nox.session(requires=["env"], default=False)
def site(session: nox.Session) -> None:
    """The documentation as a website, every link checked; and the guide, followed."""
    install(session, *group("docs"))
    shutil.rmtree(PAGES, ignore_errors=True)
    for script in ("ops", "backends", "commands", "reports"):
        run(session, "python", f"docs/tools/{script}.py", str(PAGES))
    session.run("mkdocs", "build", env={"NO_MKDOCS_2_WARNING": "1"})
    pytest(session, "tests/guide", "--durations=0")
