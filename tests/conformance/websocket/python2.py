"""Imports the cases of Autobahn's test suite as they lie in the registry: they are written for Python 2.

A string of Python 2 is of bytes. The sources are read as Latin-1, so that every character of a string in them is one of
those bytes; `octets` and `text` are the ways out of that and into it. What else is different is in RULES.
"""

import binascii
import importlib.machinery
import importlib.util
import pathlib
import re
import sys
import types

from autobahn.websocket import utf8validator

# Patterns in the sources, and what stands for them.
RULES = [
    (r"\bxrange\b", "range"),
    (r"\bunichr\b", "chr"),
    (r"(?m)^( *)print (.+)$", r"\1print(\2)"),
    # These two want bytes, and get strings.
    (r"(?m)^import binascii$", "import python2 as binascii"),
    (r"from autobahn\.websocket\.utf8validator import", "from python2 import"),
    # A base class of all classes comes last.
    (r"\(object, Case, \)", "(Case, )"),
    # Not among the cases, and of a Twisted that is long gone.
    (r"(?m)^from case9_9_1 import .*$", ""),
    # Of whole numbers.
    (r" / self\.p\.autoFragmentSize", " // self.p.autoFragmentSize"),
    # Autobahn itself writes these in another way since.
    (r"\brequestNoContextTakeover\b", "request_no_context_takeover"),
    (r"\brequestMaxWindowBits\b", "request_max_window_bits"),
    (r"\bacceptNoContextTakeover\b", "accept_no_context_takeover"),
    (r"\bacceptMaxWindowBits\b", "accept_max_window_bits"),
]


def octets(string):
    """The bytes that a string of Python 2 is; bytes stay what they are."""
    return string.encode("latin-1") if isinstance(string, str) else string


def text(content):
    """The string of Python 2 that bytes are."""
    return content.decode("latin-1")


def b2a_hex(string):
    """As the module `binascii` has it, of a string."""
    return text(binascii.b2a_hex(octets(string)))


class Utf8Validator(utf8validator.Utf8Validator):
    """Autobahn's, of a string."""

    def validate(self, string):
        return super().validate(octets(string))


class _Loader(importlib.machinery.SourceFileLoader):
    def source_to_code(self, data, path, *, _optimization=-1):
        source = text(data).replace("\r\n", "\n")
        for pattern, replacement in RULES:
            source = re.sub(pattern, replacement, source)
        return compile(source, path, "exec", dont_inherit=True)

    def path_stats(self, path):
        # Compiled files beside the sources would be of other rules.
        raise OSError(f"{path} is always compiled")


def cases():
    """All cases of the suite, each by its number, as in `9.1.2`, in the order of the suite."""
    found = importlib.util.find_spec("autobahntestsuite").submodule_search_locations[0]
    suite = pathlib.Path(found)
    folder = str(suite / "case")
    resources = types.ModuleType("pkg_resources")
    resources.resource_filename = lambda _, name: str(suite / name)
    sys.modules["pkg_resources"] = resources
    sys.path_hooks.insert(0, lambda path: _finder(folder, path))
    sys.path.append(folder)
    loader = _Loader("autobahn_cases", str(suite / "case" / "__init__.py"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    # Theirs compares pickles, in which equal values may differ.
    sys.modules["case"].Case.compare = lambda _, one, other: one == other
    return {case.__name__.removeprefix("Case").replace("_", "."): case for case in module.Cases}


def _finder(folder, path):
    """Modules of the folder of cases import each other by name alone."""
    if path != folder:
        raise ImportError(path)
    return importlib.machinery.FileFinder(folder, (_Loader, [".py"]))
