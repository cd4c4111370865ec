"""Engine flags that a spec may not pass through `engine.args`, and what to use instead.

A flag is owned if it would change *what* is generated, which has its own field and is part of the
run's identity, or if it would break what a worker relies on. All others are settings for speed.
"""

import re

_IN_MODEL = (
    "put the change into the model's own files (config.json) and name them in spec.model.uri"
)
_NO_SERVER = "a worker serves no requests; leave it out"
_NO_REQUEST_LOGS = "requests hold documents and are never logged; leave it out"

OWNED = {
    "--model": "use spec.model.name or spec.model.uri",
    "--served-model-name": "it is made from the model's name; leave it out",
    "--tokenizer": "use spec.model.tokenizer",
    "--skip-tokenizer-init": "a worker needs the tokenizer; leave it out",
    "--revision": "use spec.model.revision",
    "--code-revision": "use spec.model.revision",
    "--tokenizer-revision": "use spec.model.revision",
    "--max-model-len": "use spec.model.maxModelLength",
    "--dtype": "use spec.model.dtype",
    "--quantization": "use spec.model.quantization",
    "--chat-template": "use spec.model.chatTemplate",
    "--hf-token": "use spec.model.secretRef",
    "--hf-config-path": _IN_MODEL,
    "--hf-overrides": _IN_MODEL,
    "--enable-lora": "merge the adapter into the model and name that in spec.model.uri",
    "--lora-modules": "merge the adapter into the model and name that in spec.model.uri",
    "--trust-remote-code": "code of a model's repository is never run; leave it out",
    "--seed": "use spec.sampling.seed",
    "--generation-config": "use spec.sampling",
    "--override-generation-config": "use spec.sampling",
    "--logits-processors": "use spec.sampling",
    "--worker-extension-cls": "a worker uses it to end vLLM's processes; leave it out",
    "--config": "write the flags out, one each",
    "--host": _NO_SERVER,
    "--port": _NO_SERVER,
    "--api-key": "use spec.model.engine.openAI.apiKeySecretRef",
    "--disable-log-requests": _NO_REQUEST_LOGS,
    "--enable-log-requests": _NO_REQUEST_LOGS,
}
"""Owned flag → what to do. A dotted form (`--hf-overrides.x=1`) is owned like its flag."""

OWNED_PATTERN = f"^--({'|'.join(flag[2:] for flag in OWNED)})([=.]|$)"
"""Fits an argument that sets an owned flag; RE2 without a backslash, so that CEL can quote it as it
is."""

_OWNED = re.compile(OWNED_PATTERN)


def owned_flag(argument: str) -> str | None:
    """The owned flag that `argument` sets, or None."""
    found = _OWNED.match(argument)
    return f"--{found[1]}" if found else None
