"""Processes that are measured: what Linux says of their CPU and memory, and of the machine they share."""

from __future__ import annotations

import asyncio
import bisect
import os
import platform
import signal
import subprocess
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

_TICK = os.sysconf("SC_CLK_TCK")
_SAMPLE_SECONDS = 0.25
_KIB_PER_MB = 1_000_000 / 1024


def cpu_of(pid: int) -> float:
    """CPU seconds that the process has used, with those of its ended children."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return sum(int(used) for used in fields[11:15]) / _TICK


def memory_of(pid: int) -> tuple[float, float]:
    """Resident memory in MB (10^6 bytes): now, and at its peak."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    found = {name: value for name, _, value in (line.partition(":") for line in lines)}
    now, peak = (int(found[name].split()[0]) / _KIB_PER_MB for name in ("VmRSS", "VmHWM"))
    return now, peak


@dataclass
class Measured:
    """A process, from its start. It is sampled four times a second; times are monotonic seconds."""

    process: asyncio.subprocess.Process
    log: Path
    began: float
    samples: list[tuple[float, float, float]] = field(default_factory=list)
    """When, CPU seconds, resident MB."""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def look(self) -> tuple[float, float, float]:
        """Take a sample now."""
        sample = (time.monotonic(), cpu_of(self.pid), memory_of(self.pid)[0])
        self.samples.append(sample)
        return sample

    def cpu_between(self, start: float, end: float) -> float:
        """CPU seconds used from `start` to `end`, as exactly as the samples are near them."""
        return self._cpu_at(end) - self._cpu_at(start)

    def _cpu_at(self, moment: float) -> float:
        after = bisect.bisect_left(self.samples, (moment,))
        if after == 0:
            return self.samples[0][1]
        if after == len(self.samples):
            return self.samples[-1][1]
        (t0, c0, _), (t1, c1, _) = self.samples[after - 1], self.samples[after]
        return c0 + (c1 - c0) * (moment - t0) / (t1 - t0) if t1 > t0 else c1

    @property
    def peak(self) -> float:
        """Its peak of resident memory, MB."""
        return memory_of(self.pid)[1]

    def ensure_alive(self) -> None:
        """Raises RuntimeError with the end of its log when it has ended."""
        if self.process.returncode is not None:
            end = self.log.read_text(encoding="utf-8", errors="replace")[-3000:]
            raise RuntimeError(f"{self.log.stem} ended with exit code {self.process.returncode}:\n{end}")


@asynccontextmanager
async def measured(
    command: list[str],
    env: Mapping[str, str],
    log: Path,
    *,
    user: str | None = None,
    end: signal.Signals = signal.SIGKILL,
) -> AsyncIterator[Measured]:
    """Start a process; its output goes to `log`. It is ended rudely (by `end`): what it serves is thrown away."""
    began = time.monotonic()
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *command, env=dict(env), stdout=output, stderr=output, cwd=log.parent, start_new_session=True, user=user
        )
    one = Measured(process, log, began)
    sampling = asyncio.create_task(_sample(one))
    try:
        yield one
    finally:
        sampling.cancel()
        if process.returncode is None:
            with suppress(ProcessLookupError):
                if end is not signal.SIGKILL:
                    process.send_signal(end)
                    await asyncio.wait_for(process.wait(), 10)
                os.killpg(process.pid, signal.SIGKILL)  # its own group: the process and its children
        await process.wait()


async def _sample(one: Measured) -> None:
    while one.process.returncode is None:
        with suppress(FileNotFoundError, ProcessLookupError, KeyError):  # it ends meanwhile
            one.look()
        await asyncio.sleep(_SAMPLE_SECONDS)


def machine() -> dict[str, Any]:
    """What the bench runs on, and how busy that is before it begins."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    memory = Path("/proc/meminfo").read_text(encoding="utf-8").split()[1]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": names[0] if names else platform.processor(),
        "memory_mb": round(int(memory) / _KIB_PER_MB),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": load(),
    }


def load() -> list[float]:
    """The machine's load averages of the last 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def busy_seconds() -> float:
    """CPU seconds that the whole machine has used."""
    fields = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()
    user, nice, system, _, _, irq, softirq = (int(field) for field in fields[1:8])
    return (user + nice + system + irq + softirq) / _TICK


def output_of(command: list[str], env: Mapping[str, str] | None = None) -> str:
    """What a short command prints. Raises CalledProcessError."""
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True, timeout=120)  # noqa: S603 - our own
    return done.stdout
