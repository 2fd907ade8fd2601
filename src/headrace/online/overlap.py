"""The overlapped stages of the learner process: reading and collating, learning, writing versions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from headrace.learn import PipelineConfig, PublishBehind, StageTimes, StreamAhead
from headrace.loop import Loop
from headrace.types import Batch

READS_AHEAD = 4
"""Reads that may wait for the learner, where nobody set a number."""


@contextmanager
def pipelined(
    loop: Loop, config: PipelineConfig, times: StageTimes, *, made: Callable[[Batch], None] | None = None
) -> Iterator[None]:
    """Let a loop without feedback read ahead and publish behind while it is driven inside; its results are the same.

    Args:
        loop: Its source, joiner, publisher and checkpoint are wrapped.
        config: How far ahead; a depth of 0 wraps nothing and only times.
        times: Where stages are counted.
        made: Called by the reading thread with every batch before it waits: a collection's `fetch_ahead`.
    """
    times.watch(loop.learner, "changes", "publish")
    if loop.metric is not None:
        times.watch(loop.metric, "update", "judge")
    depth = READS_AHEAD if config.depth is None else config.depth
    with ExitStack() as stack:
        if depth:
            ahead = stack.enter_context(
                StreamAhead(loop.source, loop.joiner, depth=depth, max_bytes=config.max_bytes, times=times, made=made)
            )
            loop.source, loop.joiner = ahead.source, ahead.joiner
        else:
            times.watch(loop.source, "read", "read")
            times.watch(loop.joiner, "add", "join")
        if depth and loop.publisher is not None:
            behind = stack.enter_context(PublishBehind(loop.publisher, times=times))
            loop.publisher = behind
            if loop.checkpoint is not None:
                loop.checkpoint = behind.before(loop.checkpoint)
        if loop.publisher is not None:
            times.watch(loop.publisher, "publish", "publish")
        if loop.checkpoint is not None:
            times.watch(loop.checkpoint, "save", "save")
        yield
