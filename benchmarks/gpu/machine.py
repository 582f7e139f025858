"""The machine, what it can do at most, and whether the tests pass on it."""

import os
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from measuring import Device

PACKAGES = ("numpy", "numba", "numba-cuda", "llvmlite", "torch", "triton", "scipy", "xarray", "zarr", "pydantic")
ROOT = Path(__file__).parent.parent.parent


def described(device: Device) -> dict[str, Any]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "none"
    cpu = platform.processor()
    if (info := Path("/proc/cpuinfo")).exists() and (found := re.search(r"model name\s*: (.*)", info.read_text())):
        cpu = found[1]
    return {
        "GPU": device.name or "none",
        "CPU": f"{cpu}, {len(os.sched_getaffinity(0))} cores",
        "Python": platform.python_version(),
        "CUDA": torch.version.cuda or "none",
        **versions,
        "load": os.getloadavg()[0],
    }


def ceilings(device: Device) -> list[dict[str, Any]]:
    """Copies and matrix products, as fast as torch does them."""
    rows = []
    length = 1 << (16 if device.quick else 30)
    source = torch.ones(length // 4, device=device.torch)
    target = torch.empty_like(source)
    seconds = device.seconds(target.copy_, [source])
    rows.append({"what": "copy on the device, read + written", "unit": "GB/s", "rate": 2 * length / seconds / 1e9})
    device.ceilings["bytes"] = 2 * length / seconds
    here = torch.ones(length // 16, pin_memory=device.cuda)
    there = torch.empty(length // 16, device=device.torch)
    for name, call in (
        ("to the device, page-locked", lambda _: there.copy_(here, non_blocking=True)),
        ("from the device, page-locked", lambda _: here.copy_(there, non_blocking=True)),
    ):
        rows.append({"what": name, "unit": "GB/s", "rate": length / 4 / device.seconds(call, [0]) / 1e9})
    device.ceilings["bus"] = rows[1]["rate"] * 1e9
    side = 128 if device.quick else 8192
    for kind, dtype, tf32 in (
        ("float32", torch.float32, False),
        ("TF32", torch.float32, True),
        ("bfloat16", torch.bfloat16, False),
        ("float16", torch.float16, False),
    ):
        if not device.cuda and dtype == torch.float16:
            continue
        a, b = (torch.randn(side, side, device=device.torch).to(dtype) for _ in range(2))
        before, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, tf32
        seconds = device.seconds(lambda _, a=a, b=b: a @ b, [0])
        torch.backends.cuda.matmul.allow_tf32 = before
        rows.append({"what": f"matrix product, {kind}", "unit": "TFLOP/s", "rate": 2 * side**3 / seconds / 1e12})
        device.ceilings[kind] = 2 * side**3 / seconds
    return rows


def tests(_: Device) -> dict[str, Any]:
    """The tests of the GPU, in this process, which has its kernels compiled."""
    import pytest

    class Tally:
        def __init__(self) -> None:
            self.said: dict[str, int] = {}
            self.failures: list[str] = []

        def pytest_runtest_logreport(self, report: Any) -> None:
            if report.when == "call" or report.outcome != "passed":
                self.said[report.outcome] = self.said.get(report.outcome, 0) + 1
            if report.failed:
                self.failures.append(f"{report.nodeid}: {str(report.longrepr)[-600:]}")

    tally = Tally()
    folder = ROOT / "tests" / "gpu"
    options = ["-q", "--no-header", "-p", "no:cacheprovider", "--confcutdir", str(folder), f"--rootdir={ROOT}"]
    sys.path.insert(0, str(ROOT))
    status = pytest.main([*options, "-W", "ignore", str(folder)], plugins=[tally])
    if status:
        raise AssertionError(f"{tally.said}: " + "; ".join(tally.failures))
    return tally.said
