"""llama.cpp's own server with a tiny model of random weights, in a process of its own.

    python -m tests.servers.llama_server FOLDER
    http://127.0.0.1:12345

The model is written to the folder. The server ends with its standard input.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gguf
import numpy as np

WIDTH, LAYERS, HEADS = 32, 1, 2
WORDS = ["▁fever", "▁cough", "▁dose", "▁mg", "▁and", "▁of", "é", "😀", "."]


UNLIKELY = {b"<0x%02X>" % byte for byte in (*range(0x20), *range(0x7F, 0x100))} | {b"<unk>"}
"""Tokens that the model never writes while it takes the likeliest one."""


def write_model(path: Path) -> None:
    """A model whose texts mean nothing, but that has every part of a real one."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(2048)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    kinds = gguf.TokenType
    tokens = [(b"<unk>", kinds.UNKNOWN), (b"<s>", kinds.CONTROL), (b"</s>", kinds.CONTROL)]
    tokens += [(b"<0x%02X>" % byte, kinds.BYTE) for byte in range(256)]
    tokens += [(word.encode(), kinds.NORMAL) for word in WORDS]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([token for token, _ in tokens])
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:")
    random = np.random.default_rng(7)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, random.normal(0, 0.4, shape).astype(np.float32))

    add("token_embd.weight", len(tokens), WIDTH)
    output = random.normal(0, 0.4, (len(tokens), WIDTH)).astype(np.float32)
    # Half a character at the end is U+FFFD in llama.cpp's batch answers, and not in its streams.
    output[[at for at, (token, _) in enumerate(tokens) if token in UNLIKELY]] = 0
    writer.add_tensor("output.weight", output)
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    for layer in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(WIDTH, np.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{layer}.{name}.weight", WIDTH, WIDTH)
        for name, *shape in (("ffn_gate", 64, 32), ("ffn_up", 64, 32), ("ffn_down", 32, 64)):
            add(f"blk.{layer}.{name}.weight", *shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    import xllamacpp  # its native code stays out of the tests' process

    model = Path(sys.argv[1]) / "tiny.gguf"
    write_model(model)
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.n_ctx, params.n_parallel, params.n_predict = 2048, 1, 64
    params.cpuparams.n_threads = 1
    server = xllamacpp.Server(params)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()
    del server


@contextmanager
def llama_server(directory: Path) -> Iterator[str]:
    """Its address, until the block is left."""
    command = [sys.executable, "-m", "tests.servers.llama_server", str(directory)]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            assert process.stdout is not None
            said = process.stdout.readline().strip()
            assert said.startswith("http://"), (directory / "log").read_text()
            yield said
        finally:
            process.kill()
            process.communicate()


if __name__ == "__main__":
    main()
