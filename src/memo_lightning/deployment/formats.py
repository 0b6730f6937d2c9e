"""The formats in which a policy is exported."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from memo_lightning.errors import UserError
from memo_lightning.quiet import quietly

Arrays = dict[str, NDArray]
Program = Callable[[Arrays], Arrays]
"""A program that was read back: the inputs of a step by name to its outputs by name."""


class Format(ABC):
    """A file format.

    Attributes:
        file: name of the file in the folder.
        runtime: the library that runs it.
    """

    file: str
    runtime: str

    @abstractmethod
    def check(self) -> None:
        """Raise :class:`UserError` if a package is missing."""

    @abstractmethod
    def write(self, program: ExportedProgram, path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Write a program whose inputs and outputs have the given names, in this order."""

    @abstractmethod
    def read(self, path: Path) -> Program:
        """Read a written program back, with the runtime that runs it elsewhere."""


class Onnx(Format):
    """ONNX, run by onnxruntime on one thread."""

    file, runtime = "policy.onnx", "onnxruntime"

    def check(self) -> None:
        """Raise :class:`UserError` if a package is missing."""
        needed = ("onnx", "onnxscript", "onnxruntime")
        missing = [name for name in needed if importlib.util.find_spec(name) is None]
        if missing:
            raise UserError(
                f"format=onnx: needs {', '.join(missing)}; pip install 'memo-lightning[export]', or use format=torch"
            )

    def write(self, program: ExportedProgram, path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Write a program; see :class:`Format`."""
        from onnx_ir.passes.common import ClearMetadataAndDocStringPass, RemoveUnusedNodesPass

        with quietly():
            written = torch.onnx.export(
                program, (), dynamo=True, input_names=inputs, output_names=outputs, verbose=False
            )
            assert written is not None
            # Torch leaves unused nodes in conditions; onnxruntime would warn about them wherever the file is opened.
            RemoveUnusedNodesPass()(written.model)
            ClearMetadataAndDocStringPass()(written.model)  # lines of source code, which make up most of a small file
            written.save(path)

    def read(self, path: Path) -> Program:
        """Read a program; see :class:`Format`."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


class TorchProgram(Format):
    """A program of ``torch.export``, run by torch."""

    file, runtime = "policy.pt2", "torch.export"

    def check(self) -> None:
        """Do nothing, as no further package is needed."""

    def write(self, program: ExportedProgram, path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Write a program; see :class:`Format`."""
        with quietly():
            torch.export.save(program, path)

    def read(self, path: Path) -> Program:
        """Read a program; see :class:`Format`."""
        module = torch.export.load(path).module()

        def run(inputs: Arrays) -> Arrays:
            with torch.no_grad():
                outputs = module({name: torch.from_numpy(np.asarray(value)) for name, value in inputs.items()})
            return {name: value.numpy() for name, value in outputs.items()}

        return run


FORMATS: dict[str, Format] = {"onnx": Onnx(), "torch": TorchProgram()}
