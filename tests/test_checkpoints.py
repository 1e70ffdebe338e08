"""Files from elsewhere: nothing in them is run, and every bad one is one clear error."""

from __future__ import annotations

import collections
import pickle
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from compvis_layout import (
    Sizes,
    conditioner_shapes,
    config_of,
    ldm_state,
    random_weights,
    vit_checkpoint,
    vit_shapes,
    write_sources,
)
from torch import Tensor

from model import ModelError
from model.checkpoints import read_checkpoint, read_settings
from model.home import models_home
from model.importing import Sources, import_model

TINY = Sizes(mults=(1, 2), attention=(2,), vq_mults=(1, 1, 1))
State = dict[str, Tensor]
UNET, FIRST, TOKENS = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."


@pytest.fixture(scope="module")
def state() -> State:
    return ldm_state(TINY, conditioner_shapes(TINY.vit_width, TINY.context, region=96))


@pytest.fixture(scope="module")
def vit() -> State:
    return random_weights(vit_shapes(TINY), seed=1)


@pytest.fixture(scope="module")
def good(tmp_path_factory, state, vit) -> tuple[Path, Path, Path]:
    return write_sources(tmp_path_factory.mktemp("good"), state, vit, config_of(TINY))


class Bomb:
    """What unpickling would run."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


class Shell:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        import os

        return (os.system, (f"touch '{self.mark}'",))


@pytest.mark.parametrize("bomb", [Bomb, Shell])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_something_is_refused_and_never_run(
    tmp_path, state, good, bomb, zipped
):
    mark = tmp_path / "it ran"
    bad = tmp_path / "bad.ckpt"
    content = {"state_dict": state, "callbacks": bomb(mark)}
    torch.save(content, bad, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        ModelError, match=r"bad\.ckpt would run (pathlib\.Path\.touch|getattr|pos|nt)"
    ):
        import_model("bad", Sources(bad, good[1]))
    torch.save({"teacher": {}, "args": bomb(mark)}, bad)
    with pytest.raises(ModelError, match=r"bad\.ckpt would run"):
        import_model("bad", Sources(good[0], bad))
    assert not mark.exists() and not models_home().exists()


def test_a_plain_pickle_is_refused_and_never_run(tmp_path):
    mark, bad = tmp_path / "it ran", tmp_path / "bad.pth"
    bad.write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(ModelError, match=r"bad\.pth"):
        read_checkpoint(bad, ())
    assert not mark.exists()


@pytest.fixture
def lightning(monkeypatch) -> Callable[[str, str], type]:
    """Return a function that makes a class of a library that is not installed."""

    def make(module: str, name: str) -> type:
        for depth in range(1, module.count(".") + 2):
            part = ".".join(module.split(".")[:depth])
            if part not in sys.modules:
                monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
        made = type(name, (), {"__module__": module})
        setattr(sys.modules[module], name, made)
        return made

    return make


def test_what_lightning_and_dino_leave_beside_the_weights_is_passed_over(
    tmp_path, state, vit, lightning, monkeypatch
):
    import argparse

    beside = {
        "callbacks": {
            lightning("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"): {
                "best_model_score": torch.tensor(0.1),
                "dirpath": "/somewhere",
            },
            lightning("lightning.pytorch.callbacks.early_stopping", "EarlyStopping"): {"wait": 0},
        },
        "pytorch-lightning_version": "1.4.2",
        "lr_schedulers": [{"_last_lr": [np.float64(1e-4)], "lr_lambdas": [{}]}],
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
    }
    config = lightning("omegaconf.dictconfig", "DictConfig")()
    config.__dict__["_content"] = {"ref": int, "cache": collections.defaultdict(dict)}
    ldm, pth, _ = write_sources(tmp_path, state, vit, beside=[*beside.items(), ("hyper", config)])
    args = argparse.Namespace(arch="vit_small", output_dir=Path("/x"))
    torch.save(vit_checkpoint(vit) | {"args": args}, pth)
    for name in ("pytorch_lightning", "lightning", "omegaconf"):
        for module in [m for m in sys.modules if m.split(".")[0] == name]:
            monkeypatch.delitem(sys.modules, module)
    found = read_checkpoint(ldm, ("state_dict",))
    assert set(found) == set(state)
    assert all(torch.equal(found[key], state[key]) for key in state)
    assert import_model("whole", Sources(ldm, pth)).heads == {}
    assert not {"pytorch_lightning", "lightning", "omegaconf"} & set(sys.modules)


def test_what_was_allowed_for_one_file_is_not_allowed_afterwards(good):
    # torch keeps them as a set, so the order of the list means nothing
    before = set(torch.serialization.get_safe_globals())
    read_checkpoint(good[0], ("state_dict",))
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
@pytest.mark.parametrize("which", [0, 1])
def test_a_truncated_file_is_one_clear_error(tmp_path, good, which, share):
    files = list(good[:2])
    whole = files[which].read_bytes()
    files[which] = tmp_path / "short.ckpt"
    files[which].write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ModelError, match=r"short\.ckpt is damaged or no PyTorch checkpoint"):
        import_model("bad", Sources(*files))


@pytest.mark.parametrize("content", [b"not weights", b"\x80\x02.", b"PK\x03\x04", b"{}", b"\x80"])
def test_what_is_no_checkpoint_says_so(tmp_path, good, content):
    bad = tmp_path / "bad.ckpt"
    bad.write_bytes(content)
    with pytest.raises(ModelError, match=r"bad\.ckpt"):
        import_model("bad", Sources(bad, good[1]))
    safe = tmp_path / "bad.safetensors"
    safe.write_bytes(content)
    with pytest.raises(ModelError, match=r"bad\.safetensors is not a safetensors file"):
        import_model("bad", Sources(safe, good[1]))


def test_a_zip_that_is_no_checkpoint_says_so(tmp_path, good):
    with zipfile.ZipFile(tmp_path / "bad.ckpt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ModelError, match=r"bad\.ckpt is damaged or no PyTorch checkpoint"):
        import_model("bad", Sources(tmp_path / "bad.ckpt", good[1]))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([1, 2], "holds no weights but a list"),
        (torch.zeros(3), "holds no weights but a Tensor"),
        ({"state_dict": {}}, "holds no weights; its keys are"),
        ({"state_dict": 5}, "holds no weights but a int"),
        ({"epoch": 1, "lr": 0.1}, "holds no weights; its keys are epoch, lr"),
    ],
)
def test_a_checkpoint_without_weights_says_what_it_holds(tmp_path, good, content, says):
    torch.save(content, tmp_path / "bad.ckpt")
    with pytest.raises(ModelError, match=says):
        import_model("bad", Sources(tmp_path / "bad.ckpt", good[1]))


def test_a_missing_file_is_named(tmp_path, good):
    for sources in (Sources(tmp_path / "no", good[1]), Sources(good[0], tmp_path / "no")):
        with pytest.raises(ModelError, match=r"there is no file .*no;"):
            import_model("bad", sources)


def without(key: str) -> Callable[[State], State]:
    return lambda state: {k: v for k, v in state.items() if k != key}


def extra(key: str) -> Callable[[State], State]:
    return lambda state: state | {key: torch.zeros(2)}


def reshaped(key: str) -> Callable[[State], State]:
    return lambda state: state | {key: state[key][:-1]}


def without_prefix(prefix: str) -> Callable[[State], State]:
    return lambda state: {k: v for k, v in state.items() if not k.startswith(prefix)}


@pytest.mark.parametrize("configured", [True, False])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without(f"{UNET}time_embed.0.bias"), r"lacks time_embed\.0\.bias"),
        (without(f"{UNET}out.2.weight"), r"lacks .*out\.2\.weight"),
        (without(f"{UNET}input_blocks.3.1.norm.bias"), r"lacks input_blocks\.3\.1\.norm\.bias"),
        (without(f"{FIRST}quant_conv.bias"), r"lacks quant_conv\.bias"),
        (without(f"{FIRST}quantize.embedding.weight"), "not a VQ autoencoder"),
        (without(f"{FIRST}encoder.conv_out.weight"), r"lacks .*encoder\.conv_out\.weight"),
        (without(f"{TOKENS}region_fc.bias"), r"lacks region_fc\.bias"),
        (without(f"{TOKENS}patch_fc.bias"), r"lacks patch_fc\.bias"),
        (without_prefix(TOKENS), "no key of it"),
        (without_prefix(UNET), r"lacks every key that begins with model\.diffusion_model\."),
        (without_prefix(FIRST), r"lacks every key that begins with first_stage_model\."),
        (extra(f"{UNET}label_emb.weight"), r"no place in the network: label_emb\.weight"),
        (extra(f"{FIRST}encoder.more.bias"), r"no place in the network: encoder\.more\.bias"),
        (extra(f"{FIRST}encoder.down.0.attn.0.q.bias"), r"down\.0\.attn\.0\.q\.bias is not read"),
        (extra(f"{TOKENS}text.bias"), r"no place in the network: text\.bias"),
        (extra("discriminator.bias"), r"not a latent diffusion model .*discriminator\.bias"),
        (extra("model_ema.some"), r"has EMA weights but lacks model_ema\.diffusion_model"),
        (reshaped(f"{UNET}out.0.bias"), r"out\.0\.bias is \[31\] instead of \[32\]"),
        (reshaped(f"{FIRST}quant_conv.bias"), r"quant_conv\.bias is \[2\] instead of \[3\]"),
        (reshaped(f"{TOKENS}region_fc.bias"), r"region_fc\.bias is \[47\] instead of \[48\]"),
    ],
)
def test_wrong_keys_and_shapes_are_one_error_with_the_first_of_them(
    tmp_path, state, good, change, says, configured
):
    bad = tmp_path / "bad.ckpt"
    torch.save({"state_dict": change(state)}, bad)
    with pytest.raises(ModelError, match=says) as told:
        import_model("bad", Sources(bad, good[1], good[2] if configured else None))
    assert "bad.ckpt" in str(told.value) and "\n" not in str(told.value)


def test_no_more_than_a_few_of_many_wrong_keys_are_named(tmp_path, state, good):
    kept = without_prefix(f"{UNET}middle_block.1.transformer_blocks.0.ff")(state)
    torch.save({"state_dict": without_prefix(f"{UNET}output")(kept)}, tmp_path / "bad.ckpt")
    with pytest.raises(ModelError, match=r"and \d\d+ more") as told:
        import_model("bad", Sources(tmp_path / "bad.ckpt", good[1]))
    assert len(str(told.value)) < 400


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without("cls_token"), "lacks 'cls_token'"),
        (without("norm.bias"), r"lacks norm\.bias"),
        (without("blocks.1.attn.qkv.bias"), r"lacks blocks\.1\.attn\.qkv\.q\.bias"),
        (extra("blocks.0.gamma"), r"no place in the network: blocks\.0\.gamma"),
        (reshaped("blocks.0.mlp.fc2.bias"), r"fc2\.bias is \[63\] instead of \[64\]"),
        (reshaped("norm.weight"), r"norm\.weight is \[63\]"),
        (
            lambda vit: {"pos_embed": vit["pos_embed"][:, :190]} | without("pos_embed")(vit),
            "189 pos",
        ),
        (lambda vit: {"fc.weight": torch.zeros(2, 2)}, "no vision transformer in DINO's layout"),
    ],
)
def test_a_wrong_encoder_is_one_error(tmp_path, vit, good, change, says):
    bad = tmp_path / "bad.pth"
    torch.save(vit_checkpoint(change(vit)), bad)
    with pytest.raises(ModelError, match=says) as told:
        import_model("bad", Sources(good[0], bad))
    assert "bad.pth" in str(told.value)


def changed(*path: str, to: object) -> dict:
    config = config_of(TINY)
    inner = config
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to
    return config


PARAMS = ("model", "params")
UNET_PARAMS = (*PARAMS, "unet_config", "params")
FIRST_PARAMS = (*PARAMS, "first_stage_config", "params")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({}, "no model.params"),
        ({"model": 3}, "no model.params"),
        (changed(*PARAMS, "first_stage_config", to=1), "no model.params.first_stage_config.params"),
        (changed(*PARAMS, "unet_config", to=[1]), "no model.params.unet_config.params"),
        (changed(*UNET_PARAMS, to={"in_channels": 3}), "lacks the U-Net's model_channels"),
        (changed(*UNET_PARAMS, "channel_mult", to="wide"), "describes no U-Net"),
        (changed(*UNET_PARAMS, "channel_mult", to=[]), "describes no U-Net"),
        (changed(*UNET_PARAMS, "model_channels", to=33), "describes no U-Net"),
        (changed(*UNET_PARAMS, "resblock_updown", to=True), "resblock_updown True is not read"),
        (changed(*UNET_PARAMS, "model_channels", to=64), "weights of another shape"),
        (changed(*UNET_PARAMS, "num_res_blocks", to=2), "lacks input_blocks"),
        (
            changed(*FIRST_PARAMS, "ddconfig", to=None),
            "no model.params.first_stage_config.params.ddc",
        ),
        (changed(*FIRST_PARAMS, "n_embed", to="many"), "describes no autoencoder"),
        (changed(*FIRST_PARAMS, "n_embed", to=65), r"quantize\.embedding\.weight is \[64, 3\]"),
        (changed(*PARAMS, "linear_start", to=0.1), "but the weights of"),
        (changed(*PARAMS, "linear_start", to="small"), "no usable noise schedule"),
        (changed(*PARAMS, "timesteps", to=500), "but the weights of"),
        (changed(*PARAMS, "scale_factor", to="big"), "no usable scale_factor"),
        (changed(*PARAMS, "conditioning_key", to="concat"), "'concat' is not read"),
        (changed(*PARAMS, "beta_schedule", to="cosine"), "'cosine' is not read"),
    ],
)
def test_a_wrong_configuration_is_one_error(tmp_path, good, config, says):
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    with pytest.raises(ModelError, match=says):
        import_model("bad", Sources(good[0], good[1], path))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [", "not a plain YAML file"),
        ("- 1\n- 2", "no mapping"),
        ("", "no mapping"),
        ("a: !!python/object/apply:os.system ['touch ran']", "not a plain YAML file"),
        ("\x00", "not a plain YAML file"),
    ],
)
def test_what_is_no_plain_yaml_says_so_and_runs_nothing(tmp_path, monkeypatch, text, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=says) as told:
        read_settings(tmp_path / "bad.yaml")
    assert "\n" not in str(told.value)
    assert [p.name for p in tmp_path.iterdir()] == ["bad.yaml"]


def test_yaml_in_no_text_encoding_or_missing_says_so(tmp_path):
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\xfa")
    for name in ("bad.yaml", "nosuch.yaml"):
        with pytest.raises(ModelError, match=f"{name} cannot be read"):
            read_settings(tmp_path / name)


def test_another_noise_schedule_than_the_linear_one_is_refused(tmp_path, state, good):
    betas = torch.linspace(1e-4, 2e-2, 1000)
    torch.save({"state_dict": state | {"betas": betas}}, tmp_path / "bad.ckpt")
    with pytest.raises(ModelError, match="another than the linear noise schedule"):
        import_model("bad", Sources(tmp_path / "bad.ckpt", good[1]))


def test_the_schedule_is_read_off_the_stored_betas(tmp_path, state, good):
    betas = torch.linspace(0.001**0.5, 0.02**0.5, 500, dtype=torch.float64).square().float()
    torch.save({"state_dict": state | {"betas": betas}}, tmp_path / "other.ckpt")
    card = import_model("other", Sources(tmp_path / "other.ckpt", good[1]))
    assert card.schedule == {"beta_start": 0.001, "beta_end": 0.02, "timesteps": 500}
