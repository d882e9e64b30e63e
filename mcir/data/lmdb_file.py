"""Read LMDB files (data version 1, 64 bits, little endian) without the LMDB library.

The library trusts its file: a truncated or damaged file ends the process with a signal. Here the search tree is read
page by page, and each number in it is checked before it is used. The result is the location of every value, so that
reading a value needs no search.

A file has two meta pages, one for each of the last two transactions. The newer one refers to the root page. Branch
pages contain keys and page numbers, leaf pages contain keys and values. A long value is on consecutive overflow pages.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from mcir.data.errors import DataError
from mcir.paths import file_problem

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_PAGE_SIZES = tuple(2**power for power in range(8, 16))
_BRANCH, _LEAF, _OVERFLOW, _META_PAGE = 1, 2, 4, 8
_LONG_VALUE, _INTEGER_KEYS, _ANY_FOLDER = 1, 0x08, 0x4000
_MAX_KEY, _MAX_DEPTH, _NO_ROOT = 511, 32, 2**64 - 1

_PAGE = struct.Struct("<QHHHH")  # number, unused, flags, end of the node offsets, start of the nodes
_OVERFLOW_PAGE = struct.Struct("<QHHI")  # number, unused, flags, number of pages
_META = struct.Struct("<10xH4xIIQQ48s48sQQ")  # flags, magic, version, address, map size, trees, last page, transaction
_TREE = struct.Struct("<IHHQQQQQ")
_NODE = struct.Struct("<HHHH")  # size or page number (32 bits), flags, size of the key
_NUMBER = struct.Struct("<Q")


class Span(NamedTuple):
    """The location of a value in the file, and its first overflow page (0: the value is on a leaf page)."""

    offset: int
    size: int
    page: int


class _Tree(NamedTuple):
    page_size: int
    flags: int
    depth: int
    branch_pages: int
    leaf_pages: int
    overflow_pages: int
    entries: int
    root: int


class _DamagedError(ValueError):
    """A part of the file is not valid. The message does not name the file."""


class LmdbFile:
    """The keys of a database file and the locations of their values, read from all branch and leaf pages.

    Args:
        path: file ``data.mdb``.

    Raises:
        DataError: the file cannot be read, is truncated or damaged, or has a structure that databases of images do not
            have.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._used: list[tuple[int, int]] = []
        if problem := file_problem(path):
            raise DataError(f"{path}: {problem}")
        try:
            with path.open("rb") as self._stream:
                self.size = self._stream.seek(0, 2)
                self._map_size, self._free, self._main, self._last_page = _read_meta(self._stream, self.size)
                self.page_size = self._free.page_size
                self.spans = self._read_tree(self._main, 0)
                self._check_overlaps()
        except (_DamagedError, OSError) as error:
            raise self._unreadable(error) from error

    def check_for_update(self) -> None:
        """Check the parts that only writing uses: the tree of free pages and the headers of the values.

        Raises:
            DataError: they are damaged.
        """
        try:
            with self.path.open("rb") as self._stream:
                if (self._last_page + 1) * self.page_size > self._map_size:
                    raise _DamagedError(f"expected at most {self._map_size:,} bytes, got {self._last_page + 1} pages")
                for span in self.spans.values():
                    if span.page:
                        self._check_long_value(span)
                numbers = self._read_tree(self._free, _INTEGER_KEYS, lambda key: _NUMBER.unpack(key)[0])
                for span in numbers.values():
                    self._use_free_pages(np.frombuffer(self._read(span.offset, span.size // 8 * 8), "<u8"))
                self._check_overlaps()
        except (_DamagedError, OSError, struct.error) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> DataError:
        return DataError(f"{self.path}: not a readable LMDB database ({error})")

    def _read_tree(self, tree: _Tree, flags: int, order: Callable[[bytes], Any] = bytes) -> dict[bytes, Span]:
        if tree.flags & ~_ANY_FOLDER != flags:
            raise _DamagedError(f"expected the flags {flags:#x}, got {tree.flags:#x}")
        walk = _Walk(self, order)
        if tree.root != _NO_ROOT:
            if not 1 <= tree.depth <= _MAX_DEPTH:
                raise _DamagedError(f"expected a depth of at most {_MAX_DEPTH}, got {tree.depth}")
            walk.visit(tree.root, tree.depth)
        found = walk.branch_pages, walk.leaf_pages, len(walk.spans)
        if found != (tree.branch_pages, tree.leaf_pages, tree.entries):  # the library miscounts overflow pages
            raise _DamagedError(f"expected {tree.entries} entries, got {len(walk.spans)} on other pages")
        return walk.spans

    def read_page(self, number: int) -> bytes:
        """Return a page of a tree."""
        self.use_pages(number, 1)
        return self._read(number * self.page_size, self.page_size)

    def use_pages(self, first: int, count: int) -> None:
        """Record the use of consecutive pages, and check that they are in the file."""
        if not 2 <= first <= self._last_page + 1 - count:
            raise _DamagedError(f"expected a page from 2 to {self._last_page}, got {first}")
        if (first + count) * self.page_size > self.size:
            raise _truncated((self._last_page + 1) * self.page_size, self.size)
        self._used.append((first, count))

    def page_count(self, size: int) -> int:
        """Return the number of overflow pages of a long value."""
        return -(-(_PAGE.size + size) // self.page_size)

    def _read(self, offset: int, size: int) -> bytes:
        self._stream.seek(offset)
        data = self._stream.read(size)
        if len(data) < size:
            raise _truncated(offset + size, offset + len(data))
        return data

    def _check_long_value(self, span: Span) -> None:
        """Check the header of a value, which may have more pages than it needs because it replaced a longer one."""
        number, _, kind, count = _OVERFLOW_PAGE.unpack(self._read(span.page * self.page_size, _OVERFLOW_PAGE.size))
        needed = self.page_count(span.size)
        if number != span.page or kind != _OVERFLOW or count < needed:
            raise _DamagedError(f"page {span.page} has an invalid header")
        if count > needed:
            self.use_pages(span.page + needed, count - needed)

    def _use_free_pages(self, numbers: Any) -> None:
        """Record the pages in an entry of the tree of free pages: their number, and the pages in descending order."""
        count = int(numbers[0]) if len(numbers) else len(numbers)
        pages = numbers[1 : 1 + count]
        if len(pages) != count or (pages[1:] >= pages[:-1]).any() or (pages > self._last_page).any():
            raise _DamagedError("the list of free pages is not valid")
        self._used += [(int(page), 1) for page in pages]

    def _check_overlaps(self) -> None:
        pages = np.array(sorted(self._used), np.int64).reshape(-1, 2)
        if (pages[1:, 0] < pages[:-1].sum(1)).any():
            raise _DamagedError("a page is used twice")


class _Walk:
    """The entries and the numbers of pages of a tree, whose keys must be in ascending order."""

    def __init__(self, file: LmdbFile, order: Callable[[bytes], Any]) -> None:
        self.spans: dict[bytes, Span] = {}
        self.branch_pages = self.leaf_pages = 0
        self._file, self._order = file, order
        self._last: Any = None
        self._is_separator = False

    def visit(self, number: int, level: int) -> None:
        """Visit a page and the pages below it; ``level`` is 1 for leaf pages."""
        page = self._file.read_page(number)
        found, _, kind, lower, upper = _PAGE.unpack_from(page)
        is_valid = _PAGE.size < lower <= upper <= len(page) and lower % 2 == 0
        if found != number or kind != (_LEAF if level == 1 else _BRANCH) or not is_valid:
            raise _DamagedError(f"page {number} has an invalid header")
        self.leaf_pages += level == 1
        self.branch_pages += level > 1
        used = 0
        for position, start in enumerate(struct.unpack_from(f"<{(lower - _PAGE.size) // 2}H", page, _PAGE.size)):
            if not upper <= start <= len(page) - _NODE.size:
                raise _DamagedError(f"page {number} has an invalid entry")
            low, high, flags, key_size = _NODE.unpack_from(page, start)
            end = start + _NODE.size + key_size
            key = page[start + _NODE.size : end]
            if level == 1:
                self._add(key, self._span(number, page, end, low | high << 16, flags))
                stored = _NUMBER.size if flags else low | high << 16
            else:
                if position:
                    self._check_order(key, is_separator=True)
                self.visit(low | high << 16 | flags << 32, level - 1)
                stored = 0
            used += -(-(_NODE.size + key_size + stored) // 2) * 2
        if used != len(page) - upper:
            raise _DamagedError(f"page {number} has invalid entries")

    def _span(self, number: int, page: bytes, start: int, size: int, flags: int) -> Span:
        """Return the location of a value from its description, which is at an offset of a leaf page."""
        if flags & ~_LONG_VALUE or start + (_NUMBER.size if flags else size) > len(page):
            raise _DamagedError(f"page {number} has an invalid entry")
        if not flags:
            return Span(number * len(page) + start, size, 0)
        first = _NUMBER.unpack_from(page, start)[0]
        self._file.use_pages(first, self._file.page_count(size))
        return Span(first * len(page) + _PAGE.size, size, first)

    def _add(self, key: bytes, span: Span) -> None:
        if not 1 <= len(key) <= _MAX_KEY:
            raise _DamagedError(f"expected a key of 1 to {_MAX_KEY} bytes, got {len(key)}")
        self._check_order(key, is_separator=False)
        self.spans[key] = span

    def _check_order(self, key: bytes, is_separator: bool) -> None:
        """Check that keys ascend; a branch page repeats the first key of a page as the separator before it."""
        position = self._order(key)
        is_repeated = self._is_separator and not is_separator and position == self._last
        if self._last is not None and not (position > self._last or is_repeated):
            raise _DamagedError("its keys are not in ascending order")
        self._last, self._is_separator = position, is_separator


def _read_meta(stream: BinaryIO, size: int) -> tuple[int, _Tree, _Tree, int]:
    """Return map size, trees of free pages and of values, and last page of the newer meta page."""
    first = _read_meta_page(stream, 0, size)
    second = _read_meta_page(stream, first[1].page_size, size)
    if first[1].page_size != second[1].page_size:
        raise _DamagedError("its two meta pages have different page sizes")
    return max(first, second, key=lambda meta: meta[4])[:4]


def _read_meta_page(stream: BinaryIO, offset: int, size: int) -> tuple[int, _Tree, _Tree, int, int]:
    """Return the content of a meta page, and the number of its transaction."""
    stream.seek(offset)
    data = stream.read(_META.size)
    if len(data) < _META.size:
        raise _truncated(offset + _META.size, size)
    flags, magic, version, _, map_size, free, main, last_page, transaction = _META.unpack(data)
    if magic != _MAGIC or not flags & _META_PAGE:
        raise _DamagedError("it has no header of LMDB")
    trees = _Tree(*_TREE.unpack(free)), _Tree(*_TREE.unpack(main))
    if version != _VERSION:
        raise _DamagedError(f"expected version {_VERSION} of the format, got {version}")
    if trees[0].page_size not in _PAGE_SIZES:
        raise _DamagedError(f"its pages have {trees[0].page_size} bytes")
    return map_size, *trees, last_page, transaction


def _truncated(expected: int, size: int) -> _DamagedError:
    return _DamagedError(f"truncated: expected {expected:,} bytes, got {size:,}")
