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

#define PASS(reason) do { count(reason); return NEXT; } while (0)
#define DROP(reason) do { count(reason); return TC_ACT_SHOT; } while (0)
/* The packet ends here, but not what it asks for: a worker has its copy. */
#define HOLD(reason) do { count(reason); return TC_ACT_SHOT; } while (0)
#define LOOKUP_DROP(reason) do { count(reason); return SK_DROP; } while (0)
#define LOOKUP_PASS(reason) do { count(reason); return SK_PASS; } while (0)

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
static __always_inline int into_namespace(struct __sk_buff *skb, u32 ifindex, u32 reason) {
    count(reason);
    opaque(skb);
    bpf_skb_change_type(skb, 0); /* PACKET_HOST; kernels before 6.15 do not reset it */
    return bpf_redirect_peer(ifindex, 0);
}

/* Out by a device from tc egress: it arrives in the namespace at the other end, which wants its own MAC. */
static __always_inline int onto_net_side(struct __sk_buff *skb, struct conf_entry *c, u32 reason) {
    count(reason);
    bpf_skb_store_bytes(skb, 0, c->net_side_mac, 6, 0);
    return bpf_redirect(c->net_side_ifindex, 0);
}

#endif
