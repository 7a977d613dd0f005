"""The conformance suite on a GPU: what holds bit for bit on a CPU holds to a tolerance here; and what a CPU lacks."""

from dataclasses import replace

import pytest
import torch
from trials import BUDGET, FULL, LORA, QUANTISED, VARIANTS, run, same, state

from harness.evaluation.decoding import Decoder
from harness.hardware.memory import is_out_of_memory
from harness.model.encoder_cache import EncoderStateCache
from harness.model.methods import detach, load_trained
from harness.records.study_folder import read_transcripts
from harness.spec.messages import Open
from harness.spec.techniques import STANDARD
from harness.spec.trial import TrialConfig
from harness.training.context import make_accelerator, make_context

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
ON_A_GPU = VARIANTS | {
    "fp16": LORA | {"precision": "fp16"},
    "tf32": LORA | {"precision": "tf32"},
    "full fp16": FULL | {"precision": "fp16"},
    "full fp16 8-bit": FULL | {"precision": "fp16", "optim": "adamw_8bit"},
    "paged 8-bit adam": FULL | {"optim": "paged_adamw_8bit"},
}


@pytest.fixture(scope="module")
def gpu(task, cache):
    from harness.training.orders import open_context

    return open_context(Open(model="demo", task=task, cache_dir=str(cache), seed=1), device=torch.device("cuda"))


@pytest.mark.parametrize("name", ON_A_GPU)
def test_the_loss_falls_and_the_base_comes_back(gpu, tmp_path, name):
    config, before = TrialConfig.model_validate(ON_A_GPU[name]), state(gpu.base)
    result = run(gpu, config, tmp_path / "a", budget=BUDGET)
    assert result.state == "complete"
    measure = "loss" if config.group_by_length else "train_loss"
    assert getattr(result.rungs[1], measure) < 0.8 * getattr(result.rungs[0], measure)
    assert same(before, state(gpu.base)), "something of the trial stayed on the base"
    again = run(gpu, config, tmp_path / "b", budget=BUDGET)
    assert again.rungs[1].train_loss == pytest.approx(result.rungs[1].train_loss, rel=0.02)
    cost = result.cost
    assert cost.memory_kind == "cuda_reserved" and cost.train_peak_bytes >= cost.train_peak_allocated_bytes > 1e6
    assert cost.peak_memory_bytes == max(cost.train_peak_bytes, cost.evaluation_peak_bytes)


@pytest.mark.parametrize("name", QUANTISED)
def test_a_quantised_base_trains_adapters(gpu, tmp_path, name):
    config = TrialConfig.model_validate(QUANTISED[name] | {"precision": "bf16"})
    result = run(gpu.with_base_weights(config.base_weights), config, tmp_path / "a", budget=BUDGET)
    assert result.rungs[1].train_loss < 0.8 * result.rungs[0].train_loss


@pytest.mark.parametrize("name", ["lora", "full", "dora"])
def test_a_gpu_follows_the_curve_of_a_cpu(gpu, context, tmp_path, name):
    config = TrialConfig.model_validate(VARIANTS[name] | ({"lora_dropout": 0.0} if name != "full" else {}))
    there, here = (run(b, config, tmp_path / n, budget=BUDGET) for n, b in (("gpu", gpu), ("cpu", context)))
    assert there.rungs[0].train_loss == pytest.approx(here.rungs[0].train_loss, rel=0.02)


def test_merged_weights_decode_as_the_trial_did(gpu, tmp_path):
    config = TrialConfig.model_validate(LORA)
    run(gpu, config, tmp_path / "t", budget=BUDGET)
    model = load_trained(gpu.base, config, tmp_path / "t" / "weights")
    accelerator = make_accelerator("fp32", gpu.base.device)
    decoder = Decoder(model, gpu.base, gpu.speech, gpu.decoding, accelerator)
    decoded = decoder.transcribe(gpu.speech.rows("validation"))
    detach(gpu.base, model)
    stored = read_transcripts(tmp_path / "t" / "transcripts.jsonl")
    assert sum(one.hypothesis != other.hypothesis for one, other in zip(decoded, stored, strict=True)) <= 1


def test_encoder_states_stay_in_the_gpu_s_memory_and_out_of_the_peak(gpu, tmp_path):
    config = TrialConfig.model_validate(LORA | {"scope": "decoder", "lora_dropout": 0.0})
    found = {}
    for name, use_gpu_memory in (("resident", True), ("file", False)):
        encoder_cache = EncoderStateCache(gpu.speech, tmp_path / "prefixes", use_gpu_memory)
        found[name] = run(replace(gpu, encoder_cache=encoder_cache), config, tmp_path / name, budget=BUDGET)
    held = found["resident"].cost.resident_bytes
    assert held > 0 == found["file"].cost.resident_bytes
    losses = [[rung.loss for rung in result.rungs] for result in found.values()]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert abs(found["resident"].cost.peak_memory_bytes - found["file"].cost.peak_memory_bytes) < max(held, 64 * 2**20)


def test_compiled_layers_train_and_decode_as_written_ones_do(gpu, tmp_path):
    config = TrialConfig.model_validate(LORA | {"lora_dropout": 0.0})
    made = make_context(gpu.base, gpu.speech, gpu.task, techniques=(*STANDARD, "compile"))
    found = [run(b, config, tmp_path / n, budget=BUDGET) for n, b in (("compiled", made), ("written", gpu))]
    losses = [[rung.loss for rung in result.rungs] for result in found]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    wers = [result.rungs[-1].scores.wer for result in found]
    assert wers[0] == pytest.approx(wers[1], abs=0.05)


def test_real_memory_that_runs_out_is_an_outcome(gpu, tmp_path):
    free, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_reserved() + 64 * 2**20) / total))
    try:
        config = TrialConfig.model_validate(FULL | {"per_device_train_batch_size": 48})
        result = run(gpu, config, tmp_path / "oom", budget=BUDGET)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert (result.state, result.reason) == ("pruned", "out_of_memory") and free > 0
    assert run(gpu, TrialConfig.model_validate(LORA), tmp_path / "after", budget=BUDGET).state == "complete"


def test_cuda_s_own_error_is_known_when_seen():
    with pytest.raises(torch.OutOfMemoryError) as error:
        torch.empty(2**50, dtype=torch.uint8, device="cuda")
    assert is_out_of_memory(error.value)
