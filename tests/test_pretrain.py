import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import ViTConfig, ViTModel

from model.autoencoder import Autoencoder, to_signed
from model.encoder import Conditioner, Encoder
from model.pretrain import Budget, train_autoencoder, train_denoiser, train_encoder
from model.schedule import NoiseSchedule

pytestmark = pytest.mark.usefixtures("one_thread")


class Blots:
    """Patches of a few flat colours, easy to learn."""

    def sample(self, rng, count, side_m):
        coarse = rng.integers(60, 250, (count, 4, 4, 3)).astype(np.uint8)
        return coarse.repeat(side_m // 4, 1).repeat(side_m // 4, 2)


def small_autoencoder() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        mid_block_add_attention=False,
    )


def error_of(network: AutoencoderKL) -> float:
    pixels = to_signed(torch.from_numpy(Blots().sample(np.random.default_rng(9), 8, 32)))
    with torch.inference_mode():
        return float((network(pixels).sample - pixels).abs().mean())


def test_an_autoencoder_learns_and_its_latents_have_unit_variance():
    network = small_autoencoder()
    before = error_of(network)
    autoencoder = train_autoencoder(network, Blots(), Budget(25, 8, 32, 1e-2), seed=0)
    assert error_of(network) < 0.9 * before
    pixels = to_signed(torch.from_numpy(Blots().sample(np.random.default_rng(5), 16, 32)))
    assert 0.7 < float(autoencoder(pixels).std()) < 1.4


def small_encoder() -> Encoder:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
    )
    return Encoder(ViTModel(config, add_pooling_layer=False))


def likeness_gap(encoder: Encoder) -> float:
    """Return how much more alike two halves of one place are than halves of two places."""
    patches = Blots().sample(np.random.default_rng(3), 16, 32)
    with torch.inference_mode():
        codes = [
            encoder(to_signed(torch.from_numpy(p))) for p in (patches, patches[:, ::-1].copy())
        ]
    likeness = codes[0] @ codes[1].T
    return float(likeness.diagonal().mean() - likeness.mean())


def test_an_encoder_learns_to_tell_places_apart():
    encoder = small_encoder()
    before = likeness_gap(encoder.eval())
    train_encoder(encoder, Blots(), Budget(40, 16, 32, 3e-3), seed=0)
    assert likeness_gap(encoder) > 1.5 * before
    assert not any(p.requires_grad for p in encoder.parameters())


def test_a_denoiser_learns_and_is_left_ready_for_use():
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(16, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    autoencoder = Autoencoder(small_autoencoder().eval())
    encoder, conditioner = small_encoder().eval(), Conditioner(16, 8)
    schedule = NoiseSchedule()
    parts = (unet, conditioner, autoencoder, encoder, schedule, Blots())
    train_denoiser(*parts, [Budget(30, 8, 32, 3e-3)], seed=0)

    pixels = to_signed(torch.from_numpy(Blots().sample(np.random.default_rng(4), 8, 32)))
    latent, noise = autoencoder(pixels), torch.randn(8, 4, 16, 16)
    signal, blur = schedule.mix(400)
    with torch.inference_mode():
        tokens = conditioner(encoder(pixels))
        told = unet(signal * latent + blur * noise, 400, encoder_hidden_states=tokens).sample
    assert float((told - noise).square().mean()) < 0.9  # saying nothing at all costs 1
    assert not unet.training and not any(p.requires_grad for p in unet.parameters())
