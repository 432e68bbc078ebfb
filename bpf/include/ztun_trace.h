/* The end of each program: its exit, which is counted, is told to whoever traces.
 *
 * One entry says what is told, `tracing`. Its maker (`ztun trace`) puts its end off twice a second while it lives, so it
 * is over by itself soon after that one died or was stopped, whoever else lives; the clock goes on while the machine is
 * suspended. With nobody there all of this is one lookup in an array. Events go into a ring that the same process made and
 * reads; what comes faster than it may, or finds no room, is counted there and not told. */
#ifndef ZTUN_TRACE_H
#define ZTUN_TRACE_H

#define TELL_EVERY_NS 100000ull /* 10000 events a second, */
#define TELL_AT_ONCE 4096       /* and so many at once */

static __always_inline struct trace_filter *tracer(void) {
    u32 only = 0;
    struct trace_filter *f = tracing.lookup(&only);
    /* all there is to it where nobody traces: what follows is laid out of the way */
    return __builtin_expect(f && f->until_ns, 0) ? f : 0;
}

/* Whether an end of a packet is the one of a filter: its address or the other one, and its port; zero stands for any. */
static __always_inline int is_end(const struct addr16 *address, u16 port_be, const struct addr16 *one,
                                  const struct addr16 *other, u16 wanted_be) {
    if (wanted_be && wanted_be != port_be)
        return 0;
    return is_zero(one) || same_address(one, address) || same_address(other, address);
}

static __always_inline int is_wanted(const struct trace_filter *f, u64 now_ns, const struct packet *p, u32 ifindex,
                                     int is_end_of_it) {
    if (f->until_ns <= now_ns || (f->is_ends_only && !is_end_of_it))
        return 0;
    /* of a pod everything at its own interface, also what has no address or another's */
    if (f->ifindex && f->ifindex == ifindex)
        return 1;
    return (is_end(&p->saddr_be, p->sport_be, &f->own, &f->own_too, f->own_port_be) &&
            is_end(&p->daddr_be, p->dport_be, &f->far, &f->far, f->far_port_be)) ||
           (is_end(&p->daddr_be, p->dport_be, &f->own, &f->own_too, f->own_port_be) &&
            is_end(&p->saddr_be, p->sport_be, &f->far, &f->far, f->far_port_be));
}

static __always_inline void tell(struct trace_filter *f, u64 now_ns, const struct packet *p, u32 reason, u32 ifindex,
                                 u32 bytes, u16 ether_be) {
    int only = 0;
    struct trace_event *event = 0;
    void *ring = trace_ring.lookup(&only);
    if (ring && takes(&f->due_ns, now_ns, TELL_EVERY_NS, TELL_AT_ONCE))
        event = ringbuf_reserve(ring, sizeof(*event), 0);
    if (!event) {
        __sync_fetch_and_add(&f->lost, 1);
        return;
    }
    event->at_ns = now_ns;
    event->ifindex = ifindex;
    event->bytes = bytes;
    event->reason = reason;
    event->ether_be = ether_be;
    event->sport_be = p->sport_be;
    event->dport_be = p->dport_be;
    event->protocol = p->protocol;
    event->tcp_flags = p->tcp_flags;
    __builtin_memset(event->reserved, 0, sizeof(event->reserved));
    event->saddr_be = p->saddr_be;
    event->daddr_be = p->daddr_be;
    ringbuf_submit(event, 0);
}

/* Reads a packet once more, as it came: what a program has read is not kept until its end, or the verifier would walk each
 * way to the end by itself. For the same reason all of a buffer is set before it is filled: what was there before, on
 * each way something else, counts no more then. Of what is changed on the way only an answer to a SYN has other ends. */
static __always_inline void read_again(struct __sk_buff *skb, struct packet *p, u32 reason) {
    u64 head[5] = {}, part = 0;
    const u8 *ip = (const u8 *)head, *bytes = (const u8 *)&part;
    u32 at = ETH_BYTES;
    u16 ether_be = skb->protocol;
    __builtin_memset(p, 0, sizeof(*p));
    if (ether_be == ETH_P_IP_BE) {
        if (bpf_skb_load_bytes(skb, at, head, 20))
            return;
        map_v4(&p->saddr_be, ip + 12);
        map_v4(&p->daddr_be, ip + 16);
        p->protocol = ip[9];
        if ((ip[6] & 0x1f) | ip[7])
            return;
        at += (ip[0] & 15) * 4;
    } else if (ether_be == ETH_P_IPV6_BE) {
        if (bpf_skb_load_bytes(skb, at, head, 40))
            return;
        __builtin_memcpy(p->saddr_be.bytes, ip + 8, 16);
        __builtin_memcpy(p->daddr_be.bytes, ip + 24, 16);
        p->protocol = ip[6];
        at += 40;
    }
    if (p->protocol != TCP && p->protocol != UDP)
        return;
    if (bpf_skb_load_bytes(skb, at, &part, 4))
        return;
    __builtin_memcpy(&p->sport_be, bytes, 2);
    __builtin_memcpy(&p->dport_be, bytes + 2, 2);
    part = 0;
    if (p->protocol == TCP && !bpf_skb_load_bytes(skb, at + 13, &part, 1))
        p->tcp_flags = bytes[0];
    if (reason == EXIT_to_pod_DENIED) {
        struct addr16 saddr_be = p->saddr_be;
        u16 sport_be = p->sport_be;
        p->saddr_be = p->daddr_be;
        p->daddr_be = saddr_be;
        p->sport_be = p->dport_be;
        p->dport_be = sport_be;
        p->tcp_flags = TCP_SYN;
    }
}

/* The same value, of which the verifier knows nothing: it would walk what follows once for each exit. */
static __always_inline u64 unknown(u64 value, u64 now_ns) {
    value ^= now_ns;
    opaque(value);
    return value ^ now_ns;
}

/* How every program for tc ends that has read its packet. */
static __always_inline int leave(struct __sk_buff *skb, u64 left) {
    struct trace_filter *f = tracer();
    if (f) {
        u64 now_ns = bpf_ktime_get_boot_ns();
        left = unknown(left, now_ns);
        u32 reason = left >> 32;
        int verdict = (int)left;
        /* a SYN that is held goes on elsewhere; one that is denied ends here, whoever gets the answer */
        int is_end_of_it = (verdict == TC_ACT_SHOT && reason != EXIT_from_pod_SYN_HELD &&
                            reason != EXIT_to_pod_SYN_HELD) || reason == EXIT_to_pod_DENIED;
        struct packet p;
        opaque(skb);
        read_again(skb, &p, reason);
        u32 ifindex = skb->ifindex;
        if (is_wanted(f, now_ns, &p, ifindex, is_end_of_it))
            tell(f, now_ns, &p, reason, ifindex, skb->len, skb->protocol);
    }
    return (int)left;
}

/* The same for lookups, which have no packet: source is the far end, as the packet has it that is looked up for. */
static __always_inline int leave_lookup(struct bpf_sk_lookup *ctx, u64 left) {
    u32 reason = left >> 32;
    int verdict = (u32)left & 1;
    struct trace_filter *f = tracer();
    if (f) {
        u64 now_ns = bpf_ktime_get_boot_ns();
        struct packet p = {.protocol = ctx->protocol, .sport_be = ctx->remote_port};
        p.dport_be = __builtin_bswap16(ctx->local_port);
        u32 remote = ctx->remote_ip4, local = ctx->local_ip4;
        u32 *to_remote = (u32 *)&p.saddr_be, *to_local = (u32 *)&p.daddr_be;
        /* before the others are read: clang would make one load of two, by an address that depends */
        opaque(remote);
        opaque(local);
        to_remote[0] = ctx->remote_ip6[0];
        to_remote[1] = ctx->remote_ip6[1];
        to_remote[2] = ctx->remote_ip6[2];
        to_remote[3] = ctx->remote_ip6[3];
        to_local[0] = ctx->local_ip6[0];
        to_local[1] = ctx->local_ip6[1];
        to_local[2] = ctx->local_ip6[2];
        to_local[3] = ctx->local_ip6[3];
        if (ctx->family == AF_INET) {
            map_v4(&p.saddr_be, (u8 *)&remote);
            map_v4(&p.daddr_be, (u8 *)&local);
        }
        if (is_wanted(f, now_ns, &p, 0, verdict == SK_DROP))
            tell(f, now_ns, &p, reason, 0, 0, 0);
    }
    return verdict;
}

#endif
