import errno
import gzip
import io
import os
import signal
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from cifar_mlflow.data import images as decoding
from cifar_mlflow.data.images import Skipped
from cifar_mlflow.predict import images
from cifar_mlflow.predict.images import UserImage
from tests.conftest import PROJECT

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
HANGS_AFTER = 60  # seconds
RED, BLUE = np.array([255, 0, 0]), np.array([0, 0, 255])


def put(path: Path, image: Image.Image, **options: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return str(path)


def read(name: str) -> UserImage:
    image = images.read(name, 32)
    assert isinstance(image, UserImage), image
    assert image.pixels.shape == (32, 32, 3)
    assert image.pixels.dtype == np.uint8
    assert max(image.thumbnail.size) <= images.THUMBNAIL
    return image


def reason(name: str) -> str:
    skipped = images.read(name, 32)
    assert isinstance(skipped, Skipped)
    assert "\n" not in skipped.reason
    return skipped.reason


def mean(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    return np.asarray(pixels.reshape(-1, 3).mean(axis=0))


# Decode


@pytest.mark.parametrize(
    "suffix", ["png", "bmp", "gif", "tiff", "webp", "ppm", "ico", "qoi", "jp2"]
)
def test_an_image_of_the_networks_size_passes_unchanged(tmp_path: Path, suffix: str) -> None:
    image = Image.fromarray(PIXELS)
    if suffix == "gif":
        image = image.quantize(256)
    options = {"lossless": True} if suffix == "webp" else {}
    result = read(put(tmp_path / f"a.{suffix}", image, **options))
    np.testing.assert_array_equal(result.pixels, np.asarray(image.convert("RGB")))
    # The thumbnail shows the same pixels, each as a block of 4 x 4.
    np.testing.assert_array_equal(np.asarray(result.thumbnail)[::4, ::4], result.pixels)


@pytest.mark.parametrize("suffix", ["jpg", "avif"])
def test_lossy_formats_are_read_as_pillow_reads_them(tmp_path: Path, suffix: str) -> None:
    name = put(tmp_path / f"a.{suffix}", Image.fromarray(PIXELS))
    with Image.open(name) as image:
        np.testing.assert_array_equal(read(name).pixels, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(("width", "height"), [(32, 75), (75, 32), (33, 32), (32, 33)])
def test_the_square_around_the_centre_is_taken(tmp_path: Path, width: int, height: int) -> None:
    image = Image.new("RGB", (width, height), "red")
    image.paste(Image.fromarray(PIXELS), ((width - 32) // 2, (height - 32) // 2))
    np.testing.assert_array_equal(read(put(tmp_path / "a.png", image)).pixels, PIXELS)


@pytest.mark.parametrize("size", [1, 20, 100, 320, 3000])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_halves_stay_halves_at_every_size(tmp_path: Path, size: int, suffix: str) -> None:
    image = Image.new("RGB", (size, 2 * size), "blue")
    image.paste("red", (0, 0, size, size))
    result = read(put(tmp_path / f"a.{suffix}", image))
    if size > 1:
        np.testing.assert_allclose(mean(result.pixels[:10]), RED, atol=3)
        np.testing.assert_allclose(mean(result.pixels[-10:]), BLUE, atol=3)
    assert result.thumbnail.width > images.THUMBNAIL // 2


def test_a_fine_pattern_becomes_its_mean_and_no_moire(tmp_path: Path) -> None:
    board = np.indices((1601, 1601)).sum(axis=0).astype(np.uint8) % 2 * 255
    pixels = read(put(tmp_path / "a.png", Image.fromarray(board))).pixels
    np.testing.assert_allclose(pixels, 127.5, atol=3)


# By EXIF orientation, 1 to 8, the four corners of the upright image.
CORNERS = dict(enumerate(["ABCD", "BADC", "DCBA", "CDAB", "ACBD", "CADB", "DBCA", "BDAC"], 1))


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", CORNERS)
def test_photos_are_rotated_as_exif_says(tmp_path: Path, orientation: int, suffix: str) -> None:
    colours = {"A": (255, 0, 0), "B": (0, 255, 0), "C": (0, 0, 255), "D": (255, 255, 0)}
    image = Image.new("RGB", (64, 64))
    for corner, letter in enumerate("ABCD"):
        top, left = corner // 2 * 32, corner % 2 * 32
        image.paste(colours[letter], (left, top, left + 32, top + 32))
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = read(put(tmp_path / f"a.{suffix}", image, exif=exif)).pixels
    shown = [pixels[4, 4], pixels[4, 27], pixels[27, 4], pixels[27, 27]]
    nearest = "".join(
        min(colours, key=lambda letter: np.abs(np.subtract(colours[letter], pixel)).sum())
        for pixel in np.asarray(shown, int)
    )
    assert nearest == CORNERS[orientation]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_exif_that_pillow_cannot_rewrite_hides_no_photo(tmp_path: Path, suffix: str) -> None:
    a_number, orientation = (
        (0x010E, 12, 1, 38),
        (0x0112, 3, 1, 6),
    )  # for a text; the top is on the right
    entries = b"".join(struct.pack("<HHII", *entry) for entry in (a_number, orientation))
    odd = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + struct.pack("<Id", 0, 1.5)
    image = Image.new("RGB", (64, 64))
    image.paste("white", (0, 0, 32, 64))
    pixels = read(put(tmp_path / f"a.{suffix}", image, exif=odd)).pixels
    assert pixels[:14].min() >= 250
    assert pixels[18:].max() <= 5


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_exif_without_sense_hides_no_photo(tmp_path: Path, suffix: str) -> None:
    name = put(tmp_path / f"a.{suffix}", Image.new("RGB", (40, 40), "red"), exif=b"Exif\0\0garbage")
    np.testing.assert_allclose(mean(read(name).pixels), RED, atol=2)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    suffix = "tiff" if mode in ("CMYK", "YCbCr") else "png"
    image = Image.new("RGB", (40, 40), "red" if mode in ("P", "CMYK", "YCbCr") else "white")
    pixels = read(put(tmp_path / f"a.{suffix}", image.convert(mode))).pixels
    expected = np.asarray(image.convert(mode).convert("RGB"))[0, 0]
    np.testing.assert_array_equal(pixels, np.broadcast_to(expected, (32, 32, 3)))


def test_a_cmyk_jpeg_is_not_inverted(tmp_path: Path) -> None:
    name = put(tmp_path / "a.jpg", Image.new("CMYK", (40, 40), (0, 255, 255, 0)))
    np.testing.assert_allclose(mean(read(name).pixels), RED, atol=2)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("size", [32, 1000])
def test_what_is_transparent_is_white(tmp_path: Path, mode: str, size: int) -> None:
    image = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, size, size // 2))
    pixels = read(put(tmp_path / "a.png", image.convert(mode))).pixels
    assert pixels[:14].max() <= 2
    assert pixels[18:].min() >= 253


def test_half_transparent_colours_are_mixed_with_white(tmp_path: Path) -> None:
    name = put(tmp_path / "a.png", Image.new("RGBA", (32, 32), (255, 0, 0, 51)))
    np.testing.assert_array_equal(mean(read(name).pixels), [255, 204, 204])


@pytest.mark.parametrize(("mode", "key"), [("P", 0), ("L", 0), ("RGB", (0, 0, 0)), ("1", 0)])
@pytest.mark.parametrize("size", [32, 1000])
def test_a_transparent_colour_of_a_palette_or_a_key_is_white(
    tmp_path: Path, mode: str, key: object, size: int
) -> None:
    name = put(tmp_path / "a.png", Image.new(mode, (size, size)), transparency=key)
    assert read(name).pixels.min() == 255


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm", "jp2"])
def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path, suffix: str) -> None:
    ramp = np.arange(1024, dtype=np.uint16).reshape(32, 32) * 64
    name = put(tmp_path / f"a.{suffix}", Image.fromarray(ramp))
    np.testing.assert_array_equal(read(name).pixels[..., 0], ramp >> 8)


def tiff(bits: int, white_is_zero: bool, pixels: bytes) -> bytes:
    """A grey TIFF file of 32 x 32 pixels."""
    tags = {256: 32, 257: 32, 258: bits, 259: 1, 262: 1 - white_is_zero, 273: 8, 277: 1, 278: 32}
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()]
    entries.append(struct.pack("<HHII", 279, 4, 1, len(pixels)))
    folder = struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + folder


@pytest.mark.parametrize(
    ("bits", "white_is_zero", "pixels", "expected"),
    [
        (12, False, b"\xc0\x0c\x00" * 512, 0xC0),
        (16, False, b"\x00\xc0" * 1024, 0xC0),
        (16, True, b"\x00\xc0" * 1024, 255 - 0xC0),
    ],
)
def test_deep_grey_is_scaled_by_its_bits_and_not_negated(
    tmp_path: Path, bits: int, white_is_zero: bool, pixels: bytes, expected: int
) -> None:
    path = tmp_path / "a.tiff"
    path.write_bytes(tiff(bits, white_is_zero, pixels))
    assert set(read(str(path)).pixels.ravel()) == {expected}


def test_a_transparent_deep_grey_is_white(tmp_path: Path) -> None:
    black = Image.fromarray(np.zeros((32, 32), np.uint16))
    name = put(tmp_path / "a.png", black, transparency=0)
    assert read(name).pixels.min() == 255


def test_sixteen_bit_colours_are_scaled_too(tmp_path: Path) -> None:
    ramp = (np.arange(32 * 32 * 3).reshape(32, 32, 3) * 21).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in ramp)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 32, 32, 16, 2, 0, 0, 0))]
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks))
    np.testing.assert_array_equal(read(str(path)).pixels, ramp >> 8)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tiff", "avif"])
def test_of_an_animation_the_first_frame_is_read(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue", "green")]
    name = put(tmp_path / f"a.{suffix}", frames[0], save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(mean(read(name).pixels), RED, atol=3)


def test_the_content_decides_the_format_and_not_the_suffix(tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS)
    image.save(tmp_path / "a.jpg", format="PNG")
    np.testing.assert_array_equal(read(str(tmp_path / "a.jpg")).pixels, PIXELS)


# Refuse


def test_files_that_are_no_images_are_named_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("this is not an image, whatever its name says")
    (tmp_path / "empty.png").touch()
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (tmp_path / "drawing.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    assert "not an image" in reason(str(tmp_path / "text.png"))
    assert "not an image" in reason(str(tmp_path / "drawing.eps"))
    assert reason(str(tmp_path / "empty.png")) == "the file is empty"
    assert "HEIC" in reason(str(tmp_path / "photo.heic"))
    (tmp_path / "link.png").symlink_to(tmp_path / "absent.png")
    assert reason(str(tmp_path / "link.png")) == "No such file or directory"


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tiff", "webp", "jp2"])
def test_a_file_that_is_cut_off_is_skipped(tmp_path: Path, suffix: str) -> None:
    path = Path(put(tmp_path / f"a.{suffix}", Image.fromarray(np.tile(PIXELS, (4, 4, 1)))))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert reason(str(path))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_bytes_never_raise(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for suffix in ("png", "jpg", "gif", "tiff", "webp", "bmp", "ico", "jp2", "avif", "qoi"):
        path = Path(put(tmp_path / f"a.{suffix}", Image.fromarray(PIXELS)))
        content = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(20):
            damaged = content.copy()
            damaged[random.integers(0, len(content), 10)] = random.integers(0, 256, 10)
            path.write_bytes(damaged.tobytes())
            assert isinstance(images.read(str(path), 32), UserImage | Skipped)


def bomb(side: int) -> bytes:
    """A PNG that claims to be a square of this many pixels."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    rows = png_chunk(b"IDAT", zlib.compress(bytes(10_000_000)))
    return b"\x89PNG\r\n\x1a\n" + header + rows


@pytest.mark.parametrize("side", [8_001, 50_000])
def test_more_pixels_than_fit_the_memory_limit_are_refused_before_decoding(
    tmp_path: Path, side: int
) -> None:
    png = bomb(side)
    entry = struct.pack("<BBBBHHII", 32, 32, 0, 0, 1, 32, len(png), 22)
    for name, content in (("a.png", png), ("a.ico", b"\0\0\1\0\1\0" + entry + png)):
        (tmp_path / name).write_bytes(content)
        assert "exceeds limit of 64000000 pixels" in reason(str(tmp_path / name))


def test_a_photo_of_a_hundred_megapixels_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = put(tmp_path / "a.jpg", Image.new("L", (11_600, 8_700), 200), quality=50)
    assert read(name).pixels.min() == 200
    monkeypatch.setattr(decoding, "JPEG_PIXELS", 100_000_000)
    assert reason(name) == "100,920,000 pixels; at most 100,000,000 can be read"


def test_a_progressive_jpeg_counts_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "PIXELS", 300_000)
    image = Image.new("RGB", (2000, 2000), "red")
    read(put(tmp_path / "baseline.jpg", image))
    assert "4,000,000 pixels" in reason(put(tmp_path / "a.jpg", image, progressive=True))


@pytest.mark.parametrize(("limit", "alone"), [(0, True), (decoding.BIG, False)])
def test_big_images_are_in_memory_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, alone: bool
) -> None:
    crop = decoding.crop

    def watched(image: Image.Image) -> Image.Image:
        assert decoding._one_big.locked() == alone
        return crop(image)

    monkeypatch.setattr(decoding, "crop", watched)
    monkeypatch.setattr(decoding, "BIG", limit)
    read(put(tmp_path / "a.png", Image.fromarray(PIXELS)))
    assert not decoding._one_big.locked()


def test_pixels_without_a_known_white_are_refused(tmp_path: Path) -> None:
    name = put(tmp_path / "a.tiff", Image.fromarray(np.ones((32, 32), np.float32)))
    assert "32-bit" in reason(name)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    assert reason(str(tmp_path / "a.png")) == "not a regular file"


# Find


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with images, other files, hidden ones, and links that lead back."""
    for name in ("b.png", "a.JPG", "in/c.webp", "in/deep/d.gif", ".hidden.png", ".git/e.png"):
        put(tmp_path / name, Image.new("RGB", (4, 4)))
    (tmp_path / "notes.txt").touch()
    (tmp_path / "in" / "back").symlink_to(tmp_path)
    (tmp_path / "in" / "deep" / "back").symlink_to(tmp_path / "in")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*items: str) -> list[str]:
    names, skipped = images.find(items)
    assert skipped == []
    return names


def test_a_folder_means_the_images_in_and_below_it(tree: Path) -> None:
    assert found(".") == ["a.JPG", "b.png", "in/c.webp", "in/deep/d.gif"]
    assert found(str(tree)) == [str(tree / name) for name in found(".")]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.png", ["b.png"]),
        ("?.*", ["a.JPG", "b.png"]),
        ("**/*.gif", ["in/deep/d.gif"]),
        ("in/*", ["in/c.webp", "a.JPG", "b.png", "in/deep/d.gif"]),
        ("[ab].[pJ]*", ["a.JPG", "b.png"]),
        (".git/*.png", [".git/e.png"]),
        ("in/../*.png", ["b.png"]),
    ],
)
def test_a_pattern_means_the_files_and_folders_that_match_it(
    tree: Path, pattern: str, names: list[str]
) -> None:
    for given in (pattern, f"{tree}/{pattern}"):
        expected = sorted(str(tree / name) for name in names)
        assert sorted(os.path.realpath(name) for name in found(given)) == expected


def test_links_that_lead_in_circles_end(tree: Path) -> None:
    for number in range(30):
        (tree / "in" / f"again{number}").symlink_to(tree)
    assert len(found(".", "**/*.png", "**")) == 4


def test_two_stars_within_a_name_are_one(tree: Path) -> None:
    assert found("a**") == ["a.JPG"]


def test_a_file_that_is_named_twice_is_read_once(tree: Path) -> None:
    (tree / "link.png").symlink_to(tree / "b.png")
    url = "http://example.org/a.png"
    assert found("b.png", "./b.png", "link.png", str(tree / "b.png"), url, url) == ["b.png", url]


def test_files_can_be_left_out(tree: Path) -> None:
    names, _ = images.find(["."], leave_out=[tree / "b.png"])
    assert names == ["a.JPG", "in/c.webp", "in/deep/d.gif"]


def test_a_file_that_is_named_itself_is_read_whatever_its_name(tree: Path) -> None:
    put(tree / "photo[1].png", Image.new("RGB", (4, 4)))
    names = ["notes.txt", ".hidden.png", "photo[1].png"]
    assert found(*names) == names


def test_a_tilde_is_a_home_folder_or_a_files_own_name(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tree))
    (tree / "a.JPG").rename("~backup.png")
    names, (skipped,) = images.find(["~/b.png", "~no-such-user/a.png", "~backup.png"])
    assert names == [str(tree / "b.png"), "~backup.png"]
    assert skipped == Skipped("~no-such-user/a.png", "no home folder is known for ~no-such-user")


def test_what_names_no_image_is_skipped_once_with_a_reason(tree: Path) -> None:
    (tree / "nothing").mkdir()
    items = ("absent.png", "*.bmp", "z**", f"{tree}/{'a' * 5000}", "nothing", "ftp://host/a.png")
    names, skipped = images.find([*items, "b.png", *items])
    assert names == ["b.png"]
    assert [each.file for each in skipped] == list(items)
    absent, pattern, *_, folder, url = [each.reason for each in skipped]
    assert absent == pattern == f"no such file or folder (in {tree})"
    assert folder == "no image in this folder"
    assert url == "only http and https URLs can be read"


def test_what_may_not_be_seen_is_not_called_absent(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "lstat", denied)  # root may see everything
    names, skipped = images.find(["/closed/a.png"])
    assert (names, [(each.file, each.reason) for each in skipped]) == (
        [],
        [("/closed/a.png", "Permission denied")],
    )


def test_names_can_be_printed(tree: Path) -> None:
    put(tree / "odd" / "a\nb\x1b[31m.png", Image.new("RGB", (4, 4)))
    Path("b.png").rename(os.fsdecode(b"odd/caf\xe9.png"))
    names = [read(name).file for name in found("odd")]
    assert names == ["odd/a\ufffdb\ufffd[31m.png", "odd/caf\ufffd.png"]


def test_all_are_read_in_order(tmp_path: Path) -> None:
    for number in range(150):
        put(tmp_path / f"{number:03}.png", Image.new("L", (4, 4), number))
    (tmp_path / "070.png").write_text("damaged")
    batches = list(images.read_batches(found(str(tmp_path)), 32))
    assert [len(batch) for batch in batches] == [64, 64, 22]
    results = [each for batch in batches for each in batch]
    assert isinstance(results.pop(70), Skipped)
    levels = [int(each.pixels[0, 0, 0]) for each in results if isinstance(each, UserImage)]
    assert levels == [number for number in range(150) if number != 70]


# URLs


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A web site on this machine."""
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG")
    png = buffer.getvalue()
    test_ends = threading.Event()

    def stops() -> Iterator[bytes]:
        yield png[:500]
        test_ends.wait()

    def slow() -> Iterator[bytes]:
        while not test_ends.wait(0.05):
            yield b"a"

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            inside = f"http://localhost:{self.connection.getsockname()[1]}/a.png?size=1"
            compressed = {"Transfer-Encoding": "chunked", "Content-Encoding": "gzip"}
            chunks = [b"1\r\n%c\r\n" % byte for byte in gzip.compress(png)] + [b"0\r\n\r\n"]
            answers: dict[str, tuple[int, dict[str, str], Iterable[bytes]]] = {
                "/a.png?size=1": (200, {}, [png]),
                "/chunks": (200, compressed, chunks),
                "/moved": (302, {"Location": "/a.png?size=1"}, []),
                "/inside": (302, {"Location": inside}, []),
                "/large": (200, {}, [bytes(20_000)]),
                "/cut": (200, {"Content-Length": str(len(png))}, [png[:500]]),
                "/stops": (200, {}, stops()),
                "/slow": (200, {}, slow()),
            }
            if self.path == "/silent":
                test_ends.wait()
            elif self.path == "/slow-headers":
                self.wfile.writelines(slow())
            else:
                status, headers, parts = answers.get(self.path, (404, {}, [b"gone"]))
                self.send_response(status)
                for name, value in {**headers, "Connection": "close"}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.writelines(parts)

        def log_message(self, *arguments: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(images, "DOWNLOAD_BYTES", 10_000)
    yield f"http://127.0.0.1:{server.server_port}"
    test_ends.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("path", ["a.png?size=1", "moved", "chunks", "inside"])
def test_an_image_is_read_from_its_url(site: str, path: str) -> None:
    downloaded = read(f"{site}/{path}")
    assert downloaded.file == f"{site}/{path}"
    np.testing.assert_array_equal(downloaded.pixels, PIXELS)


def test_a_url_that_fails_is_skipped_with_its_reason(site: str) -> None:
    assert reason(f"{site}/gone.png") == "HTTP status 404 Not Found"
    assert reason(f"{site}/large") == "larger than 0 MB"
    assert reason(f"{site}/cut") == "the connection failed"
    assert reason("http://127.0.0.1:1/a.png") == "the connection failed"
    assert reason("http://[::1") == "not a valid URL"


@pytest.mark.parametrize("path", ["silent", "stops"])
def test_silence_has_a_limit(site: str, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(images, "SILENCE_SECONDS", 0.5)
    assert reason(f"{site}/{path}") == "no answer within 0.5 s"


@pytest.mark.parametrize("path", ["slow", "slow-headers"])
def test_a_download_has_a_time_limit_however_its_bytes_come(
    site: str, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(images, "DOWNLOAD_SECONDS", 0.5)
    with ThreadPool(1) as pool:  # because the site never ends by itself
        answer = pool.apply_async(reason, (f"{site}/{path}",))
        assert answer.get(HANGS_AFTER) == "not downloaded within 0.5 s"


def test_an_interruption_does_not_wait_for_downloads(site: str) -> None:
    # A shell's background job starts with SIGINT ignored, so the program sets it, as entry points do.
    program = f"""
import os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from cifar_mlflow.predict import images
images.SILENCE_SECONDS = images.DOWNLOAD_SECONDS = 10 * {HANGS_AFTER}
fetch = images._fetch
images._fetch = lambda url: os.write(1, b"begins\\n") and fetch(url)
list(images.read_batches(["{site}/slow", "{site}/silent", "{site}/stops"], 32))
"""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "begins\n"
        process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=HANGS_AFTER)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGINT
    assert errors.endswith("KeyboardInterrupt\n")


def test_a_redirect_from_outside_is_not_followed_inside(
    site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "_is_inside", lambda host: host == "localhost")
    assert reason(f"{site}/inside") == "it redirects into this machine or its private network"


@pytest.mark.parametrize(
    ("host", "inside"),
    [
        *((host, True) for host in ("localhost", "127.0.0.1", "[::1]", "2130706433", "10.1.2.3")),
        *((host, True) for host in ("169.254.169.254", "[::ffff:192.168.0.1]", "[fe80::1]")),
        *((host, False) for host in ("8.8.8.8", "[2606:4700::1111]", "a..b")),
    ],
)
def test_private_hosts_are_recognised(host: str, inside: bool) -> None:
    assert images._is_inside(host) == inside


def test_passwords_in_urls_are_used_and_not_shown(site: str) -> None:
    secret = site.replace("://", "://me:se%20cret@")
    assert read(f"{secret}/a.png?size=1").file == f"{site}/a.png?size=1"
    assert "secret" not in repr(images.read("http://me:secret@[::1", 32))
    assert "secret" not in repr(images.find(["ftp://me:secret@host/a.png"]))
