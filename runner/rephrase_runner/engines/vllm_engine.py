"""vLLM in process: its client lives here, the model in child processes (EngineCore and its workers).

DOOR: this and `vllm_settings` are the only modules that import vllm, and only inside functions: the
import takes 15 s or more. Checked against vLLM 0.32.
"""
