"""The same work on many things, in as many processes as there are cores."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from results.errors import UserError, leave_signals_to_parent, something_is_finished

Job, Result = TypeVar("Job"), TypeVar("Result")


def each(work: Callable[[Job], Result], jobs: Sequence[Job], workers: int | None) -> Iterator[Result]:
    """Yield the result of every job as it is ready, in any order.

    Args:
        work: a function that can be pickled; what it raises ends the loop.
        jobs: its arguments.
        workers: processes, one a core by default; 0 works here.

    Raises:
        UserError: a process died, most likely for want of memory.
    """
    count = min(len(jobs), os.cpu_count() or 1 if workers is None else workers)
    if count < 2:
        for job in jobs:
            yield work(job)
            something_is_finished()
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context, initializer=leave_signals_to_parent) as pool:
        try:
            for task in as_completed([pool.submit(work, job) for job in jobs]):
                result = task.result()
                something_is_finished()
                yield result
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process died, probably of too little memory: run again with workers=1; what is done is kept."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)
