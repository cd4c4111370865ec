"""DOOR to the clouds' metadata services: asks whether this machine is about to be taken away.

A notice comes up to two minutes before SIGTERM, or where SIGTERM never comes. What is asked for:
AWS `latest/meta-data/spot/instance-action` with a token (IMDSv2), 404 until there is a notice;
GCP `computeMetadata/v1/instance/preempted`, TRUE or FALSE;
Azure `metadata/scheduledevents`, an event of type Preempt that names this machine.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from enum import StrEnum

import aiohttp
from pydantic import BaseModel, Field

logger = logging.getLogger(__name__)

POLL_SECONDS = 5
_REQUEST_SECONDS = 2


class Cloud(StrEnum):
    """Whose metadata service to ask."""

    AWS = "AWS"
    GCP = "GCP"
    AZURE = "Azure"


ADDRESSES = {
    Cloud.AWS: "http://169.254.169.254",
    Cloud.GCP: "http://metadata.google.internal",
    Cloud.AZURE: "http://169.254.169.254",
}


async def watch(cloud: Cloud, *, address: str = "", poll_seconds: float = POLL_SECONDS) -> None:
    """Return once the cloud says that this machine will be taken away; never before.

    Args:
        cloud: whose service to ask.
        address: of the service; empty = where that cloud has it.
        poll_seconds: time between two questions. A service that does not answer is asked again.
    """
    ask = _QUESTIONS[cloud]
    base = address or ADDRESSES[cloud]
    timeout = aiohttp.ClientTimeout(total=_REQUEST_SECONDS)
    silent = False
    async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
        while True:
            try:
                if await ask(session, base):
                    logger.warning("the cloud takes this machine away", extra={"cloud": cloud})
                    return
                silent = False
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                if not silent:  # once, not every few seconds
                    logger.warning(
                        "no answer from the metadata service", extra={"reason": str(error)}
                    )
                silent = True
            await asyncio.sleep(poll_seconds)


async def _aws(session: aiohttp.ClientSession, base: str) -> bool:
    lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    async with session.put(f"{base}/latest/api/token", headers=lifetime) as answer:
        answer.raise_for_status()
        token = await answer.text()
    url = f"{base}/latest/meta-data/spot/instance-action"
    async with session.get(url, headers={"X-aws-ec2-metadata-token": token}) as answer:
        if answer.status == 404:
            return False
        answer.raise_for_status()
        return True


async def _gcp(session: aiohttp.ClientSession, base: str) -> bool:
    url = f"{base}/computeMetadata/v1/instance/preempted"
    async with session.get(url, headers={"Metadata-Flavor": "Google"}) as answer:
        answer.raise_for_status()
        return (await answer.text()).strip().upper() == "TRUE"


async def _azure(session: aiohttp.ClientSession, base: str) -> bool:
    # every machine of a scale set is told of every event: only those that name us are ours
    name = await _azure_text(session, f"{base}/metadata/instance/compute/name?{_AZURE_NAME}")
    body = await _azure_text(session, f"{base}/metadata/scheduledevents?{_AZURE_EVENTS}")
    events = _AzureEvents.model_validate_json(body).events
    return any(event.type == "Preempt" and name in event.resources for event in events)


async def _azure_text(session: aiohttp.ClientSession, url: str) -> str:
    async with session.get(url, headers={"Metadata": "true"}) as answer:
        answer.raise_for_status()
        return (await answer.text()).strip()


class _AzureEvent(BaseModel):
    type: str = Field("", alias="EventType")
    resources: tuple[str, ...] = Field((), alias="Resources")


class _AzureEvents(BaseModel):
    events: tuple[_AzureEvent, ...] = Field((), alias="Events")


_AZURE_NAME = "api-version=2021-02-01&format=text"
_AZURE_EVENTS = "api-version=2020-07-01"


_QUESTIONS: dict[Cloud, Callable[[aiohttp.ClientSession, str], Awaitable[bool]]] = {
    Cloud.AWS: _aws,
    Cloud.GCP: _gcp,
    Cloud.AZURE: _azure,
}
