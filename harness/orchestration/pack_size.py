"""Choose how many trials a trainer packs into one forward pass: `--pack`, or an estimate of what pays."""

from contextlib import suppress

from harness.errors import UserError
from harness.hardware.gpus import gpus
from harness.model_size.flops import training_flops
from harness.model_size.parameters import Dimensions, dimensions, frozen_layers
from harness.orchestration.preflight import heaviest
from harness.plan import Plan
from harness.spec import packing
from harness.spec.trial import TrialConfig

MAX_AUTOMATIC = 4  # a sampler learns nothing from trials that still run
# Estimates, not measurements: the rate of a large GPU in 16 and in 32 bit, the time to launch a kernel, and the kernels
# of one layer with adapters, forward and backward.
FLOPS_PER_SECOND = {"bf16": 200e12, "fp16": 200e12, "tf32": 100e12, "fp32": 30e12}
SECONDS_PER_KERNEL = 6e-6
KERNELS_PER_LAYER = {"encoder": 120, "decoder": 250}
LABEL_TOKENS = 64


def trials_per_pass(plan: Plan) -> int:
    """Return the number of trials in one pass.

    Raises:
        UserError: `--pack` asks for more than one where that is not possible.
    """
    compute = plan.compute
    possible = compute.launcher == "local" and plan.processes == 1
    if compute.pack is not None:
        if compute.pack > 1 and not possible:
            raise UserError(f"--pack {compute.pack} needs --launcher local and --processes 1")
        return compute.pack
    if not possible or not gpus() or plan.space.fixed.get("method") != "lora":
        return 1
    config = heaviest(plan.space)
    with suppress(UserError):  # the model is not here yet, so its sizes are not known
        return (
            1
            if packing.unpackable_reason(config, plan.space.budget)
            else estimated_trials_per_pass(dimensions(plan.model), config, "encoder_cache" in plan.techniques)
        )
    return 1


def estimated_trials_per_pass(dims: Dimensions, config: TrialConfig, encoder_cache: bool = True) -> int:
    """Return how many trials a GPU computes in the time of launching the kernels of one, up to MAX_AUTOMATIC.

    A step takes the longer of launching and computing. Packed trials share the launches, so up to this number packing
    is nearly free; beyond it the computation is the limit, and packing gains nothing.
    """
    batch = config.per_device_train_batch_size
    cached = frozen_layers(dims, config) if encoder_cache and config.augmentation is None else 0
    flops = training_flops(dims, config, batch, batch * LABEL_TOKENS, cached)
    computed = flops / FLOPS_PER_SECOND[config.precision]
    layers = {"encoder": dims.encoder_layers - cached, "decoder": dims.decoder_layers}
    queued = SECONDS_PER_KERNEL * sum(KERNELS_PER_LAYER[half] * count for half, count in layers.items())
    return max(1, min(MAX_AUTOMATIC, int(queued / computed)))
