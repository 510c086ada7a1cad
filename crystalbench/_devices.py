"""The one place that knows what a device is."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from crystalbench._exceptions import ConfigurationError, UnknownNameError


def resolve_device(name: str) -> str:
    """Turn ``auto``, ``cpu`` or ``cuda`` into the device that a job will use.

    torch is imported only where there is a GPU to ask it about.

    Raises
    ------
    ConfigurationError
        For ``cuda`` where torch sees no GPU.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UnknownNameError("device", name, ("auto", "cpu", "cuda"))
    if name == "cpu" or (name == "auto" and shutil.which("nvidia-smi") is None):
        return "cpu"
    if _cuda_available():
        return "cuda"
    if name == "cuda":
        raise ConfigurationError("--device cuda: torch sees no GPU; run `crystalbench doctor`, or use --device cpu")
    return "cpu"


def device_name(device: str) -> str:
    """Return the name of the processor or GPU, as it stands in records."""
    if device == "cpu":
        return _processor()
    try:
        import torch
    except ImportError:
        # An environment of a method's own need not have it.
        return _first_gpu()
    # Jobs may run on other machines than this one.
    return str(torch.cuda.get_device_name(device)) if torch.cuda.is_available() else ""


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if shutil.which("nvidia-smi") is None or not _cuda_available():
        return []
    import torch

    numbers = [str(number) for number in range(torch.cuda.device_count())]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[: len(numbers)] if visible else numbers


def synchronize(device: str) -> None:
    """Wait until ``device`` has done all its work; costs nothing on a CPU, or where torch was never imported."""
    torch = sys.modules.get("torch")
    if torch is not None and device.startswith("cuda"):
        torch.cuda.synchronize(device)


def peak_memory(device: str) -> int | None:
    """Return the most bytes that torch has held on a GPU since it was last asked; None where it has used none."""
    torch = sys.modules.get("torch")
    if torch is None or not device.startswith("cuda") or not torch.cuda.is_initialized():
        return None
    peak = int(torch.cuda.max_memory_allocated(device))
    torch.cuda.reset_peak_memory_stats(device)
    return peak


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _first_gpu() -> str:
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader", "--id=0"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _cuda_available() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())
