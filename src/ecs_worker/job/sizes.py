"""CPU and memory: units, and the pairs that Fargate runs; its temporary disks.

Source: ECS developer guide, "Task CPU and memory" (Fargate); RegisterTaskDefinition, `cpu` and `memory`.
"""

from __future__ import annotations

import re

from ecs_worker.errors import JobInvalid

_GIB = 1024  # MiB
# CPU units → memory in MiB, ascending.
FARGATE: dict[int, tuple[int, ...]] = {
    256: (512, 1024, 2048),
    512: tuple(range(1 * _GIB, 4 * _GIB + 1, _GIB)),
    1024: tuple(range(2 * _GIB, 8 * _GIB + 1, _GIB)),
    2048: tuple(range(4 * _GIB, 16 * _GIB + 1, _GIB)),
    4096: tuple(range(8 * _GIB, 30 * _GIB + 1, _GIB)),
    8192: tuple(range(16 * _GIB, 60 * _GIB + 1, 4 * _GIB)),
    16384: tuple(range(32 * _GIB, 120 * _GIB + 1, 8 * _GIB)),
    32768: (60 * _GIB, 120 * _GIB, 244 * _GIB),
}

WINDOWS_CPU = (1024, 4096)  # CPU units, the least and the most of Windows tasks on Fargate

EPHEMERAL_STORAGE = (21, 200)  # GiB; EphemeralStorage of the ECS API reference

_AMOUNT = re.compile(r"\s*(\d{1,9}(?:\.\d+)?|\.\d+)\s*([a-z]*)\s*", re.IGNORECASE)
_CPU_UNITS = {"": 1, "vcpu": 1024, "vcpus": 1024}
_MEMORY_UNITS = {"": 1, "mb": 1, "mib": 1, "gb": _GIB, "gib": _GIB}


def cpu_units(value: object, origin: str = "") -> int:
    """CPU units of 1024, "1024", "1 vcpu" or ".5 vCPU". `origin`: where it came from. Raises JobInvalid."""
    return _amount("cpu", value, origin, _CPU_UNITS, 'CPU units, like 1024, or vCPUs, like "1 vcpu"')


def memory_mib(value: object, origin: str = "") -> int:
    """MiB of 2048, "2048" or "2 GB". `origin`: where it came from. Raises JobInvalid."""
    return _amount("memory", value, origin, _MEMORY_UNITS, 'MiB, like 2048, or gigabytes, like "2 GB"')


def _amount(name: str, value: object, origin: str, units: dict[str, int], remedy: str) -> int:
    match = _AMOUNT.fullmatch(str(value))
    unit = units.get(match[2].lower()) if match else None
    amount = float(match[1]) * unit if match and unit else 0
    if not amount or amount != int(amount):
        raise JobInvalid([f"{name} is {value!r:.80}{origin}, which is no amount; write {remedy}."])
    return int(amount)


def fargate_runs(cpu: int, memory: int, *, windows: bool = False) -> bool:
    """Whether Fargate runs tasks of so many CPU units and MiB."""
    least, most = WINDOWS_CPU
    return memory in FARGATE.get(cpu, ()) and (not windows or least <= cpu <= most)


def next_fargate_pair(cpu: int, memory: int, *, windows: bool = False) -> tuple[int, int] | None:
    """The least pair that Fargate runs with at least `cpu` units and `memory` MiB; None: there is none so large."""
    for units, memories in FARGATE.items():
        for mib in memories if fargate_runs(units, memories[0], windows=windows) else ():
            if units >= cpu and mib >= memory:
                return units, mib
    return None


def whole_number(value: object, least: int, most: int) -> bool:
    """Whether `value` is a whole number from `least` to `most`."""
    return type(value) is int and least <= value <= most
