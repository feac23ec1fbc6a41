"""What the queue's messages do to held runs, and what is done to the messages. Nobody polls here: all is heard."""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from ecs_worker.aws.sqs import Message
from ecs_worker.lifecycle.listen import OF_NO_USE_AFTER, Fate, read, region_of, run_of
from ecs_worker.model import Phase, TaskFacts
from support.builders import claimed_run
from support.listeners import QUEUE, Listening, listening
from support.simulator import EventFeed, TaskScript, What, fault
from support.waiting import until

if TYPE_CHECKING:
    from ecs_worker.lifecycle.run.run import Run
    from support.listeners import Scene

pytestmark = pytest.mark.anyio

STOPS = TaskScript(provisioning=0.05, pending=0.05, activating=0.05, running=0.1, exit_code=3)
STAYS = TaskScript(provisioning=0.05, pending=0.05, activating=0.05, running=None)


def event(task: dict[str, Any], **fields: Any) -> str:
    known = {"source": "aws.ecs", "detail-type": "ECS Task State Change", "detail": task}
    return json.dumps(known | fields)


def document(started_by: str, **fields: Any) -> dict[str, Any]:
    known = {"taskArn": "arn:aws:ecs:us-east-1:123456789012:task/default/0a", "version": 5, "lastStatus": "RUNNING"}
    return known | {"startedBy": started_by} | fields


def status_of(held: Run) -> str | None:
    return held.task.last_status if held.task is not None else None


def ended(held: Run) -> bool:
    return held.phase is Phase.STOPPED


async def hold_one(scene: Scene, listener: Listening) -> Run:
    run = claimed_run()
    return listener.hold(run, await scene.launch(run))


async def test_a_stop_is_heard_without_asking_ecs(scene: Scene) -> None:
    await scene.open()
    scene.simulator.ecs.scripts.default = STOPS
    listener = await scene.listener()
    async with listening(listener):
        held = await hold_one(scene, listener)
        await until(lambda: ended(held) and scene.queued == 0)
    assert held.task is not None
    assert held.task.last_status == "STOPPED"
    assert held.task.stop_code == "EssentialContainerExited"
    assert [container.exit_code for container in held.task.containers] == [3]
    assert held.task.started_at is not None
    assert scene.asked("DescribeTasks") == 0


async def test_duplicates_and_disorder_change_nothing(scene: Scene) -> None:
    await scene.open(EventFeed(duplicates=0.5, disorder=1.0))
    scene.simulator.ecs.scripts.default = STOPS
    listener = await scene.listener()
    async with listening(listener):
        holds = [await hold_one(scene, listener) for _ in range(30)]
        await until(lambda: all(map(ended, holds)) and scene.queued == 0)
    for held in holds:
        assert held.task is not None
        assert held.task.last_status == "STOPPED", "an older fact never undoes a newer one"
    assert scene.simulator.sqs.queues[QUEUE].deleted > 30


async def test_lost_answers_of_the_queue_lose_nothing(scene: Scene) -> None:
    await scene.open()
    scene.simulator.ecs.scripts.default = STOPS
    scene.simulator.fault(
        fault(What.LOST_AFTER, action="ReceiveMessage", nth=(1, 2)),
        fault(What.SERVER_ERROR, action="DeleteMessageBatch", nth=(1, 2, 3)),
    )
    listener = await scene.listener()
    async with listening(listener):
        held = await hold_one(scene, listener)
        await until(lambda: ended(held) and scene.queued == 0)


async def test_two_workers_share_a_queue(scene: Scene) -> None:
    await scene.open(EventFeed(duplicates=0.2))
    scene.simulator.ecs.scripts.default = STOPS
    first, second = await scene.listener(), await scene.listener()
    async with listening(first, second):
        holds = [await hold_one(scene, listener) for listener in (first, second) * 10]
        await until(lambda: all(map(ended, holds)) and scene.queued == 0, 40)
    assert scene.asked("ChangeMessageVisibilityBatch") > 0


async def test_a_colleagues_message_is_given_back_once_and_then_left(scene: Scene) -> None:
    await scene.open(visibility=30)
    scene.simulator.ecs.scripts.default = TaskScript(provisioning=None)
    listener = await scene.listener()
    colleague = claimed_run()
    async with listening(listener):
        await scene.launch(colleague)  # one event
        await until(lambda: scene.asked("ChangeMessageVisibilityBatch") == 1)
        queue = scene.simulator.sqs.queues[QUEUE]
        await until(lambda: scene.asked("ReceiveMessage") >= 3)  # the last of them waits
        assert queue.counts() == (0, 1), "hidden until its visibility timeout ends, not deleted"
    assert scene.asked("ChangeMessageVisibilityBatch") == 1
    assert scene.asked("DeleteMessageBatch") == 0
    other = await scene.listener()
    held = other.hold(colleague, {"taskArn": scene.simulator.launched[0].arn})

    def deleted_in_the_end() -> bool:
        scene.simulator.advance(30)  # again and again: the first listener's last request may have got it
        return scene.queued == 0

    async with listening(other):
        await until(deleted_in_the_end)
    assert held.task is not None
    assert held.task.last_status == "PROVISIONING"


async def test_an_event_that_overtakes_run_task_waits_for_it(scene: Scene) -> None:
    await scene.open()
    scene.simulator.ecs.scripts.default = STOPS
    listener = await scene.listener()
    run = claimed_run()
    held = listener.hold(run)
    async with listening(listener):
        task = await scene.launch(run)
        await until(lambda: scene.simulator.sqs.queues[QUEUE].deleted >= 5)
        assert status_of(held) is None
        held.launched_as(TaskFacts(arn=task["taskArn"], last_status="PROVISIONING", version=1))
        await until(lambda: ended(held))
    assert status_of(held) == "STOPPED"


async def test_an_event_of_an_earlier_attempt_says_nothing_of_the_new_one(scene: Scene) -> None:
    await scene.open()
    listener = await scene.listener()
    run = claimed_run()
    held = listener.hold(run, document(run.started_by, taskArn="arn:new", lastStatus="PENDING", version=2))
    old = document(run.started_by, taskArn="arn:old", lastStatus="STOPPED", version=9)
    assert listener.listener.sort([Message(event(old), "receipt", 1, time.time())])[Fate.DELETE]
    assert held.task is not None
    assert (held.task.arn, held.task.last_status, held.phase) == ("arn:new", "PENDING", Phase.STARTING)


async def test_what_is_not_ours_is_left_with_one_warning_of_each_kind(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    await scene.open(visibility=1)
    scene.simulator.ecs.scripts.default = STOPS
    listener = await scene.listener()
    foreign = ["", "hello", "[" * 100_000, "[]", '{"source": "aws.ec2"}', event({}), event({"taskArn": 3})]
    others = [event(document("ecs-svc/123")), event(document("")), event(document("prefect/x/y"))]
    for body in foreign[1:] + others:  # SQS takes no empty message
        await scene.send(body)
    with caplog.at_level(logging.WARNING):
        async with listening(listener):
            held = await hold_one(scene, listener)
            await until(lambda: ended(held) and scene.queued == len(foreign) - 1 + len(others))
            asked = scene.asked("ReceiveMessage")
            await until(lambda: scene.asked("ReceiveMessage") > asked + 1)  # they came again meanwhile
    warnings = [record.getMessage() for record in caplog.records]
    assert sum("no ECS task state changes" in warning for warning in warnings) == 1
    assert sum("no ecs-worker launched" in warning for warning in warnings) == 1
    assert len(warnings) == 2
    assert read("") is None


async def test_a_message_that_nobody_needs_any_more_is_deleted(scene: Scene) -> None:
    listener = await scene.listener()
    body = event(document(f"prefect/{uuid4()}/{uuid4()}"))
    now = time.time()
    young, again, old = (
        Message(body, "a", 1, now),
        Message(body, "b", 2, now),
        Message(body, "c", 2, now - OF_NO_USE_AFTER - 1),
    )
    fates = listener.listener.sort([young, again, old])
    assert fates == {Fate.GIVE_BACK: [young], Fate.LEAVE: [again], Fate.DELETE: [old]}


async def test_another_claim_of_the_same_run_is_a_colleagues(scene: Scene) -> None:
    listener = await scene.listener()
    run = claimed_run()
    held = listener.hold(run, document(run.started_by, version=1))
    theirs = event(document(f"prefect/{run.run_id}/{uuid4()}", lastStatus="STOPPED"))
    assert listener.listener.sort([Message(theirs, "a", 1, time.time())])[Fate.GIVE_BACK]
    assert held.phase is Phase.STARTING


async def test_a_queue_that_is_missing_or_deleted_is_a_warning_until_it_is_there(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    listener = await scene.listener()
    scene.simulator.ecs.scripts.default = STOPS
    with caplog.at_level(logging.INFO):
        async with listening(listener):
            await until(lambda: "can't be read" in caplog.text)
            await scene.open()
            first = await hold_one(scene, listener)
            await until(lambda: ended(first))
            assert "again" in caplog.text

            caplog.clear()
            denied = fault(What.ERROR, action="ReceiveMessage", times=1, code="AccessDenied", message="no", status=403)
            scene.simulator.fault(denied)
            url = (await scene.sqs.get_queue_url(QueueName=QUEUE))["QueueUrl"]
            gone = scene.simulator.sqs.queues[QUEUE]
            await scene.sqs.delete_queue(QueueUrl=url)
            gone.send("")  # ends the long poll under way, which then finds no queue
            await until(lambda: "can't be read" in caplog.text)
            scene.simulator.sqs.create_queue(QUEUE, 1.0)
            second = await hold_one(scene, listener)
            await until(lambda: ended(second), 20)
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1, "one for an outage, however long it is"
    assert "only polled" in warnings[0]


async def test_the_queue_can_be_given_by_its_url(scene: Scene) -> None:
    """Its Region is the URL's, not the worker's."""
    scene.simulator.site("eu-west-1").sqs.create_queue(QUEUE, 1.0)
    listener = await scene.listener(f"https://sqs.eu-west-1.amazonaws.com/123456789012/{QUEUE}")
    run = claimed_run()
    held = listener.hold(run, document(run.started_by, version=1))
    scene.simulator.site("eu-west-1").sqs.queues[QUEUE].send(event(document(run.started_by, lastStatus="STOPPED")))
    async with listening(listener):
        await until(lambda: ended(held))
    assert scene.asked("GetQueueUrl") == 0


@pytest.mark.parametrize(
    ("queue", "region"),
    [
        ("events", None),
        ("http://localhost:4566/000000000000/events", None),
        ("https://sqs.us-east-1.amazonaws.com/123456789012/events", "us-east-1"),
        ("https://sqs.cn-north-1.amazonaws.com.cn/123456789012/events", "cn-north-1"),
        ("https://sqs-fips.us-gov-west-1.amazonaws.com/123456789012/events", "us-gov-west-1"),
        ("https://eu-west-3.queue.amazonaws.com/123456789012/events", "eu-west-3"),
        ("https://vpce-0123456789abcdef0-abcdefgh.sqs.ap-southeast-2.vpce.amazonaws.com/1/events", "ap-southeast-2"),
    ],
)
def test_region_of_a_queue(queue: str, region: str | None) -> None:
    assert region_of(queue) == region


def test_whose_task_it_is() -> None:
    run = claimed_run()
    assert run_of(TaskFacts("arn", started_by=run.started_by)) == run.run_id
    for nobody in ("", "ecs-svc/1", "prefect", f"prefect/{run.run_id}", f"airflow/{run.run_id}/1", "prefect/1/2"):
        assert run_of(TaskFacts("arn", started_by=nobody)) is None


@pytest.mark.parametrize("fields", [{"version": "5"}, {"lastStatus": 5}, {"startedBy": None}, {"startedAt": "soon"}])
def test_an_event_of_another_shape_is_not_read(fields: dict[str, Any]) -> None:
    assert read(event(document("prefect/a/b"))) is not None
    assert read(event(document("prefect/a/b") | fields)) is None
