"""The claims on a GPU: bf16, CUDA events, each beside the floor that its operations or bytes set.

Run ``python -m benchmarks.gpu`` on a machine with a CUDA GPU. Its ceilings, the rate of a large matrix product in bf16
and that of a large copy, are measured first. The floor of a step is the larger of the
product's floating-point operations (counted by PyTorch's flop counter, backward pass included) over the one, and
the bytes that it cannot avoid (weights, their gradients and the optimiser's state) over the other. Without a GPU only
``--smoke`` runs: tiny sizes on the CPU, nothing stored; it shows that the script works and says nothing of speed.

P1 a step of prompt learning; P3 a step of the Multi-Modal Adapter; P4 an epoch of Tip-Adapter-F; and the first
encode from decoded images. Both sides run below the same autocast, or in float32 where the product does (P4). The
gate: the candidate is at most twice as far from the plain formula in float32 as the plain formula in bf16 is, or
within 0.1 % of it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import mm_adapter, prompt_step, tip_adapter_f
from benchmarks.common import Outcome, relative, store
from mmadapt.clip import ClipBackbone
from mmadapt.data.base import ClassSet
from mmadapt.features.pipeline import batch_size
from mmadapt.methods.mm_adapter import MMAdapter

LIMIT, EXACT = 2.0, 1e-3


@dataclass
class Claim:
    """Two ways to the same numbers, and what the second cannot avoid.

    Attributes:
        name: What is compared.
        reference: The plain formula; returns numbers.
        candidate: The product; returns the same numbers.
        goal: Ratio aimed at.
        traffic: Bytes that the candidate has to move.
        steps: Optimiser steps in one call.
        counted: Whether the flop counter sees all of the candidate's products.
        half: Whether both sides run in bf16.
    """

    name: str
    reference: Callable[[], list[Tensor]]
    candidate: Callable[[], list[Tensor]]
    goal: float
    traffic: float = 0.0
    steps: int = 1
    counted: bool = True
    half: bool = True


def prompts(device: str, smoke: bool) -> Claim:
    """P1: gradients of CoOp's context."""
    arch, classes = ("mmadapt-tiny", 4) if smoke else ("ViT-B-16-quickgelu", 100)
    case = prompt_step.Case("coop", classes, ClipBackbone(arch, None), device)
    return Claim(f"P1 prompt step, coop C={classes}", case.reference, case.candidate, 10.0)


def multi_modal(device: str, smoke: bool) -> Claim:
    """P3: loss and gradients of the Multi-Modal Adapter."""
    classes, batch = (6, 4) if smoke else (400, 32)
    generator = torch.Generator().manual_seed(0)
    texts = F.normalize(torch.randn(classes, mm_adapter.DIM, generator=generator), dim=-1).to(device)
    names = ClassSet(tuple(f"class {i}" for i in range(classes)))
    method = MMAdapter(clip=mm_adapter.Towerless(), classes=names, text_features=texts).to(device)  # type: ignore[arg-type]
    features = (10 * torch.randn(batch, mm_adapter.DIM, generator=generator)).to(device)
    labels = torch.randint(classes, (batch,), generator=generator).to(device)
    parameters = method.trainable_parameters()

    def step(loss: Tensor) -> list[Tensor]:
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        return [loss.detach(), torch.cat([each.flatten() for each in gradients])]

    def reference() -> list[Tensor]:
        with torch.device(device):
            return step(mm_adapter.reference_loss(method, features, labels))

    size = 4 * sum(parameter.numel() for parameter in parameters)
    return Claim(f"P3 Multi-Modal Adapter step, C={classes}", reference,
                 lambda: step(method.loss((features, labels))), 10.0, 2 * size)  # fmt: skip


def cache(device: str, smoke: bool) -> Claim:
    """P4: the mean losses of 20 epochs of Tip-Adapter-F."""
    dim, classes, shots, epochs = (16, 5, 2, 1) if smoke else (512, 1000, 16, 20)
    problem = tip_adapter_f.Problem(dim, classes, shots, 2, epochs, device)
    steps = epochs * -(-classes * shots // tip_adapter_f.BATCH)
    keys = 4 * dim * classes * shots
    return Claim(
        f"P4 {epochs} epochs of Tip-Adapter-F, C={classes}",
        lambda: [torch.tensor(problem.released())],
        lambda: [torch.tensor(tip_adapter_f.alone(problem.run()))],
        2.0, 7 * keys, steps, half=False,  # weights, gradient and two moments read, three of them written
    )  # fmt: skip


def encode(device: str, smoke: bool) -> Claim:
    """First encode: features of decoded images, in batches of 64 against the encoder's batches."""
    arch, count = ("mmadapt-tiny", 2) if smoke else ("ViT-B-32", 4096)
    clip = ClipBackbone(arch, None).to(device)
    images = torch.randn(count, 3, *clip.transform.size, generator=torch.Generator().manual_seed(0))

    def features(batch: int) -> list[Tensor]:
        with torch.no_grad():
            parts = [clip.encode_image(part.to(device, non_blocking=True)) for part in images.split(batch)]
        return [torch.cat([part.float() for part in parts])]

    return Claim(f"first encode, {count} decoded images",
                 lambda: features(64), lambda: features(batch_size(clip)), 1.3)  # fmt: skip


CLAIMS = (prompts, multi_modal, cache, encode)


def seconds(function: Callable[[], Any], device: str) -> float:
    """Return the seconds of a call, by CUDA events on a GPU."""
    if device == "cpu":
        start = time.perf_counter()
        function()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    function()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3


def ceilings() -> tuple[float, float]:
    """Return 10¹² operations a second of a bf16 product, and 10¹² bytes a second read and written by a copy."""
    side, numbers = 8192, 2**30
    factors = torch.randn(2, side, side, device="cuda", dtype=torch.bfloat16)
    source = torch.empty(numbers, device="cuda")
    target = torch.empty_like(source)

    def fastest(function: Callable[[], Any]) -> float:
        function()
        return statistics.median(seconds(function, "cuda") for _ in range(10))

    rates = (
        2 * side**3 / fastest(lambda: factors[0] @ factors[1]),
        8 * numbers / fastest(lambda: target.copy_(source)),
    )
    print(f"ceilings: {rates[0] / 1e12:.0f} TFLOP/s in bf16, {rates[1] / 1e12:.2f} TB/s", flush=True)
    return rates[0] / 1e12, rates[1] / 1e12


def measure(
    claim: Claim, device: str, pairs: int, tflops: float, terabytes: float
) -> tuple[Outcome, dict[str, Any]]:
    """Gate, time and print one claim; return it with its floor."""
    exact = claim.reference()
    with torch.autocast(device, torch.bfloat16, enabled=claim.half and device != "cpu"):
        plain, found = relative(claim.reference(), exact), relative(claim.candidate(), exact)
        error = found / max(plain, EXACT / LIMIT)
        outcome = Outcome(claim.name, error, LIMIT, claim.goal, unit=f"s {device}")
        with FlopCounterMode(display=False) as counter:
            claim.candidate()
        if outcome.error <= LIMIT:
            times = [
                (seconds(claim.reference, device), seconds(claim.candidate, device)) for _ in range(pairs)
            ]
            outcome.ratios = [slow / fast for slow, fast in times]
            outcome.seconds = tuple(statistics.median(column) for column in zip(*times, strict=True))  # type: ignore[assignment]
    operations = counter.get_total_flops() if claim.counted else 0
    floor = max(operations / (tflops * 1e12), claim.steps * claim.traffic / (terabytes * 1e12))
    share = floor / outcome.seconds[1] if outcome.ratios else float("nan")
    outcome.note = (
        f"floor {1e3 * floor:.3g} ms ({operations / 1e9:.3g} GFLOP, {claim.steps * claim.traffic / 1e6:.3g} MB); "
        f"{100 * share:.1f} % of the time is the floor"
    )
    print(outcome, flush=True)
    return outcome, {"name": claim.name, "floor_seconds": floor, "operations": operations}


def main(argv: Sequence[str] | None = None) -> list[Outcome]:
    """Measure every claim; store them if they come from a GPU."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true", help="tiny sizes on the CPU, nothing stored")
    parser.add_argument("--pairs", type=int, default=7)
    options = parser.parse_args(argv)
    if not options.smoke and not torch.cuda.is_available():
        raise SystemExit(
            "There is no CUDA GPU here. --smoke shows that the script runs, without figures of speed."
        )
    device = "cpu" if options.smoke else "cuda"
    pairs = 1 if options.smoke else options.pairs
    tflops, terabytes = (1.0, 1.0) if options.smoke else ceilings()
    measured = [measure(make(device, options.smoke), device, pairs, tflops, terabytes) for make in CLAIMS]
    outcomes = [outcome for outcome, _ in measured]
    if not options.smoke:
        floors = [floor for _, floor in measured]
        about = {"device": torch.cuda.get_device_name(), "tflops": tflops, "terabytes": terabytes}
        print(f"stored in {store('gpu', outcomes, floors=floors, **about)}")
    return outcomes


if __name__ == "__main__":
    main()
