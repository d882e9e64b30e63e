"""Damaged and hostile weight files: bytes, zip entries, pickles, safetensors headers, metadata and tensors."""

import io
import json
import pickle
import struct
import zipfile
from collections import Counter, OrderedDict

import torch

from mcir.registry import ARCHS
from mcir.weights import network_metadata, to_safetensors

SECTION = {"type": "EDSR", "num_feat": 4, "num_block": 1, "upscale": 2}
NONSENSE = [None, True, -1, 0, 1, 3, 10**5, 10**9, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", "a", "1",
            [], [1], [10**9] * 4, [[1]], {}, {"type": "EDSR"}, "9" * 5000]  # fmt: skip
ARCHITECTURES = ["EDSR", "SwinIR", "UNet", "NAFNet", "IDT", "DehazeFormer", "FFANet", "EDSRR", "", "os.system"]


def small_state():
    torch.manual_seed(0)
    return {key: value.clone() for key, value in ARCHS.build(SECTION).state_dict().items()}


def saved(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def foreign_safetensors(header, data=b""):
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    return struct.pack("<Q", len(text)) + text + data


def intact_files():
    """Return the suffixes and contents of files in all formats."""
    arguments = {key: value for key, value in SECTION.items() if key != "type"}
    return [
        (".pth", saved({"params": small_state()})),
        (".pth", saved(small_state(), _use_new_zipfile_serialization=False)),
        (".safetensors", to_safetensors(small_state(), network_metadata("EDSR", arguments))),
    ]


def damaged_bytes(draw):
    """Damage a file as a disk, a transfer or an editor does."""
    suffix, original = draw.choice(intact_files())
    data = bytearray(original)
    start, length = draw.randrange(len(data)), draw.choice([1, 8, 64, 4096])
    kind = draw.choice(["cut", "zero", "noise", "insert", "remove", "repeat", "prefix", "suffix"])
    noise = draw.randbytes(length)
    if kind == "cut":
        del data[start:]
    elif kind == "zero":
        data[start : start + length] = bytes(len(data[start : start + length]))
    elif kind == "noise":
        data[start : start + length] = noise[: len(data) - start]
    elif kind in ("insert", "prefix", "suffix"):
        at = {"insert": start, "prefix": 0, "suffix": len(data)}[kind]
        data[at:at] = noise
    elif kind == "remove":
        del data[start : start + length]
    else:
        data[start:start] = data[start : start + length]
    return suffix, bytes(data)


def zip_entries(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(entry.filename, archive.read(entry)) for entry in archive.infolist()]


def rewritten_zip(draw):
    """Write the entries of a file again as other programs do, or as an attacker does."""
    entries = zip_entries(saved({"params": small_state()}))
    methods = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
    kind = draw.choice(
        ["stored", "deflated", "mixed", "repeat", "drop", "rename", "add", "prefix", "shuffle", "content"]
    )
    number = draw.randrange(len(entries))
    name, content = entries[number]
    if kind == "repeat":
        entries.insert(draw.randrange(len(entries)), (name, draw.choice([content, bytes(len(content))])))
    elif kind == "drop":
        del entries[number]
    elif kind == "rename":
        other = ["../x", "/etc/x", "a/b", "archive/data/0", name.upper(), name + "\0"]
        entries[number] = (draw.choice(other), content)
    elif kind == "add":
        entries.append(draw.choice([("__MACOSX/x", b""), ("archive/constants.pkl", b""), ("other/data.pkl", b"N.")]))
    elif kind == "shuffle":
        draw.shuffle(entries)
    elif kind == "content":
        entries[number] = (name, draw.choice([b"", content[:-1], content + b"\0", draw.randbytes(len(content))]))
    buffer = io.BytesIO(b"prefix" if kind == "prefix" else b"")
    buffer.seek(0, 2)
    with zipfile.ZipFile(buffer, "a") as archive:
        for name, content in entries:
            method = methods[0]
            if kind in ("mixed", "deflated"):
                method = draw.choice(methods) if kind == "mixed" else methods[1]
            archive.writestr(name, content, method)
    data = bytearray(buffer.getvalue())
    if draw.random() < 0.1:  # say that the entries are encrypted
        at = data.rfind(b"PK\x01\x02")
        data[at + 8] |= 1
    return ".pth", bytes(data)


def with_pickle(data):
    """Return a ``.pth`` file with another pickle and right checksums."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in zip_entries(saved({"params": small_state()})):
            archive.writestr(name, data if name.endswith("/data.pkl") else content)
    return ".pth", buffer.getvalue()


def changed_pickle(draw):
    """Change opcodes of the pickle, or write one that needs much time or memory."""
    original = next(content for name, content in zip_entries(saved(small_state())) if name.endswith("/data.pkl"))
    count = draw.choice([10, 1000, 20000])
    bombs = {
        "nested lists": b"\x80\x02" + b"]" * count + b"a" * (count - 1) + b".",
        "nested tuples": b"\x80\x02)" + b"\x85" * count + b".",
        "nested dicts": b"\x80\x02" + b"}X\x05\0\0\0model" * count + b"N" + b"s" * count + b".",
        "tuples of tuples as a key": b"\x80\x02})" + b"q\0h\0\x86" * count + b"Ns.",
        "copies of a list": b"\x80\x02" + b"](" + b"NN\x86" * count + b"eq\0" + b"ccollections\nOrderedDict\nq\1"
        + b"h\1h\0\x85R" * count + b".",
        "copies of a text": b"\x80\x02X" + struct.pack("<I", count) + b"a" * count + b"q\0c_codecs\nencode\nq\1"
        + b"h\1h\0\x85R" * count + b".",
        "memory": b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\0\0\0\0\x10\x85R.",
        "a tensor without storage": b"\x80\x02ctorch\nTensor\n\x8a\x05\0\0\0\0\x10\x85R.",
        "itself in a list": b"\x80\x02]q\0h\0a.",
        "itself in a dict": b"\x80\x02}q\0X\x05\0\0\0modelh\0s.",
        "methods replaced": pickle.dumps(OrderedDict(a=1), 2)[:-1] + b"}X\x05\0\0\0itemsK\1sb.",
        "code": b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R.",
        "another protocol": pickle.dumps({"a": 1}, draw.choice([0, 1, 3, 4, 5])),
        "no end": original[:-1],
        "nothing": b"",
    }  # fmt: skip
    if draw.random() < 0.5:
        return with_pickle(bombs[draw.choice(list(bombs))])
    data = bytearray(original)
    for _ in range(draw.choice([1, 3, 10])):
        data[draw.randrange(len(data))] = draw.randrange(256)
    return with_pickle(bytes(data))


def with_attributes(tensor, *names):
    for name in names:
        setattr(tensor, name, "text")
    return tensor


def unusual_tensors(draw):
    """Save tensors or containers that a network cannot load, or can only just load."""
    state = small_state()
    key = draw.choice(list(state))
    value = state[key]
    tensors = {
        "sparse": lambda: value.to_sparse(),
        "meta": lambda: value.to("meta"),
        "quantized": lambda: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
        "expanded": lambda: torch.zeros(1).expand(10**6, 10**6),
        "expanded to its shape": lambda: torch.zeros(1).expand(value.shape),
        "not finite": lambda: torch.full_like(value, draw.choice([float("nan"), float("inf"), -float("inf")])),
        "too large for float32": lambda: torch.full_like(value, 1e300, dtype=torch.float64),
        "complex": lambda: value.to(torch.complex64),
        "integers": lambda: value.to(draw.choice([torch.int64, torch.uint8, torch.bool])),
        "small floats": lambda: value.to(draw.choice([torch.float16, torch.bfloat16, torch.float8_e4m3fn])),
        "transposed": lambda: value.transpose(0, -1).contiguous().transpose(0, -1),
        "parameter": lambda: torch.nn.Parameter(value),
        "parameter with attributes": lambda: with_attributes(torch.nn.Parameter(value), "numel", "to", "detach", "dim"),
        "no elements": lambda: torch.zeros(0, 10**9),
        "one element": lambda: torch.zeros(()),
        "a text": lambda: "text",
        "None": lambda: None,
        "a deep list": lambda: [[[[value]]]],
        "itself": lambda: state,
    }
    kind = draw.choice(list(tensors))
    if draw.random() < 0.2:
        state = {
            f"{draw.choice(['a.' * 1000, 'body.1000000000.', chr(0), '../', chr(0x1B)])}{k}": v
            for k, v in state.items()
        }
    else:
        state[key] = tensors[kind]()
    outer = draw.choice([None, "params", "model_ema", "a", 1])
    content = state if outer is None else {outer: state, "step": Counter(a=1), "other": {1, 2}}
    return ".pth", saved(content, _use_new_zipfile_serialization=draw.random() < 0.8)


def stated_arguments(draw):
    """State other constructor arguments in the metadata than the weights have."""
    name = draw.choice(ARCHITECTURES)
    arguments = {} if name not in ARCHS else dict.fromkeys(ARCHS.parameters(name))
    names = draw.sample(list(arguments), min(len(arguments), draw.choice([1, 2, 5]))) or ["num_feat"]
    stated = {argument: draw.choice(NONSENSE) for argument in [*names, *draw.choice([[], ["type"], ["self"]])]}
    text = draw.choice([json.dumps(stated)] * 5 + ["[" * 10**5, "{", "null", "1" * 5000])
    metadata = {"architecture": name, "hyperparameters": text}
    if draw.random() < 0.5:
        return ".safetensors", to_safetensors(small_state(), metadata)
    return ".pth", saved({"params": small_state(), **metadata, **draw.choice([{}, {"hyperparameters": 3}])})


def changed_header(draw):
    """Write a safetensors file whose header does not describe its data."""
    entry = {
        "dtype": draw.choice(["F32", "F64", "BF16", "F4", "F8_E4M3", "I64", "BOOL", "X", 1, None]),
        "shape": draw.choice([[1], [2**62, 4], [0, 2**40], [-1], [], [1.5], "1", [1] * 1000, [2**64]]),
        "data_offsets": draw.choice([[0, 4], [0, 8], [4, 0], [0, 2**63], [-4, 0], [0, 0], [0]]),
    }
    key = draw.choice(["a", "", "conv_first.weight", "a." * 1000])
    metadata = draw.choice([{}, {"architecture": 3}, None, [], {"mcir_format": "1"}, {"mcir_checksum": "crc32:0"}])
    header = {key: entry, "__metadata__": metadata}
    header = draw.choice([header] * 6 + [[], b"", b"{", b"[" * 10**5, b'{"a":1,"a":2}', b"\xff" * 9])
    return ".safetensors", foreign_safetensors(header, bytes(draw.choice([0, 4, 8])))


KINDS = (damaged_bytes, rewritten_zip, changed_pickle, unusual_tensors, stated_arguments, changed_header)
