"""Shards made by the actors of a Ray cluster: what `Machine(ray=Ray(workers=4))` means to `draw` and `judge`.

Every worker is handed the artefact as a process group's member is (`worker.encode`: names and fields, no pickle),
builds the same handle, runs the stage's own body up to its shards, and then makes those that it is asked for with what
the body opened. The one that asks never opens an engine or a model; it writes what comes back, so that a killed run
goes on at its shards as ever. A worker that dies is started anew by Ray and its shard made once more; a shard that
costs two workers their lives stops the run.

Results are those of a run without Ray, since a shard is made of the same items by the same code. All nodes see the
store's folder under the same path.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import queue
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from trueline import machine as machines
from trueline import store as stores
from trueline.errors import UserError
from trueline.machine import Machine, Ray
from trueline.pipeline.stages import call
from trueline.pipeline.worker import decode, encode, importable
from trueline.progress import ToFile
from trueline.store import Artifact
from trueline.work import Made, Make, Span, Work

CURE = "pip install 'trueline[ray]'"
STAGES = ("draw", "judge")


def spread(work: Work) -> Any:
    """What `Work.over` is where shards go to Ray: an iterator over them in the order in which they are finished."""
    artifact, machine = cast(Artifact, work.artifact), work.machine

    def over(spans: Sequence[Span], make: Make) -> Iterator[tuple[int, Made]]:
        if not spans:
            return
        here = dataclasses.replace(machine, ray=Ray())
        spec = {
            **encode(artifact), "store": str(stores.current().root), "machine": dataclasses.asdict(here),
            "scratch": str(work.scratch),
        }  # fmt: skip
        with cluster(machine.ray) as ray:
            yield from _finished(ray, artifact.name, machine.ray, spans, spec)

    return over


@contextlib.contextmanager
def cluster(wanted: Ray) -> Iterator[Any]:
    """The ray module, connected; a cluster that was started here ends with the block."""
    try:
        import ray
    except ModuleNotFoundError:
        raise UserError("machine.ray", "Ray is not installed", "", CURE) from None
    if ray.is_initialized():
        yield ray
        return
    quiet = {"include_dashboard": False, "log_to_driver": False, "configure_logging": False}
    try:
        if wanted.address:
            ray.init(address=wanted.address, log_to_driver=False)
        else:
            cores = max(1, int(wanted.workers * wanted.cpus + 0.999))
            ray.init(num_cpus=cores, num_gpus=int(wanted.workers * wanted.gpus) or None, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        cure = "Start one with `ray start --head`, or leave the address out."
        raise UserError(f"machine.ray.address {wanted.address!r}", str(error).splitlines()[0], "", cure) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _finished(
    ray: Any, name: str, asked: Ray, spans: Sequence[Span], spec: Mapping[str, Any]
) -> Iterator[tuple[int, Made]]:
    from ray.exceptions import RayActorError
    from ray.util import ActorPool

    names = ("OMP_NUM_THREADS", "HF_HUB_OFFLINE", "HF_HOME")
    variables = {"PYTHONPATH": importable(), **{name: os.environ[name] for name in names if name in os.environ}}
    kind = ray.remote(Maker).options(
        num_cpus=asked.cpus, num_gpus=asked.gpus, max_restarts=len(spans), max_task_retries=1,
        runtime_env={"env_vars": variables},
    )  # fmt: skip
    actors = [kind.remote(spec) for _ in range(min(asked.workers, len(spans)))]
    try:
        pool = ActorPool(actors)
        for index, made, refusal in pool.map_unordered(lambda actor, span: actor.make.remote(span), list(spans)):
            if refusal is not None:
                raise UserError(**refusal)
            yield index, made
    except RayActorError as error:
        got = "the workers that made a shard died, the one that made it again too"
        raise UserError(f"making {name} with Ray", got, "", "Look into Ray's logs for why.") from error
    finally:
        for actor in actors:
            ray.kill(actor)


class Maker:
    """One worker: the stage's body in a thread of its own, held at its shards.

    make: the lines and counts of one shard, as (its number, them, None), or (its number, None, a `UserError`'s fields).
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.asked: queue.Queue[Span] = queue.Queue()
        self.made: queue.Queue[tuple[Made | None, BaseException | None]] = queue.Queue()
        threading.Thread(target=self._body, args=(spec,), daemon=True).start()

    def make(self, span: Span) -> tuple[int, Made | None, dict[str, str] | None]:
        self.asked.put(span)
        made, error = self.made.get()
        if isinstance(error, UserError):
            return span[0], None, error.parts
        if error is not None:
            raise error
        return span[0], made, None

    def _body(self, spec: Mapping[str, Any]) -> None:
        machine = Machine.of(spec["machine"])
        try:
            folder = Path(spec["scratch"]) / f"worker-{uuid.uuid4().hex}"  # goes with the scratch
            folder.mkdir()
            with stores.using(spec["store"]), machines.using(machine):
                artifact = decode(spec)
                work = Work(folder, machine, artifact, ToFile(folder / "progress.json"))
                work.over = self._serve
                call(artifact, work)
        except BaseException as error:
            self.made.put((None, error))

    def _serve(self, spans: Sequence[Span], make: Make) -> Iterator[tuple[int, Made]]:
        """Make what is asked for, for ever: nothing of it is written here."""
        while True:
            span = self.asked.get()
            try:
                self.made.put((make(span), None))
            except Exception as error:
                self.made.put((None, error))
        yield  # a generator, as the others are
