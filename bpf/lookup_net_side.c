/* sk_lookup of ztun-net: which listener gets a new connection. `local_port` is in host order. */
#include "ztun.h"

static __always_inline u64 picked_on_net_side(struct bpf_sk_lookup *ctx) {
    if (ctx->protocol == UDP)
        LOOKUP_DROP(EXIT_lookup_net_side_UDP_DROP);
    int slot = ctx->local_port == HBONE_PORT ? SLOT_HBONE : SLOT_PLAINTEXT;
    int index = taker_of(ctx, slot);
    u64 flags = NO_REUSEPORT;
    struct bpf_sock *sk = (struct bpf_sock *)takers.lookup(&index);
    if (!sk) {
        flags = 0;
        sk = (struct bpf_sock *)socks.lookup(&slot);
    }
    if (!sk)
        LOOKUP_DROP(EXIT_lookup_net_side_NO_LISTENER);
    long failed = bpf_sk_assign((void *)ctx, sk, flags);
    bpf_sk_release(sk);
    if (failed)
        LOOKUP_DROP(EXIT_lookup_net_side_UNFIT_LISTENER);
    LOOKUP_PASS(EXIT_lookup_net_side_PICKED);
}

int lookup_net_side(struct bpf_sk_lookup *ctx) {
    return leave_lookup(ctx, picked_on_net_side(ctx));
}
