/* tc ingress of the host end of ztun-net: what the proxy sends in a pod's name. It leaves by the pod's own
 * interface, with the MACs that the pod itself would use, so that bridges, the host's NAT, conntrack and
 * NetworkPolicy see it so; whatever the destination, never straight into a pod.
 * `tc filter add dev mi ingress bpf da object-pinned .../prog_from_net_side` (or the tcx link of it) */
#include "ztun.h"

static __always_inline u64 leaves_net_side(struct __sk_buff *skb, struct packet *p) {
    if (parse(skb, p) != PARSED)
        DROP(EXIT_from_net_side_NOT_TCP_UDP);
    if (is_let_in(skb, p)) {
        struct pod_entry *reached = pods.lookup(&p->daddr_be);
        if (!reached || !(reached->flags & FLAG_ENROLLED))
            DROP(EXIT_from_net_side_SYN_BACK_NOT_POD);
        return back(skb, EXIT_from_net_side_SYN_BACK);
    }
    struct pod_entry *pod = pods.lookup(&p->saddr_be);
    if (!pod || !(pod->flags & (FLAG_ENROLLED | FLAG_DRAIN)))
        DROP(EXIT_from_net_side_NOT_POD);
    if (is_larger_than(skb, p, pod->mtu_bytes))
        DROP(EXIT_from_net_side_TOO_BIG);
    fit_syn(skb, p, pod->mss_bytes);
    u32 ifindex = pod->ifindex, reason = EXIT_from_net_side_TO_HOST;
    bpf_skb_store_bytes(skb, 0, pod->macs, 12, 0);
    if (pod->bridge_ifindex) {
        struct iface_entry *i = ifaces.lookup(&ifindex);
        if (!i)
            DROP(EXIT_from_net_side_NO_IFACE);
        int hop = to_next_hop(skb, p, pod, i);
        if (hop == NOWHERE)
            DROP(EXIT_from_net_side_NO_NEXT_HOP);
        if (hop == NEIGHBOUR)
            reason = EXIT_from_net_side_TO_NEIGHBOUR;
    }
    opaque(skb);
    /* read and cleared by from_pod on that device: no other program or rule ever sees it */
    skb->mark = MARK_PROXY;
    return by(reason, bpf_redirect(ifindex, BPF_F_INGRESS));
}

int from_net_side(struct __sk_buff *skb) {
    struct packet p;
    return leave(skb, leaves_net_side(skb, &p));
}
