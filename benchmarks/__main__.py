"""Every benchmark, after the tests: figures of code that is wrong are not reported.

    python -m benchmarks [NAME ...] [--skip-tests]

Each script of this folder prints its table and one JSON object as its last line. Here they run one after the other,
and the last line is one JSON object of all of them with the commit, the versions and the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent


def commit() -> str:
    """The commit that is measured, with `-dirty` where files differ from it."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return described.stdout.strip() or "unknown"


def environment() -> dict[str, object]:
    """What a figure needs beside it to mean anything."""
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("torch", "numpy")},
        "machine": platform.machine(),
        "cores": os.cpu_count(),
    }


def run(script: Path) -> object:
    """Run one benchmark with its output shown as it comes; give back the JSON object of its last line."""
    print(f"\n== {script.stem}", flush=True)
    last = ""
    with subprocess.Popen([sys.executable, str(script)], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if last:
                print(last, end="", flush=True)
            last = line
    if process.returncode:
        raise SystemExit(f"error: {script.name} failed with status {process.returncode}.")
    return json.loads(last)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to run; all by default")
    parser.add_argument("--skip-tests", action="store_true", help="measure although nothing says that it is right")
    options = parser.parse_args()
    scripts = {path.stem: path for path in sorted(FOLDER.glob("*.py")) if not path.stem.startswith("_")}
    unknown = [name for name in options.names if name not in scripts]
    if unknown:
        raise SystemExit(f"error: there is no benchmark {unknown[0]!r}; there are {', '.join(scripts)}.")
    if not options.skip_tests:
        tests = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-m", "not slow and not gpu"]
        quiet = {**os.environ, "OMP_NUM_THREADS": "1"}
        if subprocess.run(tests, cwd=ROOT, env=quiet, check=False).returncode:
            raise SystemExit("error: the tests fail, so nothing is measured.")
    results = {name: run(scripts[name]) for name in options.names or scripts}
    print(json.dumps({"environment": environment(), "tests_ran": not options.skip_tests, "results": results}))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
