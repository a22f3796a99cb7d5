"""The page in a real browser: it loads, answers to mouse and keyboard, and labels as phasezoo does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pyarrow as pa
import pytest

import phasezoo
from phasezoo.builders.tables import write_zoo
from phasezoo.cli import browse
from phasezoo.errors import WriteError
from phasezoo.explorer import explore, page_data
from phasezoo.phases import fit_cut_of
from phasezoo.tables import from_rows
from phasezoo.thresholds import BY_ZOO, NAMED
from tests.conftest import draft
from tests.test_phases import CKA, LOSS, MC, measured_zoo

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


def expected(zoo: phasezoo.Zoo, **arguments) -> dict[str, str | None]:
    """What Python says, in the words of the page."""
    rows = zoo.phases(**arguments).to_pylist()
    return {row["cell_id"]: "coll." if "collapsed" in row["phase_flags"] else row["phase"] for row in rows}


def run_code(page) -> list[str]:
    """Run the code that the page shows, and return the models that it selects."""
    names: dict[str, phasezoo.Zoo] = {}
    exec(page.locator("#code").text_content(), names)
    return [model.id for model in names["view"]]


# Cell -> train loss, train accuracy, mode connectivity, similarity. Two cells collapsed, one was
# not measured, and the corner beside it is a hole.
ROUGH = {
    (2, 0.1): (2.3, 0.1, -9.0, 0.5),
    (2, 0.2): (2.3, 0.1, 1.0, 0.5),
    (4, 0.1): (0.004, 0.99, -9.0, 0.7),
    (4, 0.2): (0.005, 0.99, 0.0, 0.9),
    (8, 0.1): (0.25, 0.9, -9.0, 0.6),
    (8, 0.2): (0.3, 0.9, 0.0, 0.6),
    (16, 0.1): (0.006, 1.0, 0.0, 0.95),
    (16, 0.2): (0.006, 1.0, 0.0, 0.5),
    (32, 0.1): (0.006, 1.0, None, float("nan")),
}


def rough_zoo(out: Path, name: str = "rough") -> phasezoo.Zoo:
    """A zoo of ten classes with all that goes wrong: collapsed runs, NaN, and metrics that are missing."""
    names = (MC, CKA)
    configs, results, landscape = [], [], []
    for (width, lr), (loss, accuracy, *metrics) in ROUGH.items():
        cell_id = f"w{width}-lr{lr}"
        for seed in (0, 1):
            place = {"model_id": f"{cell_id}-s{seed}", "cell_id": cell_id, "load": float(width), "temperature": lr}
            made = {"seed": seed, "width": width, "lr": lr, "momentum": 0.5 + seed / 10, "architecture": "mlp"}
            configs.append({**place, **made, "architecture_config": json.dumps({"num_classes": 10})})
            results.append({"model_id": place["model_id"], "epoch": 1, LOSS: loss, "train_acc": accuracy})
        landscape.append(
            {
                "model_id": None,
                "cell_id": cell_id,
                "epoch": 1,
                "protocol": "p",
                **dict(zip(names, metrics, strict=True)),
            }
        )
    schema = from_rows([], ["model_id", "cell_id", "epoch", "protocol", *names]).schema
    write_zoo(
        out,
        draft(name),
        configs=pa.Table.from_pylist(configs),
        results=pa.Table.from_pylist(results),
        landscape=pa.Table.from_pylist(landscape, schema=schema),
    )
    return phasezoo.load(out)


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
    assert page.locator("#tip").is_visible()  # the exact values are not for the mouse alone
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()
    assert page.locator("#phases .cell[tabindex='0']").count() == 1
    page.focus("#legend button >> nth=1")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
    page.focus("#phases .cell[tabindex='0']")
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
@pytest.mark.parametrize("method", ["rule", "otsu"])
def test_a_rough_zoo_is_labelled_as_python_does_wherever_the_sliders_are(
    browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setitem(BY_ZOO, "rough", NAMED["otsu" if method == "otsu" else "default"])
    zoo = rough_zoo(tmp_path / "z")
    page = open_page(browser, explore(zoo, tmp_path / "page.html"))
    assert labels(page) == expected(zoo)
    assert {"coll.", "III|IV"} <= set(labels(page).values())
    assert page.locator("#out-fit_cut").text_content() == ("0.0387" if method == "otsu" else "0.02")  # the one in use
    page.click("#legend button:has-text('collapsed')")
    assert {model_id.rsplit("-s", 1)[0] for model_id in run_code(page)} == {"w2-lr0.1", "w2-lr0.2"}
    random = Random(0)
    for _ in range(8):
        rule = random.choice(["cka_cut", "cka_of_max"])
        page.select_option("#cka-rule", rule)
        for name, low, high in (("fit_cut", -3, 1), ("mc_eps", -1, 1.5), (rule, 0.4, 1)):
            set_slider(page, f"#cut-{name}", random.uniform(low, high))
        shown = {name: float(page.locator(f"#out-{name}").text_content()) for name in ("fit_cut", "mc_eps", rule)}
        cuts = {"method": "rule", "cka_cut": None, **shown}
        assert labels(page) == expected(zoo, thresholds=cuts)
        phase = page.locator("#legend button >> nth=1").get_attribute("data-phase")
        page.click("#legend button >> nth=1")
        chosen = {
            cell for cell, text in labels(page).items() if (text or "unknown").replace("coll.", "collapsed") == phase
        }
        assert {model_id.rsplit("-s", 1)[0] for model_id in run_code(page)} == chosen
        page.click("#legend button >> nth=1")
    page.click("#reset")
    assert labels(page) == expected(zoo)
    assert page.problems == []
    page.close()


@needs_browser
def test_a_cut_found_in_the_data_is_that_of_the_fit_metric_without_collapsed_cells(
    browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    thresholds = NAMED["otsu"].override({"fit": "train_error", "fit_cut": 0.5})
    monkeypatch.setitem(BY_ZOO, "rough", thresholds)
    zoo = rough_zoo(tmp_path / "z")
    live = [1 - accuracy for loss, accuracy, *_ in ROUGH.values() if loss < 2]
    assert page_data(zoo)["fit_cuts"] == [fit_cut_of(live, thresholds)[0]]
    page = open_page(browser, explore(zoo, tmp_path / "page.html"))
    assert labels(page) == expected(zoo)
    page.close()


@needs_browser
def test_a_view_keeps_the_labels_of_its_zoo_and_its_code_selects_the_view(browser, tmp_path: Path) -> None:
    zoo = rough_zoo(tmp_path / "z")
    # The largest similarity, which decides between IV-A and IV-B, is in a cell outside the view.
    view = zoo.filter(cell_id=["w8-lr0.1", "w16-lr0.2"], seed=1)
    page = open_page(browser, explore(view, tmp_path / "view.html"))
    assert labels(page) == expected(view) == {"w8-lr0.1": "I", "w16-lr0.2": "IV-A"}
    assert run_code(page) == [model.id for model in view]
    page.click("#phases .cell >> nth=1")
    assert run_code(page) == ["w16-lr0.2-s1"]
    page.close()


@needs_browser
def test_a_cell_says_how_its_models_were_made(browser, tmp_path: Path) -> None:
    page = open_page(browser, explore(rough_zoo(tmp_path / "z"), tmp_path / "page.html"))
    page.click("#phases .cell >> nth=2")
    header = page.locator("#cell th").all_text_contents()
    assert header == ["model", "seed", "momentum", "train_loss", "train_acc"]
    assert page.locator("#cell tr >> nth=2").locator("td").all_text_contents()[1:3] == ["1", "0.6"]
    page.click("#cell summary >> nth=0")
    set_slider(page, "#cut-mc_eps", 0.5)  # what was opened stays open
    assert "width 4\nlr 0.1\narchitecture mlp" in page.locator("#cell details[open] div").text_content()
    assert run_code(page) == ["w4-lr0.1-s0", "w4-lr0.1-s1"]
    assert page.locator("#scale text").all_text_contents()[-1] == "train_loss (nats), log"
    page.close()


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
    page.click("#legend button:has-text('unknown')")
    assert run_code(page) == [model.id for model in bare]
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


@pytest.mark.parametrize("started", [True, False])
def test_the_command_can_open_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], started: bool
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or started)
    out = tmp_path / "zoo.html"
    browse.explore("mlp-digits", str(out), show_page=True)
    assert opened == [out.as_uri()]
    printed = capsys.readouterr()
    assert printed.out.startswith(f"wrote {out} (")
    assert ("by hand" in printed.err) is not started


def test_a_file_that_cannot_be_written_says_so(zoo: phasezoo.Zoo, tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="Give another file with --out"):
        explore(zoo, tmp_path / "no" / "such" / "folder.html")
