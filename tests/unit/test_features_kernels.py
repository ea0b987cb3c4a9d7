"""Compiled kernels in places that cannot be written to."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import models

USE = (
    "import numpy as np, models.features.sessions as s;"
    "print(s.SessionHistory(2).update(['p', 'p'], np.array([4, 5]), np.array([1, 2])).tolist(), s.__file__)"
)


def run_from_copy(tmp_path: Path, cache_home: Path) -> None:
    """Use the kernels from a copy of the package that has no room for a cache beside it."""
    package = tmp_path / "site" / "models"
    shutil.copytree(Path(models.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__", "weights"))
    (package / "features" / "__pycache__").write_text("a file where the cache folder would be")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    environment |= {"PYTHONPATH": str(package.parent), "XDG_CACHE_HOME": str(cache_home), "HOME": str(cache_home)}
    result = subprocess.run(
        [sys.executable, "-c", USE], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("[[-1, 4], [4, 5]]") and str(package) in result.stdout


def test_a_read_only_installation_caches_kernels_in_the_users_folder(tmp_path: Path) -> None:
    """The second process of an image does not compile again."""
    home = tmp_path / "home"
    run_from_copy(tmp_path, home)
    assert [path for path in home.rglob("*.nbi") if "update_sessions" in path.name]


def test_without_any_folder_to_write_to_kernels_still_work(tmp_path: Path) -> None:
    """A container with no home compiles in memory instead of failing at import."""
    nowhere = tmp_path / "nowhere"
    nowhere.write_text("a file where the home folder would be")
    run_from_copy(tmp_path, nowhere)


def test_warm_up_leaves_nothing_to_compile() -> None:
    """After it, neither a payment, a label, a click, a checkpoint nor a recovery compiles a kernel."""
    code = """
import numpy as np
from numba.core import event
from models.features import clicks, payments, sessions
payments.warm_up(); sessions.warm_up()
with event.install_recorder("numba:compile") as recorder:
    made = payments.PaymentFeatures(payments.CardHistory(), payments.TerminalHistory())
    times = np.arange(3) * 1000 + 1_700_000_000_000
    rows = np.empty((3, len(payments.FRAUD_FEATURES)), np.float32)
    made.build(["a", "b", "a"], ["x", "y", "x"], times, np.arange(3.0), out=rows)
    made.terminals.add(["x", "y", "x"], times, np.array([True, False, True]))
    viewed = sessions.SessionHistory(7)
    viewed.update(["a", "b", "a"], np.arange(3), times)
    clicked = clicks.ClickHistory(7)
    clicked.update(["a", "b", "a"], ["x", "y", "z"], times)
    clicked.load_many(list(clicked.freeze(dirty_only=False)))
    clicked.digest()
    for history in (made.cards, made.terminals, viewed):
        history.load_many(history.snapshot(dirty_only=False))
        history.evict(), history.digest()
print(len(recorder.buffer))
"""
    root = Path(models.__file__).parent.parent
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120)
    assert result.stdout == "0\n", result.stderr
