"""Pickles of strangers, read as data: nothing that they name is ever called."""

from __future__ import annotations

import math
import pickle
import pickletools
import re
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from crystalbench._exceptions import DataError
from crystalbench.data._images import DECODING_ERRORS, check_size

_ALLOWED = re.compile(r"numpy\.(_core|core)\.multiarray\.(_reconstruct|scalar)|numpy\.(ndarray|dtype)")
_NUMBER = re.compile(r"b1|[iu][1248]|f[248]")
_OPCODES = re.compile(
    "PROTO|FRAME|STOP|MARK|POP|POP_MARK|MEMOIZE|(LONG_)?BIN(PUT|GET)|NONE|NEWTRUE|NEWFALSE|BININT[12]?|LONG1|BINFLOAT|"
    "(SHORT_)?BIN(UNICODE|BYTES)|BIN(UNICODE|BYTES)8|EMPTY_(TUPLE|LIST|DICT)|TUPLE[123]?|APPENDS?|SETITEMS?|"
    "(STACK_)?GLOBAL|REDUCE|BUILD"
)
_MAX_BYTES = 4 * 2**30
_MAX_TUPLES = 20_000
_MAX_SIDES = 4
_TORN = (
    *DECODING_ERRORS,
    AttributeError,
    MemoryError,
    OverflowError,
    RecursionError,
    pickle.UnpicklingError,
)


def read_pickled_dict(path: Path) -> dict[Any, Any]:
    """Read the dict that ``numpy.save`` has pickled into ``path``, an NPY file.

    Numbers, texts, bytes, lists, tuples and dicts are themselves. Arrays, dtypes and NumPy's scalars stay records of
    how they would be made, until :func:`array_of` makes one. Whatever else the file names is refused, uncalled.

    Raises
    ------
    DataError
        Where the file is missing, truncated, too large, not such a file, or names anything else to be called.
    """
    try:
        with path.open("rb") as file:
            content = _load(path, file)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except _TORN as error:
        raise DataError(f"{path} cannot be read ({error}): replace it with an intact file") from error
    # One object in an array without dimensions is how NumPy saves what is no array.
    match content:
        case _Call(state=(_, (), _, _, [dict() as value])):
            return value
    raise DataError(f"{path} holds no dict of Cellpose: save it again with Cellpose")


def array_of(path: Path, value: Any) -> NDArray[Any]:
    """Return the array of numbers that ``value``, from :func:`read_pickled_dict` of ``path``, stands for.

    Raises
    ------
    DataError
        Where it stands for something else, for another number of bytes than its shape says, or is too large.
    """
    match value:
        case _Call(state=(_, tuple() as shape, _Call(args=(str() as code, *_), state=(_, order, *_)), fortran, data)):
            pass
        case _:
            raise DataError(f"{path} holds masks that are no array: save it again with Cellpose")
    if not _NUMBER.fullmatch(code) or order not in ("<", ">", "|"):
        raise DataError(f"{path} holds masks of another kind ({code!r}): save whole numbers")
    if len(shape) > _MAX_SIDES or not all(isinstance(side, int) and side >= 0 for side in shape):
        raise DataError(f"{path} holds masks of a shape that is none: save it again with Cellpose")
    check_size(path, math.prod(shape))
    dtype = np.dtype(f"{order}{code}")
    if not isinstance(data, bytes) or len(data) != math.prod(shape) * dtype.itemsize:
        raise DataError(f"{path} holds masks of other bytes than shape {shape} says: save it again with Cellpose")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


class _Call:
    """What a pickle wants to have called, and the state it wants to give to the result."""

    def __init__(self, name: str, args: tuple[Any, ...] = ()) -> None:
        self.name = name
        self.args = args
        self.state: Any = None

    def __call__(self, *args: Any) -> _Call:
        return _Call(self.name, args)

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Reader(pickle.Unpickler):
    def __init__(self, path: Path, file: IO[bytes]) -> None:
        super().__init__(file)
        self._path = path

    def find_class(self, module: str, name: str) -> _Call:
        if not _ALLOWED.fullmatch(f"{module}.{name}"):
            raise _forbidden(self._path, f"{module}.{name}")
        return _Call(name)


def _load(path: Path, file: IO[bytes]) -> Any:
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise DataError(f"{path} has {size / 1e9:.1f} GB, more than is read: export the masks as STEM_cp_masks.tif")
    form: Any = np.lib.format
    is_first = form.read_magic(file) == (1, 0)
    _, _, dtype = form.read_array_header_1_0(file) if is_first else form.read_array_header_2_0(file)
    if dtype != np.dtype(object):
        raise DataError(f"{path} holds an array of {dtype}, no dict of Cellpose: import it as labels")
    start = file.tell()
    _check_opcodes(path, file)
    file.seek(start)
    return _Reader(path, file).load()


def _check_opcodes(path: Path, file: IO[bytes]) -> None:
    """Refuse what the unpickler would give much memory for, or end the process over, before it is run.

    Bytes are those of the file; places in its memo are no more than its opcodes; tuples are not nested so deep that
    hashing one would overflow the stack.
    """
    tuples = 0
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if not _OPCODES.fullmatch(opcode.name):
            raise _forbidden(path, f"the opcode {opcode.name}")
        if opcode.name.endswith("BINPUT") and isinstance(argument, int) and argument > count:
            raise DataError(f"{path} is no pickle that Python writes: save it again with Cellpose")
        tuples += opcode.name.startswith("TUPLE")
    if tuples > _MAX_TUPLES:
        raise DataError(f"{path} holds {tuples} tuples, more than is read: export the masks as STEM_cp_masks.png")


def _forbidden(path: Path, what: str) -> DataError:
    return DataError(
        f"{path} names {what}, which is refused, as unpickling it could run code: "
        "take the masks as STEM_cp_masks.png or .tif instead"
    )
