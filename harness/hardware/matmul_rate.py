"""How fast this machine multiplies matrices: the ceiling of what training can reach on it."""

import json
import platform
import statistics
import time
from contextlib import suppress
from pathlib import Path

import torch

from harness.hardware.meter import is_out_of_memory, processor, synchronize
from harness.model.base import HALVES
from harness.records.files import write_json
from harness.spec.trial import Precision

SIZES = (256, 512, 1024, 2048, 4096, 8192)  # of the square matrices
QUICK_SECONDS = 0.05  # for one product; a matrix of twice the size takes eight times as long
TIMES = 7


def matmul_rate(device: torch.device, precision: Precision) -> float:
    """FLOP/s of multiplying square matrices with as many threads as the trial has, under a second of measuring.

    The median of several products of the largest size that is quick; a multiplication and an addition count as two.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    generator = torch.Generator(device).manual_seed(0)  # of its own: a trial's dice stay as they are
    try:
        for size in SIZES:
            shape, kind = (2, size, size), HALVES.get(precision, torch.float32)
            one, other = torch.randn(shape, generator=generator, device=device).to(kind)
            seconds = _median_seconds(one, other)
            if 8 * seconds > QUICK_SECONDS:
                break
    finally:
        torch.set_float32_matmul_precision(before)
    return 2 * size**3 / seconds


def _median_seconds(one: torch.Tensor, other: torch.Tensor) -> float:
    found = []
    one @ other  # kernels are chosen, and memory is taken, the first time
    for _ in range(TIMES):
        synchronize(one.device)
        began = time.perf_counter()
        one @ other
        synchronize(one.device)
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def known_matmul_rate(device: torch.device, precision: Precision, folder: Path) -> float | None:
    """The rate as it was measured once, and kept in `folder`; None where memory is too full to measure it.

    It is one of machine, device, threads, version of torch, and precision.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    what = (platform.node(), device.type, name, str(torch.get_num_threads()), torch.__version__, precision)
    key, path, rates = " | ".join(what), folder / "matmul_rates.json", dict[str, float]()
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
