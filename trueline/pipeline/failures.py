"""What a machine runs out of while a stage works, said so that a user can mend it: disk and memory."""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from trueline.errors import UserError
from trueline.machine import Machine
from trueline.store import Artifact, Store

_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
# What libraries that write by themselves (safetensors, torch) make of it.
_FULL_SIGNS = ("No space left on device", "StorageFull", "not enough space on the disk")
_MEMORY_SIGNS = ("out of memory", "can't allocate memory", "not enough memory")


@contextlib.contextmanager
def explained(artifact: Artifact, store: Store, machine: Machine) -> Iterator[None]:
    """Turn "disk full" and "out of memory", in whatever form they come, into a `UserError` with figures and a cure."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError):
            raise
        if any(_is_full(cause) for cause in _causes(error)):
            raise _disk_full(artifact, store) from error
        if any(_is_memory(cause) for cause in _causes(error)):
            raise UserError(
                f"making {artifact.name}", "the device is out of memory", "",
                f"Lower --machine.micro-tokens (now {machine.micro_tokens}) for training and scoring, or "
                f"--machine.sample-rows (now {machine.sample_rows}) for sampling; results do not change.",
            ) from error  # fmt: skip
        raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return any(sign in str(error) for sign in _FULL_SIGNS)


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _MEMORY_SIGNS)


def _disk_full(artifact: Artifact, store: Store) -> UserError:
    written, free = size(store.part(artifact)), shutil.disk_usage(store.root).free
    likes = [size(folder) for folder, record in store.records(artifact.kind) if record["stage"] == artifact.stage]
    like = f"; another {artifact.stage} took {in_bytes(max(likes))}" if likes else ""
    return UserError(
        f"making {artifact.name}",
        f"no space is left on the disk that holds {store.root} ({in_bytes(free)} free)",
        f"{in_bytes(written)} are written so far, more is needed{like}",
        "Nothing finished is lost: free some space and run the same command again.",
    )


def size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def in_bytes(n: float) -> str:
    """Bytes as people say them: 512 bytes, 1.5 MB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if n < 999.5:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} TB"
