"""Measure how fast this machine multiplies matrices: the upper bound of the training speed."""

import json
import platform
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch

from harness.hardware.clock import synchronize
from harness.hardware.environment import device_name
from harness.hardware.memory import is_out_of_memory
from harness.model.base import HALF_DTYPES
from harness.records.files import write_json
from harness.spec.trial import Precision

SIZES = (256, 512, 1024, 2048, 4096, 8192)  # of the square matrices
MAX_SECONDS = 0.05  # of one product; a matrix of twice the size takes eight times as long
REPEATS = 7


def matmul_rate(device: torch.device, precision: Precision) -> float:
    """Measure the FLOP/s of square matrix products, with as many threads as a trial has.

    Takes less than a second. The result is the fastest of several products of the largest size that stays within
    MAX_SECONDS: other work on the machine can only make a product slower. A multiplication and an addition count as
    two operations.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    generator = torch.Generator(device).manual_seed(0)  # leaves torch's global generator, which trials use, unchanged
    try:
        for size in SIZES:
            shape, dtype = (2, size, size), HALF_DTYPES.get(precision, torch.float32)
            left, right = torch.randn(shape, generator=generator, device=device).to(dtype)
            seconds = _fastest_seconds(left, right)
            if 8 * seconds > MAX_SECONDS:
                break
    finally:
        torch.set_float32_matmul_precision(before)
    return 2 * size**3 / seconds


def _fastest_seconds(left: torch.Tensor, right: torch.Tensor) -> float:
    durations = []
    left @ right  # warm-up: the first product selects kernels and allocates memory
    for _ in range(REPEATS):
        synchronize(left.device)
        start = time.perf_counter()
        left @ right
        synchronize(left.device)
        durations.append(time.perf_counter() - start)
    return min(durations)


def best_matmul_rate(device: torch.device, precision: Precision, folder: Path, achieved: float = 0.0) -> float | None:
    """Return the highest matmul rate in FLOP/s that was ever measured on this machine, and store it in `folder`.

    Each process measures once, and again when training was faster than the rate, so that a rate that was measured
    beside other work does not stay. One rate is stored for each machine, device, number of threads, torch version and
    precision.

    Args:
        device: The device.
        precision: The precision of the products.
        folder: The cache folder.
        achieved: FLOP/s that training reached.

    Returns:
        The rate; None if there is too little free memory to measure it, and it was not measured before.
    """
    threads = torch.get_num_threads()
    setup = (platform.node(), device.type, device_name(device), str(threads), torch.__version__, precision)
    key, path, rates = " | ".join(setup), folder / "matmul_rates.json", dict[str, float]()
    with suppress(OSError, ValueError):
        rates = json.loads(path.read_text(encoding="utf-8"))
    stored = best = rates.get(key, 0.0)
    try:
        best = max(best, _measured_once(device, precision, threads))
        if achieved > best:
            best = max(best, matmul_rate(device, precision))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    if best > stored:
        with suppress(OSError):
            write_json(path, rates | {key: best})
    return best or None


@cache
def _measured_once(device: torch.device, precision: Precision, threads: int) -> float:
    return matmul_rate(device, precision)


def matmul_share(achieved: float, rate: float | None) -> float | None:
    """Return the FLOP/s of training as a share of the matmul rate.

    Training cannot be faster than the products that it consists of: above 1, the rate was measured while other work
    slowed the machine down. The share is then unknown (None), and the log says why.

    Args:
        achieved: FLOP/s of training.
        rate: The matmul rate; None if it is not known.
    """
    if not rate or not achieved:
        return None
    if achieved > rate:
        print(
            f"training reached {achieved / 1e9:.1f} GFLOP/s, more than the {rate / 1e9:.1f} GFLOP/s measured for "
            "matrix products while the machine did other work; the share of the matmul rate is not recorded",
            file=sys.stderr,
        )
        return None
    return achieved / rate
