"""A llama.cpp server (xllamacpp) with one model, for the demo and the tests.

python scripts/llm_server.py MODEL.gguf NAME PORT THREADS [embeddings]
"""

from __future__ import annotations

import os
import signal
import sys

STOPPING = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


def main(path: str, name: str, port: str, threads: str, mode: str = "") -> None:
    """Serves until it is told to stop. Signals are blocked before llama.cpp makes its threads."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        import xllamacpp
    except ImportError as error:
        sys.exit(f"llama.cpp cannot be loaded ({error}). On Debian or Ubuntu: apt-get install libgomp1")
    chosen = xllamacpp.CommonParams()
    chosen.model.path = path
    chosen.model_alias = {name}
    chosen.hostnames = ["127.0.0.1"]
    chosen.port = int(port)
    chosen.n_ctx = 4096
    chosen.n_parallel = 2
    chosen.cpuparams.n_threads = int(threads)
    if mode == "embeddings":
        chosen.embedding = True
        chosen.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    server = xllamacpp.Server(chosen)
    print(server.listening_address, flush=True)
    signal.sigwait(STOPPING)
    os._exit(0)  # the library's own end can hang while a model loads


if __name__ == "__main__":
    main(*sys.argv[1:])
