"""The spec of a `RephraseRun`: what a user asks for. Written by users only."""

from typing import Annotated

from pydantic import Field

from rephrase_api.v1alpha1.base import Model
from rephrase_api.v1alpha1.fields import CLUSTER_ONLY, INT32, ObjectName, Unique
from rephrase_api.v1alpha1.generation import Prompt, PromptLayout, Quality, Sampling
from rephrase_api.v1alpha1.model import EngineType, LanguageModel
from rephrase_api.v1alpha1.output import Output
from rephrase_api.v1alpha1.policy import Canary, Durability, Observability, Retries, Scaling
from rephrase_api.v1alpha1.source import Source
from rephrase_api.v1alpha1.workers import Driver, Gpu, Image, ImagePullSecret, Pool, Workers


class RephraseRunSpec(Model):
    """What is rewritten, how, with what, and where to."""

    suspend: Annotated[bool, CLUSTER_ONLY] = False
    """True stops all workers; what is committed stays, and false goes on from there. Default:
    false."""
    managed_by: Annotated[
        Annotated[str, Field(min_length=1, max_length=63)] | None, CLUSTER_ONLY
    ] = None
    """Reserved: the controller that carries out the run. Absent: this operator."""
    service_account_name: Annotated[ObjectName | None, CLUSTER_ONLY] = None
    """ServiceAccount of driver and workers, for their identity in the cloud; its token is not
    mounted. Absent: the namespace's `default`."""
    image: Annotated[Image, CLUSTER_ONLY] = Image()
    """Container images. Default: those the operator was installed with."""
    image_pull_secrets: Annotated[
        tuple[ImagePullSecret, ...], Field(max_length=16), Unique("name"), CLUSTER_ONLY
    ] = ()
    """Secrets to pull images with. Default: none."""
    source: Source
    """Where the documents come from and which of them are taken."""
    prompt_layout: PromptLayout = PromptLayout.INSTRUCTION_FIRST
    """Order of instruction and document in built-in prompts: InstructionFirst as in the paper, or
    DocumentFirst, so that all prompts of a document share the computation of its prefix.
    Default: InstructionFirst."""
    system_message: Annotated[str, Field(max_length=16_384)] | None = None
    """System message of every prompt. Absent: none is sent; a model's chat template may add its
    own."""
    prompts: Annotated[tuple[Prompt, ...], Field(min_length=1, max_length=32), Unique("name")]
    """The kinds of rewrite, 1 to 32; their order does not matter. All are made in one pass over the
    source."""
    model: LanguageModel
    """The model that rewrites, and the engine that runs it."""
    sampling: Sampling = Sampling()
    """How the model's next token is chosen. Default: as the model's makers advise, 2048 tokens at
    most."""
    output: Output
    """Where the dataset is written."""
    quality: Quality = Quality()
    """What becomes of rewrites that have a fault. Default: they are kept and flagged."""
    durability: Durability = Durability()
    """How much work a lost worker may cost, and how soon others take over."""
    canary: Canary = Canary()
    """A small part that is done first. Default: none."""
    workers: Workers = Workers()
    """How many workers there may be, and on which nodes. Default: one worker."""
    driver: Driver = Driver()
    """The pod that plans, watches and publishes."""
    scaling: Scaling = Scaling()
    """Deadline and budget. Default: neither."""
    retries: Retries = Retries()
    """How often things are tried again."""
    ttl_seconds_after_finished: Annotated[
        Annotated[int, Field(ge=0, le=INT32)] | None, CLUSTER_ONLY
    ] = None
    """The finished run object and its Jobs are deleted after so many seconds; data never is.
    Absent: they stay."""
    observability: Observability = Observability()
    """Logs, status and metrics."""

    def pools(self) -> tuple[Pool, ...]:
        """The pools with their defaults filled in, which depend on the engine; never empty."""
        gpu = Gpu(count=1 if self.model.engine.type is EngineType.VLLM else 0)
        pools = self.workers.pools or (Pool(name="default"),)
        return tuple(
            pool if pool.gpu is not None else pool.model_copy(update={"gpu": gpu}) for pool in pools
        )
