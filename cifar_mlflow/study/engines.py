"""Where trials run: processes of this machine, or a cluster of dask or ray, all through joblib.

Dask and ray come with requirements-cluster.txt and are imported only when selected.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.process_executor import TerminatedWorkerError

from cifar_mlflow.errors import UsageError, WorkerDied
from cifar_mlflow.parameters import StudyOptions
from cifar_mlflow.processes import end_with, this_process
from cifar_mlflow.study.plan import share_cores, share_threads

Jobs = Sequence[Any]  # of joblib.delayed
IDLE_SECONDS = 300  # after which a worker without a job ends, as joblib's do
# Joblib limits these too.
BLAS_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Engine:
    workers: int
    threads: int  # of each trial
    run: Callable[[Jobs], list[Any]]  # runs all jobs, gives their results in order; or WorkerDied
    restarts: bool = False  # it runs a job again by itself if the job's worker dies


def started(
    options: StudyOptions, trials: int, tracking_uri: str
) -> AbstractContextManager[Engine]:
    """The engine that a study asks for, while the context is open.

    Args:
        trials: how many there are.

    Raises:
        UsageError: the engine is not installed or does not answer, or its workers could not reach the
            tracking store.
    """
    local = options.address == "local"
    if not local and not tracking_uri.startswith(("http:", "https:")):
        raise UsageError(
            f"engine={options.engine}: workers on other machines cannot reach {tracking_uri}; start "
            "`mlflow server` and set MLFLOW_TRACKING_URI to its URL (docs/scaling.md)"
        )
    return {"loky": _loky, "dask": _dask, "ray": _ray}[options.engine](options, trials)


@contextmanager
def _loky(options: StudyOptions, trials: int) -> Iterator[Engine]:
    workers, threads = share_cores(trials, options)

    def run(jobs: Jobs) -> list[Any]:
        try:
            if workers == 1:
                return _run_in_turn(jobs, threads)
            with joblib.parallel_config("loky", initializer=end_with, initargs=(this_process(),)):
                return _run_parallel(jobs, workers)
        except TerminatedWorkerError as error:
            raise WorkerDied from error

    yield Engine(workers, threads, run)
    # TensorFlow cannot change its threads, so the next engine must not get these processes. They have
    # nothing left to do, and would take seconds to end by themselves.
    get_reusable_executor(reuse=True).shutdown(kill_workers=True)


@contextmanager
def _dask(options: StudyOptions, trials: int) -> Iterator[Engine]:
    with _extra("dask"):
        import distributed
    workers, threads = share_cores(trials, options)
    try:
        client = distributed.Client(
            distributed.LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                dashboard_address=None,
                silence_logs="ERROR",
            )
            if options.address == "local"
            else options.address,
            timeout="10s",
        )
    except (OSError, ValueError) as error:
        raise UsageError(
            f"address={options.address}: no dask scheduler answers ({error})"
        ) from error

    def run(jobs: Jobs) -> list[Any]:
        # All at once, so that workers that join later get work too.
        with joblib.parallel_config("dask", client=client):
            results: list[Any] = joblib.Parallel(n_jobs=-1, batch_size=1, pre_dispatch="all")(jobs)
            return results

    def tolerate(dask_scheduler: Any, deaths: int) -> None:
        dask_scheduler.allowed_failures = max(dask_scheduler.allowed_failures, deaths)

    with client.cluster or nullcontext(), client:  # a cluster of its own ends with the engine
        # Dask restarts a trial whose worker died. It must not give up first, because joblib would wait
        # for ever; run_child counts the attempts itself.
        client.run_on_scheduler(tolerate, deaths=options.retries + 1)
        if options.address != "local":
            workers, threads = sum(client.ncores().values()), share_threads(None, options)
        yield Engine(workers, threads, run, restarts=True)


@contextmanager
def _ray(options: StudyOptions, trials: int) -> Iterator[Engine]:
    with _extra("ray"):
        import ray
        from ray.util.joblib import register_ray
    workers, threads = share_cores(trials, options)
    cluster: dict[str, Any] = (
        {"num_cpus": max(workers, 2), "include_dashboard": False}
        if options.address == "local"
        else {
            "address": options.address,
            "runtime_env": {"py_modules": [str(Path(__file__).parents[1])]},
        }
    )
    try:
        ray.init(**cluster, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"address={options.address}: no ray cluster answers, or it asks for the token that "
            f"RAY_AUTH_MODE=token sends ({error})"
        ) from error
    register_ray()
    if options.address != "local":
        cores = int(ray.cluster_resources()["CPU"])
        workers = cores if options.workers == "auto" else min(cores, options.workers)
        threads = share_threads(None, options)

    def run(jobs: Jobs) -> list[Any]:
        try:
            with joblib.parallel_config("ray"):
                return _run_parallel(jobs, workers)
        except ray.exceptions.RayActorError as error:
            raise WorkerDied from error

    try:
        yield Engine(workers, threads, run)
    finally:
        ray.shutdown()


def _run_in_turn(jobs: Jobs, threads: int) -> list[Any]:
    """Run jobs in one process of their own.

    Joblib has no such thing: with one worker it would run them here, where a trial that dies ends the
    study, and with two it gives them to both in turn, which would both keep a trial's memory.
    """
    executor = get_reusable_executor(
        max_workers=1,
        timeout=IDLE_SECONDS,
        initializer=end_with,
        initargs=(this_process(),),
        env={name: os.environ.get(name, str(threads)) for name in BLAS_THREADS},
    )
    try:
        return [executor.submit(run, *given, **named).result() for run, given, named in jobs]
    except BaseException:
        executor.shutdown(kill_workers=True)
        raise


def _run_parallel(jobs: Jobs, workers: int) -> list[Any]:
    # With n_jobs=1 joblib would run the trials in this process, as above. So there are two processes at
    # least, and pre_dispatch limits the jobs.
    results: list[Any] = joblib.Parallel(
        n_jobs=max(workers, 2), batch_size=1, pre_dispatch=min(workers, len(jobs))
    )(jobs)
    return results


@contextmanager
def _extra(engine: str) -> Iterator[None]:
    """Import an optional package inside."""
    try:
        yield
    except ImportError as error:
        raise UsageError(
            f"engine={engine}: {error.name} is not installed; "
            "pip install -r requirements-cluster.txt"
        ) from error
