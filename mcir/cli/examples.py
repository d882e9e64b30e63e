"""Examples for the help texts of the commands, by the words of the command."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "new": ("mcir new sr --scale 2 --gt photos/ -o my.yml", "mcir new dehaze --lq hazy/ --gt clear/ --budget 1h"),
    "train": ("mcir train quickstart", "mcir train my.yml --auto_resume --set train.total_iter=100000"),
    "test": ("mcir test my.yml --checkpoint experiments/my/models/net_g_best.pth",),
    "restore": ("mcir restore photos/ -w net_g.pth -o restored/", "mcir restore old.jpg -w net_g.pth -o new.png"),
    "compare": ("mcir compare plain=a.pth spn=b.pth photos/ --gt clear/ -o comparison.html",),
    "export": ("mcir export net_g.pth --onnx", "mcir export net_g.pth --safetensors -o weights/"),
    "check": ("mcir check quickstart", "mcir check my.yml --set train.optim_g.lr=1e-4"),
    "list": ("mcir list losses", "mcir list losses SPNLoss", "mcir list options 'sr/*'"),
    "inspect": ("mcir inspect net_g.pth",),
    "report": ("mcir report my --open", "mcir report plain spn -o report.html"),
    "schema": ("mcir schema schema.json",),
    "proxy": ("mcir proxy net_g.pth random --labels 10 100",),
    "demo": ("mcir demo net_g.pth --port 7860",),
    "prepare lmdb": ("mcir prepare lmdb photos/ photos.lmdb",),
    "prepare subimages": ("mcir prepare subimages photos/ squares/ --size 480 --step 240",),
    "prepare lr": ("mcir prepare lr photos/ small/ --scale 4",),
    "prepare split": ("mcir prepare split photos/ lists/ --val 0.1",),
    "prepare verify": ("mcir prepare verify photos/", "mcir prepare verify clear/ --against hazy/"),
    "prepare photographs": ("mcir prepare photographs photos/ --haze hazy/",),
    "reproduce fig2": ("mcir reproduce fig2",),
    "reproduce rcl-fig2": ("mcir reproduce rcl-fig2 --weights net_g.pth",),
    "reproduce mini": ("mcir reproduce mini --quick",),
    "reproduce rcl-mini": ("mcir reproduce rcl-mini --quick",),
    "reproduce rcl-scale": ("mcir reproduce rcl-scale --quick",),
}


def examples(command: str) -> tuple[str, ...]:
    """Return the examples of a command, such as ``prepare lmdb``."""
    if command in EXAMPLES:
        return EXAMPLES[command]
    name = f"mcir {command}"  # a table or a figure of the papers
    return (name, f"{name} --train") if "table" in command else (name,)
