"""Build the native kernels of this tree into its own src/openwork; after the first time only what changed.

Usage: python scripts/native.py [--sanitize] [--build DIR] [--into DIR]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sanitize", action="store_true", help="with AddressSanitizer and UBSan, into build/sanitize")
    parser.add_argument("--build", type=Path, help="where CMake works; default build/native")
    parser.add_argument("--into", type=Path, help="the folder that gets openwork/_native; default src")
    options = parser.parse_args()
    name = "sanitize" if options.sanitize else "native"
    build = options.build or ROOT / "build" / name
    into = options.into or (build / "lib" if options.sanitize else ROOT / "src")
    # cmake and ninja of the environment come first
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    configure = ["cmake", "-S", str(ROOT / "csrc"), "-B", str(build), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release"]
    configure += [f"-DPython_EXECUTABLE={sys.executable}", f"-DOPENWORK_SANITIZE={'ON' if options.sanitize else 'OFF'}"]
    install = ["cmake", "--install", str(build), "--prefix", str(into)]
    for command in (configure, ["cmake", "--build", str(build)], install):
        done = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False)
        if done.returncode:
            print(done.stdout + done.stderr, file=sys.stderr)
            return done.returncode
    print(f"native kernels: {next(into.glob('openwork/_native*.so'))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
