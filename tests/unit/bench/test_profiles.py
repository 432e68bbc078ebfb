"""What perf sampled, by layer: every sample counts once, for the code that ran."""

from __future__ import annotations

import pytest

from tests.bench.profiles import (
    AEAD,
    AGENT,
    KERNEL,
    LIBC,
    OURS,
    PYTHON,
    REST,
    TLS,
    layer_of,
    row,
    samples_of,
    table,
)

OPENSSL = "/v/lib/python3.11/site-packages/cryptography/hazmat/bindings/_rust.abi3.so"
SHARED = str(AGENT / "hot__mypyc.cpython-311-x86_64-linux-gnu.so")


@pytest.mark.parametrize(
    ("symbol", "where", "layer"),
    [
        ("tcp_sendmsg_locked", "[kernel.kallsyms]", (KERNEL, "")),
        ("__vdso_clock_gettime", "[vdso]", (KERNEL, "")),
        ("aesni_ctr32_ghash_6x", OPENSSL, (AEAD, "")),
        ("ssl3_read_bytes", OPENSSL, (TLS, "")),
        ("[unknown]", OPENSSL, (TLS, "")),
        ("_PyEval_EvalFrameDefault", "/usr/bin/python3.11", (PYTHON, "")),
        ("malloc", "/usr/lib/x86_64-linux-gnu/libc.so.6", (LIBC, "")),
        ("CPyDef_loop___Loop___turn", SHARED, (OURS, "loop")),
        ("CPyPy_net___loop___Loop_____init__", SHARED, (OURS, "net.loop")),
        ("CPyDef_h2_tunnel___H2Tunnels", SHARED, (OURS, "h2_tunnel")),
        ("CPyTagged_Add", SHARED, (OURS, "of the compiler")),
        ("CPyDef_fixer___run", "/v/lib/python3.11/site-packages/6ec__mypyc.so", (REST, "")),
        ("something", "/usr/lib/elsewhere.so", (REST, "")),
    ],
)
def test_a_sample_counts_for_the_code_that_ran(symbol: str, where: str, layer: tuple[str, str]) -> None:
    assert layer_of(symbol, where) == layer


def test_all_of_the_time_is_told_by_layer_and_what_is_ours_by_module() -> None:
    script = [
        " ffffffff8b2 tcp_ack ([kernel.kallsyms])",
        f"    7f52aa10 CPyDef_loop___Loop___turn ({SHARED})",
        f"    7f52aa10 CPyDef_h2_tunnel___H2Tunnels___feed ({SHARED})",
        f"    7f52aa18 CPyDef_loop___Loop___turn ({SHARED})",
        "",
    ]
    made = row("ztun", "connection", 400.0, samples_of(script))
    assert (made.samples, made.layers) == (4, {KERNEL: 100.0, OURS: 300.0})
    assert made.modules == {"loop": 200.0, "h2_tunnel": 100.0}
    shown = table([made]).splitlines()
    assert [line.split() for line in shown] == [
        ["connection,", "us", "ztun"],
        ["all", "400.0"],
        ["kernel", "100.0"],
        ["ztun,", "compiled", "300.0"],
        ["loop", "200.0"],
        ["h2_tunnel", "100.0"],
    ]
