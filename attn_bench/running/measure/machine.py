"""Describes a machine: hardware, versions and flags, without names of people, machines or folders."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from attn_bench.results.environment import Cpu, Environment, Git, Gpu, Gpus, Python, System
from attn_bench.running.processes import HOME

PACKAGES = ("attn-bench", "torch", "torchvision", "timm", "neuraloperator", "xformers", "triton", "numpy", "scipy")
ALLOCATOR_VARIABLES = ("MALLOC_", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_NO_CUDA_MEMORY_CACHING")
THREAD_VARIABLES = (
    "OMP_",
    "KMP_",
    "MKL_NUM_THREADS",
    "GOMP_CPU_AFFINITY",
    "CUDA_LAUNCH_BLOCKING",
    "CUBLAS_WORKSPACE_CONFIG",
)
PRELOADED = ("jemalloc", "tcmalloc", "mimalloc")


def environment(device: str | None = None) -> Environment:
    """Describe this process and its machine.

    Versions come from package metadata and GPUs from NVML; flags are left out if torch is not loaded, and this does not
    load it.

    Args:
        device: the device for ``device_name``: ``"cpu"`` or ``"cuda[:index]"``; default: the first GPU, if any.
    """
    gpus = _gpus()
    cpu = _cpu()
    on_gpu = bool(gpus.devices) if device is None else device.startswith("cuda")
    index = _seen_by_driver(int(device.partition(":")[2] or 0)) if device else 0
    gpu_name = gpus.devices[index].name if on_gpu and index < len(gpus.devices) else None
    return Environment(
        device_name=gpu_name or ("cuda" if on_gpu else cpu.model),
        cpu=cpu,
        gpus=gpus,
        os=System(platform.machine(), platform.system(), platform.release().split("-")[0]),
        versions={name: version for name in PACKAGES if (version := _version(name))},
        python=Python(platform.python_version(), platform.python_implementation()),
        torch=_torch(),
        variables=_variables(),
        git=_git(),
    )


def _seen_by_driver(index: int) -> int:
    """Return the number that the driver gives to a GPU that this process sees as ``index``."""
    names = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    name = names[index] if index < len(names) else ""
    if name.isdecimal():
        return int(name)
    try:
        import pynvml

        pynvml.nvmlInit()
        try:
            return int(pynvml.nvmlDeviceGetIndex(pynvml.nvmlDeviceGetHandleByUUID(name))) if name else index
        finally:
            pynvml.nvmlShutdown()
    except Exception:  # no driver, or a part of a GPU
        return index


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> Cpu:
    import psutil

    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    return Cpu(
        model=_cpu_model(),
        cores=psutil.cpu_count(logical=False) or os.cpu_count(),
        usable_cores=len(affinity) if affinity is not None else os.cpu_count(),
        memory_gib=round(psutil.virtual_memory().total / 2**30),
        threads=os.cpu_count(),
        governor=_read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
    )


def _cpu_model() -> str:
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        if line.lower().startswith("model name"):
            return " ".join(line.partition(":")[2].split())
    if sys.platform == "darwin":
        brand = _output("sysctl", "-n", "machdep.cpu.brand_string")
        if brand:
            return brand
    return platform.processor() or platform.machine() or "unknown"


def _gpus() -> Gpus:
    """GPUs as NVML reports them; none if there is no driver."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:
        return Gpus()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        return Gpus(driver, tuple(_gpu(pynvml, handle) for handle in handles))
    except pynvml.NVMLError:
        return Gpus()
    finally:
        pynvml.nvmlShutdown()


def _gpu(nvml: Any, handle: Any) -> Gpu:
    def ask(function: Any, *arguments: Any) -> Any:
        try:
            return function(handle, *arguments)
        except nvml.NVMLError:
            return None

    memory = ask(nvml.nvmlDeviceGetMemoryInfo)
    power = ask(nvml.nvmlDeviceGetEnforcedPowerLimit)
    return Gpu(
        name=_text(nvml.nvmlDeviceGetName(handle)),
        memory_gib=round(memory.total / 2**30) if memory else None,
        power_limit_w=power / 1000 if power else None,
        application_sm_clock_mhz=ask(nvml.nvmlDeviceGetApplicationsClock, nvml.NVML_CLOCK_SM),
        max_sm_clock_mhz=ask(nvml.nvmlDeviceGetMaxClockInfo, nvml.NVML_CLOCK_SM),
        persistence_mode=ask(nvml.nvmlDeviceGetPersistenceMode),
    )


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


def _git() -> Git:
    """Revision of the checkout that this package is imported from; none for an installed copy."""
    if not (HOME / ".git").exists():
        return Git()
    # Without locks: a git process killed with its cell would leave one behind, and git would refuse further commands.
    git = ("git", "--no-optional-locks", "-C", str(HOME))
    revision = _output(*git, "rev-parse", "HEAD")
    changes = _output(*git, "status", "--porcelain", "--untracked-files=no")
    return Git(revision, bool(changes)) if revision else Git()


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
