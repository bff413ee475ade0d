"""One CPU boots: page tables that are in use before anybody could be told, and those that follow.

    head.S          swapper_pg_dir leads to pg0, twice: at 0 and at PAGE_OFFSET
    pagetable_init  alloc_pd(swapper_pg_dir)
                    low memory: set_pmd of large pages, or set_pte in pg0 without PSE
                    fixmap: alloc_pt, set_pmd

As merged, swapper_pg_dir is announced as all zero although the kernel is running on it, and pg0 is
never announced at all: one_page_table_init finds it there. With large pages nobody misses pg0.

With PAE head.S's tables are of two levels all the same. pagetable_init makes others, and leaves
none of them out:

    for low memory  alloc_pd, set_pgd (one_md_table_init); then as above, but a page table is new
    fixmap          alloc_pt, set_pmd
    entry 0         as that of low memory
    paging_init     load CR3, switch PAE on
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.expressions import finished, value
from smpmmu.engine.local import call
from smpmmu.hypervisor.page_types import (
    ANNOUNCED_FRAMES_ARE_ZERO,
    NORMAL,
    ONLY_ANNOUNCED_FRAMES_ARE_UPDATED,
    TABLES_ARE_ANNOUNCED_WHEN_LINKED,
)
from smpmmu.kernel.boot import pagetable_init, paging_init
from smpmmu.kernel.mm import INIT_MM
from smpmmu.kernel.page_hooks import PageHooks, Place
from smpmmu.kernel.pageattr import PAGE_KERNEL, PAGE_KERNEL_LARGE, linear
from smpmmu.kernel.paravirt import Linux
from smpmmu.machine.entries import KERNPG_TABLE, entry
from smpmmu.machine.memory import NON_PAE, PAE, Memory, Paging, pgd_index, pmd_index
from smpmmu.scenario import Setup, holds, scenario, variant, violated
from smpmmu.scenarios.allocation import NATIVELY, By, hypervisor_of, vcpu
from smpmmu.scenarios.change_page_attr import LINEAR_MAP_IS_ALWAYS_MAPPED, PAGE, use

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

PG0, FIXMAP_TABLE = 0x3A, 0x3B
NEW_TABLES = (0x3C, 0x3D, 0x3E)
"""With PAE, in the order in which they are made: the directory, then page tables."""
IDENTITY = PAGE << 12
FIXMAP = 0xFFFFF000

LIVE_ROOT = (
    "pagetable_init: alloc_pd(swapper_pg_dir), which vmi_allocate_pd says is all zero; the kernel "
    "runs on it"
)
LEFT_BY_HEAD = "swapper_pg_dir leads to pg0, which nobody has announced"
NO_NEED = "with large pages set_pmd gives the hypervisor all that is used"
MISSES_PG0 = "one_page_table_init returns early for what head.S has linked; set_pte fills it"
PROPOSED = (
    "proposed here: announce the tables that head.S has linked, then the root, neither as zero"
)
FALSE_BUT_HARMLESS = "what the hypervisor takes for empty is filled by hidden faults"

ALL_NEW = (
    "the tables are new ones, of memory that bootmem has zeroed, announced one by one before they "
    "are linked; no processor uses them before CR3 is loaded"
)

BOTH = PageHooks(boot_tables=True)


async def boot(cpu: Cpu, *, pse: bool) -> None:
    """Make the kernel's page tables, and go on."""
    if cpu.memory.paging.is_pae:
        await paging_init(cpu, FIXMAP, pse=pse)
    else:
        await pagetable_init(cpu, FIXMAP, pse=pse)
    await use(cpu, PAGE)


@scenario(
    variant("native", holds(NATIVELY), by=By.NATIVE),
    variant("native_no_pse", holds(NATIVELY), by=By.NATIVE, pse=False),
    variant("vmi", violated(ANNOUNCED_FRAMES_ARE_ZERO, LIVE_ROOT), by=By.PAGE_TYPES),
    variant("vmi_promises", holds(NO_NEED), by=By.PROMISES),
    variant("vmi_no_pse_promises", violated(LINEAR_MAP_IS_ALWAYS_MAPPED, MISSES_PG0),
            by=By.PROMISES, pse=False),
    variant("root_claims_nothing", violated(TABLES_ARE_ANNOUNCED_WHEN_LINKED, LEFT_BY_HEAD),
            by=By.PAGE_TYPES, claims_zero=False),
    variant("root_not_announced",
            violated(ONLY_ANNOUNCED_FRAMES_ARE_UPDATED, "set_pmd writes to what is taken for data"),
            by=By.PAGE_TYPES, claims_zero=False, hooks=PageHooks(root=False)),
    variant("boot_tables_claim_zero", violated(ANNOUNCED_FRAMES_ARE_ZERO, "pg0 is in use"),
            by=By.PAGE_TYPES, hooks=BOTH),
    variant("boot_tables_no_pse_promises", holds(FALSE_BUT_HARMLESS), by=By.PROMISES,
            hooks=BOTH, pse=False),
    variant("boot_tables_claim_nothing", holds(PROPOSED), by=By.PAGE_TYPES, hooks=BOTH,
            claims_zero=False),
    variant("boot_tables_claim_nothing_no_pse", holds(PROPOSED), by=By.PAGE_TYPES, hooks=BOTH,
            claims_zero=False, pse=False),
    variant("fixmap_not_announced",
            violated(TABLES_ARE_ANNOUNCED_WHEN_LINKED, "one_page_table_init without its hook"),
            by=By.PAGE_TYPES, claims_zero=False,
            hooks=PageHooks(boot_tables=True, populate=Place.MISSING)),
    variant("fixmap_announced_after_link",
            violated(TABLES_ARE_ANNOUNCED_WHEN_LINKED, "one_page_table_init with its hook late"),
            by=By.PAGE_TYPES, claims_zero=False,
            hooks=PageHooks(boot_tables=True, populate=Place.AFTER)),
    variant("native_pae", holds(NATIVELY), by=By.NATIVE, paging=PAE),
    variant("vmi_pae", holds(ALL_NEW), by=By.PAGE_TYPES, paging=PAE),
    variant("vmi_promises_pae", holds(ALL_NEW), by=By.PROMISES, paging=PAE),
    variant("vmi_no_pse_pae", holds(f"{ALL_NEW}; pg0 is not among them"), by=By.PAGE_TYPES,
            pse=False, paging=PAE),
    variant("vmi_no_pse_promises_pae", holds(f"{ALL_NEW}; pg0 is not among them"),
            by=By.PROMISES, pse=False, paging=PAE),
    variant("directory_not_announced_pae",
            violated(ONLY_ANNOUNCED_FRAMES_ARE_UPDATED, "set_pmd writes to what is taken for data"),
            by=By.PAGE_TYPES, hooks=PageHooks(md_table=Place.MISSING), paging=PAE),
    variant("directory_not_announced_promises_pae",
            violated(LINEAR_MAP_IS_ALWAYS_MAPPED, "nothing is shadowed in an unknown directory"),
            by=By.PROMISES, hooks=PageHooks(md_table=Place.MISSING), paging=PAE),
    variant("directory_announced_after_link_pae",
            holds("one CPU, which loads the root later, and the directory is empty until then"),
            by=By.PAGE_TYPES, hooks=PageHooks(md_table=Place.AFTER), paging=PAE),
    variant("fixmap_not_announced_pae",
            violated(TABLES_ARE_ANNOUNCED_WHEN_LINKED, "one_page_table_init without its hook"),
            by=By.PAGE_TYPES, hooks=PageHooks(populate=Place.MISSING), paging=PAE),
    variant("fixmap_announced_after_link_pae",
            violated(TABLES_ARE_ANNOUNCED_WHEN_LINKED, "one_page_table_init with its hook late"),
            by=By.PAGE_TYPES, hooks=PageHooks(populate=Place.AFTER), paging=PAE),
    variant("tables_announced_after_link_promises_pae",
            holds("one CPU, which fills a table when it is announced and uses it later"),
            by=By.PROMISES, hooks=PageHooks(populate=Place.AFTER), pse=False, paging=PAE),
)  # fmt: skip
def boot_page_tables(
    setup: Setup,
    *,
    by: By,
    pse: bool = True,
    hooks: PageHooks | None = None,
    claims_zero: bool = True,
    paging: Paging = NON_PAE,
) -> None:
    """The kernel is running on page tables that nobody has announced."""
    pages = (IDENTITY, linear(PAGE), FIXMAP)
    tables = NEW_TABLES if paging.is_pae else (FIXMAP_TABLE,)
    linux = Linux(page_hooks=hooks or PageHooks(), frames=tables)
    link = entry(PG0, KERNPG_TABLE)
    left_by_head = (
        (INIT_MM.pgd, pgd_index(IDENTITY), link),
        (INIT_MM.pgd, pgd_index(linear(PAGE)), link),
        (PG0, PAGE, entry(PAGE, PAGE_KERNEL)),
    )
    guest = Memory(
        () if paging.is_pae else left_by_head,
        owners=tuple((table, 0) for table in tables),
        paging=paging,
    )
    frames = tuple((frame, NORMAL) for frame in (INIT_MM.pgd, PG0, *tables))
    hypervisor = hypervisor_of(by, frames, claims_zero=claims_zero)
    cpu0 = vcpu(
        setup, 0, INIT_MM, guest, hypervisor, pages, linux=linux, root_changes=paging.is_pae
    )
    setup.cpu(0, call(boot, cpu0, pse=pse))
    directory = NEW_TABLES[0] if paging.is_pae else INIT_MM.pgd
    low, fixmap = (value(guest.table(directory, pmd_index(a, paging))) for a in pages[1:])
    last = NEW_TABLES[1 if pse else 2] if paging.is_pae else FIXMAP_TABLE
    setup.sometimes("the fixmap has its table", fixmap == entry(last, KERNPG_TABLE))
    large, small = entry(0, PAGE_KERNEL_LARGE), entry(NEW_TABLES[1], KERNPG_TABLE)
    mapped = low == (large if pse else small if paging.is_pae else link)
    setup.sometimes("low memory is mapped", finished("cpu0") & mapped)
