"""The files that a new method begins with: copies of a small one that works."""

from __future__ import annotations

import importlib.util
import keyword
import re
from pathlib import Path

from crystalbench._exceptions import ConfigurationError
from crystalbench._files import write_atomic
from crystalbench._paths import data_dir
from crystalbench.registry import RESERVED, find_methods

_STAND_IN, _CLASS, _TITLE = "mymethod", "MyMethod", "My method"
_FILES = ("{}.py", "{}.yaml", "test_{}.py")


def new_method(name: str, folder: Path) -> list[Path]:
    """Write ``NAME.py``, ``NAME.yaml`` and ``test_NAME.py`` into ``folder`` and return them.

    Raises
    ------
    ConfigurationError
        Where ``name`` cannot name a module, is taken by a method or an installed module, or a file is there already;
        then nothing is written.
    """
    _check_name(name)
    files = [folder / file.format(name) for file in _FILES]
    if there := [str(file) for file in files if file.exists()]:
        raise ConfigurationError(f"{', '.join(there)} is there already: choose another name or another folder")
    _check_free(name)
    template = data_dir("_template")
    for file, source in zip(files, _FILES, strict=True):
        text = (template / source.format(_STAND_IN)).read_text(encoding="utf-8")
        write_atomic(file, _renamed(text, name).encode())
    return files


def _renamed(text: str, name: str) -> str:
    words = [word for word in name.split("_") if word]
    camel = "".join(word[0].upper() + word[1:] for word in words)
    title = " ".join(words)
    return text.replace(_CLASS, camel).replace(_TITLE, title[0].upper() + title[1:]).replace(_STAND_IN, name)


def _is_name(name: str) -> bool:
    return bool(re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name)) and not keyword.iskeyword(name)


def _check_name(name: str) -> None:
    if name in RESERVED:
        raise ConfigurationError(f"{name!r} means something else to `crystalbench run`: choose another name")
    if _is_name(name):
        return
    near = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")
    advice = f"call it {near!r}" if _is_name(near) else "use letters, digits and _, and a letter first"
    raise ConfigurationError(f"{name!r} cannot be the name of a Python module: {advice}")


def _check_free(name: str) -> None:
    methods = find_methods()
    if name in methods:
        raise ConfigurationError(f"there is a method {name!r} already, in {methods[name].file}: choose another name")
    for module in (name, f"test_{name}"):
        if importlib.util.find_spec(module) is not None:
            raise ConfigurationError(
                f"there is a module {module!r} already, which {module}.py would hide: choose another name"
            )
