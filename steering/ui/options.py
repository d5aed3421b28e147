"""The command line of the playground, as the person who runs it types it."""

from __future__ import annotations

import argparse


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """What the command line says; ends the program with a sentence and exit status 2 when it makes no sense.

    Args:
        arguments: the words after the program's name; None: those of this process.
    """
    parser = argparse.ArgumentParser(prog="app.py", description="Chat with one small model three ways.")
    parser.add_argument("--model", default="bundled", help="“bundled”, a hub id, a folder, or a .gguf file")
    parser.add_argument(
        "--port", type=int, default=None, help="default: GRADIO_SERVER_PORT, else the first free from 7860"
    )
    parser.add_argument("--host", default=None, help="default: GRADIO_SERVER_NAME, else 127.0.0.1")
    parser.add_argument(
        "--device", default=None, help="cpu, cuda, cuda:1, or auto to spread a model over what there is"
    )
    parser.add_argument("--dtype", default=None, choices=["auto", "float32", "bfloat16", "float16"])
    parser.add_argument("--quantization", default=None, choices=["8bit", "4bit"], help="through bitsandbytes")
    return parser.parse_args(arguments)
