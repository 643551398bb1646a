"""``python -m cachepolicy_operator``: the operator, until SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from typing import Final

from cachepolicy_operator import errors, handlers, logs
from cachepolicy_operator.acting import Acting
from cachepolicy_operator.kinds import CACHE_POLICY
from cachepolicy_operator.kube import Kube
from cachepolicy_operator.lease import Leadership
from cachepolicy_operator.metrics import Metrics
from cachepolicy_operator.queue import Gate, Key, WorkQueue
from cachepolicy_operator.reconcile import Reconciler
from cachepolicy_operator.redis_watch import RedisWatch
from cachepolicy_operator.resync import Resync
from cachepolicy_operator.settings import OperatorSettings, SettingsError

#: How long running reconciles may take to end after SIGTERM, in seconds; the pod has 30.
DRAIN_SECONDS: Final = 15.0
#: The queue may be this old, in seconds, before liveness fails: longer than the deadlines of a reconcile add up to.
STUCK_SECONDS: Final = 300.0
#: Seconds between two looks for what the operator needs to begin.
INSTALLED_PACE: Final = 2.0
#: How long our event loop may take to answer liveness, in seconds.
ANSWER_SECONDS: Final = 4.0

log = logging.getLogger("cachepolicy_operator")


def main() -> int:
    """Exit code 0 after a graceful stop, 2 for settings that cannot be used, 1 where there is no API server."""
    try:
        settings = OperatorSettings.from_environment(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    logs.configure(settings.log_format)
    try:
        return asyncio.run(run(settings))
    except errors.Unreachable as error:
        log.error("%s", error)  # noqa: TRY400 - a sentence says it, a traceback would not
        return 1


async def run(settings: OperatorSettings) -> int:
    """Everything that runs, put together; the exit code."""
    metrics = Metrics()
    metrics.serve(settings.metrics_port)
    kube = await Kube.connect(timeout=settings.request_timeout, on_request=metrics.request_done)
    # Each calls the other: what differs is enqueued, and what is worked on is watched.
    queue = WorkQueue(lambda key: _work(reconciler, metrics, key), workers=settings.workers)
    watch = RedisWatch(
        queue.add, pace=settings.redis_poll, fast_pace=settings.redis_poll_pending, on_look=metrics.looked
    )
    reconciler = Reconciler(
        kube,
        watch,
        metrics,
        default_image=settings.redis_image,
        operator_namespace=settings.pod_namespace,
        instance=settings.pod_name,
    )
    metrics.follow_queue(length=lambda: len(queue), oldest=lambda: queue.oldest_seconds)
    resync = Resync(
        kube, reconciler, queue.add, interval=settings.resync_interval, namespaces=settings.watch_namespaces
    )
    leadership = _leadership(settings, kube)
    acting = Acting(leadership, Gate(queue.add), (resync.run, resync.look_at_secrets), metrics.leader.set)
    lost = False
    try:
        code = await _serve(settings, acting, queue, kube)
        lost = acting.lost
        return code
    finally:
        await acting.stop()
        # What may no longer be written need not be waited for.
        if not await queue.drain(0 if lost else DRAIN_SECONDS):
            log.warning("reconciles were cut short: they go on with the next start")
        if leadership is not None:
            await leadership.release()
        await watch.close()
        await kube.close()


def _leadership(settings: OperatorSettings, kube: Kube) -> Leadership | None:
    """The Lease of the namespace that the operator's pod is in; outside a cluster it is alone."""
    if settings.pod_namespace is None:
        return None
    leadership = Leadership(kube, settings.pod_namespace, settings.pod_name, clock=time.monotonic)
    kube.may_write = lambda: leadership.held
    return leadership


async def _work(reconciler: Reconciler, metrics: Metrics, key: Key) -> float | None:
    logs.current_policy.set(str(key))
    with metrics.reconciling():
        return await reconciler.reconcile(key)


async def _serve(settings: OperatorSettings, acting: Acting, queue: WorkQueue, kube: Kube) -> int:
    """Watch until SIGTERM or SIGINT (0), or until kopf gives up or the Lease is lost (1)."""
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)

    def enqueue(key: Key) -> None:
        loop.call_soon_threadsafe(acting.gate.add, key)

    informer = handlers.Informer(
        enqueue=enqueue,
        health=lambda: asyncio.run_coroutine_threadsafe(_health(queue), loop).result(ANSWER_SECONDS),
        namespaces=settings.watch_namespaces,
        health_port=settings.health_port,
        request_timeout=settings.request_timeout,
    )
    log.info("the operator starts; Redis is %s where a policy names none", settings.redis_image)
    asked = asyncio.create_task(stopping.wait())
    installed = asyncio.create_task(_until_installed(kube, settings.watch_namespaces))
    await asyncio.wait({installed, asked}, return_when=asyncio.FIRST_COMPLETED)
    if not installed.done():
        installed.cancel()
        return 0
    # One that waits for the Lease watches already, so that it knows everything when its turn comes.
    watching = asyncio.create_task(asyncio.to_thread(informer.run))
    leading = acting.start()
    await asyncio.wait({watching, asked, leading}, return_when=asyncio.FIRST_COMPLETED)
    code = 0 if asked.done() else 1
    asked.cancel()
    if watching.done():
        log.error("the watch of the API server ended", exc_info=watching.exception())
        return 1
    log.info("the operator stops")
    informer.stop()
    await watching
    return code


async def _until_installed(kube: Kube, namespaces: tuple[str, ...]) -> None:
    """Wait for the CRD and for the right to read it: kopf looks once, and then watches nothing for ever."""
    said = ""
    while True:
        try:
            await kube.list(CACHE_POLICY, namespaces[0] if namespaces else None)
        except errors.NotFound:
            words = "the CustomResourceDefinition of CachePolicy is not installed: kubectl apply -k crds"
        except errors.OperatorError as error:
            words = str(error)
        else:
            return
        if words != said:
            log.warning("waiting: %s", words)
            said = words
        await asyncio.sleep(INSTALLED_PACE)


async def _health(queue: WorkQueue) -> str:
    """Raises where a restart would help. That the API server is away is no such reason."""
    oldest = queue.oldest_seconds
    if oldest > STUCK_SECONDS:
        raise RuntimeError(f"a CachePolicy has waited for {oldest:.0f} s: the queue is stuck")
    return f"{len(queue)} waiting"


if __name__ == "__main__":
    raise SystemExit(main())
