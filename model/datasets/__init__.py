"""Published data sets and folders of tiles, read as labelled images."""

from model.datasets.bcss import bcss_split, read_bcss
from model.datasets.class_folders import read_class_folders
from model.datasets.glas import read_glas

__all__ = ["bcss_split", "read_bcss", "read_class_folders", "read_glas"]
