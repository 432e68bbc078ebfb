/* tc ingress of the host end of ztun-pod: what the proxy sends towards pods. Only ever into a captured pod: straight
 * into its namespace, or out of its interface where that has a queue (a bandwidth limit, say).
 * `tc filter add dev mo ingress bpf da object-pinned .../prog_from_pod_side` (or the tcx link of it) */
#include "ztun.h"

static __always_inline u64 leaves_pod_side(struct __sk_buff *skb, struct packet *p) {
    if (parse(skb, p) != PARSED)
        DROP(EXIT_from_pod_side_NOT_TCP_UDP);
    if (is_let_in(skb, p)) {
        struct pod_entry *opener = pods.lookup(&p->saddr_be);
        if (!opener || !(opener->flags & FLAG_ENROLLED))
            DROP(EXIT_from_pod_side_SYN_BACK_NOT_POD);
        return back(skb, EXIT_from_pod_side_SYN_BACK);
    }
    struct pod_entry *pod = pods.lookup(&p->daddr_be);
    if (!pod || !(pod->flags & (FLAG_ENROLLED | FLAG_DRAIN)))
        DROP(EXIT_from_pod_side_NOT_POD);
    fit_syn(skb, p, pod->mss_bytes);
    bpf_skb_store_bytes(skb, 0, pod->macs + 6, 12, 0);
    if (pod->flags & FLAG_QUEUED)
        return by(EXIT_from_pod_side_TO_QUEUE, bpf_redirect(pod->ifindex, 0));
    return into_namespace(skb, pod->ifindex, EXIT_from_pod_side_TO_POD);
}

int from_pod_side(struct __sk_buff *skb) {
    struct packet p;
    return leave(skb, leaves_pod_side(skb, &p));
}
