"""How many trials one trainer trains in one forward pass: what is asked for, or what should pay."""

from contextlib import suppress

from harness.errors import UserError
from harness.hardware.gpus import gpus
from harness.model_size.flops import training_flops
from harness.model_size.parameters import Dimensions, dimensions, frozen_layers
from harness.orchestration.preflight import heaviest
from harness.plan import Plan
from harness.spec import packing
from harness.spec.trial import TrialConfig

MOST = 4  # that auto packs: a sampler learns from trials that have ended, and these have not
# Estimates, not measurements: what a large GPU sustains in 16 and in 32 bit, what queueing a kernel takes, and how many
# kernels a layer takes forward and backward with adapters.
FLOPS_PER_SECOND = {"bf16": 200e12, "fp16": 200e12, "tf32": 100e12, "fp32": 30e12}
SECONDS_PER_KERNEL = 6e-6
KERNELS_PER_LAYER = {"encoder": 120, "decoder": 250}
LABEL_TOKENS = 64


def trials_per_pass(plan: Plan) -> int:
    """Trials in one pass.

    Raises:
        UserError: where more than one is asked for and cannot be.
    """
    place = plan.place
    possible = place.launcher == "local" and plan.processes == 1
    if place.pack is not None:
        if place.pack > 1 and not possible:
            raise UserError(f"--pack {place.pack} goes with --launcher local and --processes 1 only")
        return place.pack
    if not possible or not gpus() or plan.space.fixed.get("method") != "lora":
        return 1
    config = heaviest(plan.space)
    with suppress(UserError):  # a model that is not here yet, whose sizes are not known
        return (
            1
            if packing.unpackable_reason(config, plan.space.budget)
            else estimated_trials_per_pass(dimensions(plan.model), config, "encoder_cache" in plan.techniques)
        )
    return 1


def estimated_trials_per_pass(dims: Dimensions, config: TrialConfig, encoder_cache: bool = True) -> int:
    """How many trials a GPU should compute in the time in which the kernels of one are queued, up to MOST.

    A step takes the longer of the two. Packed, the kernels are queued once for all, so up to that number it costs
    next to nothing; beyond it, the GPU is the limit, and packing gains nothing.
    """
    batch = config.per_device_train_batch_size
    cached = frozen_layers(dims, config) if encoder_cache and config.augmentation is None else 0
    flops = training_flops(dims, config, batch, batch * LABEL_TOKENS, cached)
    computed = flops / FLOPS_PER_SECOND[config.precision]
    layers = {"encoder": dims.encoder_layers - cached, "decoder": dims.decoder_layers}
    queued = SECONDS_PER_KERNEL * sum(KERNELS_PER_LAYER[half] * count for half, count in layers.items())
    return max(1, min(MOST, int(queued / computed)))
