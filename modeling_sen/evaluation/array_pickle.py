# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Reads pickles of numpy arrays, numbers, texts and plain containers, without running code from them.

A pickle can call arbitrary functions. Even numpy's own are unsafe, because a crafted dtype can turn an array of bytes into an
array of pointers. Therefore reading calls no numpy functions: stand-in classes store their arguments, and arrays are built
afterwards from plain dtypes. Any other content is an error.
"""

import os
import pickle
import re
from typing import Any, Literal

import numpy as np


def load_array_pickle(path: str | os.PathLike) -> Any:
    """Reads a pickle of dicts, lists and tuples of arrays, texts, bytes, numbers and `None`.

    Arrays have a dtype of bool, integer, float or bytes, and may be read-only. An array of bytes objects becomes a list.

    Raises:
        FileNotFoundError, IsADirectoryError: no such file.
        ValueError: the file is not a pickle, is truncated, or contains objects other than these.
    """
    with open(path, "rb") as file:
        try:
            return _with_arrays(_ArrayUnpickler(file).load())
        except Exception as error:  # damaged pickles raise almost any exception
            raise ValueError(
                f"{path}: expected a pickle of numpy arrays and plain containers, found {error}"
            ) from error


class _Dtype:
    """Stand-in for `numpy.dtype`: bool, integers, floats, bytes, and objects for lists of bytes."""

    def __init__(self, name: str, align: bool = False, copy: bool = True):
        if not re.fullmatch(r"[biufSO][0-9]{1,9}", name):
            raise pickle.UnpicklingError(f"an array of dtype {name!r}")
        self.name = name
        self.byte_order = "="

    def __setstate__(self, state: tuple) -> None:
        self.byte_order = {"<": "<", ">": ">"}.get(state[1], "=")


class _Bytes:
    """Stand-in for `_codecs.encode`, with which old pickle protocols store bytes."""

    def __init__(self, text: str, encoding: str):
        self.data = text.encode("latin1")

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("bytes with a state")


class _Array:
    """Stand-in for `numpy.ndarray`, and for the function that creates an empty array for `__setstate__`."""

    data: Any
    dtype: _Dtype
    shape: tuple
    order: Literal["C", "F"]
    axes: tuple | None

    def __init__(self, *empty: Any):
        pass

    def __setstate__(self, state: tuple) -> None:
        _, self.shape, self.dtype, fortran, self.data = state
        self.order, self.axes = "F" if fortran else "C", None

    def build(self) -> np.ndarray | list[bytes]:
        if self.dtype.name.startswith("O"):
            if not (isinstance(self.data, list) and all(isinstance(item, bytes) for item in self.data)):
                raise pickle.UnpicklingError("an array of objects that are not bytes")
            return self.data
        data = self.data.data if isinstance(self.data, _Bytes) else self.data
        array = np.frombuffer(data, self.dtype.byte_order + self.dtype.name).reshape(self.shape, order=self.order)
        return array if self.axes is None else array.transpose(self.axes)


class _BufferArray(_Array):
    """Stand-in for the function that creates arrays in pickles of protocol 5."""

    def __init__(self, data: Any, dtype: _Dtype, shape: tuple, order: str, axes: tuple | None = None):
        self.data, self.dtype, self.shape, self.axes = data, dtype, shape, axes
        self.order = "F" if order == "F" else "C"


_STAND_INS = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Bytes,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _BufferArray for core in ("core", "_core")},
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return _STAND_INS[module, name]


def _with_arrays(value: Any) -> Any:
    if isinstance(value, _Array):
        return value.build()
    if isinstance(value, dict):
        return {key: _with_arrays(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_with_arrays(each) for each in value)
    if isinstance(value, _Bytes):
        return value.data
    if value is None or isinstance(value, str | bytes | bytearray | int | float):
        return value
    raise pickle.UnpicklingError(f"an object of type {type(value).__name__}")
