"""Folders, images and tables of NuCLS as they are found, and what is refused."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from nucls_toys import SLIDES, field_name, load_folder, row, write_nucls, write_rows
from PIL import Image

from results.errors import UserError
from transfer.tasks import nucls_rows
from transfer.tasks.nucls import barcode
from transfer.tasks.schema import read_task


def test_the_window_is_what_is_read(nucls_folder):
    image = load_folder(nucls_folder).images[0]
    assert image.size == (80, 80)
    whole = np.asarray(Image.open(image.path).convert("RGB"))
    assert np.array_equal(image.pixels(), whole[8:88, 8:88])


@pytest.mark.parametrize("images", ["rgb", "rgbs", "rgbs_colorNormalized"])
def test_image_folders(tmp_path, images):
    task = load_folder(write_nucls(tmp_path / "n", images=images))
    whole = "nucls-super-normalised" if images == "rgbs_colorNormalized" else "nucls-super"
    assert task.name == f"{whole} (sample: 6 of 1,744 fields)"
    assert f"A sample, 6 of 1,744 fields of the data set: these are no scores of {whole}." in task.notes
    assert len(task.images) == 6


def test_the_table_of_windows_may_be_lower_case_or_beside_the_tables(nucls_folder):
    (nucls_folder / "csv" / "ALL_FOV_LOCATIONS.csv").rename(nucls_folder / "all_fov_locations.csv")
    assert len(load_folder(nucls_folder).images) == 6
    (nucls_folder / "all_fov_locations.csv").unlink()
    with pytest.raises(UserError, match=r"ALL_FOV_LOCATIONS\.csv"):
        load_folder(nucls_folder)


def test_fields_that_lack_a_file_are_reported_with_their_rows(nucls_folder):
    names = [field_name(SLIDES[0], 0), field_name(SLIDES[1], 10), field_name(SLIDES[2], 20)]
    (nucls_folder / "rgb" / f"{names[0]}.png").unlink()
    (nucls_folder / "csv" / f"{names[1]}.csv").unlink()
    path = nucls_folder / "csv" / "ALL_FOV_LOCATIONS.csv"
    path.write_text("\n".join(line for line in path.read_text().splitlines() if names[2] not in line) + "\n")
    task = load_folder(nucls_folder)
    assert len(task.images) == 3
    text = "\n".join(task.report)
    assert f"6 {nucls_rows.NO_IMAGE}" in text
    assert f"6 {nucls_rows.NO_WINDOW}" in text
    assert "1 images with no table" in text
    assert "30 rows" in text


def test_hidden_files_beside_the_real_ones_are_passed_over(nucls_folder):
    before = load_folder(nucls_folder)
    for path in [*(nucls_folder / "csv").iterdir(), *(nucls_folder / "rgb").iterdir()]:
        path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07\xff")
    after = load_folder(nucls_folder)
    assert (after.split_digest, after.report) == (before.split_digest, before.report)


def test_a_name_that_is_not_utf8_is_refused(nucls_folder):
    path = next((nucls_folder / "rgb").iterdir())
    os.rename(path, os.fsencode(path.parent) + b"/TCGA-A1-A0SP-DX1_id-\xff.png")
    with pytest.raises(UserError, match="not UTF-8"):
        load_folder(nucls_folder)


def test_broken_files_are_refused_by_name(nucls_folder):
    name = field_name(SLIDES[0], 0)
    (nucls_folder / "rgb" / f"{name}.png").write_bytes(b"not an image")
    with pytest.raises(UserError, match=name):
        load_folder(nucls_folder)
    write_nucls(nucls_folder)
    (nucls_folder / "csv" / f"{name}.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=name):
        load_folder(nucls_folder)


def test_an_image_too_large_for_a_field_is_refused_before_it_is_decoded(nucls_folder, monkeypatch):
    monkeypatch.setattr("transfer.tasks.boxes.MOST_PX", 96 * 96)
    assert load_folder(nucls_folder).images
    monkeypatch.setattr("transfer.tasks.boxes.MOST_PX", 96 * 96 - 1)
    with pytest.raises(UserError, match=r"96 x 96 px, more than 0\.00921 million"):
        load_folder(nucls_folder)


def _png(path, mode="RGB", size=(96, 96), **options):
    Image.new(mode, size).save(path, "PNG", **options)


def _png_16_bit_rgb(path):
    import struct
    import zlib

    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 96, 96, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress((b"\0" + b"\x12\x34" * 3 * 96) * 96)),
        (b"IEND", b""),
    ]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    )


def _bomb(path):
    import struct
    import zlib

    _png(path)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 60000, 60000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)


def _pipe(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        *((lambda path, mode=mode: _png(path, mode), "8-bit RGB") for mode in ("L", "1", "P", "RGBA", "LA", "I;16")),
        (lambda path: _png(path, transparency=(0, 0, 0)), "8-bit RGB"),
        (_png_16_bit_rgb, "has 16 bits"),
        (lambda path: Image.new("CMYK", (96, 96)).save(path, "TIFF"), "as a PNG"),
        (lambda path: Image.new("RGB", (96, 96)).save(path, "EPS"), "as a PNG"),
        (lambda path: path.write_bytes(path.read_bytes()[:-3000]), "as a PNG"),
        (_bomb, r"more than 67\.1 million"),
        (_pipe, "no regular file"),
        (lambda path: _png(path, size=(85, 96)), r"is 85 x 96 px and its annotated window \(8, 8, 88, 88\)"),
    ],
)
def test_images_of_another_kind_are_refused_by_name(nucls_folder, spoil, message):
    name = field_name(SLIDES[0], 0)
    spoil(nucls_folder / "rgb" / f"{name}.png")
    with pytest.raises(UserError, match=f"{name}.*{message}"):
        load_folder(nucls_folder)


def test_a_window_may_reach_beyond_its_image_by_rounding(nucls_folder):
    _png(nucls_folder / "rgb" / f"{field_name(SLIDES[0], 0)}.png", size=(86, 96))
    assert load_folder(nucls_folder).images[0].size == (78, 80)


def test_an_image_too_large_for_pillow_is_refused_where_warnings_are_errors(nucls_folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 96 * 96 - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_folder(nucls_folder).images[0].pixels().shape == (80, 80, 3)


@pytest.mark.parametrize("table", [f"csv/{field_name(SLIDES[0], 0)}.csv", "csv/ALL_FOV_LOCATIONS.csv"])
@pytest.mark.parametrize("fault", ["pipe", "doubled"])
def test_tables_of_another_kind_are_refused_by_name(nucls_folder, table, fault):
    path = nucls_folder / table
    if fault == "pipe":
        _pipe(path)
    else:
        path.write_text(path.read_text().replace("ymin", "xmin", 1))
    with pytest.raises(
        UserError, match=f"{path.name} {'is no regular file' if fault == 'pipe' else 'has the column xmin'}"
    ):
        load_folder(nucls_folder)


def test_a_field_with_two_windows_is_refused(nucls_folder):
    path, name = nucls_folder / "csv" / "ALL_FOV_LOCATIONS.csv", field_name(SLIDES[0], 0)
    path.write_text(f"{path.read_text()}9,{name},8,8,88,88\n")
    assert len(load_folder(nucls_folder).images) == 6
    path.write_text(f"{path.read_text()}9,{name}.png,0,0,50,50\n")
    with pytest.raises(UserError, match=f"ALL_FOV_LOCATIONS.csv names {name} more than once"):
        load_folder(nucls_folder)


@pytest.mark.parametrize(
    ("slides", "part"), [(SLIDES[:1], "test part of trial 1"), (SLIDES[1:], "train part of trial 1")]
)
@pytest.mark.parametrize("rows", [[], [row("unlabeled", (30, 30, 40, 40))]])
def test_a_trial_without_a_nucleus_is_refused(nucls_folder, slides, part, rows):
    for path in (nucls_folder / "csv").glob("TCGA*.csv"):
        if path.name.startswith(slides):
            write_rows(path, rows)
    with pytest.raises(UserError, match=part):
        load_folder(nucls_folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nucls", "detection", {"classes": "seven"}), "super, main, one"),
        (("missing.yaml", "detection"), "missing.yaml"),
    ],
)
def test_settings_are_checked(arguments, message):
    with pytest.raises(UserError, match=message):
        read_task(*arguments)


def test_a_folder_that_is_not_nucls_is_refused(tmp_path):
    with pytest.raises(UserError, match="no folder of images"):
        load_folder(tmp_path)


def test_names_give_slide_patient_and_hospital():
    assert barcode("TCGA-A1-A0SP-DX1_id-5ea_left-1", Path("x")) == ("TCGA-A1-A0SP-DX1", "TCGA-A1-A0SP", "A1")
    with pytest.raises(UserError, match="barcode"):
        barcode("picture", Path("picture.png"))
