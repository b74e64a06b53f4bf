"""Options that say what a task requires of its worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from task_server.client.options import Options

Memory = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Memory that it needs, such as 2GiB.")
]
Cpu = Annotated[float | None, typer.Option(metavar="CORES", help="Processor cores that it needs.")]
Gpu = Annotated[int | None, typer.Option(metavar="COUNT", help="GPUs that it needs.")]
Labels = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="NAME=VALUE", help="A label that its worker must have."),
]


def required(
    memory: str | None, cpu: float | None, gpu: int | None, labels: Sequence[str] | None
) -> Options:
    """The options of a client that these stand for."""
    said: dict[str, Any] = {
        "memory": int(memory) if memory and memory.isdecimal() else memory,
        "cpu": cpu,
        "gpu": gpu,
        "labels": labels_in(labels or ()),
    }
    requires = {name: value for name, value in said.items() if value}
    return {"requires": requires} if requires else {}


def labels_in(texts: Sequence[str]) -> dict[str, str]:
    """Labels given as NAME=VALUE. Raises BadParameter."""
    pairs = [text.partition("=") for text in texts]
    wrong = next((text for text, pair in zip(texts, pairs, strict=True) if not pair[1]), None)
    if wrong is not None:
        raise typer.BadParameter(f"--label {wrong}: a label is NAME=VALUE")
    return {name: value for name, _, value in pairs}
