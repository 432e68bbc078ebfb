/* tc ingress of a pod's host veth: what the pod sends.
 * `tc filter add dev VETH ingress bpf da object-pinned .../prog_from_pod` (or the tcx link of it)
 *
 * Captures every new TCP connection of an enrolled pod, whatever its tuple was before, and steers the rest by
 * which socket the packet belongs to. The order of the checks: bpf/README.md#order-of-the-checks. */
#include "ztun.h"

static __always_inline int is_own_address(const struct packet *p, const struct iface_entry *i) {
    /* IPv6 :: (duplicate address detection), or an IP header that cannot be read: that is dropped further down,
     * if the pod is enrolled */
    if (is_zero(&p->saddr_be))
        return 1;
    if (!p->is_v6)
        return same_address(&p->saddr_be, &i->addr4);
    if (same_address(&p->saddr_be, &i->addr6))
        return 1;
    /* fe80::/10: neighbour discovery */
    return p->saddr_be.bytes[0] == 0xfe && (p->saddr_be.bytes[1] & 0xc0) == 0x80;
}

/* A pod that is closed off has no address of its own yet, so whose the source is says this host: its SYN of this very
 * connection left by this interface. No other captured pod has that address (a pod on a bridge could have drawn the SYN
 * to itself by ARP), and nothing that the pod opens is an answer. */
static __always_inline int answers_host(const struct packet *p, int kind, u32 ifindex) {
    if (kind != PARSED || p->protocol != TCP || is_bare_syn(p))
        return 0;
    struct pod_entry *owner = pods.lookup(&p->saddr_be);
    if (owner && owner->ifindex != ifindex)
        return 0;
    struct flow_key answered;
    answer_of(&answered, p, HOOK_TO_POD);
    struct host_flow *flow = hostflows.lookup(&answered);
    return flow && flow->ifindex == ifindex;
}

static __always_inline u64 leaves_pod(struct __sk_buff *skb, struct packet *p, int kind, u32 ifindex,
                                      struct iface_entry *i) {
    u32 zero = 0, flags = flags_of(i);
    int is_enrolled = flags & FLAG_ENROLLED;
    if (is_enrolled && is_anothers_frame(skb, i))
        DROP(EXIT_from_pod_MAC_SPOOFED);
    if (kind == NOT_IP) {
        if (skb->protocol == ETH_P_ARP_BE) {
            if (is_enrolled && is_arp_of_another(skb, i, ifindex))
                DROP(EXIT_from_pod_ARP_SPOOFED);
            PASS(EXIT_from_pod_ARP);
        }
        if (is_enrolled)
            DROP(EXIT_from_pod_NOT_IP_DROP);
        PASS(EXIT_from_pod_NOT_IP_PASS);
    }
    if (flags & FLAG_LEARN) {
        if (kind == PARSED && p->protocol == TCP && is_bare_syn(p))
            note_begun(p, HOOK_FROM_POD, HOOK_TO_POD);
        PASS(EXIT_from_pod_LEARNING);
    }
    if (kind == NOT_TCP_UDP && is_enrolled) {
        enum claim claim = claim_of(skb, p, i, ifindex);
        if (claim == OF_ANOTHER)
            DROP(EXIT_from_pod_ND_SPOOFED);
        if (claim == OF_ROUTER)
            DROP(EXIT_from_pod_ROUTER_SPOOFED);
    }
    if (!is_own_address(p, i)) {
        if (is_zero(&i->addr4) && is_zero(&i->addr6)) {
            if (answers_host(p, kind, ifindex))
                PASS(EXIT_from_pod_CLOSED_HOST_FLOW);
            if (is_neighbour_discovery(skb, p))
                PASS(EXIT_from_pod_CLOSED_NEIGHBOUR);
            DROP(i->flags & FLAG_LEARN ? EXIT_from_pod_LEARN_OVER : EXIT_from_pod_CLOSED);
        }
        DROP(EXIT_from_pod_SPOOFED);
    }
    if (!(flags & (FLAG_ENROLLED | FLAG_DRAIN)))
        PASS(EXIT_from_pod_NOT_ENROLLED);
    struct conf_entry *c = conf.lookup(&zero);
    if (!c || !c->pod_side_ifindex)
        DROP(EXIT_from_pod_NO_CONF);
    struct bpf_sock_tuple t;
    if (kind == NOT_TCP_UDP) {
        struct packet inner;
        /* sent *to* this pod: turned round, its address is the source */
        if (icmp_error_about(skb, p, &inner) && same_address(&inner.saddr_be, &p->saddr_be)) {
            tuple_of(&t, &inner);
            if (has_connection(skb, &t, inner.is_v6, c->pod_side_nsid))
                return into_namespace(skb, c->pod_side_ifindex, EXIT_from_pod_ICMP_TO_PROXY);
        }
        if (is_enrolled && is_encapsulated(p, c))
            DROP(EXIT_from_pod_ENCAPSULATED);
        PASS(EXIT_from_pod_OTHER_PROTOCOL);
    }
    tuple_of(&t, p);
    fit_syn_of(skb, p, &p->saddr_be);
    if (flags & FLAG_DRAIN) {
        if (kind == PARSED && p->protocol == TCP && has_connection(skb, &t, p->is_v6, c->pod_side_nsid))
            return into_namespace(skb, c->pod_side_ifindex, EXIT_from_pod_DRAIN_TO_PROXY);
        PASS(EXIT_from_pod_DRAIN_PASS);
    }
    if (kind == UNCLASSIFIABLE && p->protocol != UDP)
        DROP(EXIT_from_pod_UNCLASSIFIABLE);
    if (p->protocol == UDP) {
        if (is_encapsulated_udp(skb, p, c))
            DROP(EXIT_from_pod_UDP_ENCAPSULATED);
        if (!(flags & FLAG_DNS) || kind != PARSED || p->dport_be != __builtin_bswap16(DNS_PORT))
            PASS(EXIT_from_pod_UDP_PASS);
        if (open_since(ifindex, i))
            PASS(EXIT_from_pod_OPEN_DNS);
        /* the worker that takes connections takes datagrams as well */
        if (has_listener(SLOT_OUTBOUND)) {
            if (!takes_dns(ifindex))
                DROP(EXIT_from_pod_DNS_TOO_FAST);
            return into_namespace(skb, c->pod_side_ifindex, EXIT_from_pod_DNS_TO_PROXY);
        }
        if (c->is_dns_open)
            PASS(EXIT_from_pod_DNS_OPEN);
        DROP(EXIT_from_pod_DNS_UNSERVED);
    }
    struct flow_key flow, answered;
    u64 open_ns = open_since(ifindex, i);
    flow_of(&flow, p, HOOK_FROM_POD);
    answer_of(&answered, p, HOOK_TO_POD);
    if (is_bare_syn(p)) {
        end_kept(&flow, &answered, EXIT_from_pod_GRANDFATHER_END);
        /* Onto a connection that the proxy still has: its stack answers so that the client ends it, and tries again. */
        if (open_ns && !is_under_way(skb, &t, p->is_v6, c->pod_side_nsid)) {
            flow.hook = HOOK_OPEN;
            note_opened(&flow, ifindex);
            PASS(EXIT_from_pod_OPEN_SYN);
        }
        if (!has_listener(SLOT_OUTBOUND)) {
            note_waiting(skb, p, &flow, ifindex);
            DROP(EXIT_from_pod_NO_LISTENER);
        }
        count_capture(ifindex, 0);
        u32 reason = EXIT_from_pod_SYN_TO_PROXY;
        /* the proxy answers DNS itself: there is no destination to wait for */
        int is_dns = (flags & FLAG_DNS) && p->dport_be == __builtin_bswap16(DNS_PORT);
        if ((flags & FLAG_HONEST) && !is_dns) {
            enum hold held = hold(skb, p, &t, ifindex, c, HOOK_FROM_POD);
            if (held == HELD)
                HOLD(EXIT_from_pod_SYN_HELD);
            if (held == OF_CONNECTION)
                reason = EXIT_from_pod_SYN_AGAIN;
            if (held == OVER_BUDGET)
                reason = EXIT_from_pod_SYN_UNHELD;
            if (held == WITHOUT_RING)
                reason = EXIT_from_pod_SYN_RING_FULL;
        }
        return into_namespace(skb, c->pod_side_ifindex, reason);
    }
    if (is_kept(&flow))
        PASS(EXIT_from_pod_GRANDFATHERED);
    flow.hook = HOOK_OPEN;
    if (open_ns && began_open(&flow, open_ns))
        PASS(EXIT_from_pod_OPEN);
    struct host_flow *noted = hostflows.lookup(&answered);
    int is_past_proxy = noted && !noted->ifindex;
    int is_host_flow = noted && noted->ifindex;
    if (is_past_proxy || is_host_flow || hostips.lookup(&p->daddr_be)) {
        if (has_connection(skb, &t, p->is_v6, c->pod_side_nsid))
            return into_namespace(skb, c->pod_side_ifindex, EXIT_from_pod_ANSWER_TO_PROXY);
        if (is_past_proxy) {
            /* Once such connections are captured again user space ends this one, which the proxy does not know: a reset
             * of the proxy's would tell the pod alone, and the client would wait for ever. The pod's own tells the
             * client. */
            if ((flags & FLAG_BYPASS) || (p->tcp_flags & TCP_RST))
                PASS(EXIT_from_pod_BYPASSED);
            DROP(EXIT_from_pod_BYPASS_OVER);
        }
        if (is_host_flow)
            PASS(EXIT_from_pod_HOST_FLOW);
        if (host_opened(skb, p))
            PASS(EXIT_from_pod_HOST_OPENED);
    }
    return into_namespace(skb, c->pod_side_ifindex, EXIT_from_pod_TO_PROXY);
}

int from_pod(struct __sk_buff *skb) {
    if ((skb->mark & MARK_MASK) == MARK_PROXY) {
        opaque(skb);
        skb->mark = 0;
        count(EXIT_from_pod_PROXY);
        return passed_on(skb, NEXT, HOOK_FROM_POD);
    }
    u32 ifindex = skb->ifindex;
    struct iface_entry *i = ifaces.lookup(&ifindex);
    if (!i)
        PASS_UNREAD(EXIT_from_pod_UNKNOWN_IFACE);
    struct packet p;
    int kind = parse(skb, &p);
    return passed_on(skb, leave(skb, leaves_pod(skb, &p, kind, ifindex, i)), HOOK_FROM_POD);
}
