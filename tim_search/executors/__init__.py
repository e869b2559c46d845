"""Who trains: packs, the queue of packs with its rules of trying again, and the executors, serial and on Ray."""

from tim_search.executors.contract import ClusterLost, Executor, WithSettings, WorkerError
from tim_search.executors.packing import packs
from tim_search.executors.serial import SerialExecutor

__all__ = ["ClusterLost", "Executor", "SerialExecutor", "WithSettings", "WorkerError", "packs"]
