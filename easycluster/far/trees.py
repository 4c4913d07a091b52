"""Syntax trees that another version of Python compiles.

Code that was changed before it is sent, such as rewritten asserts, goes as a tree and not as text: each part keeps
its line and columns, so that tracebacks point at what the user wrote, and nothing depends on how text is printed.
A tree is pickled builtin values; a node is a tuple of its class name, its place and its fields.

This module is shipped to the far side: standard library of Python 3.8 only.
"""

from __future__ import annotations

import ast
import pickle
import sys
import zlib
from typing import Any

__all__ = ["pack_tree", "unpack_tree"]

_PLACE = ("lineno", "col_offset", "end_lineno", "end_col_offset")

# Fields that newer versions have and insist on.
_NEW_LISTS = ("type_ignores", "type_params")


def pack_tree(tree: ast.AST) -> bytes:
    """Return a tree as bytes.

    Raises:
        RecursionError: If it is too deep.
    """
    return zlib.compress(pickle.dumps(_pack(tree), 4), 1)


def unpack_tree(data: bytes) -> ast.AST:
    """Make the tree again, with the node classes of this Python.

    Raises:
        ValueError: If this Python has no such syntax.
    """
    tree = _unpack(pickle.loads(zlib.decompress(data)))
    if not isinstance(tree, ast.AST):
        raise ValueError("no syntax tree")
    return tree


def _pack(value: Any) -> Any:
    if isinstance(value, ast.AST):
        place = tuple(getattr(value, name, None) for name in _PLACE) if "lineno" in value._attributes else None
        # What is not set has its default over there, too.
        fields = [(name, _pack(getattr(value, name))) for name in value._fields if hasattr(value, name)]
        return (type(value).__name__, place, fields)
    return [_pack(each) for each in value] if isinstance(value, list) else value


def _unpack(value: Any) -> Any:
    if isinstance(value, list):
        return [_unpack(each) for each in value]
    # A constant may be a tuple or a frozenset, but is never a tuple that holds a list.
    if not (isinstance(value, tuple) and len(value) == 3 and isinstance(value[2], list)):
        return value
    name, place, fields = value
    cls = getattr(ast, name, None)
    if cls is None:
        raise ValueError(f"Python {sys.version_info[0]}.{sys.version_info[1]} has no {name}")
    node = cls()
    for field, content in fields:
        if field in cls._fields:
            setattr(node, field, _unpack(content))
        elif content:
            raise ValueError(f"{name} has no {field} in Python {sys.version_info[0]}.{sys.version_info[1]}")
    for field in _NEW_LISTS:
        if field in cls._fields and not hasattr(node, field):
            setattr(node, field, [])
    if place is not None:
        for attribute, number in zip(_PLACE, place):
            if number is not None:
                setattr(node, attribute, number)
    if sys.version_info < (3, 9) and name == "Subscript":
        node.slice = _old_slice(node.slice)
    return node


def _old_slice(part: Any) -> Any:
    """Return the index of a subscript as Python 3.8 wants it."""
    if isinstance(part, ast.Slice):
        return part
    if isinstance(part, ast.Tuple) and any(isinstance(each, ast.Slice) for each in part.elts):
        return ast.ExtSlice(dims=[_old_slice(each) for each in part.elts])
    return ast.Index(value=part)
