"""Run the tests of `openwork.hf` against other versions of transformers, the oldest that is supported by default.

Usage: python scripts/other_transformers.py [--version X.Y.Z ...] [--table | pytest arguments]

A version is unpacked once into `.venvs/transformers-X.Y.Z`, without torch and all else that the environment of this
Python has already, and put before it on the path.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BEFORE_HUB_2 = [
    "huggingface_hub==1.8.0",
    "tokenizers==0.22.2",
    "httpx==0.28.1",
    "httpcore==1.0.9",
    "certifi==2026.10.18",
]
"""What transformers up to 5.17 asks for in place of the packages in constraints.txt, and what those need."""


def oldest() -> str:
    """The lower bound in pyproject.toml, as a release."""
    bound = re.search(r'"transformers>=([\d.]+)"', (ROOT / "pyproject.toml").read_text()).group(1)
    return bound if bound.count(".") == 2 else f"{bound}.0"


def unpack(version: str) -> Path:
    """The folder that holds this version and what it needs beside the environment."""
    folder = ROOT / ".venvs" / f"transformers-{version}"
    stamp = folder / ".openwork-ready"
    numbers = tuple(int(part) for part in version.split("."))
    packages = [f"transformers=={version}", *(BEFORE_HUB_2 if numbers < (5, 18) else [])]
    if stamp.is_file() and stamp.read_text() == "\n".join(packages):
        return folder
    started = time.monotonic()
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*install, "--upgrade", "--target", str(folder), *packages], check=True)
    stamp.write_text("\n".join(packages))
    print(f"transformers {version}: unpacked after {time.monotonic() - started:.0f} s", flush=True)
    return folder


def run(version: str, arguments: list[str]) -> int:
    """The exit status of the tests of `openwork.hf` under this version."""
    try:
        folder = unpack(version)
    except subprocess.CalledProcessError as error:
        # as in test_all.py: what cannot run here is named, and only a suite that ran and failed is a failure
        print(f"transformers {version}: not run, it cannot be unpacked: {error}", flush=True)
        return 0
    support = ROOT / "tests" / "hf" / "support"
    path = os.pathsep.join(filter(None, [str(folder), str(support), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    print(f"transformers {version}", flush=True)
    if arguments == ["--table"]:  # writes the version's column of docs/models.md
        return subprocess.run([sys.executable, str(support / "table.py")], env=environment, check=False).returncode
    # what an older transformers says of itself under a newer torch is no error
    quiet = ["-W", "default"]
    chosen = arguments or ["-n", "2", "-m", "not slow"]
    command = [sys.executable, "-m", "pytest", "-q", *quiet, *chosen, str(ROOT / "tests" / "hf")]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", dest="versions", action="append", metavar="X.Y.Z")
    options, arguments = parser.parse_known_args()
    return max(run(version, arguments) for version in options.versions or [oldest()])


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
