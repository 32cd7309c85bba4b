"""The compiled jobs run as Python on memory that is checked: every read and write must fall into a known tensor.

An address is known once `Tensor.data_ptr` has given it out, with the extent of that tensor's storage. The vector
instructions are spelled out in numpy, as their docstrings say.
"""

import ctypes
import struct
from types import SimpleNamespace

import numpy as np
import torch

import rigl_lightning.kernels.compiled.conv
import rigl_lightning.kernels.compiled.pointwise
import rigl_lightning.kernels.compiled.recurrent
import rigl_lightning.kernels.inference.recurrent  # noqa: F401  # all before anything is patched
from rigl_lightning.kernels import threads, workspace
from rigl_lightning.kernels.compiled import cells as compiled_cells
from rigl_lightning.kernels.compiled import jobs as compiled_jobs
from rigl_lightning.kernels.compiled import linear as compiled_linear
from rigl_lightning.kernels.compiled import masking as compiled_masking
from rigl_lightning.kernels.compiled import recurrent_jobs as compiled_recurrent_jobs
from rigl_lightning.kernels.compiled import transposition as compiled_transposition
from rigl_lightning.kernels.compiled.cache import Job
from rigl_lightning.kernels.compiled.ir import WIDTH
from rigl_lightning.kernels.inference import jobs as inference_jobs
from rigl_lightning.kernels.settings import FIRST, fields_of

F32 = np.float32


class Unchained:
    """Stands in for the one call of all steps of a program: each by itself."""

    def __init__(self, steps):
        self.steps = steps

    def run(self, addresses):
        for step in self.steps:
            step.run_at(addresses)


class CheckedMemory:
    """Stands in for the intrinsics of `ir`, `cells` and `inference.jobs`."""

    def __init__(self, monkeypatch):
        self.known = {}
        for patch in (self.patch_memory, self.patch_elements, self.patch_vectors, self.patch_cells):
            patch(monkeypatch)

    def patch_memory(self, monkeypatch):
        given_out = torch.Tensor.data_ptr

        def data_ptr(tensor):
            storage = tensor.untyped_storage()
            self.known[storage.data_ptr()] = (storage.nbytes(), tensor)  # keeps it alive
            return given_out(tensor)

        monkeypatch.setattr(torch.Tensor, "data_ptr", data_ptr)
        for module in (threads, compiled_masking):
            monkeypatch.setattr(module, "run_slots", self.run_slots)
        monkeypatch.setattr(threads, "_Chained", Unchained)
        for name in ("address", "ctypes"):  # else a job that is compiled already would run, and nothing be checked
            monkeypatch.setattr(Job, name, property(self.refuse_compiled))
        for programs in (compiled_linear._forward_program, compiled_linear._backward_program):
            programs.cache_clear()  # its addresses were given out before
        # No slice of something larger.
        monkeypatch.setattr(workspace, "KEPT_FLOATS", 0)
        monkeypatch.setattr(workspace, "new", lambda *shape, dtype=torch.float32: torch.full(shape, 0.5, dtype=dtype))

    def patch_elements(self, monkeypatch):
        modules = compiled_jobs, compiled_recurrent_jobs, compiled_masking, compiled_transposition, inference_jobs
        for jobs in modules:
            for name, kind in (("load_i64", np.int64), ("load_i32", np.int32), ("load_f32", F32)):
                monkeypatch.setattr(jobs, name, self.loader(kind), raising=False)
            monkeypatch.setattr(jobs, "store_f32", self.storer(F32), raising=False)
            monkeypatch.setattr(jobs, "store_i32", self.storer(np.int32), raising=False)

    def patch_vectors(self, monkeypatch):
        for jobs in (compiled_jobs, compiled_recurrent_jobs, inference_jobs):
            monkeypatch.setattr(jobs, "product_row", self.row)
        for size in (8, 4, 2, 1):
            monkeypatch.setattr(compiled_jobs, f"_group_{size}", self.gradient_group(size))
        for (of_source, of_target), (settings, _) in compiled_transposition._JOBS.items():
            checked = SimpleNamespace(body=self.transposition(of_source, of_target), settings=settings)
            monkeypatch.setitem(compiled_transposition._JOBS, (of_source, of_target), (settings, checked))
        monkeypatch.setattr(compiled_masking, "_keep_vector", self.keep(WIDTH))
        monkeypatch.setattr(compiled_masking, "_keep_one", self.keep(1))
        for name in ("_copy", "_finish"):
            monkeypatch.setattr(inference_jobs, name, getattr(self, f"inference{name}"))

    def patch_cells(self, monkeypatch):
        for name in ("gru_cell", "gru_cell_backward", "lstm_cell", "lstm_cell_backward"):
            kind, _, direction = name.partition("_cell")
            formula = getattr(compiled_cells, f"_{kind}{direction or '_forward'}")
            monkeypatch.setattr(compiled_recurrent_jobs, name, self.cell(formula, 5 if not direction else None))

    def refuse_compiled(self, job):
        raise AssertionError(f"{job.body.__name__} runs compiled, and its memory is not checked")

    def run_slots(self, job, address, threads):
        """All tasks of a job, in Python."""
        kinds = list(fields_of(job.settings).values())
        slots = (ctypes.c_int64 * (FIRST + len(kinds))).from_address(address)
        values = [
            F32(struct.unpack("f", struct.pack("q", slot)[:4])[0]) if kind is float else slot
            for slot, kind in zip(slots[FIRST:], kinds, strict=True)
        ]
        for task in range(slots[0]):
            job.body(task, slots[0], job.settings(*values))

    def at(self, address, index, count, kind):
        """The elements themselves, as an array of numpy."""
        size = np.dtype(kind).itemsize
        begin, end = address + size * index, address + size * (index + count)
        if not any(start <= begin and end <= start + extent for start, (extent, _) in self.known.items()):
            raise IndexError(f"{count} elements of {kind} at {address} + {size} * {index} lie outside of every tensor")
        return np.frombuffer((ctypes.c_char * (end - begin)).from_address(begin), kind)

    def loader(self, kind):
        scalar = F32 if kind == F32 else int
        return lambda address, index: scalar(self.at(address, index, 1, kind)[0])

    def storer(self, kind):
        def store(address, index, value):
            self.at(address, index, 1, kind)[0] = value

        return store

    def row(self, n, row, bounds):
        x, columns, scale, values, start, stop, y, last, addend, first = row
        low, high = bounds or (-np.inf, np.inf)
        places = [*range(0, (n - 1) * WIDTH, WIDTH), last]
        totals = [np.full(WIDTH, first, F32) for _ in places]
        for place, total in zip(places, totals, strict=True):
            if addend:
                total += self.at(addend, place, WIDTH, F32)
            for k in range(start, stop):
                column = int(self.at(columns, k, 1, np.int32)[0])
                total += self.at(values, k, 1, F32)[0] * self.at(x, column * scale + place, WIDTH, F32)
        for place, total in zip(places, totals, strict=True):
            self.at(y, place, WIDTH, F32)[:] = np.clip(total, low, high)

    def inference_copy(self, target, source, count):
        self.at(target, 0, count, F32)[:] = self.at(source, 0, count, F32)

    def inference_finish(self, target, source, addend, count, low, high):
        total = self.at(source, 0, count, F32) + self.at(addend, 0, count, F32)
        self.at(target, 0, count, F32)[:] = np.clip(total, low, high)

    def gradient_group(self, size):
        def group(x, x_stride, columns, scale, g, g_stride, lines, length, start, out):
            for k in range(start, start + size):
                column = int(self.at(columns, k, 1, np.int32)[0])
                for j in range(lines):
                    inputs = self.at(x, column * scale + j * x_stride, length, F32)
                    self.at(out, k, 1, F32)[0] += inputs @ self.at(g, j * g_stride, length, F32)

        return group

    def keep(self, lanes):
        def keep(numbers, flags, index):
            self.at(numbers, index, lanes, F32)[self.at(flags, index, lanes, np.uint8) == 0] = 0

        return keep

    def transposition(self, of_source, of_target):
        """The task of a job between float32 and bfloat16 memory."""

        def read(address, index, count):
            if not of_source:
                return self.at(address, index, count, F32)
            return (self.at(address, index, count, np.uint16).astype(np.uint32) << 16).view(F32)

        def write(values, address, index):
            if not of_target:
                self.at(address, index, len(values), F32)[:] = values
                return
            rounded = torch.tensor(np.asarray(values)).bfloat16().view(torch.int16).numpy()
            self.at(address, index, len(values), np.int16)[:] = rounded

        def square(source, source_rows, target, target_rows):
            rows = [read(source, int(self.at(source_rows, i, 1, np.int64)[0]), 8) for i in range(8)]
            for j in range(8):
                write([row[j] for row in rows], target, int(self.at(target_rows, j, 1, np.int64)[0]))

        def copy(source, i, target, j):
            write(read(source, i, 1), target, j)

        sizes = (2 if of_source else 4, 2 if of_target else 4)
        return compiled_transposition.transposition_body(square, copy, *sizes)

    def cell(self, formula, n_inputs):
        def apply(length, addresses):
            n = n_inputs or (7 if formula is compiled_cells._gru_backward else 9)
            inputs = [self.at(a, 0, length, F32).copy().view(Lanes) for a in addresses[:n]]
            for address, value in zip(addresses[n:], formula(*inputs), strict=True):
                self.at(address, 0, length, F32)[:] = value

        return apply


class Lanes(np.ndarray):
    """Stands in for `cells.Vector`."""

    def clipped(self, limit):
        return np.clip(self, -limit, limit)
