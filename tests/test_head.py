import torch
from torch.nn.functional import conv2d, interpolate

from model.head import Head


def test_projecting_first_equals_upsampling_and_concatenating_first():
    torch.manual_seed(0)
    channels, sides = (24, 12, 8), (8, 16, 16)
    features = [torch.randn(2, c, s, s) for c, s in zip(channels, sides, strict=True)]
    head = Head(channels, classes=3, width=16).eval()
    for norm in head.norms:
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)

    normed = [norm(f) for norm, f in zip(head.norms, features, strict=True)]
    joined = torch.cat([interpolate(f, size=16, mode="bilinear") for f in normed], dim=1)
    kernel = torch.cat([p.weight for p in head.projections], dim=1)
    bias = sum(p.bias for p in head.projections)
    with torch.no_grad():
        expected = conv2d(joined, kernel, bias)
        torch.testing.assert_close(head.project(features), expected, atol=1e-5, rtol=0)


def test_logits_have_twice_the_finest_resolution():
    head = Head((24, 8), classes=5, width=16).eval()
    logits = head([torch.randn(3, 24, 8, 8), torch.randn(3, 8, 32, 32)])
    assert logits.shape == (3, 5, 64, 64)
