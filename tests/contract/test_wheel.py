"""What `pip install` brings to a machine without this checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).parents[2]
PACKAGES = ("streams", "models")


def test_the_wheel_holds_every_module_and_the_models_weights(tmp_path: Path) -> None:
    """The tests run on the checkout: a module or a weight that only stands there would be missed by users first."""
    source = tmp_path / "source"  # setuptools would pack what an earlier build has left in the checkout
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(command, check=True, timeout=240)
    (wheel,) = tmp_path.glob("*.whl")
    held = {name for name in ZipFile(wheel).namelist() if name.split("/")[0] in PACKAGES}
    wanted = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    wanted += [path for path in (ROOT / "models" / "weights").glob("*/*") if path.is_file()]
    assert held == {path.relative_to(ROOT).as_posix() for path in wanted}
