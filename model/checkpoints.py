"""Files of weights and settings from elsewhere, read without running anything in them."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from model.errors import ModelError

M = TypeVar("M", bound=nn.Module)
SHOWN_KEYS = 3


class Inert:
    """Stands for a class that a checkpoint mentions and that no tensor needs; does nothing."""

    def __init__(self, *args: object) -> None:
        """Take what the pickle passes and forget it."""

    def __setstate__(self, state: object) -> None:
        """Take what the pickle passes and forget it."""


# What training frameworks leave beside the weights: Lightning keys the states of its callbacks by
# their classes, hyper-parameters are omegaconf's, learning rates are NumPy's scalars, and DINO
# keeps its command line. None of it is imported: a class that does nothing answers each name.
_CALLBACKS = (
    "model_checkpoint.ModelCheckpoint",
    "early_stopping.EarlyStopping",
    "lr_monitor.LearningRateMonitor",
    "timer.Timer",
)
_INERT_NAMES = (
    *(f"pytorch_lightning.callbacks.{name}" for name in _CALLBACKS),
    *(f"lightning.pytorch.callbacks.{name}" for name in _CALLBACKS),
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.nodes.AnyNode",
    "argparse.Namespace",
    "pathlib.PosixPath",
    "typing.Any",
    "collections.defaultdict",
    "builtins.dict",
    "builtins.list",
    "builtins.int",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "numpy.dtypes.Float64DType",
    "numpy.dtypes.Float32DType",
)


def read_checkpoint(path: Path, wrappers: Iterable[str]) -> dict[str, Tensor]:
    """Return the tensors of a PyTorch checkpoint or a safetensors file, on the CPU.

    `wrappers` are the keys under which the weights may lie; the first one found is opened, and
    without any the file itself is taken for the weights.

    Raises:
        ModelError: no such file, damaged, no weights in it, or it would have to run code.
    """
    if not path.is_file():
        raise ModelError(f"there is no file {path}; pass the file of the weights")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    if isinstance(content, Mapping):
        wrapper = next((key for key in wrappers if key in content), None)
        content = content if wrapper is None else content[wrapper]
    if not isinstance(content, Mapping):
        raise ModelError(f"{path} holds no weights but a {type(content).__name__}")
    tensors = {str(k): v.detach() for k, v in content.items() if isinstance(v, Tensor)}
    if not tensors:
        raise ModelError(f"{path} holds no weights; its keys are {first_of(map(str, content))}")
    return tensors


def read_settings(path: Path) -> dict[str, Any]:
    """Return a YAML file's mapping, its `target:` entries as plain text.

    Raises:
        ModelError: no such file, or not a YAML mapping of plain values.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} cannot be read ({error}); pass the YAML file") from error
    except yaml.YAMLError as error:
        what = " ".join(str(error).split())
        raise ModelError(f"{path} is not a plain YAML file ({what})") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is not a configuration: no mapping at its top")
    return content


def fill(
    network: M, source_of: Callable[[str], str], tensors: Mapping[str, Tensor], path: Path
) -> M:
    """Return `network` holding `tensors`, all of them and nothing else.

    `source_of` gives the name in the file of one of the network's own names. A 1x1 convolution
    of the file may fill a linear layer.

    Raises:
        ModelError: keys are missing, left over or of another shape; the first ones are named.
    """
    own = network.state_dict()
    names = {source_of(name): name for name in own}
    check_keys(path, names, tensors)
    wrong = [
        f"{source} is {list(tensors[source].shape)} instead of {list(own[name].shape)}"
        for source, name in names.items()
        if not _fits(tensors[source], own[name])
    ]
    if wrong:
        raise ModelError(f"{path} has weights of another shape: {first_of(wrong)}")
    state = {name: tensors[source].reshape(own[name].shape) for source, name in names.items()}
    network.load_state_dict(state, strict=True)
    return network


def check_keys(path: Path, wanted: Iterable[str], found: Iterable[str]) -> None:
    """Check that a file's keys are those wanted.

    Raises:
        ModelError: they are not; the first missing or left-over ones are named.
    """
    wanted, found = list(wanted), list(found)
    missing = [key for key in wanted if key not in set(found)]
    if missing:
        raise ModelError(f"{path} lacks {first_of(missing)}")
    extra = [key for key in found if key not in set(wanted)]
    if extra:
        raise ModelError(f"{path} holds what has no place in the network: {first_of(extra)}")


def first_of(names: Iterable[str]) -> str:
    """Return the first few of some names and how many more there are."""
    names = list(names)
    more = len(names) - SHOWN_KEYS
    return ", ".join(names[:SHOWN_KEYS]) + (f" and {more} more" if more > 0 else "")


def _read_safetensors(path: Path) -> Mapping[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a safetensors file ({error}); get it anew") from error


def _read_pickle(path: Path) -> Any:
    allowed: list[Callable[..., Any] | tuple[Callable[..., Any], str]]
    allowed = [(Inert, name) for name in _INERT_NAMES]
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except Exception as error:  # a damaged pickle can fail in any way there is
        forbidden = re.search(r"GLOBAL (\S+)", str(error))
        if forbidden:
            raise ModelError(
                f"{path} would run {forbidden[1]} when loaded, which this program never does;"
                " get the weights as safetensors"
            ) from error
        raise ModelError(
            f"{path} is damaged or no PyTorch checkpoint ({_sentence(error)}); get it anew"
        ) from error


def _sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:120]


def _fits(tensor: Tensor, own: Tensor) -> bool:
    pointwise = own.ndim == 2 and tensor.ndim > 2 and set(tensor.shape[2:]) == {1}
    return (tensor.shape[:2] if pointwise else tensor.shape) == own.shape
