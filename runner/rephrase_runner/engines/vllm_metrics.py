"""Which of vLLM's metrics a worker passes on: it has 374 series for an engine, too many of a thousand.

vLLM keeps them in the process' default registry.
"""

from collections.abc import Iterator

from prometheus_client import REGISTRY
from prometheus_client.core import Metric

PASSED_ON = {
    "vllm:num_requests_running": "Requests in the batch that the model works on (gauge).",
    "vllm:num_requests_waiting": "Requests that wait for room in the batch (gauge).",
    "vllm:kv_cache_usage_perc": "Share of the KV cache in use, 0 to 1 (gauge).",
    "vllm:num_preemptions_total": "Requests put back for want of KV cache.",
    "vllm:prefix_cache_queries_total": "Prompt tokens that were looked up in the prefix cache.",
    "vllm:prefix_cache_hits_total": "Of these, the tokens that were found there.",
    "vllm:prompt_tokens_total": "Prompt tokens, computed or found in the cache.",
    "vllm:generation_tokens_total": "Tokens generated.",
    "vllm:iteration_tokens_total_sum": "Tokens of all steps of the model.",
    "vllm:iteration_tokens_total_count": "Steps of the model.",
    "vllm:time_to_first_token_seconds_sum": "Time from a request to its first token.",
    "vllm:time_to_first_token_seconds_count": "Requests that have a first token.",
    "vllm:request_queue_time_seconds_sum": "Time that finished requests waited for room in the batch.",
    "vllm:request_queue_time_seconds_count": "Finished requests.",
    "vllm:e2e_request_latency_seconds_sum": "Time from a request to its last token.",
    "vllm:e2e_request_latency_seconds_count": "Finished requests.",
    "vllm:request_time_per_output_token_seconds_sum": "Mean time between tokens, of finished requests.",
    "vllm:request_time_per_output_token_seconds_count": "Finished requests.",
    "vllm:spec_decode_num_drafts_total": "Drafts, with speculative decoding only.",
    "vllm:spec_decode_num_draft_tokens_total": "Tokens drafted, with speculative decoding only.",
    "vllm:spec_decode_num_accepted_tokens_total": "Of these, the tokens kept.",
}
"""Samples by name, as vLLM 0.32 has them: one series each for an engine, labels `model_name` and `engine`."""


def passed_on() -> Iterator[Metric]:
    """vLLM's metrics as they are now, the allowed samples only; none where there is no vLLM."""
    for family in REGISTRY.collect():
        samples = [sample for sample in family.samples if sample.name in PASSED_ON]
        if samples:
            kept = Metric(family.name, family.documentation, family.type)
            kept.samples = samples
            yield kept
