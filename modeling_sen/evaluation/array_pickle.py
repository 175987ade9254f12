# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Reads pickles that hold numpy arrays, numbers, texts and plain containers, and refuses all others before anything runs.

A pickle names functions to call, and numpy's own are not safe either: a crafted dtype makes an array of bytes an array of
pointers. So no function of numpy is called while the file is read. Stand-ins take the arguments, and arrays are built
afterwards from plain dtypes.
"""

import os
import pickle
import re
from typing import Any, Literal

import numpy as np


def load_array_pickle(path: str | os.PathLike) -> Any:
    """What the file holds: dicts, lists and tuples of arrays, texts, bytes, numbers and None.

    Arrays have a dtype of bool, integer, float or bytes, and may be read-only. An array of bytes objects becomes a list.

    Raises:
        FileNotFoundError, IsADirectoryError: no such file.
        ValueError: the file is no pickle, is cut off, or names anything but numpy arrays.
    """
    with open(path, "rb") as file:
        try:
            return _with_arrays(_ArrayUnpickler(file).load())
        except Exception as error:  # a damaged pickle raises nearly anything
            raise ValueError(
                f"{path}: expected a pickle of numpy arrays and plain containers, found {error}"
            ) from error


class _Dtype:
    """numpy.dtype: bool, integers, floats, bytes, and objects for lists of bytes."""

    def __init__(self, name: str, align: bool = False, copy: bool = True):
        if not re.fullmatch(r"[biufSO][0-9]{1,9}", name):
            raise pickle.UnpicklingError(f"an array of dtype {name!r}")
        self.name = name
        self.byte_order = "="

    def __setstate__(self, state: tuple) -> None:
        self.byte_order = {"<": "<", ">": ">"}.get(state[1], "=")


class _Bytes:
    """_codecs.encode, by which pickles of the old protocols write bytes."""

    def __init__(self, text: str, encoding: str):
        self.data = text.encode("latin1")

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("bytes with a state")


class _Array:
    """numpy.ndarray, and the function that makes an empty one to be filled by `__setstate__`."""

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
    """The function that makes arrays in pickles of protocol 5."""

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
