"""Measure how fast this machine multiplies matrices: the upper bound of the training speed."""

import json
import platform
import statistics
import time
from contextlib import suppress
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

    Takes less than a second. The result is the median of several products of the largest size that stays within
    MAX_SECONDS. A multiplication and an addition count as two operations.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    generator = torch.Generator(device).manual_seed(0)  # leaves torch's global generator, which trials use, unchanged
    try:
        for size in SIZES:
            shape, dtype = (2, size, size), HALF_DTYPES.get(precision, torch.float32)
            left, right = torch.randn(shape, generator=generator, device=device).to(dtype)
            seconds = _median_seconds(left, right)
            if 8 * seconds > MAX_SECONDS:
                break
    finally:
        torch.set_float32_matmul_precision(before)
    return 2 * size**3 / seconds


def _median_seconds(left: torch.Tensor, right: torch.Tensor) -> float:
    durations = []
    left @ right  # warm-up: the first product selects kernels and allocates memory
    for _ in range(REPEATS):
        synchronize(left.device)
        start = time.perf_counter()
        left @ right
        synchronize(left.device)
        durations.append(time.perf_counter() - start)
    return statistics.median(durations)


def cached_matmul_rate(device: torch.device, precision: Precision, folder: Path) -> float | None:
    """Return the matmul rate in FLOP/s, measured once and stored in `folder`.

    One rate is stored for each machine, device, number of threads, torch version and precision. Returns None if there
    is too little free memory to measure it.
    """
    setup = (
        platform.node(),
        device.type,
        device_name(device),
        str(torch.get_num_threads()),
        torch.__version__,
        precision,
    )
    key, path, rates = " | ".join(setup), folder / "matmul_rates.json", dict[str, float]()
    with suppress(OSError, ValueError):
        rates = json.loads(path.read_text(encoding="utf-8"))
    if key not in rates:
        try:
            rates[key] = matmul_rate(device, precision)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return None
        with suppress(OSError):
            write_json(path, rates)
    return rates[key]
