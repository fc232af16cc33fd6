"""Where something was measured: hardware, versions and flags, without names of people, machines or folders."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from hashlib import sha256
from importlib import metadata
from json import JSONEncoder
from pathlib import Path
from typing import Any

PACKAGES = ("attn-bench", "torch", "torchvision", "timm", "neuraloperator", "xformers", "triton", "numpy", "scipy")
HOME = Path(__file__).resolve().parents[3]  # the folder from which this package was imported
ALLOCATOR_VARIABLES = ("MALLOC_", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_NO_CUDA_MEMORY_CACHING")
THREAD_VARIABLES = (
    "OMP_",
    "KMP_",
    "MKL_NUM_THREADS",
    "GOMP_CPU_AFFINITY",
    "CUDA_LAUNCH_BLOCKING",
    "CUBLAS_WORKSPACE_CONFIG",
)
# Bound before any plugin is imported.
_canonical = JSONEncoder(sort_keys=True, default=str).encode
PRELOADED = ("jemalloc", "tcmalloc", "mimalloc")


def environment(device: str | None = None) -> dict[str, Any]:
    """Describe this process and its machine in JSON values.

    Versions come from package metadata and GPUs from NVML; flags are left out where torch is not loaded, which this
    does not do.

    Args:
        device: what ``device_name`` names: ``"cpu"`` or ``"cuda[:index]"``; by default the first GPU if there is one.
    """
    gpus = _gpus()
    cpu = _cpu()
    on_gpu = bool(gpus) if device is None else device.startswith("cuda")
    index = int(device.partition(":")[2] or 0) if device else 0
    gpu_name = gpus["devices"][index]["name"] if on_gpu and index < len(gpus.get("devices", ())) else None
    return {
        "device_name": gpu_name or ("cuda" if on_gpu else cpu["model"]),
        "cpu": cpu,
        "gpus": gpus,
        "os": {"system": platform.system(), "release": platform.release().split("-")[0], "machine": platform.machine()},
        "python": {"version": platform.python_version(), "implementation": platform.python_implementation()},
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "torch": _torch(),
        "variables": _variables(),
        "git": _git(),
    }


def fingerprint(values: Mapping[str, Any]) -> str:
    """Return a short hash of the hardware in an environment: measurements compare only where it is equal."""
    hardware = {
        "cpu": {key: values["cpu"][key] for key in ("model", "cores", "usable_cores", "memory_gib")},
        "gpus": [(gpu["name"], gpu["memory_gib"]) for gpu in values["gpus"].get("devices", ())],
        "machine": values["os"]["machine"],
    }
    return _hash(hardware)


def environment_id(values: Mapping[str, Any]) -> str:
    """Return a short hash of a whole environment, software and flags included."""
    return _hash(values)


def _hash(values: Any) -> str:
    return sha256(_canonical(values).encode()).hexdigest()[:12]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> dict[str, Any]:
    import psutil

    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    return {
        "model": _cpu_model(),
        "cores": psutil.cpu_count(logical=False) or os.cpu_count(),
        "threads": os.cpu_count(),
        "usable_cores": len(affinity) if affinity is not None else os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
    }


def _cpu_model() -> str:
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        if line.lower().startswith("model name"):
            return " ".join(line.partition(":")[2].split())
    if sys.platform == "darwin":
        brand = _output("sysctl", "-n", "machdep.cpu.brand_string")
        if brand:
            return brand
    return platform.processor() or platform.machine() or "unknown"


def _gpus() -> dict[str, Any]:
    """GPUs as NVML sees them; empty where there is no driver."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:
        return {}
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return {
            "driver": _text(pynvml.nvmlSystemGetDriverVersion()),
            "devices": [_gpu(pynvml, handle) for handle in handles],
        }
    except pynvml.NVMLError:
        return {}
    finally:
        pynvml.nvmlShutdown()


def _gpu(nvml: Any, handle: Any) -> dict[str, Any]:
    def ask(function: Any, *arguments: Any) -> Any:
        try:
            return function(handle, *arguments)
        except nvml.NVMLError:
            return None

    memory = ask(nvml.nvmlDeviceGetMemoryInfo)
    power = ask(nvml.nvmlDeviceGetEnforcedPowerLimit)
    return {
        "name": _text(nvml.nvmlDeviceGetName(handle)),
        "memory_gib": round(memory.total / 2**30) if memory else None,
        "power_limit_w": power / 1000 if power else None,
        "application_sm_clock_mhz": ask(nvml.nvmlDeviceGetApplicationsClock, nvml.NVML_CLOCK_SM),
        "max_sm_clock_mhz": ask(nvml.nvmlDeviceGetMaxClockInfo, nvml.NVML_CLOCK_SM),
        "persistence_mode": ask(nvml.nvmlDeviceGetPersistenceMode),
    }


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _torch() -> dict[str, Any]:
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    cudnn = torch.backends.cudnn
    return {
        "cuda": torch.version.cuda,
        "cudnn": cudnn.version() if cudnn.is_available() else None,
        "cuda_available": torch.cuda.is_available(),
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn_allow_tf32": cudnn.allow_tf32,
        "cudnn_benchmark": cudnn.benchmark,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def _variables() -> dict[str, str]:
    names = sorted(name for name in os.environ if name.startswith((*ALLOCATOR_VARIABLES, *THREAD_VARIABLES)))
    found = {name: os.environ[name] for name in names if "/" not in os.environ[name]}
    preload = [name for name in PRELOADED if name in os.environ.get("LD_PRELOAD", "")]
    return found | ({"LD_PRELOAD": " ".join(preload)} if preload else {})


def _git() -> dict[str, Any]:
    """Revision of the checkout that this package is imported from; empty for an installed copy."""
    if not (HOME / ".git").exists():
        return {}
    # Without locks: git leaves one behind when it is killed with a cell, and refuses every command afterwards.
    git = ("git", "--no-optional-locks", "-C", str(HOME))
    revision = _output(*git, "rev-parse", "HEAD")
    changes = _output(*git, "status", "--porcelain", "--untracked-files=no")
    return {"revision": revision, "dirty": bool(changes)} if revision else {}


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _output(*command: str) -> str | None:
    try:
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=10, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
