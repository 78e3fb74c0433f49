"""The vocabulary of claims: numeric profiles and levels of conformance."""

import enum


class Numerics(enum.Enum):
    """Which arithmetic a run uses."""

    FAST = "fast"
    """The backend's own bf16 or fp32 path, certified against itself and against fp64."""
    EXACT = "exact"
    """The same bits on every chip."""


class Level(enum.Enum):
    """What a backend may promise of an op; each is checked on its own."""

    RUN_TO_RUN = "run-to-run"
    """Same inputs, same bytes: again, in a fresh process, in dirty memory, at other addresses."""
    THREAD_INVARIANT = "thread-invariant"
    """The number of threads or streams changes no byte."""
    BATCH_INVARIANT = "batch-invariant"
    """Neighbours, position in the batch and its size change no byte."""
    SCHEDULE_INVARIANT = "schedule-invariant"
    """Chunked prefill, prefill, decode, page order and any split give the same bytes."""
    RANK_INVARIANT = "rank-invariant"
    """The number of tensor-, expert- or data-parallel ranks changes no byte."""
    TRAIN_ROLLOUT = "train-rollout"
    """The training forward and the rollout give the same bytes."""
    DEVICE_TO_DEVICE = "device-to-device"
    """Two devices of one model give the same bytes."""
    CROSS_BACKEND = "cross-backend"
    """Equal to the CPU and to every other backend."""
