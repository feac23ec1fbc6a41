"""AWS and Prefect as they behave on bad days: see README.md beside this file."""

from support.simulator.aws import ACCOUNT, LIMITS, REGION, AwsSimulator, Site
from support.simulator.chaos_proxy import ChaosProxy
from support.simulator.faults import Call, Fault, Pause, Phase, Point, What, fault, points_of
from support.simulator.service import Limit
from support.simulator.sqs import EventFeed
from support.simulator.tasks import (
    START_FAILURES,
    ContainerScript,
    FlowScript,
    LogScript,
    ScriptRule,
    TaskScript,
    fails_to_start,
    out_of_memory,
    spot_interruption,
)

__all__ = [
    "ACCOUNT",
    "LIMITS",
    "REGION",
    "START_FAILURES",
    "AwsSimulator",
    "Call",
    "ChaosProxy",
    "ContainerScript",
    "EventFeed",
    "Fault",
    "FlowScript",
    "Limit",
    "LogScript",
    "Pause",
    "Phase",
    "Point",
    "ScriptRule",
    "Site",
    "TaskScript",
    "What",
    "fails_to_start",
    "fault",
    "out_of_memory",
    "points_of",
    "spot_interruption",
]
