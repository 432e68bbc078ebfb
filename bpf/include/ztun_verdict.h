/* Leaving a program: every way out counts itself first. A drop without a reason cannot be written, because
 * the programs never return a TC_ACT_ or SK_ value themselves. */
#ifndef ZTUN_VERDICT_H
#define ZTUN_VERDICT_H

/* tcx: go on with the next program, then clsact. For cls_bpf -1 is TC_ACT_UNSPEC: the next filter. */
#define NEXT (-1)
#define TC_ACT_SHOT 2
#define SK_DROP 0
#define SK_PASS 1

static __always_inline void count(u32 reason) {
    u64 *n = stats.lookup(&reason);
    if (n)
        *n += 1; /* per CPU */
}

/* By which exit a packet leaves, which is counted here, and with which verdict: what the programs answer to `leave`, which
 * tells of it in one place. */
static __always_inline u64 by(u32 reason, int verdict) {
    count(reason);
    return (u64)reason << 32 | (u32)verdict;
}

#define PASS(reason) return by(reason, NEXT)
#define DROP(reason) return by(reason, TC_ACT_SHOT)
/* The packet ends here, but not what it asks for: a worker has its copy. */
#define HOLD(reason) return by(reason, TC_ACT_SHOT)
/* Before anything of the packet is read. Nobody is told of these: another of our programs tells of the same packet, or it
 * is none of ours. */
#define PASS_UNREAD(reason) do { count(reason); return NEXT; } while (0)
#define LOOKUP_DROP(reason) return by(reason, SK_DROP)
#define LOOKUP_PASS(reason) return by(reason, SK_PASS)

/* Kernel quirk: clang hoists the address of a context field that is used twice, and the verifier refuses
 * ("dereference of modified ctx ptr"). An empty asm keeps it from that. */
#define opaque(p) asm volatile("" : "+r"(p))

/* One more new connection of a pod for the proxy: user space holds it against what the workers accept. The entry
 * is the program's to make, and user space's to delete with the interface; a full map costs the count, no more. */
static __always_inline void count_capture(u32 ifindex, int is_inbound) {
    struct capture_count none = {};
    struct capture_count *n = captures.lookup_or_try_init(&ifindex, &none);
    if (n)
        __sync_fetch_and_add(is_inbound ? &n->inbound : &n->outbound, 1);
}

/* Into a private namespace, straight through the veth (tc ingress only; keeps skb->mark). */
static __always_inline u64 into_namespace(struct __sk_buff *skb, u32 ifindex, u32 reason) {
    opaque(skb);
    bpf_skb_change_type(skb, 0); /* PACKET_HOST; kernels before 6.15 do not reset it */
    return by(reason, bpf_redirect_peer(ifindex, 0));
}

/* Out by a device from tc egress: it arrives in the namespace at the other end, which wants its own MAC. */
static __always_inline u64 onto_net_side(struct __sk_buff *skb, struct conf_entry *c, u32 reason) {
    bpf_skb_store_bytes(skb, 0, c->net_side_mac, 6, 0);
    return by(reason, bpf_redirect(c->net_side_ifindex, 0));
}

#endif
