"""Run the whole CPU suite on each supported Python, with the oldest, the tested and the newest torch, and the tests of
Hugging Face models with transformers between the oldest and the tested.

What cannot run here is named with its reason; only a suite that ran and failed makes this fail, or none that ran.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST, TESTED, NEWEST = "oldest", "tested", "newest"
COMBINATIONS = [("3.11", OLDEST), ("3.11", TESTED), ("3.12", TESTED), ("3.13", NEWEST)]
TRANSFORMERS = ["5.4.0", "5.8.1", "5.12.1", "5.18.0"]
FREE_BYTES = 12 * 2**30


def interpreter(version: str) -> str | None:
    """The Python of this version, where it starts and can make environments."""
    check = f"import sys, venv, ensurepip; sys.exit('%d.%d' % sys.version_info[:2] != {version!r})"
    roots = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    for candidate in [f"python{version}", sys.executable, *map(str, roots)]:
        path = shutil.which(candidate)
        if path and subprocess.run([path, "-c", check], capture_output=True, check=False).returncode == 0:
            return path
    return None


def constraints(torch: str, folder: Path) -> Path:
    """The tested versions, with the torch asked for in place of the tested one."""
    tested = (ROOT / "constraints.txt").read_text()
    floor = re.search(r'"torch>=([\d.]+)"', (ROOT / "pyproject.toml").read_text()).group(1)
    line = {OLDEST: f"torch=={floor}.*", NEWEST: f"torch>={floor}"}.get(torch)
    path = folder / "constraints.txt"
    path.write_text(tested if line is None else re.sub(r"(?m)^torch==.*$", line, tested))
    return path


def run(version: str, torch: str) -> tuple[str, str]:
    """`"passed"`, `"failed"` or `"not run"`, and what to say of it."""
    python = interpreter(version)
    if python is None:
        return "not run", f"no Python {version} with the venv module on this machine"
    venv = ROOT / ".venvs" / f"python{version}-torch-{torch}"
    free = shutil.disk_usage(ROOT).free
    if not venv.exists() and free < FREE_BYTES:
        return "not run", f"{free / 2**30:.0f} GiB are free, and a torch with CUDA may take {FREE_BYTES / 2**30:.0f}"
    venv.mkdir(parents=True, exist_ok=True)
    setup = [python, "scripts/setup_env.py", "--venv", str(venv), "--constraint", str(constraints(torch, venv))]
    done = subprocess.run(setup, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        return "not run", "the packages cannot be installed: " + (done.stderr.strip().splitlines() or ["?"])[0]
    ask = "import torch; print(torch.__version__)"
    loaded = subprocess.run([venv / "bin" / "python", "-c", ask], capture_output=True, text=True, check=False)
    if loaded.returncode:
        return "not run", "torch does not load: " + loaded.stderr.strip().splitlines()[-1]
    tests = [venv / "bin" / "python", "-m", "pytest", "-q", "-n", "2"]
    status = subprocess.run(tests, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False).returncode
    return "failed" if status else "passed", f"torch {loaded.stdout.strip()}"


def run_transformers(version: str) -> tuple[str, str]:
    """The same of the tests of `openwork.hf` with another transformers, in the environment of the tested versions."""
    python = ROOT / ".venvs" / f"python3.11-torch-{TESTED}" / "bin" / "python"
    if not python.exists():
        return "not run", "there is no environment with the tested versions"
    command = [python, "scripts/other_transformers.py", "--version", version]
    status = subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False).returncode
    return "failed" if status else "passed", "the tests of openwork.hf"


def main() -> int:
    results = []
    for version, torch in COMBINATIONS:
        print(f"\n== Python {version}, {torch} torch", flush=True)
        results.append((f"Python {version}, {torch} torch", *run(version, torch)))
    for version in TRANSFORMERS:
        print(f"\n== transformers {version}", flush=True)
        results.append((f"transformers {version}", *run_transformers(version)))
    print()
    for name, outcome, detail in results:
        print(f"{name}: {outcome} ({detail})")
    outcomes = [outcome for _, outcome, _ in results]
    return int("failed" in outcomes or "passed" not in outcomes)


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
