"""Steps as data: every constructor against its formula, on integers and on columns."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smpmmu.engine.answer import answer
from smpmmu.engine.errors import ModelError
from smpmmu.engine.local import call
from smpmmu.engine.steps import (
    ALL,
    TAKEN,
    Format,
    Step,
    Wait,
    When,
    Word,
    acquire,
    cmpxchg,
    enabled,
    fetch_add,
    fetch_and,
    fetch_or,
    fetch_xor,
    load,
    local_irq_disable,
    local_irq_enable,
    overflow,
    release,
    store,
    taken,
    updated,
    wait_until,
    xchg,
)
from tests.engine.programs import hypothetically, main, steps, system

BYTE = Word("byte", 8, 5)
PTE = Word("pte", 32, 0, format=Format(((1, "P"), (2, "RW"), (64, "D")), 12))


def outcome(step: Step, old: int) -> tuple[int, int] | None:
    """Take a step as a machine would: (new value, result), or None where it must wait."""
    if step.wait is not None and not enabled(step, old):
        return None
    result = old & step.returns
    if step.when is None:
        return updated(step, old), result
    if taken(step, old):
        return updated(step, old), result | TAKEN
    return old, result


@pytest.mark.parametrize("old", [0, 1, 0x5A, 0xFF])
def test_constructors_do_what_the_instruction_does(old: int) -> None:
    assert outcome(load(BYTE), old) == (old, old)
    assert outcome(load(BYTE, 0x0F), old) == (old, old & 0x0F)
    assert outcome(store(BYTE, 0x77), old) == (0x77, 0)
    assert outcome(xchg(BYTE, 0x77), old) == (0x77, old)
    assert outcome(fetch_or(BYTE, 0x21), old) == (old | 0x21, 0)
    assert outcome(fetch_or(BYTE, 0x21, 0x01), old) == (old | 0x21, old & 1)
    assert outcome(fetch_and(BYTE, 0x21), old) == (old & 0x21, 0)
    assert outcome(fetch_and(BYTE, 0x21, 0xFF), old) == (old & 0x21, old)
    assert outcome(fetch_xor(BYTE, 0x21, 0x20), old) == (old ^ 0x21, old & 0x20)


def test_fetch_add_adds_and_returns_the_old_value() -> None:
    assert outcome(fetch_add(BYTE, 3, 0xFF), 0x10) == (0x13, 0x10)
    assert outcome(fetch_add(BYTE, -3, 0xFF), 0x10) == (0x0D, 0x10)
    assert outcome(fetch_add(BYTE, -3), 3) == (0, 0)


@pytest.mark.parametrize(
    ("old", "expected"),
    [(0x10, (0x20, TAKEN | 0x10)), (0x11, (0x11, 0x11)), (0x20, (0x20, 0x20))],
)
def test_cmpxchg_writes_only_over_what_it_expects(old: int, expected: tuple[int, int]) -> None:
    assert outcome(cmpxchg(BYTE, 0x10, 0x20), old) == expected


def test_cmpxchg_under_a_mask_leaves_the_other_bits() -> None:
    step = cmpxchg(BYTE, 0x1, 0x2, 0x0F)
    assert outcome(step, 0xA1) == (0xA2, TAKEN | 0x1)
    assert outcome(step, 0xA3) == (0xA3, 0x3)


def test_a_step_may_change_bits_only_where_it_returns_others() -> None:
    step = Step("swap", BYTE, and_mask=0xF0, xor_mask=0x81, add=1, returns=0x0F)
    assert outcome(step, 0x7E) == (((0x7E & 0xF0) ^ 0x81) + 1, 0x0E)


def test_waiting_steps_are_enabled_by_the_masked_value() -> None:
    equal, unequal = wait_until(BYTE, 2, 0x03), wait_until(BYTE, 2, 0x03, equal=False)
    for old in range(256):
        assert enabled(equal, old) == (old & 3 == 2)
        assert enabled(unequal, old) == (old & 3 != 2)
    assert outcome(equal, 0xFE) == (0xFE, 0)
    assert outcome(unequal, 0xFE) is None


def test_a_lock_is_taken_once_and_given_back() -> None:
    lock = Word("lock", 1)
    assert outcome(acquire(lock), 0) == (1, 0)
    assert outcome(acquire(lock), 1) is None
    assert outcome(release(lock), 1) == (0, 0)
    assert (acquire(lock).lock, release(lock).lock) == (1, -1)


def test_cli_and_sti_touch_no_word() -> None:
    assert (local_irq_disable().irqs, local_irq_enable().irqs) == (False, True)
    assert (local_irq_disable().word, local_irq_disable().reads, local_irq_disable().writes) == (
        None,
        0,
        0,
    )
    assert (local_irq_enable().word, local_irq_enable().reads, local_irq_enable().writes) == (
        None,
        0,
        0,
    )


@pytest.mark.parametrize(
    ("step", "reads", "writes"),
    [
        (load(BYTE), 0xFF, 0),
        (load(BYTE, 0x0F), 0x0F, 0),
        (store(BYTE, 0x77), 0, 0xFF),
        (xchg(BYTE, 0), 0xFF, 0xFF),
        (fetch_or(BYTE, 0x21), 0, 0x21),
        (fetch_or(BYTE, 0x21, 0x01), 0x01, 0x21),
        (fetch_and(BYTE, 0x21), 0, 0xDE),
        (fetch_xor(BYTE, 0x21), 0x21, 0x21),
        (fetch_add(BYTE, 1), 0xFF, 0xFF),
        (cmpxchg(BYTE, 0x1, 0x2, 0x0F), 0x0F, 0x0F),
        (wait_until(BYTE, 2, 0x03), 0x03, 0),
        (acquire(BYTE), 0x01, 0x01),
        (release(BYTE), 0, 0xFF),
    ],
    ids=lambda value: value.label if isinstance(value, Step) else hex(value),
)
def test_footprints(step: Step, reads: int, writes: int) -> None:
    assert step.reads == reads
    assert step.writes == writes


@st.composite
def any_step(draw: st.DrawFn, widest: int = 64) -> Step:
    """Return any step at all, in bits 0 to width - 1 of a word."""
    width = draw(st.integers(1, widest))
    word = Word("word", width)
    value = st.integers(0, word.mask)
    guards: list[tuple[int, int] | None] = []
    for _ in range(2):
        mask = draw(value)
        guards.append(draw(st.sampled_from((None, (mask, draw(value) & mask)))))
    wait, when = guards
    add = draw(st.integers(-word.mask, word.mask)) if width < 64 and draw(st.booleans()) else 0
    return Step(
        "any",
        word,
        wait=None if wait is None else Wait(*wait, equal=draw(st.booleans())),
        when=None if when is None else When(*when),
        and_mask=draw(st.one_of(st.just(ALL), value)),
        xor_mask=draw(value),
        add=add,
        returns=draw(st.one_of(st.just(0), value)),
    )


@hypothetically(120)
@given(st.data())
def test_integers_and_columns_agree(data: st.DataObject) -> None:
    step = data.draw(any_step())
    assert step.word is not None
    values = data.draw(st.lists(st.integers(0, step.word.mask), min_size=1, max_size=8))
    column = np.array(values, dtype=np.uint64)
    if step.wait is not None:
        assert enabled(step, column).tolist() == [enabled(step, v) for v in values]
    if step.when is not None:
        assert taken(step, column).tolist() == [taken(step, v) for v in values]
    new = updated(step, column)
    assert new.dtype == np.uint64
    assert new.tolist() == [updated(step, v) for v in values]


@hypothetically(120)
@given(any_step(), st.data())
def test_updated_is_the_formula_and_shows_what_does_not_fit(
    step: Step, data: st.DataObject
) -> None:
    assert step.word is not None
    old = data.draw(st.integers(0, step.word.mask))
    exact = ((old & step.and_mask) ^ step.xor_mask) + step.add
    if 0 <= exact <= step.word.mask:
        assert updated(step, old) == exact
    else:
        assert updated(step, old) > step.word.mask


@hypothetically(120)
@given(any_step(6), st.data())
def test_what_a_step_does_depends_on_its_reads_and_touches_its_writes(
    step: Step, data: st.DataObject
) -> None:
    assert step.word is not None
    one = data.draw(st.integers(0, step.word.mask))
    other = data.draw(st.integers(0, step.word.mask))
    other = (other & ~step.reads) | (one & step.reads)
    if step.wait is not None:
        assert enabled(step, one) == enabled(step, other)
    assert one & step.returns == other & step.returns
    if step.when is not None:
        assert taken(step, one) == taken(step, other)
    assert (updated(step, one) ^ one) & step.word.mask & ~step.writes == 0
    assert updated(step, one) & step.writes == updated(step, other) & step.writes


@pytest.mark.parametrize("width", [0, 65, -1])
def test_a_word_has_1_to_64_bits(width: int) -> None:
    with pytest.raises(ModelError, match=rf"width of {width} bits, expected 1 to 64"):
        Word("word", width)


def test_the_widest_word_holds_all_bits() -> None:
    wide = Word("wide", 64, ALL)
    assert wide.mask == ALL
    assert outcome(store(wide, ALL - 1), 0) == (ALL - 1, 0)


@pytest.mark.parametrize(
    "build",
    [
        lambda: Word("nibble", 4, 16),
        lambda: Word("nibble", 4, -1),
        lambda: store(Word("nibble", 4), 16),
        lambda: xchg(Word("nibble", 4), -1),
        lambda: fetch_or(Word("nibble", 4), 0x10),
        lambda: fetch_xor(Word("nibble", 4), 0x10),
        lambda: cmpxchg(Word("nibble", 4), 0, 0x10),
        lambda: Step("look", Word("nibble", 4), wait=Wait(0x10, 0)),
        lambda: Step("look", Word("nibble", 4), when=When(0x10, 0)),
        lambda: fetch_add(Word("nibble", 4), 16),
        lambda: fetch_add(Word("nibble", 4), -16),
    ],
)
def test_what_does_not_fit_a_word_is_refused_by_name(build) -> None:
    with pytest.raises(ModelError, match="'nibble' has 4 bits"):
        build()


def test_a_sum_on_a_word_of_64_bits_is_refused() -> None:
    with pytest.raises(ModelError, match="no room to notice an overflow"):
        fetch_add(Word("wide", 64), 1)


@pytest.mark.parametrize(
    "build",
    [
        lambda: wait_until(BYTE, 4, 0x03),
        lambda: wait_until(BYTE, 0x100),
        lambda: cmpxchg(BYTE, 0x10, 0x1, 0x0F),
        lambda: Step("look", BYTE, when=When(1, 2)),
    ],
)
def test_a_guard_that_can_never_match_is_refused(build) -> None:
    with pytest.raises(ModelError, match="no value can ever match"):
        build()


@pytest.mark.parametrize(
    ("amounts", "where"), [((200, 100), r"adds 100 to 0xc8"), ((-1,), "adds -1 to 0x0")]
)
def test_a_sum_that_does_not_fit_is_an_error_when_it_happens(
    amounts: tuple[int, ...], where: str
) -> None:
    count = Word("count", 8)
    program = main("cpu0", call(steps, *(fetch_add(count, amount) for amount in amounts)))
    with pytest.raises(ModelError, match=rf"'count' has 8 bits; .* {where}"):
        answer(system(program))
    assert isinstance(overflow(fetch_add(count, 1), 255), ModelError)


def test_fetch_and_takes_a_complement() -> None:
    found = answer(system(main("cpu0", call(steps, store(BYTE, 7), fetch_and(BYTE, ~1, ~1)))))
    assert found.states == 3
    step = fetch_and(BYTE, ~1, ~1)
    assert outcome(step, 0xF3) == (0xF2, 0xF2)
    assert (step.reads, step.writes) == (0xFE, 0x01)


def test_cmpxchg_refuses_to_write_outside_its_mask() -> None:
    with pytest.raises(ModelError, match="would write bits outside its mask 0xf"):
        cmpxchg(BYTE, 1, 0xF2, 0x0F)


def test_labels_read_as_the_story_prints_them() -> None:
    assert load(BYTE).label == "load byte"
    assert store(BYTE, 0x77).label == "store byte = 0x77"
    assert store(PTE, 0x12043).label == "store pte = 0x12 P-RW-D"
    assert fetch_and(PTE, PTE.mask & ~2).label == "clear RW in pte"
    assert wait_until(BYTE, 2, equal=False).label == "wait until byte is not 2"
    assert acquire(BYTE).label == "lock byte"
    assert PTE.format.show(0) == "0"
    assert PTE.format.show(64) == "D"
    assert BYTE.format.show(9) == "9"
