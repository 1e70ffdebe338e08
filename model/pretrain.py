"""Training of the backbone from nothing: autoencoder, encoder, diffusion model.

The three stages of a latent diffusion model conditioned on a self-supervised embedding, at the
size that a processor can train. All of it needs pixels only, no labels.
"""

from __future__ import annotations

import copy
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F

from model.autoencoder import Autoencoder, to_signed
from model.encoder import Conditioner, Encoder
from model.schedule import NoiseSchedule


class PatchSource(Protocol):
    """Where training patches come from."""

    def sample(self, rng: np.random.Generator, count: int, side_m: int) -> np.ndarray:
        """Return patches, uint8 [count, side_m, side_m, 3], at the model's resolution."""
        ...


@dataclass(frozen=True)
class Budget:
    """How long one stage trains and on what size of patch."""

    steps: int
    batch: int
    side_m: int
    learning_rate: float


class Progress:
    """One line on stderr about every ten seconds."""

    def __init__(self, stage: str, steps: int) -> None:
        self._stage, self._steps = stage, steps
        self._began = self._spoke = time.monotonic()
        self._mean = math.nan

    def tell(self, step: int, loss: float) -> None:
        self._mean = loss if math.isnan(self._mean) else 0.98 * self._mean + 0.02 * loss
        now = time.monotonic()
        if now - self._spoke > 10 or step + 1 == self._steps:
            self._spoke = now
            line = f"{self._stage} {step + 1}/{self._steps} loss {self._mean:.4f}"
            print(f"{line} {now - self._began:.0f} s", file=sys.stderr, flush=True)


def train_autoencoder(
    network: AutoencoderKL, source: PatchSource, budget: Budget, seed: int
) -> Autoencoder:
    """Train an autoencoder and set its scaling factor so that latents have unit variance."""
    source_of = _batches(source, budget, seed, _device_of(network))

    def loss_of(step: int) -> Tensor:
        pixels = to_signed(next(source_of))
        posterior = network.encode(pixels).latent_dist
        rebuilt = network.decode(posterior.sample()).sample
        error = (rebuilt - pixels).float()
        detail = _gradients(error).abs().mean()
        return error.abs().mean() + detail + 1e-6 * posterior.kl().mean() / pixels[0].numel()

    _optimise("autoencoder", network, loss_of, budget)
    with torch.inference_mode():
        network.register_to_config(scaling_factor=1.0)
        latents = Autoencoder(network)(to_signed(next(source_of)))
    network.register_to_config(scaling_factor=round(float(1 / latents.std()), 6))
    return Autoencoder(network.eval().requires_grad_(False))


def train_encoder(encoder: Encoder, source: PatchSource, budget: Budget, seed: int) -> Encoder:
    """Train an encoder to know two views of one place among those of other places.

    Source: Chen et al. 2020 (SimCLR), NT-Xent with a two-layer projection.
    """
    rng = torch.Generator().manual_seed(seed)
    project = nn.Sequential(nn.Linear(encoder.width, 256), nn.ReLU(), nn.Linear(256, 64))
    both = nn.ModuleList([encoder, project]).to(device := _device_of(encoder))
    wider = Budget(1, budget.batch, budget.side_m * 5 // 4, 0)
    source_of = _batches(source, wider, seed, torch.device("cpu"))  # views are cut there

    def loss_of(step: int) -> Tensor:
        patches = next(source_of)
        views = torch.cat([_view(patches, budget.side_m, rng) for _ in range(2)])
        codes = F.normalize(project(encoder(to_signed(views.to(device)))).float(), dim=-1)
        likeness = codes @ codes.T / 0.2
        likeness.fill_diagonal_(-torch.inf)
        count = len(patches)
        partner = torch.cat([torch.arange(count, 2 * count), torch.arange(count)])
        return F.cross_entropy(likeness, partner.to(device))

    _optimise("encoder", both, loss_of, budget)
    return encoder.eval().requires_grad_(False)


def train_denoiser(
    unet: UNet2DConditionModel,
    conditioner: Conditioner,
    autoencoder: Autoencoder,
    encoder: Encoder,
    schedule: NoiseSchedule,
    source: PatchSource,
    budgets: list[Budget],
    seed: int,
) -> None:
    """Train the conditional U-Net to predict the noise; leave the average of its weights in it.

    One embedding in ten is dropped to zeros, so that it also works without a condition. Seven
    of eight timesteps come from the lower half, where features are taken (our choice).
    Source: Ho et al. 2020, eq. 14; Rombach et al. 2022.
    """
    rng = torch.Generator().manual_seed(seed)
    trained = nn.ModuleList([unet, conditioner])
    average = copy.deepcopy(trained).requires_grad_(False)
    device = _device_of(unet)
    abar = torch.from_numpy(schedule.alphas_cumprod()).float().to(device)
    for index, budget in enumerate(budgets):
        source_of = _batches(source, budget, seed + index, device)

        def loss_of(step: int, source_of: Iterator[Tensor] = source_of) -> Tensor:
            with torch.no_grad():
                pixels = to_signed(next(source_of))
                latent, embedding = autoencoder(pixels).float(), encoder(pixels).float()
            count = len(latent)
            # Drawn on the processor, so that a seed gives the same on any device.
            embedding = embedding * (torch.rand(count, 1, generator=rng) > 0.1).to(device)
            t = _timesteps(count, schedule.timesteps, rng).to(device)
            noise = torch.randn(latent.shape, generator=rng).to(device)
            a = abar[t].view(-1, 1, 1, 1)
            noised = a.sqrt() * latent + (1 - a).sqrt() * noise
            told = unet(noised, t, encoder_hidden_states=conditioner(embedding)).sample
            return (told.float() - noise).square().mean()

        _optimise("denoiser", trained, loss_of, budget, average)
    trained.load_state_dict(average.state_dict())
    trained.eval().requires_grad_(False)


def _timesteps(count: int, timesteps: int, rng: torch.Generator) -> Tensor:
    half = torch.randint(0, timesteps // 2, (count,), generator=rng)
    return torch.where(torch.rand(count, generator=rng) < 0.75, half, timesteps - 1 - half)


def _optimise(
    stage: str,
    network: nn.Module,
    loss_of: Callable[[int], Tensor],
    budget: Budget,
    average: nn.Module | None = None,
) -> None:
    network.train()
    weights = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=budget.learning_rate, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, budget.learning_rate, total_steps=budget.steps, pct_start=0.1
    )
    progress = Progress(stage, budget.steps)
    for step in range(budget.steps):
        with torch.autocast(weights[0].device.type, dtype=torch.bfloat16):
            loss = loss_of(step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        rate.step()
        if average is not None:
            _blend(average, network, min(0.998, (step + 1) / (step + 10)))
        progress.tell(step, float(loss.detach()))


@torch.no_grad()
def _blend(average: nn.Module, network: nn.Module, keep: float) -> None:
    for mean, value in zip(average.parameters(), network.parameters(), strict=True):
        mean.lerp_(value, 1 - keep)


def _batches(
    source: PatchSource, budget: Budget, seed: int, device: torch.device
) -> Iterator[Tensor]:
    rng = np.random.default_rng(seed)
    for _ in itertools.count():
        yield torch.from_numpy(source.sample(rng, budget.batch, budget.side_m)).to(device)


def _device_of(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def _gradients(x: Tensor) -> Tensor:
    return torch.cat([x.diff(dim=-1).flatten(), x.diff(dim=-2).flatten()])


def _view(patches: Tensor, side_m: int, rng: torch.Generator) -> Tensor:
    """Return random crops of uint8 patches, turned, mirrored and stained anew."""
    out = torch.empty(len(patches), side_m, side_m, 3, dtype=torch.uint8)
    room = patches.shape[1] - side_m + 1
    for view, patch in zip(out, patches, strict=True):
        y, x, turns, mirror = torch.randint(0, 1 << 30, (4,), generator=rng).tolist()
        crop = patch[y % room :, x % room :][:side_m, :side_m]
        crop = crop.rot90(turns % 4)
        view.copy_(crop.flip(1) if mirror % 2 else crop)
    gain = 1 + 0.25 * torch.randn(len(out), 1, 1, 3, generator=rng)
    density = -torch.log((out.float() + 1) / 256)
    return (256 * torch.exp(-density * gain.clamp(0.4, 1.8)) - 1).clamp(0, 255).to(torch.uint8)
