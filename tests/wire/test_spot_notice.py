"""What the clouds' metadata services answer before they take a machine away."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from rephrase_runner.spot_notice import Cloud, watch
from support.loopback import answering

POLL_SECONDS = 0.01


class Metadata:
    """A metadata service of all three clouds at once, as they document theirs."""

    def __init__(self) -> None:
        self.notice = False
        self.broken = False
        self.asked = asyncio.Semaphore(0)

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.release()
        if self.broken:
            return web.Response(status=503)
        match request.path:
            case "/latest/api/token":
                assert request.method == "PUT"
                assert request.headers["X-aws-ec2-metadata-token-ttl-seconds"]
                return web.Response(text="secret")
            case "/latest/meta-data/spot/instance-action":
                if request.headers.get("X-aws-ec2-metadata-token") != "secret":
                    return web.Response(status=401)
                if not self.notice:
                    return web.Response(status=404)
                return web.json_response({"action": "terminate", "time": "2026-01-01T00:00:00Z"})
            case "/computeMetadata/v1/instance/preempted":
                if request.headers.get("Metadata-Flavor") != "Google":
                    return web.Response(status=403)
                return web.Response(text="TRUE" if self.notice else "FALSE")
            case "/metadata/scheduledevents":
                assert request.headers["Metadata"] == "true"
                assert request.query["api-version"]
                others = {"EventType": "Preempt", "Resources": ["another-machine"]}
                ours = {"EventType": "Preempt", "Resources": ["this-machine"]}
                reboot = {"EventType": "Reboot", "Resources": ["this-machine"]}
                return web.json_response({"Events": [others, ours if self.notice else reboot]})
            case "/metadata/instance/compute/name":
                assert request.query["format"] == "text"
                return web.Response(text="this-machine")
            case _:
                return web.Response(status=404)


@asynccontextmanager
async def serving(service: Metadata) -> AsyncIterator[str]:
    async with answering(service.handle) as (host, port):
        yield f"http://{host}:{port}"


async def asked_again(service: Metadata, times: int = 4) -> None:
    for _ in range(times):
        await service.asked.acquire()


@pytest.mark.parametrize("cloud", Cloud)
async def test_a_notice_ends_the_watch_and_nothing_else_does(cloud: Cloud) -> None:
    service = Metadata()
    async with serving(service) as address:
        watching = asyncio.ensure_future(watch(cloud, address=address, poll_seconds=POLL_SECONDS))
        await asked_again(service)
        assert not watching.done()

        service.notice = True

        await asyncio.wait_for(watching, 10)


@pytest.mark.parametrize("cloud", Cloud)
async def test_a_service_that_is_broken_for_a_while_is_asked_again(cloud: Cloud) -> None:
    service = Metadata()
    service.broken = True
    async with serving(service) as address:
        watching = asyncio.ensure_future(watch(cloud, address=address, poll_seconds=POLL_SECONDS))
        await asked_again(service)
        assert not watching.done()

        service.broken, service.notice = False, True

        await asyncio.wait_for(watching, 10)


async def test_a_machine_without_a_metadata_service_is_never_noticed() -> None:
    async with serving(Metadata()) as address:
        gone = address
    watching = asyncio.ensure_future(watch(Cloud.AWS, address=gone, poll_seconds=POLL_SECONDS))

    done, _ = await asyncio.wait({watching}, timeout=0.3)

    assert not done
    watching.cancel()
