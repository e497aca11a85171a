"""Make .venv with openwork and the tested versions of everything it uses; does nothing when that is done.

Usage: python scripts/setup_env.py [--venv DIR] [--extra NAME] [--constraint FILE | --with REQUIREMENT ...]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SECONDS_BETWEEN_LINES = 15


def fingerprint(venv: Path, requirements: list[str]) -> str:
    """What the environment depends on: when it changes, the environment is brought up to date."""
    digest = hashlib.sha256()
    for part in (sys.version, str(venv.resolve()), str(ROOT), *requirements):
        digest.update(part.encode() + b"\0")
    sources = (path for path in (ROOT / "csrc").rglob("*") if path.suffix in {".cpp", ".h"})
    fixed = ("pyproject.toml", "constraints.txt", "csrc/CMakeLists.txt")
    for path in (*(ROOT / name for name in fixed), *sorted(sources)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def say(text: str) -> None:
    print(f"set-up: {text}", flush=True)


def last_step(lines: list[str]) -> str:
    """What pip is busy with, in a few words, from the lines it has printed."""
    for line in reversed(lines):
        word, _, rest = line.strip().partition(" ")
        if word == "Collecting" and rest:
            return f"looking for {rest.split()[0]}"
        if word == "Downloading" and rest:
            return f"downloading {rest.split('/')[-1].split('-')[0]}"
        if word == "Building" and " openwork" in rest:
            return "compiling the native kernels"
        if word == "Installing" and "packages: " in rest:
            return f"unpacking {rest.count(',') + 1} packages"
    return "starting"


def run_quietly(command: list[str], log: Path, started: float) -> None:
    """Run `command` with its output in `log`; print one line now and then; on failure print the log's end."""
    with log.open("a") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    told = time.monotonic()
    try:
        while process.poll() is None:
            time.sleep(0.2)
            if time.monotonic() - told > SECONDS_BETWEEN_LINES:
                told = time.monotonic()
                say(f"{told - started:4.0f} s  {last_step(log.read_text(errors='replace').splitlines())}")
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    if process.returncode:
        lines = log.read_text(errors="replace").splitlines()
        errors = [line for line in lines if line.startswith("ERROR")]
        print("\n".join(errors[-8:] or lines[-15:]), file=sys.stderr)
        raise SystemExit(f"error: the set-up failed with status {process.returncode}; all of its output is in {log}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument("--extra", default="dev")
    parser.add_argument("--constraint", type=Path, default=ROOT / "constraints.txt")
    parser.add_argument("--with", dest="requirements", action="append", default=[], metavar="REQUIREMENT")
    options = parser.parse_args()
    venv: Path = options.venv
    python = venv / "bin" / "python"
    stamp = venv / ".openwork-ready"
    wanted = fingerprint(venv, [options.extra, str(options.constraint), *options.requirements])
    if stamp.is_file() and stamp.read_text() == wanted and python.exists():
        return

    started = time.monotonic()
    say(f"{os.path.relpath(venv)} with Python {platform.python_version()} (once; torch is the largest package)")
    stamp.unlink(missing_ok=True)
    venv.mkdir(parents=True, exist_ok=True)
    log = venv / "setup.log"
    log.write_text("")
    run_quietly([sys.executable, "-m", "venv", str(venv)], log, started)
    install = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar=off"]
    install += ["--constraint", str(options.constraint)]
    run_quietly([*install, *options.requirements, "--editable", f".[{options.extra}]"], log, started)
    stamp.write_text(wanted)
    if not any((ROOT / "src" / "openwork").glob("_native*.so")):
        say("the native kernels were not built (is there a C++20 compiler?); slower ones in PyTorch serve")
    say(f"ready after {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
