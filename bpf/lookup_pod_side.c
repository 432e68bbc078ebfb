/* sk_lookup of ztun-pod: which listener gets a new connection. `local_port` is in host order. */
#include "ztun.h"

static __always_inline u64 picked_on_pod_side(struct bpf_sk_lookup *ctx) {
    if (ctx->protocol == UDP) {
        if (ctx->local_port == DNS_PORT)
            LOOKUP_PASS(EXIT_lookup_pod_side_UDP_DNS);
        LOOKUP_DROP(EXIT_lookup_pod_side_UDP_DROP);
    }
    int slot = SLOT_OUTBOUND, index = taker_of(ctx, slot);
    u64 flags = NO_REUSEPORT;
    struct bpf_sock *sk = (struct bpf_sock *)takers.lookup(&index);
    if (!sk) {
        flags = 0;
        sk = (struct bpf_sock *)socks.lookup(&slot);
    }
    if (!sk)
        LOOKUP_DROP(EXIT_lookup_pod_side_NO_LISTENER);
    long failed = bpf_sk_assign((void *)ctx, sk, flags);
    bpf_sk_release(sk);
    if (failed)
        LOOKUP_DROP(EXIT_lookup_pod_side_UNFIT_LISTENER);
    LOOKUP_PASS(EXIT_lookup_pod_side_PICKED);
}

int lookup_pod_side(struct bpf_sk_lookup *ctx) {
    return leave_lookup(ctx, picked_on_pod_side(ctx));
}
