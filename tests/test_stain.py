import numpy as np

from model.stain import jittered


def test_another_stain_keeps_white_and_shape_and_changes_colours_together():
    rng = np.random.default_rng(0)
    pixels = rng.integers(30, 220, (16, 24, 3)).astype(np.uint8)
    pixels[:4] = 255
    before = pixels.copy()
    for seed in range(20):
        out = jittered(pixels, np.random.default_rng(seed))
        assert out.shape == pixels.shape and out.dtype == np.uint8
        assert (out[:4] == 255).all()
        assert (out[4:] != pixels[4:]).mean() > 0.5
        for channel in range(3):  # darker stays darker: tissue keeps its pattern
            order = np.argsort(pixels[..., channel].ravel(), kind="stable")
            assert (np.diff(out[..., channel].ravel()[order].astype(int)) >= 0).all()
    assert (pixels == before).all()


def test_without_strength_nothing_changes_and_a_seed_decides():
    pixels = np.random.default_rng(1).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    assert (jittered(pixels, np.random.default_rng(0), strength=0.0) == pixels).all()
    one, same, other = (jittered(pixels, np.random.default_rng(s)) for s in (1, 1, 2))
    assert (one == same).all() and (one != other).any()


def test_density_is_scaled_between_half_and_just_under_twice():
    grey = np.full((1, 1, 3), 100, np.uint8)
    density = -np.log(101 / 256)
    for seed in range(200):
        out = jittered(grey, np.random.default_rng(seed), strength=2.0)
        factor = -np.log((out.astype(float) + 1) / 256) / density
        assert (factor > 0.48).all() and (factor < 1.72).all()
