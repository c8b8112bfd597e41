"""The report's page in Debian's chromium: every width, both schemes, no request, nothing wider than the screen."""

import pytest
from playwright import sync_api

from isthmus.quickstart.page import write_page
from reports import tiny_report

pytestmark = pytest.mark.browser

CHROMIUM = "/usr/bin/chromium"
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SECTIONS = ["head", "frozen", "loss", "strips", "captions", "scores", "looks", "cost", "credits", "next"]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart")
    return write_page(tiny_report(folder), folder)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=OPTIONS)
        yield started
        started.close()


@pytest.fixture(params=[(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")], ids=str)
def seen(request, browser, page_file):
    """The page at a width and in a scheme, with what it said on the console and asked for."""
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page, noted = context.new_page(), []
    page.on("console", lambda message: noted.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: noted.append(f"error: {error}"))
    page.on("request", lambda asked: noted.append(asked.url) if not asked.url.startswith(("data:", "file:")) else None)
    page.on("requestfailed", lambda asked: noted.append(f"failed: {asked.url}"))
    page.goto(page_file.as_uri(), wait_until="load")
    yield page, width, scheme, noted
    context.close()


def test_the_page_opens_quietly_whole_and_no_wider_than_the_screen(seen):
    page, width, _, noted = seen
    for name in SECTIONS:
        assert page.locator(f"#{name}").is_visible(), name
        assert page.locator(f"#{name} :is(h1, h2)").first.is_visible(), name
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    sizes = page.evaluate("[...document.images].map(image => image.complete ? image.naturalWidth : 0)")
    assert len(sizes) > 20 and min(sizes) > 0
    assert page.locator("svg.chart").count() == 4
    assert noted == []


def test_text_stands_out_from_what_is_behind_it(seen):
    """WCAG 2's contrast of 4.5, for every text on the page's own ground."""
    page, _, scheme, _ = seen
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (brightness(ground) > 0.5) == (scheme == "light")
    texts = page.locator("p, td, th, dt, dd, a, figcaption, small, b, .yes, .trained, .frozen, .note, .answers li")
    colours = set(texts.evaluate_all("found => found.map(one => getComputedStyle(one).color)"))
    colours |= set(page.locator("svg text").evaluate_all("found => found.map(one => getComputedStyle(one).fill)"))
    assert len(colours) >= 4
    for colour in colours:
        low, high = sorted([brightness(colour), brightness(ground)])
        assert (high + 0.05) / (low + 0.05) >= 4.5, f"{colour} on {ground}"


def test_wide_tables_scroll_inside_themselves(seen):
    page, width, _, _ = seen
    boxes = page.locator(".scroll").evaluate_all("found => found.map(one => [one.scrollWidth, one.clientWidth])")
    assert boxes
    if width == 390:
        assert any(inner > outer for inner, outer in boxes)
    for _, outer in boxes:
        assert outer <= width


def test_it_can_be_printed(seen, tmp_path):
    page, _, _, _ = seen
    page.pdf(path=str(tmp_path / "report.pdf"), format="A4")
    assert (tmp_path / "report.pdf").stat().st_size > 10_000


def brightness(colour):
    """Relative luminance of a CSS colour such as rgb(1, 2, 3)."""
    numbers = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    red, green, blue = (n / 12.92 if n <= 0.04045 else ((n + 0.055) / 1.055) ** 2.4 for n in numbers)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
