"""The page in a real browser: headless Chromium, driven by Selenium.

Screenshots are kept in out/browser.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bfpsim.reports.store.page import Column, PageTable, render
from tests.reports.store.conftest import NAME

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
SCREENSHOTS = Path(__file__).parents[3] / "out" / "browser"

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="no Chromium here: install Debian's packages chromium and chromium-driver",
)


@pytest.fixture(scope="module")
def chromium():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    # As root, in a container: no sandbox of its own, and little shared memory.
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(DRIVER))
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    yield driver
    driver.quit()


class Table:
    """A table of the open page, as its readers use it."""

    def __init__(self, driver, name: str) -> None:
        self._place = driver.find_element(By.ID, f"table-{name}")
        self._driver = driver

    def _head(self, label: str):
        for head in self._place.find_elements(By.CSS_SELECTOR, "th"):
            if head.find_element(By.TAG_NAME, "button").text == label:
                return head
        raise LookupError(label)

    @property
    def labels(self) -> list[str]:
        return [button.text for button in self._place.find_elements(By.CSS_SELECTOR, "th button")]

    def sort(self, label: str) -> str:
        """Click a head; what it then says to assistive technology."""
        self._head(label).find_element(By.TAG_NAME, "button").click()
        return self._head(label).get_attribute("aria-sort")

    def filter(self, label: str, query: str) -> bool:
        """Type into a head's filter; whether the query is understood."""
        field = self._head(label).find_element(By.TAG_NAME, "input")
        field.clear()
        field.send_keys(query)
        return field.get_attribute("aria-invalid") is None

    def press(self, label: str) -> None:
        (button,) = (
            one
            for one in self._place.find_elements(By.CSS_SELECTOR, ".pager button")
            if one.text == label
        )
        button.click()

    @property
    def status(self) -> str:
        return self._place.find_element(By.CSS_SELECTOR, "[role=status]").text

    def column(self, label: str) -> list[str]:
        script = """
            const [table, column] = arguments;
            return [...table.querySelectorAll("tbody tr")].map(
                row => row.children[column].textContent);
        """
        return self._driver.execute_script(script, self._place, self.labels.index(label))


@pytest.fixture
def page(chromium, report):
    chromium.set_window_size(1280, 1600)
    for log in ("browser", "performance"):
        chromium.get_log(log)
    chromium.get(f"file://{report}/report.html")
    return chromium


def emulate(driver, **media) -> None:
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


def test_it_opens_without_a_request_or_a_complaint(page, report):
    sent = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    urls = {
        message["params"]["request"]["url"]
        for message in sent
        if message["method"] == "Network.requestWillBeSent"
    }
    assert f"file://{report}/report.html" in urls
    assert all(url.startswith(("file://", "data:")) for url in urls)
    assert len([url for url in urls if url.startswith("file://")]) == 1
    assert page.get_log("browser") == []
    page.save_screenshot(str(SCREENSHOTS / "report.png"))


def test_figures_are_there_and_names_are_text(page):
    widths = "return [...document.images].map(image => image.naturalWidth)"
    assert page.execute_script(widths) == [1920] * 7
    headings = [heading.text for heading in page.find_elements(By.TAG_NAME, "h2")]
    assert NAME in headings
    assert set(Table(page, "points").column("network")) == {NAME}


def test_sorting_by_numbers_and_by_words(page, report):
    points = pd.read_csv(report / "points.csv")
    table = Table(page, "points")
    assert table.column("point") == points["point"].astype(str).tolist()

    assert table.sort("cycles") == "ascending"
    by_cycles = points.sort_values("cycles", kind="stable")
    assert table.column("cycles") == [f"{cycles:,}" for cycles in by_cycles["cycles"]]
    assert table.column("point") == by_cycles["point"].astype(str).tolist()
    assert table.sort("cycles") == "descending"
    assert table.column("cycles") == [f"{c:,}" for c in by_cycles["cycles"][::-1]]

    assert table.sort("sram.capacity") == "ascending"
    sizes = table.column("sram.capacity")
    assert sizes == ["1 KiB"] * 4 + ["2 KiB"] * 4 + ["1 MiB"] * 4, "by value, not by letter"
    heads = page.find_elements(By.CSS_SELECTOR, "#table-points th")
    assert [head.get_attribute("aria-sort") for head in heads].count("none") == len(heads) - 1


def test_filtering_by_numbers_and_by_words(page, report):
    layers = pd.read_csv(report / "layers.csv")
    table = Table(page, "layers")
    assert table.status == f"rows 1 to {len(layers)} of {len(layers)}"

    assert table.filter("layer", "CONV")
    convs = layers[layers["layer"].str.contains("conv")]
    assert table.column("layer") == convs["layer"].tolist()
    middle = int(convs["cycles"].median())
    assert table.filter("cycles", f"> {middle:,}")
    slow = convs[convs["cycles"] > middle]
    assert table.column("cycles") == [f"{cycles:,}" for cycles in slow["cycles"]]
    assert table.status == f"rows 1 to {len(slow)} of {len(slow)} (of {len(layers)})"

    assert table.filter("cycles", f"{middle}..{middle}")
    assert len(table.column("layer")) == (convs["cycles"] == middle).sum()
    assert not table.filter("cycles", "many")
    assert table.column("layer") == convs["layer"].tolist(), "what is not understood hides nothing"
    assert table.filter("layer", "no such layer")
    assert table.status == f"no row matches (of {len(layers)})"
    page.save_screenshot(str(SCREENSHOTS / "filtered.png"))


def test_long_tables_are_turned_page_by_page(chromium, tmp_path):
    values = np.random.default_rng(0).permutation(120) - 60.5
    frame = pd.DataFrame({"value": [None, *values], "word": [f"w{i % 7}" for i in range(121)]})
    table = PageTable(
        "long", "long", "", frame, (Column("value", "value", digits=1), Column("word", "word"))
    )
    (tmp_path / "long.html").write_text(render("long", [], [], [table]))
    chromium.get(f"file://{tmp_path}/long.html")

    shown = Table(chromium, "long")
    shown.sort("value")
    pages = [shown.column("value")]
    for status in ("rows 51 to 100 of 121", "rows 101 to 121 of 121"):
        shown.press("next")
        assert shown.status == status
        pages.append(shown.column("value"))
    numbers = [f"{value:.1f}" for value in sorted(values)]
    assert [cell for cells in pages for cell in cells] == [*numbers, ""], "no value comes last"
    assert not chromium.find_elements(By.CSS_SELECTOR, ".pager button:enabled")[1:]
    shown.press("previous")
    assert shown.column("value") == pages[1]
    shown.sort("value")
    assert shown.column("value") == numbers[::-1][:50], "from the first page again"
    for query, rows in (("<= -60", 1), ("-1.5..0.5", 3), ("58.5", 1), ("1e1", 0)):
        shown.filter("value", query)
        assert len(shown.column("value")) == rows, query
    assert chromium.get_log("browser") == []


def test_it_fits_a_phone_in_the_dark_and_paper(page):
    emulate(page, features=[{"name": "prefers-color-scheme", "value": "dark"}])
    ground = "return getComputedStyle(document.body).backgroundColor"
    assert page.execute_script(ground) == "rgb(22, 24, 28)"
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    width = "return [document.documentElement.scrollWidth, innerWidth]"
    assert page.execute_script(width) == [390, 390], "nothing sticks out"
    page.save_screenshot(str(SCREENSHOTS / "phone-dark.png"))
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    emulate(page, media="print")
    assert page.execute_script(ground) == "rgb(255, 255, 255)"
    filters = page.find_elements(By.CSS_SELECTOR, "th input")
    assert filters
    assert not any(field.is_displayed() for field in filters)
    emulate(page, media="", features=[])
