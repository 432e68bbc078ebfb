/* tc egress of a pod's host veth: what is sent to the pod, after the host's de-NAT.
 * `tc filter add dev VETH egress bpf da object-pinned .../prog_to_pod` (or the tcx link of it)
 *
 * Hands everything for an enrolled pod to the proxy, but for what this host itself sends (probes): forwarded
 * packets always carry the interface they came in by, and a pod cannot fake its absence. */
#include "ztun.h"

/* Whether the packet may be of a connection that the proxy has nothing to do with. With --local-path=host workers dial
 * pods of this node by way of the host: what comes from such a pod is theirs. */
static __always_inline int may_bypass(const struct packet *p, const struct iface_entry *i, const struct conf_entry *c) {
    if (!(i->flags & FLAG_BYPASS) || p->dport_be == __builtin_bswap16(HBONE_PORT))
        return 0;
    return !c->is_plaintext_by_ports || !pods.lookup(&p->saddr_be);
}

static __always_inline u64 reaches_pod(struct __sk_buff *skb, struct packet *p, int kind, u32 ifindex,
                                       struct iface_entry *i, struct conf_entry *c) {
    u32 flags = flags_of(i);
    if (kind == NOT_IP) {
        if (i->bridge_ifindex && skb->protocol == ETH_P_ARP_BE)
            learn_arp(skb, i, ifindex);
        PASS(EXIT_to_pod_NOT_IP);
    }
    if (p->protocol == UDP) {
        if ((flags & FLAG_DNS) && kind == PARSED && p->sport_be == __builtin_bswap16(DNS_PORT) && c &&
            c->net_side_ifindex && is_asked(skb, p, c->net_side_nsid))
            return onto_net_side(skb, c, EXIT_to_pod_DNS_TO_PROXY);
        PASS(EXIT_to_pod_UDP_PASS);
    }
    int is_captured = flags & (FLAG_ENROLLED | FLAG_DRAIN);
    if (!c || !c->net_side_ifindex) {
        if (is_captured)
            DROP(EXIT_to_pod_NO_CONF);
        PASS(EXIT_to_pod_NO_CONF_PASS);
    }
    struct bpf_sock_tuple t;
    if (kind == NOT_TCP_UDP) {
        struct packet inner;
        /* sent *by* the pod's address: turned round, it is the destination */
        if (icmp_error_about(skb, p, &inner) &&
            (same_address(&inner.daddr_be, &i->addr4) || same_address(&inner.daddr_be, &i->addr6))) {
            tuple_of(&t, &inner);
            if (has_connection(skb, &t, inner.is_v6, c->net_side_nsid))
                return onto_net_side(skb, c, EXIT_to_pod_ICMP_TO_PROXY);
        }
        if (i->bridge_ifindex && p->is_v6)
            learn_nd(skb, p, i, ifindex);
        if ((flags & FLAG_ENROLLED) && is_icmp_redirect(skb, p))
            DROP(EXIT_to_pod_ICMP_REDIRECT);
        if ((flags & FLAG_ENROLLED) && is_encapsulated(p, c))
            DROP(EXIT_to_pod_ENCAPSULATED);
        PASS(EXIT_to_pod_OTHER_PROTOCOL);
    }
    if (kind == UNCLASSIFIABLE) {
        if (flags & FLAG_ENROLLED)
            DROP(EXIT_to_pod_UNCLASSIFIABLE);
        PASS(EXIT_to_pod_UNCLASSIFIABLE_PASS);
    }
    tuple_of(&t, p);
    if (is_captured)
        fit_syn_of(skb, p, &p->daddr_be);
    struct flow_key flow;
    flow_of(&flow, p, HOOK_TO_POD);
    u64 open_ns = flags & FLAG_ENROLLED ? open_since(ifindex, i) : 0;
    if (open_ns && !is_bare_syn(p)) {
        struct flow_key opened;
        answer_of(&opened, p, HOOK_OPEN);
        if (began_open(&opened, open_ns))
            PASS(EXIT_to_pod_OPEN);
    }
    int is_of_host = skb->ingress_ifindex == 0;
    if (is_of_host) {
        if (has_connection(skb, &t, p->is_v6, c->net_side_nsid))
            return onto_net_side(skb, c, EXIT_to_pod_HOST_TO_PROXY);
        if (!is_bare_syn(p))
            PASS(EXIT_to_pod_HOST_PASS);
        if (!(flags & FLAG_ENROLLED) || passes_from_host(skb, c)) {
            /* also for pods that are not enrolled: they may be before the connection ends */
            struct host_flow opened = {.ifindex = ifindex, .at_s = bpf_ktime_get_ns() / 1000000000};
            hostflows.update(&flow, &opened);
            PASS(EXIT_to_pod_HOST_SYN);
        }
        /* captured as from anywhere, whatever its tuple was before */
        hostflows.delete(&flow);
    }
    if (flags & FLAG_DRAIN) {
        if (has_connection(skb, &t, p->is_v6, c->net_side_nsid))
            return onto_net_side(skb, c, EXIT_to_pod_DRAIN_TO_PROXY);
        /* Peers that have not heard yet that the pod leaves the mesh would be refused by the pod. */
        if (!is_bare_syn(p) || p->dport_be != __builtin_bswap16(HBONE_PORT) || !has_listener(SLOT_HBONE))
            PASS(EXIT_to_pod_DRAIN_PASS);
    } else if (!(flags & FLAG_ENROLLED)) {
        if (flags & FLAG_LEARN) {
            if (is_bare_syn(p))
                note_begun(p, HOOK_TO_POD, HOOK_FROM_POD);
            PASS(EXIT_to_pod_LEARNING);
        }
        PASS(EXIT_to_pod_NOT_ENROLLED);
    }
    if (is_bare_syn(p)) {
        struct flow_key answer;
        answer_of(&answer, p, HOOK_FROM_POD);
        end_kept(&flow, &answer, EXIT_to_pod_GRANDFATHER_END);
        if (may_bypass(p, i, c)) {
            struct host_flow opened = {.ifindex = 0, .at_s = bpf_ktime_get_ns() / 1000000000};
            hostflows.update(&flow, &opened);
            PASS(EXIT_to_pod_BYPASS_SYN);
        }
        if (open_ns && may_enter_open(p, c)) {
            answer.hook = HOOK_OPEN;
            note_opened(&answer, ifindex);
            PASS(EXIT_to_pod_OPEN_SYN);
        }
        forget_past_proxy(&flow);
        int slot = p->dport_be == __builtin_bswap16(HBONE_PORT) ? SLOT_HBONE : SLOT_PLAINTEXT;
        if (!has_listener(slot)) {
            note_waiting(skb, p, &flow, ifindex);
            DROP(EXIT_to_pod_NO_LISTENER);
        }
        struct prefiltered *of = prefiltered_of(p, ifindex);
        struct denial *denial = denied(skb, p, of, c);
        int is_sampled = denial && of && is_sample(of);
        /* One that is denied is told so, rather than to wait. */
        int is_fast = slot == SLOT_HBONE && (!denial || is_sampled) && is_too_fast(p, ifindex, c);
        int is_reset = slot == SLOT_HBONE || ((flags & FLAG_HONEST) && c->owners);
        if (denial && (is_fast || !is_sampled) && turn_round(skb, p, c->choice_key, is_reset)) {
            __sync_fetch_and_add(&denial->packets, 1);
            return in_the_pods_name(skb, ifindex, EXIT_to_pod_DENIED);
        }
        if (is_fast)
            DROP(EXIT_to_pod_STRANGER_TOO_FAST);
        count_capture(ifindex, 1);
        u32 reason = is_of_host ? EXIT_to_pod_HOST_SYN_TO_PROXY : EXIT_to_pod_SYN_TO_PROXY;
        if ((flags & FLAG_HONEST) && slot == SLOT_PLAINTEXT) {
            enum hold held = hold(skb, p, &t, ifindex, c, HOOK_TO_POD);
            if (held == HELD)
                HOLD(EXIT_to_pod_SYN_HELD);
            if (held == OF_CONNECTION)
                reason = EXIT_to_pod_SYN_AGAIN;
            if (held == OVER_BUDGET)
                reason = EXIT_to_pod_SYN_UNHELD;
            if (held == WITHOUT_RING)
                reason = EXIT_to_pod_SYN_RING_FULL;
        }
        return onto_net_side(skb, c, reason);
    }
    if (is_kept(&flow))
        PASS(EXIT_to_pod_GRANDFATHERED);
    if (may_bypass(p, i, c) && hostflows.lookup(&flow) && !has_connection(skb, &t, p->is_v6, c->net_side_nsid))
        PASS(EXIT_to_pod_BYPASSED);
    return onto_net_side(skb, c, EXIT_to_pod_TO_PROXY);
}

int to_pod(struct __sk_buff *skb) {
    u32 ifindex = skb->ifindex, zero = 0;
    struct iface_entry *i = ifaces.lookup(&ifindex);
    if (!i)
        PASS_UNREAD(EXIT_to_pod_UNKNOWN_IFACE);
    struct conf_entry *c = conf.lookup(&zero);
    /* The kernel notes where a packet came in, and what comes in from ztun-pod from_pod_side alone sends on: neither
     * a pod nor the network nor a rule of this host can make a packet look so. */
    if (c && c->pod_side_ifindex && skb->ingress_ifindex == c->pod_side_ifindex) {
        count(EXIT_to_pod_FROM_PROXY);
        return passed_on(skb, NEXT, HOOK_TO_POD);
    }
    struct packet p;
    int kind = parse(skb, &p);
    return passed_on(skb, leave(skb, reaches_pod(skb, &p, kind, ifindex, i, c)), HOOK_TO_POD);
}
