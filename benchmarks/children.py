"""Child processes: a role of this package that answers questions, one line of JSON each.

A child reads a question from standard input and writes the answer to standard output, so several
can be asked at the same time: `tell` all, then `hear` all. Each ends when its input does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


class Child:
    """One child process, ended when its `with` block is left."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start it and wait until it says that it is ready."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=ROOT,
            text=True,
        )
        self.pid = self._process.pid
        self.hear()

    def tell(self, **question: Any) -> None:
        """Ask, without waiting for the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """Wait for an answer.

        Raises:
            RuntimeError: The child ended instead.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args} ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, **question: Any) -> dict[str, Any]:
        """Ask, and wait for the answer."""
        self.tell(**question)
        return self.hear()

    def cpu_s(self) -> float:
        """Return the processor time it has used."""
        return cpu_s(self.pid)

    def __enter__(self) -> Child:  # noqa: PYI034  # Self needs Python 3.11
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def role(name: str, **options: Any) -> Child:
    """Start `benchmarks.roles` as `name`."""
    return Child([sys.executable, "-m", "benchmarks.roles", name, json.dumps(options)])


def roles(stack: ExitStack, count: int, name: str, **options: Any) -> list[Child]:
    """Start `count` of a role, numbered, until `stack` is closed."""
    return [stack.enter_context(role(name, number=number, **options)) for number in range(count)]


def cpu_s(pid: int) -> float:
    """Return user and system time of all threads of a process, seconds."""
    return time.clock_gettime((~pid << 3) | 2)  # the kernel's name for its CPU clock


def memory_kib(pid: int) -> dict[str, int]:
    """Return `VmRSS`, `RssAnon`, `RssFile` and `RssShmem` of a process, KiB."""
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    )
    names = ("VmRSS", "RssAnon", "RssFile", "RssShmem")
    return {name: int(fields[name].split()[0]) for name in names}
