"""Try a page that `demo` wrote in Chromium, opened from disk, and print how it compares with `predict`.

    mlflow run . -e demo --env-manager local
    pip install playwright
    python -m drills.demo demo.html models:/cifar10-cnn@champion [FOLDER]

Chromium is that of the machine (``CHROMIUM`` names another), and has no network. FOLDER gets screenshots,
at the widths of a phone and of a laptop, light and dark.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from playwright.sync_api import Page, sync_playwright

from cifar_mlflow import console
from cifar_mlflow.data.load import load
from cifar_mlflow.predict import images
from cifar_mlflow.store import models

ON_TEST_IMAGES = 50
WIDTHS = {"phone": 390, "laptop": 1280}
# What the page shows: the pixels, and the likeliest classes with unrounded probabilities.
SHOWN = """() => ({
    pixels: Array.from(document.querySelector('#seen').getContext('2d')
        .getImageData(0, 0, seen.width, seen.height).data),
    answers: Array.from(document.querySelectorAll('#answers li'), row => [
        row.querySelector('.name').textContent,
        Number(row.querySelector('.bar').style.getPropertyValue('--share'))]),
})"""
# Hands a file over as a drop or a paste does.
TRANSFER = """([kind, bytes]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([new Uint8Array(bytes)], 'picture.png', {type: 'image/png'}));
    const event = kind === 'drop' ? new DragEvent('drop', {dataTransfer: transfer, bubbles: true})
        : new ClipboardEvent('paste', {clipboardData: transfer, bubbles: true});
    document.body.dispatchEvent(event);
}"""


class Demo:
    """The page in a browser."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.troubles: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.troubles.append(message.text))
        page.on("pageerror", lambda error: self.troubles.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url.partition(":")[0]))

    def open(self, path: Path) -> float:
        """Open the page; gives the seconds until it is ready."""
        began = time.perf_counter()
        self.page.goto(path.resolve().as_uri())
        self.page.get_by_text("Ready for your picture").wait_for()
        return time.perf_counter() - began

    def answer(self, file: Path) -> tuple[npt.NDArray[np.uint8], list[tuple[str, float]]]:
        """The pixels that the network saw in a file, and its likeliest classes."""
        self.forget()
        self.page.locator("#file").set_input_files(file)
        return self.shown()

    def shown(self) -> tuple[npt.NDArray[np.uint8], list[tuple[str, float]]]:
        self.page.locator("#answers li").first.wait_for()
        found = self.page.evaluate(SHOWN)
        side = int((len(found["pixels"]) / 4) ** 0.5)
        pixels = np.array(found["pixels"], np.uint8).reshape(side, side, 4)
        return pixels[:, :, :3], [(name, share) for name, share in found["answers"]]

    def forget(self) -> None:
        self.page.evaluate("document.querySelector('#answers').replaceChildren()")


@contextmanager
def opened(path: Path, width: int = 1280, dark: bool = False) -> Iterator[Demo]:
    """The page in a new Chromium without network, with a camera that shows a test pattern."""
    chromium = (
        os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    )
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=chromium, args=camera) as browser,
    ):
        page = browser.new_page(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if dark else "light",
            device_scale_factor=2 if width < 500 else 1,
            has_touch=width < 500,
            is_mobile=width < 500,
        )
        page.context.set_offline(True)
        demo = Demo(page)
        print(f"Chromium {browser.version}, {width} px: ready after {demo.open(path):.1f} s")
        yield demo
        print(f"  requests by scheme: {sorted(set(demo.requests))}; troubles: {demo.troubles}")


def compare_answers(demo: Demo, model: models.LoadedModel, folder: Path) -> None:
    """Probabilities of test images, in the page and in Keras."""
    chosen = load().examples("test").images[:ON_TEST_IMAGES]
    expected = model.predict(np.array(chosen))
    largest, same, seconds = 0.0, 0, 0.0
    for image, probabilities in zip(chosen, expected):
        Image.fromarray(image).save(folder / "test.png")
        began = time.perf_counter()
        pixels, answers = demo.answer(folder / "test.png")
        seconds += time.perf_counter() - began
        assert np.array_equal(pixels, image)
        same += answers[0][0] == model.classes[probabilities.argmax()]
        for name, share in answers:
            largest = max(largest, abs(share - float(probabilities[model.classes.index(name)])))
    print(
        f"{len(chosen)} test images: the same class for {same}, largest difference of a probability "
        f"{largest:.1e}, {1000 * seconds / len(chosen):.0f} ms each"
    )


def compare_pixels(demo: Demo, folder: Path) -> None:
    """The pixels that the network sees in pictures of many kinds, in the page and in `predict`."""
    for path in pictures(folder):
        seen, _ = demo.answer(path)
        read = images.read(str(path), len(seen))
        assert isinstance(read, images.UserImage), read
        difference = np.abs(seen.astype(int) - read.pixels)
        print(f"{path.name:<24} levels: largest {difference.max()}, mean {difference.mean():.3f}")


def pictures(folder: Path) -> Iterator[Path]:
    """Pictures of several sizes, formats and colour modes."""
    random = np.random.default_rng(0)
    for width, height in ((20, 30), (32, 32), (200, 100), (300, 511), (513, 900), (3001, 1999)):
        picture = drawing(width, height, random)
        for suffix in ("png", "jpg"):
            path = folder / f"{width}x{height}.{suffix}"
            picture.save(path, quality=92)
            yield path
    picture = drawing(640, 480, random)
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: by a quarter
    picture.save(folder / "turned.jpg", exif=turned)
    picture.convert("L").save(folder / "grey.jpg")
    picture.quantize(32).save(folder / "palette.gif")
    picture.save(folder / "lossless.webp", lossless=True)
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    picture.save(folder / "transparent.png")
    for name in ("turned.jpg", "grey.jpg", "palette.gif", "lossless.webp", "transparent.png"):
        yield folder / name


def drawing(width: int, height: int, random: np.random.Generator) -> Image.Image:
    """Smooth colours, sharp edges, and some noise."""
    coarse = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    for _ in range(12):
        x, y = int(random.integers(width)), int(random.integers(height))
        size = max(2, min(width, height) // 5)
        colour = tuple(int(level) for level in random.integers(0, 256, 3))
        pen.ellipse((x, y, x + size, y + size), colour)
    noise = random.normal(0, 6, (height, width, 3))
    noisy = np.clip(np.asarray(picture) + noise, 0, 255)
    return Image.fromarray(noisy.astype(np.uint8))


def other_ways(demo: Demo, folder: Path) -> None:
    """A drop, a paste, the camera, a file that is no picture, and a connection."""
    drawing(300, 300, np.random.default_rng(1)).save(folder / "given.png")
    content = list((folder / "given.png").read_bytes())
    for way in ("drop", "paste"):
        demo.forget()
        demo.page.evaluate(TRANSFER, [way, content])
        print(f"{way}: {demo.shown()[1][0]}")
    demo.forget()
    demo.page.get_by_role("button", name="Use the camera").click()
    demo.page.get_by_role("button", name="Take the picture").click()
    print(f"camera: {demo.shown()[1][0]}")
    (folder / "text.png").write_text("no picture")
    demo.page.locator("#file").set_input_files(folder / "text.png")
    demo.page.get_by_text("Not a picture").wait_for()
    print(f"a text: {demo.page.get_by_role('status').inner_text()!r}")
    before = len(demo.troubles)
    for url in ("data:,x", "https://localhost"):
        blocked = demo.page.evaluate("url => fetch(url).then(() => false, () => true)", url)
        print(f"a request to {url} is blocked: {blocked}")
    del demo.troubles[before:]  # these the page is meant to have


def take_screenshots(path: Path, folder: Path, picture: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for device, width in WIDTHS.items():
        for dark in (False, True):
            with opened(path, width, dark) as demo:
                name = f"{device}-{'dark' if dark else 'light'}"
                demo.page.screenshot(path=folder / f"{name}-empty.png", full_page=True)
                demo.answer(picture)
                demo.page.screenshot(path=folder / f"{name}.png", full_page=True)
                wide = demo.page.evaluate("document.documentElement.scrollWidth")
                print(f"  {name}: the page is {wide} px wide")


def main(path: Path, uri: str, screenshots: Path | None) -> None:
    console.quieten()
    model = models.load_model(uri, os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with opened(path) as demo:
            compare_answers(demo, model, folder)
            compare_pixels(demo, folder)
            other_ways(demo, folder)
        if screenshots:
            picture = folder / "picture.png"
            ship().save(picture)
            take_screenshots(path, screenshots, picture)


def ship() -> Image.Image:
    """A ship at sea, drawn here."""
    picture = Image.new("RGB", (900, 600), "#8fc1e8")
    pen = ImageDraw.Draw(picture)
    pen.rectangle((0, 390, 900, 600), "#2f5f8f")
    pen.polygon(((210, 350), (700, 350), (640, 440), (270, 440)), "#3a3a42")
    pen.rectangle((300, 290, 600, 350), "#f2f2ee")
    pen.rectangle((430, 215, 500, 290), "#c0392b")
    for x in range(320, 590, 45):
        pen.ellipse((x, 308, x + 20, 328), "#2f5f8f")
    return picture


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("page", type=Path)
    parser.add_argument("model", help="the URI of the model in it")
    parser.add_argument("folder", type=Path, nargs="?", help="of the screenshots")
    given = parser.parse_args()
    main(given.page, given.model, given.folder)
