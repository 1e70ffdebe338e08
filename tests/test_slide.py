from __future__ import annotations

import os
import shutil
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from qupath_bridge.errors import PixelSizeError, SlideError
from qupath_bridge.geometry import BoxL0, Mpp
from qupath_bridge.slide import open_slide

MPP = Mpp(0.5, 0.5)


def picture(height: int = 300, width: int = 420, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def whole(path: Path) -> np.ndarray:
    """Return all of an image at its own size."""
    with open_slide(path, MPP) as slide:
        return slide.read(BoxL0(0, 0, slide.width, slide.height), slide.width, slide.height)


# --- every kind of file gives its own pixels -------------------------------------------------


WAYS_TO_WRITE_A_TIFF: dict[str, dict[str, object]] = {
    "tiled": {"tile": (128, 128)},
    "tiled-deflate": {"tile": (128, 128), "compression": "zlib", "predictor": True},
    "striped": {"rowsperstrip": 37},
    "striped-lzw": {"rowsperstrip": 64, "compression": "lzw"},
    "one-strip": {},
    "ome-tiled": {"tile": (128, 128), "ome": True},
    "ome-striped": {"rowsperstrip": 16, "ome": True},
    "bigtiff": {"tile": (64, 64), "bigtiff": True},
    "bigendian": {"rowsperstrip": 10, "byteorder": ">"},
    "planes": {"planarconfig": "separate", "tile": (64, 64)},
    "planes-striped": {"planarconfig": "separate", "rowsperstrip": 50},
}


@pytest.mark.parametrize("way", WAYS_TO_WRITE_A_TIFF)
def test_a_tiff_written_in_any_way_gives_exactly_its_pixels(tmp_path: Path, way: str) -> None:
    options = dict(WAYS_TO_WRITE_A_TIFF[way])
    pixels = picture()
    stored = pixels.transpose(2, 0, 1) if "planarconfig" in options else pixels
    opening = {k: options.pop(k) for k in ("ome", "bigtiff", "byteorder") if k in options}
    with tifffile.TiffWriter(tmp_path / "a.tif", **opening) as writer:  # type: ignore[arg-type]
        writer.write(stored, photometric="rgb", **options)  # type: ignore[arg-type]
    assert np.array_equal(whole(tmp_path / "a.tif"), pixels)


def test_a_png_gives_exactly_its_pixels_and_has_no_pixel_size(tmp_path: Path) -> None:
    Image.fromarray(picture()).save(tmp_path / "a.png", dpi=(50800, 50800))
    assert np.array_equal(whole(tmp_path / "a.png"), picture())
    with open_slide(tmp_path / "a.png") as slide, pytest.raises(PixelSizeError, match="--mpp"):
        _ = slide.mpp


def test_a_jpeg_opens_whatever_it_is_called(tmp_path: Path) -> None:
    Image.fromarray(picture()).save(tmp_path / "a.jpg", quality=95)
    (tmp_path / "a.jpg").rename(tmp_path / "a.svs")
    with open_slide(tmp_path / "a.svs") as slide:
        assert (slide.width, slide.height) == (420, 300)


def test_a_picture_too_large_for_pillow_itself_still_opens(tmp_path: Path) -> None:
    Image.new("P", (20_000, 10_000), 0).save(tmp_path / "wide.png")
    with open_slide(tmp_path / "wide.png") as slide:
        assert (slide.width, slide.height) == (20_000, 10_000)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_transparent_pixels_are_white(tmp_path: Path, suffix: str) -> None:
    rgba = np.dstack([picture(), np.full((300, 420), 255, np.uint8)])
    rgba[:150, :, 3] = 0
    path = tmp_path / f"a.{suffix}"
    if suffix == "png":
        Image.fromarray(rgba).save(path)
    else:
        tifffile.imwrite(path, rgba, photometric="rgb", extrasamples=["unassalpha"])
    shown = whole(path)
    assert (shown[:150] == 255).all()
    assert np.array_equal(shown[150:], picture()[150:])


def test_a_tile_that_was_never_written_is_white(tmp_path: Path) -> None:
    tiles = [None if i == 3 else np.full((128, 128, 3), 90, np.uint8) for i in range(6)]
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as writer:
        writer.write(
            iter(tiles), shape=(256, 384, 3), dtype=np.uint8, tile=(128, 128),
            photometric="rgb", compression="zlib",
        )  # fmt: skip
    shown = whole(tmp_path / "a.ome.tif")
    assert (shown[128:, :128] == 255).all()
    assert (shown[:128] == 90).all()


def test_levels_in_subifds_are_used(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(picture(512, 768), photometric="rgb", tile=(128, 128), subifds=1)
        small = np.full((256, 384, 3), 7, np.uint8)
        writer.write(small, photometric="rgb", tile=(128, 128), subfiletype=1)
    with open_slide(path) as slide:
        assert [level.downsample_x for level in slide.levels] == [1, 2]
        assert (slide.read(BoxL0(0, 0, 768, 512), 384, 256) == 7).all()


# --- coordinates -----------------------------------------------------------------------------


def cropped_by_openslide(path: Path) -> np.ndarray:
    """Write a TIFF whose first column and row of tiles are missing, which OpenSlide crops."""
    pixels = picture(512, 640)
    tiles = [
        b"" if x == 0 or y == 0 else zlib.compress(pixels[y : y + 128, x : x + 128].tobytes())
        for y in range(0, 512, 128)
        for x in range(0, 640, 128)
    ]
    tifffile.imwrite(
        path, iter(tiles), shape=pixels.shape, dtype=np.uint8, tile=(128, 128),
        photometric="rgb", compression="zlib", metadata=None,
    )  # fmt: skip
    return pixels


def test_an_image_is_cropped_to_its_bounds_as_in_qupath(tmp_path: Path) -> None:
    pixels = cropped_by_openslide(tmp_path / "a.tif")
    with open_slide(tmp_path / "a.tif", MPP) as slide:
        assert (slide.width, slide.height) == (512, 384)
        shown = slide.read(BoxL0(-10, 0, 100, 50), 110, 50)
    assert (shown[:, :10] == 255).all()
    assert np.array_equal(shown[:, 10:], pixels[128:178, 128:228])


def test_an_image_added_without_cropping_is_not_cropped(tmp_path: Path) -> None:
    pixels = cropped_by_openslide(tmp_path / "a.tif")
    with open_slide(tmp_path / "a.tif", MPP, size_l0=(640, 512)) as slide:
        assert np.array_equal(
            slide.read(BoxL0(128, 128, 200, 200), 72, 72), pixels[128:200, 128:200]
        )


def test_another_image_in_the_place_of_the_old_is_noticed(tmp_path: Path) -> None:
    Image.fromarray(picture()).save(tmp_path / "a.png")
    with pytest.raises(SlideError, match=r"a\.png is 420 x 300.*has it as 300 x 420"):
        open_slide(tmp_path / "a.png", size_l0=(300, 420))


# --- pixel size ------------------------------------------------------------------------------


def test_the_projects_pixel_size_beats_the_files(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", picture(), photometric="rgb", resolution=(20000, 20000),
        resolutionunit="CENTIMETER",
    )  # fmt: skip
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.mpp == (0.5, 0.5)
    with open_slide(tmp_path / "a.tif", Mpp(0.3, 0.31)) as slide:
        assert slide.mpp == (0.3, 0.31)


@pytest.mark.parametrize("tile", [None, (128, 128)])
@pytest.mark.parametrize(
    ("resolution", "unit"), [(72, "INCH"), (600, "INCH"), (1, "NONE"), (20000, "NONE")]
)
def test_the_resolution_of_a_printer_is_no_pixel_size(
    tmp_path: Path, tile: tuple[int, int] | None, resolution: int, unit: str
) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", picture(), photometric="rgb", tile=tile,
        resolution=(resolution, resolution), resolutionunit=unit,
    )  # fmt: skip
    with open_slide(tmp_path / "a.tif") as slide, pytest.raises(PixelSizeError, match="has no"):
        _ = slide.mpp


@pytest.mark.parametrize(
    ("size", "unit", "um"),
    [(0.25, "µm", 0.25), (250.0, "nm", 0.25), (0.00025, "mm", 0.25), (1.0, "pixel", None)],
)
def test_units_of_ome_are_understood(
    tmp_path: Path, size: float, unit: str, um: float | None
) -> None:
    metadata = {f"PhysicalSize{a}": size for a in "XY"}
    units = {f"PhysicalSize{a}Unit": unit for a in "XY"}
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, picture(), photometric="rgb", metadata={**metadata, **units})
    with open_slide(path) as slide:
        if um is None:
            with pytest.raises(PixelSizeError):
                _ = slide.mpp
        else:
            assert slide.mpp == pytest.approx((um, um))


def test_an_imagej_tiff_tells_its_pixel_size(tmp_path: Path) -> None:
    Image.fromarray(picture()).save(
        tmp_path / "a.tif",
        tiffinfo={270: "ImageJ=1.54f\nunit=\\u00B5m\n", 282: 4.0, 283: 4.0, 296: 1},
    )
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.mpp == pytest.approx((0.25, 0.25))


@pytest.mark.parametrize(
    ("mpp", "said"),
    [
        (Mpp(0, 0.5), "0 x 0.5"),
        (Mpp(float("nan"), 0.5), "nan x 0.5"),
        (Mpp(-0.5, -0.5), "-0.5 x -0.5"),
        (Mpp(0.5, float("inf")), "0.5 x inf"),
        (Mpp(1000.0, 1000.0), "1000 x 1000"),
        (Mpp(0.001, 0.001), "0.001 x 0.001"),
        (Mpp(0.25, 0.55), "0.25 x 0.55"),
    ],
)
def test_an_impossible_pixel_size_is_named(tmp_path: Path, mpp: Mpp, said: str) -> None:
    Image.fromarray(picture()).save(tmp_path / "a.png")
    what = rf"a\.png.*{said} um.*set it in QuPath"
    with open_slide(tmp_path / "a.png", mpp) as slide, pytest.raises(PixelSizeError, match=what):
        _ = slide.mpp


# --- what cannot be segmented is refused by name ---------------------------------------------


def write_stack(path: Path, axes: str, shape: tuple[int, ...], dtype: str = "uint8") -> None:
    rgb = axes.endswith("S")
    tifffile.imwrite(
        path, np.zeros(shape, dtype), metadata={"axes": axes}, ome=True, tile=(64, 64),
        photometric="rgb" if rgb else "minisblack",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("axes", "shape", "dtype", "said"),
    [
        ("CYX", (4, 100, 100), "uint8", "multi-channel.*4 channels"),
        ("CYX", (3, 100, 100), "uint8", "multi-channel.*3 channels"),
        ("ZYXS", (5, 100, 100, 3), "uint8", "z-stack of 5 planes"),
        ("TYXS", (6, 100, 100, 3), "uint8", "time series of 6 frames"),
        ("YXS", (100, 100, 3), "uint16", "uint16 pixels"),
        ("YX", (100, 100), "uint8", "greyscale"),
        ("YX", (100, 100), "float32", "float32 pixels"),
    ],
)
def test_what_is_not_brightfield_rgb_is_refused_by_name(
    tmp_path: Path, axes: str, shape: tuple[int, ...], dtype: str, said: str
) -> None:
    write_stack(tmp_path / "a.ome.tif", axes, shape, dtype)
    with pytest.raises(SlideError, match=rf"a\.ome\.tif.*{said}.*8-bit RGB brightfield"):
        open_slide(tmp_path / "a.ome.tif")


@pytest.mark.parametrize(
    ("shape", "dtype", "said"),
    [
        ((100, 100, 3), "uint16", "uint16 pixels"),
        ((100, 100), "uint8", "greyscale"),
        ((100, 100), "uint16", "uint16 pixels"),
        ((7, 100, 100, 3), "uint8", "stack of 7 pages"),
    ],
)
def test_what_openslide_would_misread_is_refused_too(
    tmp_path: Path, shape: tuple[int, ...], dtype: str, said: str
) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", np.zeros(shape, dtype), tile=(64, 64), metadata=None,
        photometric="rgb" if shape[-1] == 3 else "minisblack",
    )  # fmt: skip
    with pytest.raises(SlideError, match=said):
        open_slide(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("mode", "suffix", "said"),
    [
        ("L", "png", "greyscale"),
        ("L", "jpg", "greyscale"),
        ("1", "png", "black and white"),
        ("I;16", "png", "16-bit"),
        ("CMYK", "jpg", "CMYK"),
    ],
)
def test_pictures_that_are_not_rgb_are_refused(
    tmp_path: Path, mode: str, suffix: str, said: str
) -> None:
    Image.new(mode, (50, 40)).save(tmp_path / f"a.{suffix}")
    with pytest.raises(SlideError, match=said):
        open_slide(tmp_path / f"a.{suffix}")


def test_a_png_of_48_bits_is_refused_although_pillow_calls_it_rgb(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(picture(8, 8)).save(path)
    data = bytearray(path.read_bytes())
    data[24] = 16  # bit depth, in the header chunk
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    path.write_bytes(bytes(data))
    with pytest.raises(SlideError, match="16-bit"):
        open_slide(path)


def test_three_channels_named_and_coloured_as_rgb_are_rgb_as_in_qupath(tmp_path: Path) -> None:
    channels = {"Name": ["Red", "Green", "Blue"], "Color": [-16776961, 16711935, 65535]}
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(
        path, picture().transpose(2, 0, 1), photometric="minisblack",
        metadata={"axes": "CYX", "Channel": channels},
    )  # fmt: skip
    assert np.array_equal(whole(path), picture())


def test_two_images_of_one_size_are_not_guessed_between(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as writer:
        for seed in (1, 2):
            writer.write(picture(seed=seed), photometric="rgb", metadata={"Name": str(seed)})
    with pytest.raises(SlideError, match="2 images of the same size"):
        open_slide(tmp_path / "a.ome.tif")


def test_the_series_is_the_one_of_the_projects_size(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as writer:
        writer.write(picture(600, 600), photometric="rgb")
        writer.write(picture(200, 100), photometric="rgb")
    with open_slide(tmp_path / "a.ome.tif", size_l0=(100, 200)) as slide:
        assert (slide.width, slide.height) == (100, 200)


# --- files that are missing, broken or oddly named -------------------------------------------


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match=r"gone\.svs is not there"):
        open_slide(tmp_path / "gone.svs")


def test_a_folder_is_refused_and_its_dicom_file_suggested(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match="is a folder"):
        open_slide(tmp_path)
    (tmp_path / "1.2.dcm").touch()
    with pytest.raises(SlideError, match=r"name one of its files, as 1\.2\.dcm"):
        open_slide(tmp_path)


def test_an_empty_file_is_called_empty(tmp_path: Path) -> None:
    (tmp_path / "a.svs").touch()
    with pytest.raises(SlideError, match=r"a\.svs is empty"):
        open_slide(tmp_path / "a.svs")


def test_a_text_file_is_refused_with_what_each_reader_said(tmp_path: Path) -> None:
    (tmp_path / "a.svs").write_text("no image at all\n" * 20)
    with pytest.raises(SlideError, match=r"a\.svs is no image.*OpenSlide: .*tifffile: .*Pillow: "):
        open_slide(tmp_path / "a.svs")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    Image.fromarray(picture()).save(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    with pytest.raises(SlideError, match=r"a\.png may not be read"):
        open_slide(tmp_path / "a.png")


def read_all(path: Path) -> None:
    with open_slide(path, MPP) as slide:
        slide.read(BoxL0(0, 0, slide.width, slide.height), slide.width // 2, slide.height // 2)


@pytest.mark.parametrize("way", ["tiled", "tiled-deflate", "striped-lzw", "one-strip", "ome-tiled"])
@pytest.mark.parametrize("kept", [0.02, 0.4, 0.95])
def test_a_cut_tiff_is_an_error_that_names_it(tmp_path: Path, way: str, kept: float) -> None:
    options = dict(WAYS_TO_WRITE_A_TIFF[way])
    path = tmp_path / "cut.tif"
    tifffile.imwrite(path, picture(), photometric="rgb", **options)  # type: ignore[arg-type]
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(SlideError, match=r"cut\.tif"):
        read_all(path)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("kept", [0.01, 0.5, 0.9])
def test_a_cut_picture_is_an_error_that_names_it(tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(picture()).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(SlideError, match=rf"cut\.{suffix} is damaged"):
        read_all(path)


def test_garbage_after_any_signature_is_an_error_that_names_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    signatures = [b"II*\0", b"MM\0*", b"II+\0", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"DICM"]
    path = tmp_path / "noise.bin"
    for start in signatures:
        for _ in range(8):
            path.write_bytes(start + rng.bytes(3000))
            with pytest.raises(SlideError, match=r"noise\.bin"):
                read_all(path)


@pytest.mark.parametrize(
    "name", ["with space.tif", "Präparat Ä ß.tif", "slide 🔬🩸.tif", "a%20b#c.tif"]
)
def test_any_name_opens(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name.replace(".tif", " folder")
    folder.mkdir()
    tifffile.imwrite(folder / name, picture(), photometric="rgb", tile=(128, 128))
    assert np.array_equal(whole(folder / name), picture())
    Image.fromarray(picture()).save(folder / f"{name}.png")
    assert np.array_equal(whole(folder / f"{name}.png"), picture())


def test_a_link_opens_what_it_points_to(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", picture(), photometric="rgb")
    (tmp_path / "link.svs").symlink_to(tmp_path / "a.tif")
    assert np.array_equal(whole(tmp_path / "link.svs"), picture())


def test_a_closed_slide_says_so_in_our_words(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", picture(), photometric="rgb", tile=(128, 128))
    with open_slide(tmp_path / "a.tif") as slide:
        pass
    with pytest.raises(SlideError, match=r"a\.tif"):
        slide.thumbnail(10)


# --- many threads ----------------------------------------------------------------------------


@pytest.mark.parametrize("ome", [False, True])
def test_threads_read_what_one_reads(tmp_path: Path, ome: bool) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, picture(700, 900), photometric="rgb", tile=(64, 64), compression="zlib", ome=ome
    )
    boxes = [BoxL0(x, y, x + 200, y + 150) for x in range(0, 700, 90) for y in range(0, 550, 90)]
    with open_slide(path, MPP) as slide, ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda box: slide.read(box, 100, 75), boxes))
        for box, shown in zip(boxes, together, strict=True):
            assert np.array_equal(shown, slide.read(box, 100, 75))


# --- real slides -----------------------------------------------------------------------------


def test_a_dicom_slide_looks_as_its_svs_twin(shared_data: Path) -> None:
    slides = shared_data / "slides"
    dicom = sorted((slides / "CMU-1-Small-Region-dicom").glob("*.dcm"))[0]
    with open_slide(slides / "CMU-1-Small-Region.svs") as svs, open_slide(dicom) as twin:
        assert (svs.width, svs.height) == (twin.width, twin.height) == (2220, 2967)
        assert svs.mpp == twin.mpp == (0.499, 0.499)
        a, b = (slide.thumbnail(400).astype(int) for slide in (svs, twin))
    assert np.abs(a - b).mean() < 2  # the twin's JPEG stores colours more coarsely


def test_an_ome_tiff_that_openslide_refuses_opens(shared_data: Path) -> None:
    with open_slide(shared_data / "slides" / "OS-1-detail.ome.tif") as slide:
        assert (slide.width, slide.height) == (1101, 1101)
        assert slide.mpp == pytest.approx((0.2271, 0.2271), abs=1e-4)
        shown = slide.thumbnail(200)
    assert 100 < shown.mean() < 240
    assert shown.std() > 20


def test_a_slide_without_pixel_size_opens_and_asks_for_it(shared_data: Path) -> None:
    with open_slide(shared_data / "slides" / "tcga-cr-7395-01a-01-ts1.svs") as slide:
        assert [(level.downsample_x, level.downsample_y) for level in slide.levels] == [
            (1, 1),
            (2, 2),
        ]
        with pytest.raises(PixelSizeError, match="has no pixel size; set it in QuPath"):
            _ = slide.mpp


def test_a_damaged_slide_is_an_error_that_names_it(shared_data: Path) -> None:
    with pytest.raises(SlideError, match=r"broken\.svs"):
        open_slide(shared_data / "slides" / "broken.svs")


@pytest.mark.parametrize("kept", [0.001, 0.1, 0.3, 0.5, 0.6])
def test_a_slide_cut_in_its_pixels_is_an_error_that_names_it(
    shared_data: Path, tmp_path: Path, kept: float
) -> None:
    data = (shared_data / "slides" / "CMU-1-Small-Region.svs").read_bytes()
    (tmp_path / "cut.svs").write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(SlideError, match=r"cut\.svs"):
        read_all(tmp_path / "cut.svs")


@pytest.mark.parametrize("kept", [0.7, 0.97])
def test_a_slide_cut_behind_its_pixels_shows_them_unchanged(
    shared_data: Path, tmp_path: Path, kept: float
) -> None:
    original = shared_data / "slides" / "CMU-1-Small-Region.svs"
    data = original.read_bytes()
    (tmp_path / "cut.svs").write_bytes(data[: int(len(data) * kept)])
    with open_slide(original) as whole_slide, open_slide(tmp_path / "cut.svs") as cut:
        difference = whole_slide.thumbnail(500).astype(int) - cut.thumbnail(500)
    assert np.abs(difference).max() <= 6  # two JPEG decoders


def test_a_slide_with_a_spoilt_tile_fails_there_and_names_the_file(
    shared_data: Path, tmp_path: Path
) -> None:
    path = tmp_path / "spoilt.svs"
    shutil.copy(shared_data / "slides" / "CMU-1-Small-Region.svs", path)
    path.chmod(0o644)
    with tifffile.TiffFile(path) as tif:
        offset, count = tif.pages.first.dataoffsets[40], tif.pages.first.databytecounts[40]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(count))
    with pytest.raises(SlideError, match=r"spoilt\.svs is damaged"):
        read_all(path)
