"""The page in a real browser: it loads, answers to mouse and keyboard, and labels as phasezoo does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import phasezoo
from phasezoo.errors import WriteError
from phasezoo.explorer import explore, page_data
from tests.test_phases import measured_zoo

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield running
        running.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return explore(phasezoo.load("mlp-digits"), tmp_path_factory.mktemp("page") / "zoo.html")


@pytest.fixture
def page(browser, file: Path) -> Iterator[playwright.Page]:
    opened = open_page(browser, file)
    yield opened
    assert opened.problems == []
    opened.close()


def open_page(browser, file: Path, **options):
    opened = browser.new_page(viewport={"width": 1280, "height": 900}, **options)
    opened.problems = []
    opened.on("console", lambda message: opened.problems.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: opened.problems.append(str(error)))
    opened.on("request", lambda r: None if r.url.startswith("file:") else opened.problems.append(r.url))
    opened.goto(file.as_uri())
    return opened


def labels(page) -> dict[str, str]:
    """The phase map as the page shows it, by cell id."""
    return page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('#phases .cell')]"
        ".map((g) => [D.cells[g.dataset.cell].id, g.querySelector('text')?.textContent ?? null]))"
    )


def set_slider(page, selector: str, value: float) -> None:
    page.eval_on_selector(
        selector, "(node, value) => { node.value = value; node.dispatchEvent(new Event('input')); }", value
    )


def expected(zoo: phasezoo.Zoo, **arguments) -> dict[str, str]:
    return {row["cell_id"]: row["phase"] for row in zoo.phases(**arguments).to_pylist()}


@needs_browser
def test_it_shows_the_labels_of_the_zoo(page, zoo: phasezoo.Zoo) -> None:
    assert page.title() == zoo.manifest.title
    assert labels(page) == expected(zoo)
    assert page.locator("#heat .cell").count() == 88


@needs_browser
@pytest.mark.parametrize(
    ("name", "position"), [("fit_cut", -2.0), ("fit_cut", 0.5), ("mc_eps", -1.6), ("mc_eps", 0.0), ("cka_cut", 0.8)]
)
def test_moving_a_threshold_relabels_as_python_does(page, zoo: phasezoo.Zoo, name: str, position: float) -> None:
    set_slider(page, f"#cut-{name}", position)
    value = float(page.locator(f"#out-{name}").text_content())
    found = labels(page)
    assert found == expected(zoo, thresholds={name: value})
    assert found != expected(zoo)
    page.click("#reset")
    assert labels(page) == expected(zoo)


@needs_browser
def test_the_epoch_slider_relabels(page, zoo: phasezoo.Zoo) -> None:
    epochs = page.evaluate("D.epochs")
    assert {0, 10, 50, 150} <= set(epochs)
    for epoch in (10, 50, 0):
        set_slider(page, "#epoch", epochs.index(epoch))
        assert page.locator("#epoch-value").text_content() == str(epoch)
        assert labels(page) == expected(zoo, epoch=epoch)


@needs_browser
def test_hovering_shows_exact_values_and_marks_both_maps(page, zoo: phasezoo.Zoo) -> None:
    (row,) = [row for row in zoo.phases().to_pylist() if row["cell_id"] == "w16-lr0.02"]
    place = page.evaluate("D.cells.findIndex((cell) => cell.id === 'w16-lr0.02')")
    page.hover(f"#heat .cell[data-cell='{place}']")
    tip = page.locator("#tip").text_content()
    assert f"test_acc {row['test_acc']:.7g}" in tip
    assert f"phase {row['phase']}" in tip
    assert f"representation_similarity {row['representation_similarity']:.7g}" in tip
    assert page.locator("svg .cell.near").count() == 2
    page.mouse.move(2, 2)
    assert page.locator("#tip").is_hidden()


@needs_browser
def test_a_click_lists_the_models_of_the_cell_with_their_curves(page) -> None:
    place = page.evaluate("D.cells.findIndex((cell) => cell.id === 'w16-lr0.02')")
    page.click(f"#phases .cell[data-cell='{place}']")
    assert page.locator("#cell td:first-child").all_text_contents() == [
        f"w16-lr0.02-s{seed}" for seed in (100, 101, 102)
    ]
    assert page.locator("#curves polyline").count() == 3 * 4
    page.select_option("#metric", "hessian_trace_train")
    assert page.locator("#h-metric").text_content() == "hessian_trace_train"


@needs_browser
def test_everything_works_from_the_keyboard(page) -> None:
    page.focus("#phases .cell[tabindex='0']")
    start = page.evaluate("D.cells[document.activeElement.dataset.cell]")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    now = page.evaluate("D.cells[document.activeElement.dataset.cell]")
    assert (now["x"], now["y"]) == (start["x"] + 1, start["y"] + 1)
    page.keyboard.press("Enter")
    assert now["id"] in page.locator("#cell").text_content()
    assert page.evaluate("document.activeElement.dataset.cell") is not None  # focus stays where it was


@needs_browser
def test_the_code_that_it_shows_selects_the_same_models(page, zoo: phasezoo.Zoo) -> None:
    page.click("#legend button:has-text('IV-B')")
    names: dict[str, phasezoo.Zoo] = {}
    exec(page.locator("#code").text_content(), names)
    assert [m.id for m in names["view"]] == [m.id for m in zoo.filter(phase="IV-B")]
    set_slider(page, "#cut-cka_cut", 0.8)
    exec(page.locator("#code").text_content(), names)
    assert len(names["view"]) > len(zoo.filter(phase="IV-B"))
    page.click("#phases .cell >> nth=5")
    exec(page.locator("#code").text_content(), names)
    assert len(names["view"]) == 3


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(browser, file: Path, scheme: str) -> None:
    page = open_page(browser, file, color_scheme=scheme)
    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.click("#phases .cell >> nth=40")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert page.problems == []
    page.close()


@needs_browser
def test_zoos_with_holes_sets_and_no_metrics(browser, tmp_path: Path, small) -> None:
    zoo = measured_zoo(tmp_path / "z", holes=True, seeds=1)
    page = open_page(browser, explore(zoo, tmp_path / "holes.html"))
    assert labels(page) == expected(zoo)
    page.close()
    bare = phasezoo.load(small())
    page = open_page(browser, explore(bare, tmp_path / "bare.html"))
    assert set(labels(page).values()) == {None}  # no training loss: no label
    assert page.problems == []
    page.close()


def test_the_page_is_one_file_without_references_to_others(file: Path) -> None:
    text = file.read_text()
    for word in ("http:", "https:", "src=", "<link", "@import", "fetch("):
        assert word not in text.replace("http://www.w3.org/2000/svg", "")
    assert (Path(phasezoo.__file__).parent / "explorer.html").stat().st_size < 100_000
    assert file.stat().st_size < 2_000_000


def test_a_title_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    zoo = measured_zoo(tmp_path / "z")
    zoo._index.manifest = zoo.manifest.model_copy(update={"title": "</script><script>alert(1)</script>"})
    text = explore(zoo, tmp_path / "x.html").read_text()
    assert text.count("<script") == 2
    assert json.dumps(page_data(zoo))


def test_a_file_that_cannot_be_written_says_so(zoo: phasezoo.Zoo, tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="Give another file with --out"):
        explore(zoo, tmp_path / "no" / "such" / "folder.html")
