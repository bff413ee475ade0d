"""The page in a real browser: steps are gone through by keys and clicks, and what is shown is read.

Needs Chromium and its driver (Debian: chromium, chromium-driver); without them it is skipped.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from smpmmu.replaying import replay_file
from smpmmu.report.page import page
from smpmmu.showing import told
from tests.report.test_page import HOSTILE, SCHEDULE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

selenium = pytest.importorskip("selenium")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.skipif(not CHROMIUM or not DRIVER, reason="no chromium and chromedriver here"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for option in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def race(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Return what opens the page of a race, at a step, in a window of a size."""
    file = tmp_path_factory.mktemp("page") / "race.html"
    file.write_text(page(replay_file(SCHEDULE).account(), "1"), encoding="utf-8")

    def open_it(at: str = "", width: int = 1700, height: int = 1000) -> Any:
        browser.get("about:blank")
        browser.set_window_size(width, height)
        browser.get(f"file://{file}{at}")
        return browser

    return open_it


def press(browser: Any, *keys: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


def one(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def value(browser: Any, table: str, row: str, column: str = "") -> str:
    """Return what the state shows in a cell of a table."""
    text: str = browser.execute_script(
        """
        const [table, row, column] = arguments;
        for (const each of document.querySelectorAll(".state table")) {
          if (each.caption.textContent !== table) continue;
          const head = [...each.querySelectorAll("thead tr > *")].map((c) => c.textContent);
          for (const line of each.tBodies[0].rows) {
            if (line.cells[0].textContent !== row) continue;
            return line.cells[column ? head.indexOf(column) : 1].textContent;
          }
        }
        return "no such cell";
        """,
        table,
        row,
        column,
    )
    return text


def entry(browser: Any) -> tuple[str, str, str, str]:
    """Return the primary, the shadow, cpu2's TLB and cpu0's queue."""
    return (
        value(browser, "page tables", "0x2[1]", "primary"),
        value(browser, "page tables", "0x2[1]", "shadow"),
        value(browser, "TLB entries", "address 0x1000", "cpu2"),
        value(browser, "deferred updates", "slot 0", "cpu0"),
    )


RW, RO = "0x3 P-RW-US-A-D", "0x3 P-US-A-D"


def test_keys_step_through_a_schedule(race: Callable[..., Any]) -> None:
    from selenium.webdriver.common.keys import Keys

    browser = race()
    assert one(browser, "#now").text == "At first"
    assert entry(browser) == (RW, RW, "0", "0")
    press(browser, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert one(browser, "#now").text == "After step 2 of 42"
    assert one(browser, "[aria-current=step]").get_attribute("href").endswith("#s2")
    assert entry(browser) == (RO, RW, "0", "0")
    assert [e.text for e in browser.find_elements("css selector", ".value.changed")] == [RO]
    assert value(browser, "locks", "ptl") == "held by cpu0"
    press(browser, "j", "j", "j")
    assert entry(browser) == (RO, RW, "0", "0x2[1]")
    assert value(browser, "locks", "ptl") == "free"
    press(browser, Keys.ARROW_LEFT, "k", "k", "k", "k", "k")
    assert one(browser, "#now").text == "At first"
    assert entry(browser) == (RW, RW, "0", "0")
    press(browser, Keys.END)
    assert one(browser, "#now").text == "After step 42 of 42, the last"
    assert entry(browser) == (RO, RO, RW, "0")
    press(browser, Keys.ARROW_RIGHT, Keys.HOME)
    assert entry(browser) == (RW, RW, "0", "0")
    assert browser.get_log("browser") == []


def test_clicks_and_buttons_do_too(race: Callable[..., Any]) -> None:
    browser = race()
    one(browser, "#w27 .did").click()
    assert one(browser, "#now").text == "After step 27 of 42"
    assert entry(browser) == (RO, RW, RW, "0x2[1]")
    calls = [e.text for e in browser.find_elements("css selector", "#where li")]
    assert [call.split()[0] for call in calls] == [
        "fill_tlb", "translate", "store_instruction", "user_write",
    ]  # fmt: skip
    assert calls[0].split()[1].startswith("smpmmu/machine/walker.py:")
    assert "holds ptl; holds tlbstate_lock; waits" in value(browser, "who is at what", "cpu1")
    one(browser, "[data-go=change]").click()
    assert one(browser, "#now").text == "After step 32 of 42"
    one(browser, "[data-go=on]").click()
    assert entry(browser) == (RO, RO, RW, "0")
    one(browser, "[data-go=last]").click()
    assert not one(browser, "[data-go=on]").is_enabled()
    one(browser, "[data-go=first]").click()
    assert not one(browser, "[data-go=back]").is_enabled()


def test_a_link_leads_to_a_step(race: Callable[..., Any]) -> None:
    browser = race("#s33")
    assert one(browser, "#now").text == "After step 33 of 42"
    one(browser, ".history a[href='#s4']").click()
    assert one(browser, "#now").text == "After step 4 of 42"
    assert browser.current_url.endswith("#s4")


def test_steps_can_be_reached_and_chosen_with_the_keyboard_alone(race: Callable[..., Any]) -> None:
    from selenium.webdriver.common.keys import Keys

    browser = race()
    browser.execute_script("document.querySelector('#s5 a').focus()")
    press(browser, Keys.ENTER)
    assert one(browser, "#now").text == "After step 5 of 42"
    assert one(browser, "#s5 a").accessible_name.startswith("5 cpu0: unlock ptl")


@pytest.mark.parametrize(("width", "columns"), [(1700, True), (500, False)])
def test_lanes_are_columns_where_there_is_room(
    race: Callable[..., Any], width: int, *, columns: bool
) -> None:
    browser = race("#s17", width)
    left = {n: one(browser, f"#w{n}").rect["x"] for n in (1, 6, 17)}
    assert (len(set(left.values())) == 3) is columns
    # Nothing sticks out of the window, and the step is not hidden by the state.
    wide = "return document.documentElement.scrollWidth <= innerWidth"
    assert browser.execute_script(wide)
    seen = browser.execute_script(
        "const r = document.querySelector('#w17').getBoundingClientRect();"
        "return document.elementFromPoint(r.x + 3, r.y + 5).closest('#w17') !== null"
    )
    assert seen


def test_arrows_and_locks_lie_where_the_steps_are(race: Callable[..., Any]) -> None:
    browser = race()
    box = browser.execute_script(
        """
        const middle = (e) => { const r = e.getBoundingClientRect(); return r.x + r.width / 2; };
        const dot = (n) => document.querySelector(`#s${n} .dot`);
        const of = (s) => document.querySelector(s).getBoundingClientRect();
        const arrow = of(".arrow.right"), lock = of(".bar.lock");
        return {
          from: arrow.left - middle(dot(16)), to: arrow.right - middle(dot(17)),
          foot: arrow.bottom - dot(17).getBoundingClientRect().top,
          above: of("#w1").top - lock.top, below: lock.bottom - of("#w5").bottom,
        };
        """
    )
    assert all(abs(offset) < 8 for offset in box.values()), box


def test_hostile_names_run_nothing(browser: Any, users: Any, tmp_path: Path) -> None:
    file = users("hostile.py", HOSTILE)
    text = page(told(f"{file}:hostile/default").account(), "1")
    # Even markup that slipped through could not run.
    text = text.replace("<footer>", "<footer><img src=x onerror=\"document.title='pwned'\">")
    (tmp_path / "hostile.html").write_text(text, encoding="utf-8")
    browser.get(f"file://{tmp_path / 'hostile.html'}")
    press(browser, "j", "j", "j")
    assert browser.title.startswith('" onmouseover=alert(1)')
    assert len(browser.find_elements("css selector", "script")) == 2
    assert one(browser, "#now").text.startswith("After step 3")
    refused = [line["message"] for line in browser.get_log("browser")]
    assert refused
    assert all("Content Security Policy" in message for message in refused)
