"""Triton kernels compiled for a GPU on a machine without one, with the arguments of a real launch."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.int32: "i32", torch.int64: "i64"}
# Compute capability -> bytes of shared memory that a block may have (CUDA C++ Programming Guide, "Technical
# Specifications per Compute Capability").
SHARED = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}


@dataclass(frozen=True)
class Resources:
    """What a compiled kernel takes of a multiprocessor: registers and bytes of stack of a thread, shared bytes."""

    registers: int
    stack: int
    shared: int


class Launches:
    """Stands for a kernel, and keeps what it is launched with."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        assert all(n > 0 for n in grid), grid
        return lambda *args, **constants: self.seen.append((args, constants))

    def build(self, capability: int) -> list[Resources]:
        """Compile the kernel for each launch and return what it takes."""
        return [build(self.kernel, args, constants, capability) for args, constants in self.seen]


def fits(recorded: list[Launches], capability: int, *, registers: int, blocks: int) -> None:
    """Assert that each kernel takes at most so many registers, spills nothing, and that so many blocks share memory."""
    for launch in recorded:
        (used,) = launch.build(capability)
        print(f"sm_{capability} {launch.kernel.fn.__name__}: {used}")
        assert used.registers <= registers
        assert used.stack <= 32  # eight registers; a spilled tile is hundreds of bytes
        assert used.shared <= SHARED[capability] // blocks


def build(kernel: Any, args: tuple[Any, ...], constants: dict[str, Any], capability: int) -> Resources:
    """Compile a kernel as :func:`compiled` does and return what it takes."""
    made = compiled(kernel, args, constants, capability)
    return _resources(made.asm["cubin"], made.metadata.shared)


def narrow_offsets(recorded: list[Launches]) -> list[str]:
    """Return the places of tensors that kernels compute in fewer than 64 bits, as Triton's intermediate code has them.

    With 32 bits, a place beyond 2^31 elements would be another one.
    """
    found = []
    for launch in recorded:
        for args, constants in launch.seen:
            code = compiled(launch.kernel, args, constants, 90).asm["ttir"]
            places = [line for line in code.splitlines() if "tt.addptr" in line and ": tensor<" in line]
            assert places, code
            found += [line for line in places if not re.search(r", tensor<[0-9x]+xi64>", line)]
    return found


def compiled(kernel: Any, args: tuple[Any, ...], constants: dict[str, Any], capability: int) -> Any:
    """Compile a kernel as a launch with these arguments would: Triton makes 1 a constant and uses multiples of 16."""
    constants = dict(constants)
    options = {name: constants.pop(name) for name in ("num_warps", "num_stages") if name in constants}
    signature, fixed, attributes = {}, {}, {}
    values = dict(zip(kernel.arg_names, args)) | constants
    for place, name in enumerate(kernel.arg_names):
        value = values[name]
        if name in constants or (type(value) is int and value == 1):
            signature[name], fixed[(place,)] = "constexpr", value
            continue
        if isinstance(value, torch.Tensor):
            signature[name] = f"*{TYPES[value.dtype]}"
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i32"
        if isinstance(value, torch.Tensor) or (type(value) is int and value % 16 == 0):
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=fixed, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def _resources(cubin: bytes, shared: int) -> Resources:
    """Read the registers from the binary, as Triton knows them only once a device has loaded the kernel."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([tool, "-res-usage", file.name], capture_output=True, encoding="utf-8", check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+)", done.stdout)
    assert found, done.stdout
    return Resources(int(found[1]), int(found[2]), shared)
