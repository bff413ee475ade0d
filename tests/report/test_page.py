"""The page: one file that needs nothing else, the same bytes, and every string escaped."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest

import smpmmu
from smpmmu.replaying import replay_file
from smpmmu.report.page import page
from smpmmu.showing import told
from tests.shell import DEFECT, REPAIR, ROOT, Shell, spawn

if TYPE_CHECKING:
    from pathlib import Path

    from smpmmu.report.account import Account

SCHEDULE = ROOT / "schedules" / "reliant_flusher.deferred_after_unlock.schedule"

HOSTILE = '''
"""A user's file whose every name is an attack."""
import smpmmu as s

EVIL = "</script><script>document.title='pwned'</script>"
lock = s.spinlock('<img src=x onerror="document.title=\\'pwned\\'">')
word = s.Word(EVIL, part=s.Part("<b>table</b>", "'row'\\"", "&amp;{{ 7*7 }}"))
STRANGE = "\\ud800 \\u2028 \\u202e \\U0001f512 ]]> <!-- "
other = s.Word(STRANGE, format=s.Format(((1, "<i>\\u2603"),)))


async def work(number: int) -> None:
    await s.spin_lock(lock)
    await s.store(word, number)
    await s.fetch_or(other, 1)
    seen = await s.load(word)
    await s.spin_unlock(lock)
    s.bug_on(seen == 2, "\\" onmouseover=alert(1) <script>alert('p')</script>")


@s.scenario()
def hostile(setup: s.Setup) -> None:
    """</title><script>document.title='pwned'</script> & more."""
    setup.cpu(0, s.call(work, 1))
    setup.cpu(1, s.call(work, 2))
'''


class Reader(HTMLParser):
    """Collects the tags, the text, and every attribute of a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.inside: list[str] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in ("meta", "br", "link"):
            self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.inside.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.inside and self.inside[-1] in self.raw:
            self.raw[self.inside[-1]].append(data)
        else:
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join("".join(self.text).split())


@pytest.fixture(scope="module")
def account() -> Account:
    return replay_file(SCHEDULE).account()


@pytest.fixture(scope="module")
def plain(account: Account) -> Reader:
    return Reader(page(account, "1"))


def test_what_is_there_without_a_script(plain: Reader) -> None:
    words = plain.words
    assert "VIOLATED no_write_after_promise" in words
    assert "fill cpu2.tlb[0x1] = 0x3 P-RW-US-A-D" in words
    assert "shadow 0x2[1]: 0x3 P-RW-US-A-D → 0x3 P-US-A-D" in words
    assert "interrupts cpu2.irq.invalidate" in words
    assert "sent in step 16" in words
    assert "violates no_write_after_promise" in words
    assert "After step 42, at the end" in words
    assert "held by cpu1" in words
    assert plain.inside == []


def test_every_step_has_its_line_and_its_link(account: Account, plain: Reader) -> None:
    steps = [v for tag, name, v in plain.attributes if (tag, name) == ("li", "data-step")]
    assert steps == [str(n) for n in range(1, len(account.steps) + 1)]
    links = [v for tag, name, v in plain.attributes if (tag, name) == ("a", "href")]
    ids = [v for _, name, v in plain.attributes if name == "id"]
    assert len(set(ids)) == len(ids)
    assert {link.removeprefix("#") for link in links} <= set(ids)
    labels = [v for _, name, v in plain.attributes if name in ("aria-labelledby", "aria-controls")]
    assert {each for label in labels for each in label.split()} <= set(ids)


def test_it_needs_nothing_else(plain: Reader) -> None:
    assert plain.tags.count("script") == 2
    assert not {"link", "img", "iframe", "object", "form", "base"} & set(plain.tags)
    assert not [a for a in plain.attributes if a[1] in ("src", "srcset", "action", "style:url")]
    assert not [a for a in plain.attributes if a[1].startswith("on")]
    everything = page(replay_file(SCHEDULE).account(), "1")
    assert not re.search(r"https?:|url\(|@import|@font-face", everything)


def test_only_our_script_may_run(plain: Reader) -> None:
    policy = next(v for tag, name, v in plain.attributes if name == "content" and "'none'" in v)
    script = plain.raw["script"][-1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


def test_the_data_are_the_accounts(account: Account, plain: Reader) -> None:
    data = json.loads(plain.raw["script"][0])
    assert len(data["steps"]) == len(account.steps)
    values = list(data["first"])
    for number, step in enumerate(data["steps"], 1):
        for cell, text in step["changes"]:
            values[cell] = text
        told = account.values(number)
        plainly = [n for n, word in enumerate(account.words) if not word.lock]
        assert [values[n] for n in plainly] == [told[n] for n in plainly]
    assert values[0] == "held by cpu1"


def test_the_critical_race_is_marked(account: Account) -> None:
    assert account.critical == (26, 33)
    marked = Reader(page(account, "1"))
    assert "The critical race: steps 26 and 33; in the other order nothing is violated" in (
        marked.words
    )
    assert marked.words.count("critical race: with step") == 2
    assert ("li", "class", "race") in marked.attributes
    assert "critical race" not in Reader(page(replace(account, critical=None), "1")).words


def test_a_deadlock_says_who_waits_for_what() -> None:
    path = ROOT / "schedules" / "shootdown_deadlocks.flushes_irqs_off.schedule"
    words = Reader(page(replay_file(path).account(), "1")).words
    assert "cpu0 waits (wait until flush_cpumask is 0); cpu1 waits (lock tlbstate_lock)." in words
    assert "waits for ever: lock tlbstate_lock" in words
    assert "breaks the property" not in words


def test_the_race_of_a_deadlock_is_with_a_step_that_is_never_taken() -> None:
    path = ROOT / "schedules" / "shootdown_deadlocks.ptl_irqs_off.schedule"
    account = replay_file(path).account()
    assert account.critical == (1, len(account.steps) + 1)
    words = Reader(page(account, "1")).words
    assert "step 1 comes before a step that then waits for ever; in the other order" in words
    assert words.count("critical race: with what waits for ever") == 1


def test_the_same_question_gives_the_same_bytes(tmp_path: Path) -> None:
    texts = []
    for seed in ("1", "2"):
        out = tmp_path / f"{seed}.html"
        done = spawn("show", str(SCHEDULE), "--html", str(out), PYTHONHASHSEED=seed)
        assert (done.status, done.err) == (0, "")
        texts.append(out.read_bytes())
    assert texts[0] == texts[1]
    assert smpmmu.__version__.encode() in texts[0]


@pytest.fixture
def hostile(users) -> str:
    file = users("hostile.py", HOSTILE)
    return page(told(f"{file}:hostile/default").account(), "1")


def test_hostile_names_stay_text(hostile: str) -> None:
    read = Reader(hostile)
    assert read.tags.count("script") == 2
    assert "img" not in read.tags
    assert not [a for a in read.attributes if a[1].startswith("on")]
    assert "</script><script>document.title='pwned'</script>" in read.words
    assert '<img src=x onerror="document.title=' in read.words
    assert "&amp;{{ 7*7 }}" in read.words
    assert "<i>☃" in read.words
    title = hostile.partition("<title>")[2].partition("</title>")[0]
    assert title
    assert "<" not in title
    data = json.loads(read.raw["script"][0])
    assert any("</script>" in step["text"] for step in data["steps"])
    assert "</" not in read.raw["script"][0]


def test_what_a_user_can_ask_wrongly(shell: Shell, tmp_path: Path) -> None:
    out = str(tmp_path / "x.html")
    assert (done := shell("show", DEFECT)).status == 2
    assert "--html OUT" in done.err
    assert (done := shell("show", REPAIR, "--html", out)).status == 2
    assert "holds: there is no violation to show" in done.err
    assert (done := shell("show", DEFECT, "--strategy", "pos", "--html", out)).status == 2
    assert "--strategy is for seeds" in done.err
    assert (done := shell("show", "nothing/there", "--html", out)).status == 2
    assert (done := shell("show", DEFECT, "--html", str(tmp_path / "no" / "x.html"))).status == 2
    assert "cannot write" in done.err
    assert not (tmp_path / "x.html").exists()


def test_show_explores_or_takes_a_seed(shell: Shell, tmp_path: Path) -> None:
    out = tmp_path / "x.html"
    done = shell("show", DEFECT, "--html", str(out))
    assert done.status == 0
    assert "no_write_after_promise is violated after 42 choices" in done.out
    assert "VIOLATED" in out.read_text(encoding="utf-8")
    done = shell("show", DEFECT, "--seed", "7", "--strategy", "pos", "--html", str(out))
    assert done.status == 0
    assert f"replay {DEFECT} --seed 7 --strategy pos" in out.read_text(encoding="utf-8")
    done = shell("show", REPAIR, "--seed", "7", "--html", str(out))
    assert done.status == 0
    assert "came to rest" in Reader(out.read_text(encoding="utf-8")).words
