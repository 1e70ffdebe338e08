import numpy as np
import pytest

from model.schedule import NoiseSchedule, noise_field


def test_the_schedule_is_that_of_the_published_weights():
    abar = NoiseSchedule().alphas_cumprod()
    published = {0: 0.9985, 50: 0.9167, 100: 0.8231, 150: 0.7210, 250: 0.5084, 500: 0.1149}
    for timestep, value in published.items():
        assert abar[timestep] == pytest.approx(value, abs=5e-5)
    assert abar[999] == pytest.approx(1.4e-4, abs=5e-6)


def test_signal_and_noise_keep_unit_variance():
    for timestep in (0, 50, 999):
        signal, noise = NoiseSchedule().mix(timestep)
        assert signal**2 + noise**2 == pytest.approx(1.0)


@pytest.mark.parametrize("timestep", [-1, 1000])
def test_a_timestep_outside_the_schedule_is_refused(timestep):
    with pytest.raises(ValueError, match=r"0\.\.999"):
        NoiseSchedule().mix(timestep)


def test_noise_is_standard_normal_and_uncorrelated():
    noise = noise_field(7, 50, [(-64, 12_345)], (4, 256, 256))[0]
    assert abs(noise.mean()) < 0.01
    assert noise.std() == pytest.approx(1.0, abs=0.01)
    kurtosis = (noise**4).mean()
    assert kurtosis == pytest.approx(3.0, abs=0.1)
    for shifted in (np.roll(noise, 1, 1), np.roll(noise, 1, 2), np.roll(noise, 1, 0)):
        assert abs((noise * shifted).mean()) < 0.01


def test_overlapping_windows_see_the_same_noise():
    first, second = noise_field(7, 50, [(-8, -8), (24, -8)], (4, 64, 64))
    np.testing.assert_array_equal(first[:, :, 32:], second[:, :, :32])


def test_noise_differs_by_seed_and_timestep():
    base = noise_field(7, 50, [(0, 0)], (1, 32, 32))
    for other in (
        noise_field(8, 50, [(0, 0)], (1, 32, 32)),
        noise_field(7, 51, [(0, 0)], (1, 32, 32)),
    ):
        assert abs(np.corrcoef(base.ravel(), other.ravel())[0, 1]) < 0.15
