"""`python -m tests.support.warm` fills the caches on disk: bytecode, compiled kernels, Kafka's files, its loaded classes.

Processes that start side by side without them would each spend half a minute on the same; and each of fifty brokers
twice as much of a core's time to load its classes.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from streams.kafka import EmbeddedKafka
from streams.kafka.distribution import ensure_jars, jars_folder, java

ROOT = Path(__file__).parents[2]
JAVA_OPTIONS = "JDK_JAVA_OPTIONS"  # read by every `java` of JDK 9 and later


def classes() -> Path:
    """Return the file of classes that brokers of tests load: Java 24's ahead-of-time cache (JEP 483)."""
    return jars_folder().with_name(f"{jars_folder().name}-classes.aot")


def use_classes() -> None:
    """Have every broker that this process starts load the classes from the file. Java passes over one that does not fit."""
    if classes().is_file():
        os.environ[JAVA_OPTIONS] = f"-XX:AOTCache={classes()}"


def keep_classes() -> None:
    """Write the file: what one broker loads in a start and a stop. Without effect where Java is too old for it."""
    jars = ensure_jars()
    with tempfile.TemporaryDirectory(dir=jars.parent) as folder:
        seen, kept = Path(folder) / "seen", Path(folder) / "kept"
        os.environ[JAVA_OPTIONS] = f"-XX:+IgnoreUnrecognizedVMOptions -XX:AOTMode=record -XX:AOTConfiguration={seen}"
        with EmbeddedKafka(Path(folder) / "kafka"):
            pass
        del os.environ[JAVA_OPTIONS]
        if seen.is_file():
            options = ("-XX:AOTMode=create", f"-XX:AOTConfiguration={seen}", f"-XX:AOTCache={kept}")
            # What brokers are started with: with another heap or another graph of modules, less of the file is of use.
            as_brokers = ("-XX:TieredStopAtLevel=1", "-Xms256m", "-Xmx1g", "--enable-native-access=ALL-UNNAMED")
            command = [str(java()), *options, *as_brokers, "-XX:-UsePerfData", "-cp", f"{jars}/*"]
            subprocess.run(command, check=True, capture_output=True)
            kept.rename(classes())


def is_cold() -> bool:
    """Tell whether this checkout's kernels were never compiled. Those that have changed since look warm, and are slow once."""
    return not any((ROOT / "models" / "features" / "__pycache__").glob("kernels.*.nbi"))


def main() -> None:
    """Fill the caches."""
    from models.recommender.runner import RecommenderRunner
    from tests.support import preload  # noqa: F401

    RecommenderRunner.load(device="cpu").warm_up()
    if not classes().is_file():
        keep_classes()


if __name__ == "__main__":
    main()
