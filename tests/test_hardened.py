"""The core is linked and compiled so that a bug in it is hard to use (Linux)."""

import struct
import sys

import pytest

from pymux import _core

PT_DYNAMIC, PT_GNU_STACK, PT_GNU_RELRO = 2, 0x6474E551, 0x6474E552
PF_X = 1
SHT_DYNSYM = 11
DT_FLAGS, DT_FLAGS_1 = 30, 0x6FFFFFFB
DF_BIND_NOW, DF_1_NOW = 8, 1

ENTRIES = {"PyInit__core", "_cffi_pypyinit__core"}


class Elf:
    """What is asked of an ELF file of 64 bits, little-endian."""

    def __init__(self, data):
        assert data[:6] == b"\x7fELF\x02\x01"
        (segments_at, sections_at) = struct.unpack_from("<QQ", data, 32)
        size, count, section_size, section_count = struct.unpack_from("<4H", data, 54)
        self.data = data
        self.segments = [
            struct.unpack_from("<IIQQQQQQ", data, segments_at + k * size)
            for k in range(count)
        ]
        self.sections = [
            struct.unpack_from("<IIQQQQIIQQ", data, sections_at + k * section_size)
            for k in range(section_count)
        ]

    def segment(self, kind):
        """The one program header of a kind, None where there is none."""
        return next((one for one in self.segments if one[0] == kind), None)

    def dynamic(self):
        """{tag: value} of the dynamic section."""
        _, _, at, _, _, size, _, _ = self.segment(PT_DYNAMIC)
        return dict(struct.iter_unpack("<qQ", self.data[at : at + size]))

    def symbols(self):
        """({imported names}, {exported names})."""
        (table,) = [one for one in self.sections if one[1] == SHT_DYNSYM]
        strings = self.sections[table[6]][4]
        imported, exported = set(), set()
        rows = self.data[table[4] : table[4] + table[5]]
        for name, _, _, section, _, _ in struct.iter_unpack("<IBBHQQ", rows):
            start = strings + name
            text = self.data[start : self.data.index(b"\0", start)].decode()
            (exported if section else imported).add(text)
        return imported - {""}, exported


@pytest.fixture(scope="module")
def elf():
    if not sys.platform.startswith("linux"):
        pytest.skip("not an ELF file of Linux")
    with open(_core.__file__, "rb") as file:
        data = file.read()
    if data[4:6] != b"\x02\x01":
        pytest.skip("not of 64 bits, little-endian")
    found = Elf(data)
    sanitizers = ("__asan_", "__tsan_", "__ubsan_")
    if any(name.startswith(sanitizers) for name in found.symbols()[0]):
        pytest.skip("built with sanitizers")
    return found


def test_addresses_of_functions_are_bound_at_load_time(elf):
    flags = elf.dynamic()
    assert flags.get(DT_FLAGS, 0) & DF_BIND_NOW or flags.get(DT_FLAGS_1, 0) & DF_1_NOW


def test_they_are_read_only_afterwards(elf):
    assert elf.segment(PT_GNU_RELRO) is not None


def test_the_stack_is_not_executable(elf):
    assert not elf.segment(PT_GNU_STACK)[1] & PF_X


def test_functions_with_buffers_guard_the_stack(elf):
    assert "__stack_chk_fail" in elf.symbols()[0]


def test_the_c_library_checks_the_sizes_of_buffers(elf):
    imported = elf.symbols()[0]
    if b"GLIBC_2." not in elf.data:
        pytest.skip("another C library than glibc")
    assert {name for name in imported if name.endswith("_chk")}


def test_the_environment_is_left_alone(elf):
    # which another thread may be changing: the core runs without the GIL
    assert not [name for name in elf.symbols()[0] if name.endswith("env")]


def test_nothing_but_the_way_in_is_exported(elf):
    exported = elf.symbols()[1]
    assert exported & ENTRIES
    # What linkers and start-up code add themselves.
    assert exported - ENTRIES <= {"_init", "_fini", "_edata", "_end", "__bss_start"}
