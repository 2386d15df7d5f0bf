"""Run a program that ends with the tests, even where these are interrupted or killed: nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

PATIENCE = 20  # seconds that a program has to end by itself


def start(command: list[str], log: Path, **options: Any) -> subprocess.Popen:
    """Start a program that runs until `stop`, or until this process is gone; `log` gets what it says."""
    with log.open("w") as said:
        return subprocess.Popen(
            [sys.executable, "-S", __file__, *command],
            stdin=subprocess.PIPE,  # its end is the sign to stop: the system closes it, however this process ends
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,  # the group that is ended below, and no other
            **options,
        )


def stop(process: subprocess.Popen) -> None:
    """Stop it, and return when it and its children have ended."""
    assert process.stdin
    process.stdin.close()
    process.wait(2 * PATIENCE)


def _hold(command: list[str]) -> None:
    program = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def end() -> None:
        sys.stdin.buffer.read()
        program.terminate()
        time.sleep(PATIENCE)
        program.kill()

    threading.Thread(target=end, daemon=True).start()
    program.wait()
    os.killpg(0, signal.SIGKILL)  # its children, and this process


if __name__ == "__main__":
    _hold(sys.argv[1:])
